//go:build integration

package e2e

import (
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"os/exec"
	"runtime"
	"slices"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/ambassadord/ambassadord/internal/dockertest"
	"github.com/ambassadord/ambassadord/internal/servertest"
)

// honest are containers that do what they are there for, beside one that does not. Each
// makes a new connection at a steady rate and has it echo something.
type honest struct {
	t       *testing.T
	d       *daemon
	clients []client
	target  string   // of everybody, beyond the daemon: targetPorts ports of one server
	control string   // leads to the target by a forwarder that no container declares anything to
	quiet   observed // of beside, without an attack
	// tolerated is what the 99th percentile may be however short it is without the attack.
	tolerated time.Duration
}

const (
	honestClients = 8
	honestRate    = 160 // connections that all of them make in a second
	// quietPhase and attackPhase are how long the honest are watched: they make 320
	// connections in 2 s, so that the 99th percentile is the fourth from the slowest.
	quietPhase, attackPhase = 2 * time.Second, 2 * time.Second
	// noise is what a machine that is busy with other things adds by itself for each that
	// wants a processor: the daemon, the engine, the attacker and this test share them.
	noise = 20 * time.Millisecond
	// targetPorts is at how many ports the target listens. The honest alone leave 640
	// connections a second in TIME_WAIT for a minute. To one address that would soon be
	// half of all ports for outgoing connections, the half that connect(2) searches first
	// (ip(7), ip_local_port_range): from then on each dial costs the kernel milliseconds.
	targetPorts = 8
)

// crowded is how many want each processor, at least 1 (proc_loadavg(5)): whoever is woken
// waits for so many turns.
func crowded(t *testing.T) float64 {
	t.Helper()
	text, err := os.ReadFile("/proc/loadavg")
	if err != nil {
		t.Fatal(err)
	}
	load, err := strconv.ParseFloat(strings.Fields(string(text))[0], 64)
	if err != nil {
		t.Fatal(err)
	}
	return max(1, load/float64(runtime.NumCPU()))
}

// startHonest starts so many of them, and waits until the daemon serves them.
func startHonest(t *testing.T, d *daemon, count int) *honest {
	t.Helper()
	var ports []string
	for range targetPorts {
		ports = append(ports, serveIn(t, hostNamespace(t), dockerHost(t)+":0", echo))
	}
	h := &honest{t: t, d: d, target: strings.Join(ports, ",")}
	h.control = startControl(t, d, h.target)
	for range count {
		h.clients = append(h.clients, declaring(t, map[int]string{6379: h.target}))
	}
	for _, c := range h.clients {
		poll(t, 20*time.Second, c.name+" is served", func() error { return connects(c) })
	}
	return h
}

// startControl starts a second daemon that only forwards a port of this host to target.
// Its connections take as many turns of the processors as those through d, so a machine
// that is busy delays both alike; nothing that a container does to d reaches it.
func startControl(t *testing.T, d *daemon, target string) (address string) {
	t.Helper()
	path, err := plainBinary()
	if err != nil {
		t.Fatal(err)
	}
	if slices.Contains(d.cmd.Args, binary) { // the race detector's slowness is in both
		path = binary
	}
	address = net.JoinHostPort(dockerHost(t), servertest.FreePorts(t, 1)[0])
	launch(t, exec.Command(path, "run", "--log-level", "warn", address+"="+target), nil)
	poll(t, 20*time.Second, "the control serves", func() error { _, err := echoed(hostNamespace(t), address); return err })
	return address
}

// observed is how long connections took in a phase: those of the honest, by the daemon, and
// as many that the same containers made to the same server by the control, which is what
// the machine itself made of them at that time.
type observed struct {
	served, control []time.Duration // sorted
	errs            []error
}

func p99(took []time.Duration) time.Duration { return took[len(took)*99/100] }

