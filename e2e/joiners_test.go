//go:build integration

package e2e

import (
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/ambassadord/ambassadord/internal/dockertest"
	"github.com/ambassadord/ambassadord/netrules"
	"github.com/ambassadord/ambassadord/netrules/filter/filtertest"
)

// joiners start containers that join another's network namespace and whose first act is to
// dial a port that they declare. They do not try again.
type joiners struct {
	*startup

	started int
}

func newJoiners(t *testing.T, args ...string) *joiners {
	t.Helper()
	s := &startup{churn: &churn{t: t}}
	s.listen("127.0.0.1", 4)
	s.daemon = start(t, append([]string{"run", "--mode", "redirect", "--log-level", "debug"}, args...)...)
	return &joiners{startup: s}
}

// next is the next backend, and what makes a container ask it, once, at port.
func (j *joiners) next(port int) (declare, command []string) {
	b := j.backends[j.started%len(j.backends)]
	token := fmt.Sprintf("joiner-%d", j.started)
	j.started++
	j.expect(token, b)
	return []string{"-l", fmt.Sprintf("connect.%d=%s", port, b.target())},
		[]string{"/client", "-within", "0", "-token", token, "-want", b.name, fmt.Sprintf("localhost:%d", port)}
}

// run runs a container that joins owner.
func (j *joiners) run(owner string, declare, command []string) {
	j.t.Helper()
	args := append([]string{"run", "--rm", "--name", dockertest.Name(j.t), "--network", "container:" + owner, clientOption(j.t)}, declare...)
	j.docker(j.started, append(append(args, dockertest.Image(j.t)), command...))
}

func TestFirstInstructionOfAJoiner(t *testing.T) {
	j := newJoiners(t)
	owner := dockertest.Name(t)
	id := dockertest.Run(t, "--name", owner, dockertest.Image(t))
	refs := []string{owner, id, id[:12]}
	t.Run("of one that declares nothing", func(t *testing.T) {
		j.t = t
		for i := range times(20, 50) {
			declare, command := j.next(firstPort + i)
			j.run(refs[i%len(refs)], declare, command)
		}
		j.checkForeign()
	})
	t.Run("by environment", func(t *testing.T) {
		j.t = t
		for i := range 10 {
			declare, command := j.next(firstPort + i)
			target := declare[1][strings.Index(declare[1], "=")+1:]
			j.run(owner, []string{"-e", fmt.Sprintf("BACKEND_%d=%s", firstPort+i, target)}, command)
		}
		j.checkForeign()
	})
	t.Run("by the labels of its image", func(t *testing.T) {
		j.t = t
		for i := range 5 {
			declare, command := j.next(firstPort + i)
			image := dockertest.Name(t)
			dockertest.Docker(t, "commit", "-c", "LABEL "+declare[1], id, image)
			t.Cleanup(func() { dockertest.Docker(t, "rmi", "-f", image) })
			j.docker(i, append([]string{"run", "--rm", "--network", "container:" + owner, clientOption(t), image}, command...))
		}
		j.checkForeign()
	})
	t.Run("of one that declares another port", func(t *testing.T) {
		j.t = t
		declaring := dockertest.Name(t)
		dockertest.Run(t, "--name", declaring, "-l", "connect.6379=127.0.0.1:1", dockertest.Image(t))
		j.daemon.attached(declaring)
		for i := range 20 {
			declare, command := j.next(firstPort + i)
			j.run(declaring, declare, command)
		}
		j.checkForeign()
	})
	t.Run("of a joiner", func(t *testing.T) {
		j.t = t
		between := dockertest.Name(t)
		dockertest.Run(t, "--name", between, "--network", "container:"+owner, dockertest.Image(t))
		for i := range 10 {
			declare, command := j.next(firstPort + i)
			j.run(between, declare, command)
		}
		j.checkForeign()
	})
	j.t = t
	// What no joiner declares any more is the owner's again.
	poll(t, 10*time.Second, "the owner is as it was", func() error {
		if rules := filtertest.Save(t, containerNamespace(t, owner), netrules.IPv4); strings.Contains(rules, "-j AMBASSADORD") {
			return fmt.Errorf("the rules are\n%s", rules)
		}
		return nil
	})
}

