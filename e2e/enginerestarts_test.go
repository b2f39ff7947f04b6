//go:build integration

package e2e

import (
	"cmp"
	"flag"
	"fmt"
	"io"
	"os/exec"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/ambassadord/ambassadord/internal/dockertest"
	"github.com/ambassadord/ambassadord/internal/netlab"
)

var restarts = flag.Int("restarts", 0, "how often TestEngineRestartsItsContainers restarts the engine (default once, 3 times with -thorough)")

// TestEngineRestartsItsContainers restarts an engine with which its containers end. Those
// that it starts again run before its API answers, in other namespaces and with one another's
// addresses. Each client wants one backend, and dials as soon as it runs; others make 200
// connections a second all the time. None may reach another backend than it wants, and only
// while that was away may one fail.
func TestEngineRestartsItsContainers(t *testing.T) {
	r := newEngineRestarts(t)
	r.served(1)
	for i := range cmp.Or(*restarts, times(1, 3)) {
		r.socket.shut()
		r.stopped = append(r.stopped, time.Now())
		r.e.stop()
		r.e.start()
		answered := time.After(restartedLate)
		// A container that dials while the daemon does not know yet what runs is held.
		answers := r.askAll()
		<-answered
		r.socket.lead()
		for at, answer := range answers() {
			if answer != webOf(at) {
				t.Errorf("restart %d: who wants %s is answered %q", i, webOf(at), answer)
			}
		}
		r.served(i + 2)
	}
	r.wantFirstDials()
	r.wantLoad()
}

const (
	// Of the backends the first are wanted by the clients, the others by the loads.
	restartedBackends, restartedClients, restartedLoads = 8, 4, 4
	// restartedRate is how many connections each load makes in a second.
	restartedRate = 50
	// restartedLate is longer than whoever gives up after a while waits.
	restartedLate = 8 * time.Second
)

func webOf(i int) string    { return fmt.Sprintf("web-%d", i) }
func clientOf(i int) string { return fmt.Sprintf("client-%d", i) }
func loadOf(i int) string   { return fmt.Sprintf("load-%d", i) }

// engineRestarts is an engine that is restarted, with its containers and a daemon beside it.
type engineRestarts struct {
	t       *testing.T
	host    *netlab.Lab
	e       *engine
	socket  *lateSocket
	stopped []time.Time // since when the engine was told to stop, each time
}

func newEngineRestarts(t *testing.T) *engineRestarts {
	r := &engineRestarts{t: t, host: netlab.New(t)}
	r.e = startEngineIn(t, r.host)
	image := r.e.load()
	r.socket = newLateSocket(t, strings.TrimPrefix(r.e.endpoint(), "unix://"))
	r.socket.lead()
	plain, err := plainBinary() // of a thousand that are held, the race detector makes gigabytes
	if err != nil {
		t.Fatal(err)
	}
	args := []string{"-t", strconv.Itoa(r.e.cmd.Process.Pid), "-n", plain, "run", "--mode", "redirect", "--docker-host", "unix://" + r.socket.path,
		"--log-format", "json", "--default", "wait=50s", "--default", "timeout=50s"}
	for i := range restartedBackends {
		args = append(args, r.listener(i)+"=docker://"+webOf(i)+":80")
	}
	d := launch(t, exec.Command("nsenter", args...), nil)
	d.wait("ready", 20*time.Second, func(l line) bool { return l.str("msg") == "ready" })

	always := func(name, connect, script string) {
		t.Helper()
		options := []string{"run", "-d", "--restart", "always", "--stop-signal", "KILL", "--name", name, clientOption(t)}
		if connect != "" {
			options = append(options, "-l", "connect.7000=docker://"+connect+":80")
		}
		r.e.docker(append(options, image, "sh", "-c", "echo started >>/log; exec >>/log 2>&1; "+script)...)
	}
	for i := range restartedBackends {
		always(webOf(i), "", "exec /client -serve "+webOf(i)+" -n -1 :80")
	}
	ask := "/client -patience 1m -want "
	for i := range restartedClients {
		always(clientOf(i), webOf(i), "while :; do "+ask+webOf(i)+" -within 0 localhost:7000 || echo failed; sleep 0.05; done")
	}
	for i := range restartedLoads {
		always(loadOf(i), r.wantedBy(i), "exec "+ask+r.wantedBy(i)+" -rate "+strconv.Itoa(restartedRate)+" localhost:7000")
	}
	return r
}

// listener is an address of the daemon that leads to a backend.
func (r *engineRestarts) listener(i int) string { return fmt.Sprintf("127.0.0.1:%d", 8000+i) }

// wantedBy is the backend that a load wants.
func (r *engineRestarts) wantedBy(load int) string { return webOf(restartedClients + load) }