// until has the honest work until ctx ends, and counts what the daemon has served.
func (h *honest) until(ctx context.Context, served *atomic.Int64) observed {
	var (
		mu  sync.Mutex
		all observed
		wg  sync.WaitGroup
	)
	one := func(c client, address string, took *[]time.Duration) {
		began := time.Now()
		_, err := echoed(c.ns, address)
		passed := time.Since(began)
		mu.Lock()
		defer mu.Unlock()
		*took = append(*took, passed)
		if err != nil {
			all.errs = append(all.errs, fmt.Errorf("%s after %s: %w", c.name, passed, err))
		}
	}
	interval := time.Second * time.Duration(len(h.clients)) / honestRate // between two connections of one
	for i, c := range h.clients {
		wg.Go(func() {
			first := time.After(interval * time.Duration(i) / time.Duration(len(h.clients))) // not all at the same moment
			select {
			case <-first:
			case <-ctx.Done():
			}
			pace := time.NewTicker(interval)
			defer pace.Stop()
			for ctx.Err() == nil {
				one(c, h.control, &all.control)
				one(c, loopback(6379), &all.served)
				served.Add(1)
				select {
				case <-pace.C:
				case <-ctx.Done():
				}
			}
		})
	}
	wg.Wait()
	slices.Sort(all.served)
	slices.Sort(all.control)
	return all
}

// wantServed demands that none of their connections has failed, and that the daemon runs.
func (h *honest) wantServed(t *testing.T, phases ...observed) {
	t.Helper()
	for _, o := range phases {
		if len(o.errs) > 0 {
			t.Errorf("%d of %d connections of the honest failed:\n%v", len(o.errs), len(o.served)+len(o.control),
				errors.Join(o.errs[:min(len(o.errs), 10)]...))
		}
	}
	if !h.d.running() {
		t.Fatalf("the daemon has ended: %v", h.d.err)
	}
}

// slowed says by how much the honest were slower than twice what they are without the
// attack, or what the control was beside it; nil if they were not.
func slowed(t *testing.T, quiet, meanwhile observed) error {
	t.Helper()
	t.Logf("p99 of the honest: %s before, %s meanwhile; by the control %s and %s; of %d connections",
		p99(quiet.served), p99(meanwhile.served), p99(quiet.control), p99(meanwhile.control), len(meanwhile.served))
	busy := time.Duration(crowded(t) * float64(noise))
	if least := max(p99(quiet.served), p99(meanwhile.control), busy); p99(meanwhile.served) >= 2*least {
		return fmt.Errorf("the 99th percentile of the honest is %s; want less than twice the %s that it is without the attack, or by the control",
			p99(meanwhile.served), least)
	}
	return nil
}

// patient are honest clients whose connections go on for as long as a test does something
// beside them.
type patient struct {
	*honest
	stop func() observed // has them end, and says what became of their connections
	now  *atomic.Int64   // connections so far since the quiet phase
}

const (
	patientClients = 4
	patientQuiet   = time.Second
	// patientLeast is how many connections they make at least, however short the test is.
	patientLeast = 100
)

// besideHonest starts honest clients of d, watches them for a while without an attack, and
// has them go on. What the test does from here on is done beside them, until it calls want.
func besideHonest(t *testing.T, d *daemon) *patient {
	t.Helper()
	p := &patient{honest: startHonest(t, d, patientClients), now: new(atomic.Int64)}
	quietly, cancel := context.WithTimeout(t.Context(), patientQuiet)
	defer cancel()
	p.quiet = p.until(quietly, new(atomic.Int64))
	ctx, end := context.WithCancel(context.Background())
	ended := make(chan observed, 1)
	go func() { ended <- p.until(ctx, p.now) }()
	p.stop = sync.OnceValue(func() observed { end(); return <-ended })
	t.Cleanup(func() { p.stop() }) // before their containers go, if the test has failed
	return p
}

// want has the honest end, and demands that all their connections were served, and that
// they were not slower than without the attack.
func (p *patient) want() {
	p.t.Helper()
	poll(p.t, time.Minute, "the honest have made some connections", func() error {
		if n := p.now.Load(); n < patientLeast {
			return fmt.Errorf("they have made %d", n)
		}
		return nil
	})
	meanwhile := p.stop()
	p.wantServed(p.t, p.quiet, meanwhile)
	if err := slowed(p.t, p.quiet, meanwhile); err != nil {
		p.t.Error(err)
	}
}