// A joiner that was made before its owner was started, and one that is started again, dial
// at once as well.
func TestFirstInstructionOfAJoinerThatStartsAgain(t *testing.T) {
	j := newJoiners(t)
	owner, joiner := dockertest.Name(t), dockertest.Name(t)
	dockertest.Create(t, "--name", owner, dockertest.Image(t))
	b := j.backends[0]
	j.expect("again", b)
	dockertest.Create(t, "--name", joiner, "--network", "container:"+owner, "-l", "connect.7000="+b.target(), clientOption(t), dockertest.Image(t),
		"/client", "-within", "0", "-token", "again", "-want", b.name, "localhost:7000")
	const times = 8
	for i := range times {
		if i%2 == 0 { // it has another namespace from now on
			dockertest.Docker(t, "restart", "-t", "0", owner)
		}
		dockertest.Docker(t, "start", joiner)
		if code := dockertest.Docker(t, "wait", joiner); code != "0" {
			t.Errorf("start %d: exit code %s: %s", i, code, dockertest.Docker(t, "logs", joiner))
		}
	}
	j.checkForeign()
}

// While a joiner does not run, the namespace is as it was for those who do: what one of
// them serves at the joiner's port it reaches, and what nobody serves is reset, for a reason.
func TestPortOfAJoinerThatDoesNotRun(t *testing.T) {
	j := newJoiners(t)
	owner, joiner := dockertest.Name(t), dockertest.Name(t)
	dockertest.Run(t, "--name", owner, clientOption(t), dockertest.Image(t))
	b := j.backends[0]
	dockertest.Create(t, "--name", joiner, "--network", "container:"+owner, "-l", "connect.7000="+b.target(), "-l", "connect.7001="+b.target(), clientOption(t), dockertest.Image(t))
	j.daemon.attached(owner)
	ask := func(token, want string, more ...string) {
		t.Helper()
		args := append([]string{"/client", "-within", "0", "-token", token, "-want", want}, more...)
		if out, err := dockertest.Exec(t, owner, args...); err != nil {
			t.Errorf("%s: %v: %s", strings.Join(args, " "), err, out)
		}
	}
	if out, err := dockertest.Exec(t, owner, "/client", "-within", "0", "localhost:7001"); err == nil {
		t.Errorf("somebody answers at a port that nobody serves: %s", out)
	}
	l := j.daemon.connection(owner, 7001, nil)
	if l.str("reason") != "no_binding" || !strings.Contains(l.str("error"), joiner) || !strings.Contains(l.str("hint"), "docker start "+joiner) {
		t.Errorf("log line %v; want that %s does not run, and to start it", l, joiner)
	}
	for range 3 {
		ask("own", "myself", "-serve", "myself", "127.0.0.1:7000")
	}
	// Now the joiner's declarations hold, for all that are in the namespace.
	dockertest.Docker(t, "start", joiner)
	for _, token := range []string{"7000", "7001"} {
		j.expect(token, b)
		poll(t, 10*time.Second, "the joiner's port is served", func() error {
			_, err := dockertest.Exec(t, owner, "/client", "-within", "0", "-token", token, "-want", b.name, "localhost:"+token)
			return err
		})
	}
	j.checkForeign()
	// And are gone with it.
	dockertest.Docker(t, "rm", "-f", joiner)
	poll(t, 10*time.Second, "its ports are gone", func() error {
		if rules := filtertest.Save(t, containerNamespace(t, owner), netrules.IPv4); strings.Contains(rules, "-j AMBASSADORD") {
			return fmt.Errorf("the rules are\n%s", rules)
		}
		return nil
	})
	ask("own", "myself", "-serve", "myself", "127.0.0.1:7000")
}

