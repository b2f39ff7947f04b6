//go:build integration

package e2e

import (
	"errors"
	"fmt"
	"os/exec"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/ambassadord/ambassadord/internal/dockertest"
)

// toldWithin is how soon a port with refuse=early has to tell the truth: after the engine has
// said that an endpoint runs, or has gone.
const toldWithin = 2 * time.Second

// truth is a container that asks whether its database is there, and the database's name.
type truth struct {
	client
	id, database string
}

func startTruth(t *testing.T, options ...string) truth {
	t.Helper()
	c := truth{database: dockertest.Name(t)}
	c.name = dockertest.Name(t)
	args := append([]string{
		"--name", c.name, "-l", "connect.5432=docker://" + c.database + ":5432", "-l", "connect.5432.refuse=early", "-l", "connect.5432.wait=200ms",
		"-l", "connect.5433=docker://" + c.database + ":5432", // as it is by default
		"--health-cmd", "nc localhost 5432 -e true", "--health-interval", "200ms", "--health-retries", "1",
	}, options...)
	c.id = dockertest.Run(t, append(args, dockertest.Image(t))...)
	c.ns = containerNamespace(t, c.id)
	return c
}

// startDatabase starts what the container asks for.
func (c truth) startDatabase(t *testing.T) {
	t.Helper()
	dockertest.Run(t, "--name", c.database, dockertest.Image(t), "httpd", "-f", "-p", "5432")
}

// says is what busybox's nc says who only connects, as nc -z of others does: this one has no
// -z, and runs a program once it is connected.
func (c truth) says(t *testing.T, address string, port int) error {
	t.Helper()
	_, err := dockertest.Exec(t, c.id, "nc", address, fmt.Sprint(port), "-e", "true")
	return err
}

// wantTold demands that nc and the health check say, soon, whether the database is there.
func (c truth) wantTold(t *testing.T, there bool) {
	t.Helper()
	began := time.Now()
	poll(t, toldWithin, fmt.Sprintf("nc says that the database is there: %t", there), func() error {
		if err := c.says(t, "localhost", 5432); (err == nil) != there {
			return fmt.Errorf("it says %w", errors.Join(err, errors.New("and that is not so")))
		}
		return nil
	})
	t.Logf("there: %t, told within %s", there, time.Since(began).Round(time.Millisecond))
	health := map[bool]string{true: "healthy", false: "unhealthy"}[there]
	poll(t, 10*time.Second, "the health check says "+health, func() error {
		if got := dockertest.Docker(t, "inspect", "-f", "{{.State.Health.Status}}", c.id); got != health {
			return errors.New(got)
		}
		return nil
	})
	if !there { // also by a raw connect(2), and for whom it was before
		if _, err := tryDialIn(c.ns, "127.0.0.1:5432"); !errors.Is(err, syscall.ECONNREFUSED) {
			t.Errorf("dialling: %v; want that it is refused", err)
		}
		if err := c.says(t, "localhost", 5433); err != nil {
			t.Errorf("without the option nc says %v; it never knows", err)
		}
	}
}

// tables are the nftables tables of the container that refuse ports.
func (c truth) tables(t *testing.T) int {
	t.Helper()
	var out []byte
	if err := c.ns.Do(func() (err error) { out, err = exec.Command("nft", "list", "tables").CombinedOutput(); return err }); err != nil {
		t.Fatalf("nft: %v: %s", err, out)
	}
	return strings.Count(string(out), "ambassadord-refuse")
}

// TestRefuseEarly has a container ask, again and again, whether anybody serves its target.
func TestRefuseEarly(t *testing.T) {
	for _, mode := range []string{"redirect", "listen"} {
		t.Run(mode, func(t *testing.T) {
			d := start(t, "run", "--mode", mode)
			c := startTruth(t)
			d.attached(c.name)
			c.wantTold(t, false)
			c.startDatabase(t)
			c.wantTold(t, true)
			dockertest.Docker(t, "stop", "-t", "0", c.database)
			c.wantTold(t, false)

			// A flush of all rules does not flush these.
			if err := c.ns.Do(func() error { return exec.Command("nft", "flush", "ruleset").Run() }); err != nil {
				t.Fatal(err)
			}
			poll(t, 10*time.Second, "the rules of a port without the option are back", func() error {
				conn, err := tryDialIn(c.ns, "127.0.0.1:5433")
				if err == nil {
					conn.Close()
				}
				return err
			})
			c.wantTold(t, false)
			dockertest.Docker(t, "start", c.database)
			c.wantTold(t, true)
			dockertest.Docker(t, "stop", "-t", "0", c.database)
			c.wantTold(t, false)

			next := start(t, "run", "--mode", mode, "--takeover")
			d.ended(20 * time.Second)
			poll(t, 10*time.Second, "the next daemon refuses", func() error { return eitherWay(c.tables(t) == 1, "no table") })
			c.wantTold(t, false)

			next.kill()
			poll(t, toldWithin, "the table has gone with the daemon", func() error { return eitherWay(c.tables(t) == 0, "a table is left") })
			last := start(t, "run", "--mode", mode)
			last.attached(c.name)
			c.wantTold(t, false)
			last.stop()
			if n := c.tables(t); n != 0 {
				t.Errorf("%d tables are left after the end", n)
			}
		})
	}
}

func eitherWay(ok bool, otherwise string) error {
	if ok {
		return nil
	}
	return errors.New(otherwise)
}

// TestRefuseEarlyIsNotOffered where a port is no client's own.
func TestRefuseEarlyIsNotOffered(t *testing.T) {
	d := start(t, "run", "--mode", "host")
	c := startTruth(t)
	l := d.wait("the label is a mistake", 20*time.Second, func(l line) bool {
		return l.str("client") == c.name && strings.Contains(l.str("error"), "modes redirect and listen alone")
	})
	if l.str("hint") == "" {
		t.Errorf("%v has no hint", l)
	}
	d.stop()
	status, _, stderr := ambassadord(t, "run", "--mode", "host", "--default", "refuse=early")
	if status == 0 || !strings.Contains(stderr, "modes redirect and listen alone") || !strings.Contains(stderr, "hint: ") {
		t.Errorf("run: exit %d, %q; want a refusal that says why", status, stderr)
	}
}