// made reports whether a line of the log is of one of their connections.
func (p *patient) made(l line) bool {
	return l.str("msg") == "connection" && slices.ContainsFunc(p.clients, func(c client) bool { return c.name == l.str("client") })
}

// othersLines counts the lines that a daemon has logged, without those of their connections.
func (p *patient) othersLines(d *daemon) int {
	d.mu.Lock()
	defer d.mu.Unlock()
	n := 0
	for _, l := range d.lines {
		if !p.made(l) {
			n++
		}
	}
	return n
}

// tries is in how many of as many attempts an attack must slow down the honest, or the
// daemon, to be at fault: what the machine does at that moment is not there each time.
const tries = 3

// beside demands that the honest are served during an attack as they are without it, and
// that one who starts meanwhile is served from its first instruction on. prepare makes what
// the attack needs; the attack that it returns is called once, and is to go on until its
// context ends.
func (h *honest) beside(t *testing.T, prepare func(*testing.T, *honest) func(context.Context)) {
	t.Helper()
	for attempt := 1; ; attempt++ {
		var slow error
		served := t.Run(fmt.Sprint(attempt), func(t *testing.T) {
			if attempt > 1 || len(h.quiet.served) == 0 { // the machine may be another than it was
				h.quietly(t)
			}
			slow = h.attacked(t, prepare)
		})
		switch {
		case !served || slow == nil:
			return
		case attempt == tries:
			t.Error(slow)
			return
		}
		t.Logf("%v; once more", slow)
	}
}

// quietly watches the honest without an attack.
func (h *honest) quietly(t *testing.T) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), quietPhase)
	defer cancel()
	h.quiet = h.until(ctx, new(atomic.Int64))
}

// attacked is one attempt of beside; it reports whether the honest were slower, or the
// daemon was not there in time for the first instruction of who starts meanwhile.
func (h *honest) attacked(t *testing.T, prepare func(*testing.T, *honest) func(context.Context)) (slow error) {
	t.Helper()
	t.Cleanup(func() { h.comesToRest(t) }) // when the attacker's containers are gone
	attack := prepare(t, h)
	ctx, cancel := context.WithTimeout(t.Context(), attackPhase)
	defer cancel()
	var late error
	var attacking sync.WaitGroup
	attacking.Go(func() { attack(ctx) })
	attacking.Go(func() {
		if out, err := h.startOne(); err != nil {
			late = fmt.Errorf("the first instruction of a container that starts meanwhile: %w: %s", err, out)
		}
	})
	meanwhile := h.until(ctx, new(atomic.Int64))
	attacking.Wait()
	slower := slowed(t, h.quiet, meanwhile)
	if p99(meanwhile.served) <= h.tolerated {
		slower = nil
	}
	slow = errors.Join(late, slower)
	h.wantServed(t, h.quiet, meanwhile)
	return slow
}

// comesToRest demands that the daemon spends nothing any more on who has left.
func (h *honest) comesToRest(t *testing.T) {
	t.Helper()
	const window, most = 500 * time.Millisecond, 0.1
	poll(t, 10*time.Second, "the daemon comes to rest after the attack", func() error {
		busy := h.busy()
		time.Sleep(window) // what is measured is what it does in that time
		if spent := h.busy() - busy; spent.Seconds() > most*window.Seconds() {
			return fmt.Errorf("it spends %s in %s, and nobody dials", spent, window)
		}
		return nil
	})
}

// startOne starts a container whose first instruction dials once.
func (h *honest) startOne() (string, error) {
	path, err := buildClient()
	if err != nil {
		return "", err
	}
	out, err := exec.Command("docker", "run", "--rm", "--label", "ambassadord.test=1", "-l", "connect.6379="+h.target,
		"-v", path+":/client:ro", dockertest.Image(h.t), "/client", "-within", "0", "127.0.0.1:6379").CombinedOutput()
	return string(out), err
}

// busy is the daemon's processor time so far, and resident its memory in KiB.
func (h *honest) busy() time.Duration { return (&forwarder{daemon: h.d, t: h.t}).busy() }
func (h *honest) resident() int       { return (&forwarder{daemon: h.d, t: h.t}).residentKiB() }