// Of two that declare the same port it is that of the first to have joined, also for the
// first instruction of the second.
func TestFirstInstructionOfAnOverruledJoiner(t *testing.T) {
	j := newJoiners(t)
	owner, first := dockertest.Name(t), dockertest.Name(t)
	dockertest.Run(t, "--name", owner, dockertest.Image(t))
	declare, command := j.next(7000)
	dockertest.Run(t, append(append([]string{"--name", first, "--network", "container:" + owner, clientOption(t)}, declare...), dockertest.Image(t))...)
	j.daemon.attached(owner)
	for range 5 {
		j.run(owner, []string{"-l", "connect.7000=127.0.0.1:1"}, command)
	}
	j.daemon.wait("that the second is overruled", 10*time.Second, func(l line) bool {
		return l.str("msg") == "declaration" && strings.Contains(l.str("error"), "passed over: port 7000 is declared by container "+first)
	})
	j.checkForeign()
}

// A container that is started again gets another network namespace. A container that had
// joined the old one stays there, where nothing but loopback is, and is told of.
func TestJoinersThatAreLeftBehind(t *testing.T) {
	j := newJoiners(t)
	owner := dockertest.Name(t)
	ownerID := dockertest.Run(t, "--name", owner, "-l", "connect.6379=127.0.0.1:1", dockertest.Image(t))
	joined := func(port int, restart func(name string)) (name string) {
		t.Helper()
		name = dockertest.Name(t)
		declare, command := j.next(port)
		dockertest.Run(t, append(append([]string{"--name", name, "--network", "container:" + owner, clientOption(t)}, declare...), dockertest.Image(t))...)
		serve := func() {
			t.Helper()
			poll(t, 20*time.Second, name+" is served", func() error {
				_, err := dockertest.Exec(t, name, command...)
				return err
			})
		}
		serve()
		restart(name)
		serve()
		return name
	}
	left := func(name, why, fix string) {
		t.Helper()
		j.daemon.wait("that "+name+" is left behind", 20*time.Second, func(l line) bool {
			return l.str("level") == "WARN" && l.str("client") == name && strings.Contains(l.str("error"), why) && strings.Contains(l.str("hint"), fix)
		})
	}
	again := func(name string) {
		dockertest.Docker(t, "restart", "-t", "0", ownerID)
		left(name, "container "+owner+", whose network it joined, was started again", "docker restart "+name)
	}
	first := joined(7000, again)
	second := joined(7001, again)
	diagnose(t, []string{binary}).want("joined-networks", "warn", "2 of 2 containers", "docker restart ")
	// One that declares nothing itself is told of because what the owner declares is not
	// served there any more.
	quiet := dockertest.Name(t)
	dockertest.Run(t, "--name", quiet, "--network", "container:"+owner, dockertest.Image(t))
	third := joined(7002, func(name string) {
		dockertest.Docker(t, "stop", "-t", "0", ownerID)
		left(name, "has ended", "docker start "+owner+" && docker restart "+name)
		left(quiet, "has ended", "docker start "+owner+" && docker restart "+quiet)
	})
	// Restarted, it is where the owner is, and the owner's ports are its own.
	dockertest.Docker(t, "start", ownerID)
	dockertest.Docker(t, "restart", "-t", "0", first)
	poll(t, 20*time.Second, "it shares the owner's network again", func() error {
		_, err := dockertest.Exec(t, ownerID, "sh", "-c", "echo x joiner-0 | nc localhost 7000")
		return err
	})
	j.checkForeign()
	// In none of these namespaces is anything left at the end.
	j.daemon.stop()
	for _, name := range []string{first, second, third, quiet} {
		for _, f := range []netrules.Family{netrules.IPv4, netrules.IPv6} {
			if rules := filtertest.Save(t, containerNamespace(t, name), f); strings.Contains(rules, "AMBASSADORD") {
				t.Errorf("left behind of %s:\n%s", name, rules)
			}
		}
	}
}