// starts is what a container has written in its life after each of its starts.
func (r *engineRestarts) starts(name string) ([]string, error) {
	out, err := dockertest.Try(r.t, "-H", r.e.endpoint(), "exec", name, "cat", "/log")
	return strings.Split(out, "started\n")[1:], err
}

// served waits until each client's first dial after that many starts has ended, and each load
// has been answered.
func (r *engineRestarts) served(times int) {
	r.t.Helper()
	wait := func(name string, served func(start string) bool) {
		r.t.Helper()
		poll(r.t, 2*time.Minute, fmt.Sprintf("%s is served after start %d", name, times), func() error {
			starts, err := r.starts(name)
			if err != nil {
				return err
			}
			if len(starts) < times || !served(starts[times-1]) {
				return fmt.Errorf("%.2000q", starts)
			}
			return nil
		})
	}
	for i := range restartedClients {
		wait(clientOf(i), func(start string) bool { return strings.Count(start, "\n") >= 2 })
	}
	for i := range restartedLoads {
		wait(loadOf(i), func(start string) bool { return answeredIn(start) > restartedRate })
	}
}

// askAll asks at each of the daemon's listeners which backend it is; answers waits for them.
func (r *engineRestarts) askAll() (answers func() []string) {
	all := make([]string, restartedBackends)
	var asking sync.WaitGroup
	for at := range all {
		conn := r.host.Dial(r.t, r.listener(at))
		asking.Go(func() {
			defer conn.Close()
			_ = conn.SetDeadline(time.Now().Add(time.Minute))
			fmt.Fprintln(conn, "who is it?")
			answer, err := io.ReadAll(conn)
			if all[at] = strings.TrimSpace(string(answer)); err != nil {
				all[at] += err.Error()
			}
		})
	}
	return func() []string { asking.Wait(); return all }
}

// wantFirstDials demands that each client's first dial after each start was answered. What
// was going on when the engine ended its backend may have failed.
func (r *engineRestarts) wantFirstDials() {
	r.t.Helper()
	for i := range restartedClients {
		starts, err := r.starts(clientOf(i))
		if err != nil {
			r.t.Error(err)
		}
		for at, start := range starts {
			if strings.Contains(start, "foreign answer") {
				r.t.Errorf("%s, start %d, reached somebody else:\n%.2000s", clientOf(i), at, start)
			}
			// The client says its own name first.
			if lines := strings.Split(start, "\n"); len(lines) < 2 || lines[1] != webOf(i) {
				r.t.Errorf("%s, start %d: its first dial was answered %q", clientOf(i), at, lines[:min(3, len(lines))])
			}
		}
	}
}

// wantLoad demands of the connections that were made all the time that none reached another
// backend, and that those which failed wanted one that was away meanwhile.
func (r *engineRestarts) wantLoad() {
	r.t.Helper()
	answered, failed := 0, 0
	for i := range restartedLoads {
		away := r.away(r.wantedBy(i))
		starts, err := r.starts(loadOf(i))
		if err != nil {
			r.t.Error(err)
		}
		for at, start := range starts {
			answered += answeredIn(start)
			for line := range strings.Lines(start) {
				var what string
				var began, ended int64
				if n, _ := fmt.Sscan(line, &what, &began, &ended); n < 3 {
					continue
				}
				failed++
				whileAway := slices.ContainsFunc(away, func(a [2]int64) bool { return began < a[1] && ended > a[0] })
				if what != "failed" || !whileAway {
					r.t.Errorf("%s, start %d, whose backend was away %v: %.300s", loadOf(i), at, away, line)
				}
			}
		}
	}
	r.t.Logf("%d restarts: %d connections were answered by who was wanted, %d failed while that was away", len(r.stopped), answered, failed)
}

// away is from when until when a backend was away: from the moment at which the engine was
// told to stop until the backend said that it serves again. In nanoseconds of Unix time.
func (r *engineRestarts) away(web string) (times [][2]int64) {
	r.t.Helper()
	starts, err := r.starts(web)
	if err != nil || len(starts) != len(r.stopped)+1 {
		r.t.Fatalf("%s has started %d times, the engine has stopped %d times: %v", web, len(starts), len(r.stopped), err)
	}
	for i, stopped := range r.stopped {
		var serving int64
		if _, err := fmt.Sscanf(starts[i+1], "serving %d", &serving); err != nil {
			r.t.Fatalf("%s, start %d: %q", web, i+1, starts[i+1])
		}
		times = append(times, [2]int64{stopped.UnixNano(), serving})
	}
	return times
}

// answeredIn is how many connections a load says have been answered.
func answeredIn(start string) (total int) {
	for line := range strings.Lines(start) {
		var n int
		if _, err := fmt.Sscanf(line, "answered %d", &n); err == nil {
			total += n
		}
	}
	return total
}
