//go:build integration

package e2e

import (
	"errors"
	"fmt"
	"io"
	"net"
	"net/netip"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/ambassadord/ambassadord/internal/netlab"
)

const (
	// swarmSubnet is the overlay network's, and hiddenSubnet the internal one's. In the LAN
	// a stranger has all their addresses.
	swarmSubnet  = "10.214.1.0/24"
	hiddenSubnet = "10.214.2.0/24"
	lanSubnet    = "192.0.2.0/24"
)

// swarm is an engine that is a swarm of its own, on a host whose routes lead to a stranger who
// answers at all addresses of the overlay networks.
type swarm struct {
	t     *testing.T
	host  *netlab.Lab
	e     *engine
	image string
	d     *daemon
}

func newSwarm(t *testing.T, listeners ...string) *swarm {
	t.Helper()
	s := &swarm{t: t, host: netlab.New(t)}
	stranger := netlab.New(t)
	netlab.Connect(t, s.host, netip.MustParsePrefix("192.0.2.1/24"), stranger, netip.MustParsePrefix("192.0.2.254/24"))
	for _, subnet := range []string{swarmSubnet, hiddenSubnet} {
		// A default route would do as well, and have the engine wait for name servers there
		// before it gives up pulling the image, which it has.
		s.host.Run(t, "", "ip", "route", "add", subnet, "via", "192.0.2.254")
		stranger.Run(t, "", "ip", "route", "add", "local", subnet, "dev", "lo")
	}
	serveIn(t, stranger.NS(), "0.0.0.0:7000", func(conn *net.TCPConn) { _, _ = io.WriteString(conn, "stranger\n") })
	s.e = startEngineIn(t, s.host)
	s.image = s.e.load()
	s.e.docker("swarm", "init", "--advertise-addr", "127.0.0.1")
	t.Cleanup(func() { s.e.docker("swarm", "leave", "--force") })
	s.e.docker("network", "create", "--driver", "overlay", "--attachable", "--subnet", swarmSubnet, "front")
	s.e.docker("network", "create", "--driver", "overlay", "--internal", "--subnet", hiddenSubnet, "hidden")
	args := []string{"-t", strconv.Itoa(s.e.cmd.Process.Pid), "-n", binary, "run", "--mode", "redirect", "--docker-host", s.e.endpoint(),
		"--log-format", "json", "--run-dir", filepath.Join(t.TempDir(), "run"), "--default", "wait=0s"}
	s.d = launch(t, exec.Command("nsenter", append(args, listeners...)...), nil)
	s.d.wait("ready", 20*time.Second, func(l line) bool { return l.str("msg") == "ready" })
	return s
}

// service starts a service that answers its own name at port 7000.
func (s *swarm) service(name string, more ...string) {
	s.t.Helper()
	path, _, _ := strings.Cut(strings.TrimPrefix(clientOption(s.t), "-v="), ":")
	args := append([]string{"service", "create", "--detach", "--quiet", "--no-resolve-image", "--stop-signal", "KILL", "--name", name, "--mount", "type=bind,readonly,src=" + path + ",dst=/client"}, more...)
	s.e.docker(append(args, s.image, "/client", "-serve", name, "-n", "-1", "0.0.0.0:7000")...)
}

// answer is who answers at a listener of the daemon's, "" for nobody.
func (s *swarm) answer(address string) string {
	conn, err := s.host.TryDial(address)
	if err != nil {
		return ""
	}
	defer conn.Close()
	_ = conn.SetDeadline(time.Now().Add(5 * time.Second))
	fmt.Fprintln(conn, "who is it?")
	answer, _ := io.ReadAll(conn) // what was read before it failed is the answer
	return strings.TrimSpace(string(answer))
}

// wantAnswer waits until want answers, and demands that nobody else does meanwhile.
func (s *swarm) wantAnswer(address, want string) {
	s.t.Helper()
	poll(s.t, 30*time.Second, want+" answers at "+address, func() error {
		switch got := s.answer(address); got {
		case want:
			return nil
		case "":
			return fmt.Errorf("nobody answers")
		default:
			s.t.Fatalf("%s answers at %s, want %s", got, address, want)
			return nil
		}
	})
}

// wantNobody waits until a connection fails for a reason that says why the container is not
// dialled, and demands that nobody answers meanwhile.
func (s *swarm) wantNobody(port int64, why string) {
	s.t.Helper()
	failed := func(l line) bool {
		return l.num("port") == port && l.str("reason") == "no_endpoints" && strings.Contains(l.str("error"), why)
	}
	poll(s.t, 30*time.Second, fmt.Sprintf("port %d fails because it %s", port, why), func() error {
		if got := s.answer(fmt.Sprintf("127.0.0.1:%d", port)); got != "" {
			s.t.Fatalf("%s answers at port %d, want nobody", got, port)
		}
		s.d.mu.Lock()
		defer s.d.mu.Unlock()
		if !slices.ContainsFunc(s.d.lines, failed) {
			return errors.New("no such line")
		}
		return nil
	})
}

// TestSwarm: tasks of a service are reached by the address that their host has a way to, and
// what has none is dialled at no other.
func TestSwarm(t *testing.T) {
	s := newSwarm(t,
		"127.0.0.1:8001=docker://web:7000", "127.0.0.1:8002=docker://?label=com.docker.swarm.service.name=web&port=7000",
		"127.0.0.1:8003=docker://hidden:7000", "127.0.0.1:8004=docker://web:7000?network=front", "127.0.0.1:8005=docker://guest:7000",
		"127.0.0.1:8006=docker://lan:7000",
		"127.0.0.1:8007=swarm://web:7000", "127.0.0.1:8008=swarm://ill?port=7000", "127.0.0.1:8009=swarm://nobody:7000")
	s.service("web", "--network", "front", "--replicas", "2")
	s.service("hidden", "--network", "hidden")
	s.e.docker("run", "-d", "--name", "guest", "--network", "front", clientOption(t), s.image, "/client", "-serve", "guest", "-n", "-1", "0.0.0.0:7000")
	s.wantAnswer("127.0.0.1:8001", "web")
	s.wantAnswer("127.0.0.1:8002", "web")
	s.wantAnswer("127.0.0.1:8005", "guest")
	s.wantNobody(8003, "is on the overlay network hidden of several hosts, of which this host itself is no part")
	s.wantNobody(8004, "is on the overlay network front of several hosts")

	s.e.docker("network", "create", "--driver", "macvlan", "--opt", "parent=eth0", "--subnet", lanSubnet, "lan")
	s.e.docker("run", "-d", "--name", "lan", "--network", "lan", "--ip", "192.0.2.254", clientOption(t), s.image, "/client", "-serve", "lan", "-n", "-1", "0.0.0.0:7000")
	s.wantNobody(8006, "is on the macvlan network lan, where a host does not reach its own containers")

	s.wantAnswer("127.0.0.1:8007", "web")
	s.wantNobody(8009, "no task of a Swarm service named nobody is on this host")
	s.service("ill", "--network", "front", "--health-cmd", "test -e /well", "--health-interval", "200ms", "--health-retries", "1000", "--health-start-period", "1h")
	s.wantAnswer("127.0.0.1:8008", "ill") // a check that has not concluded keeps nobody out

	// What only says that it is a task of the service is none.
	s.e.docker("run", "-d", "--name", "impostor", "--label", "com.docker.swarm.service.name=web", clientOption(t), s.image, "/client", "-serve", "impostor", "-n", "-1", "0.0.0.0:7000")

	// Each task is made anew, the next before the one that it replaces is killed, which takes
	// the connection with it that it has accepted: one at most, since they come one by one.
	first := strings.Fields(s.e.docker("ps", "-q", "--filter", "label=com.docker.swarm.service.name=web", "--filter", "label=com.docker.swarm.task.id"))
	s.e.docker("service", "update", "--detach", "--force", "--update-order", "start-first", "web")
	replaced := func() error {
		ids := s.e.docker("ps", "-q", "--filter", "label=com.docker.swarm.service.name=web", "--filter", "label=com.docker.swarm.task.id")
		for _, id := range first {
			if strings.Contains(ids, id) {
				return fmt.Errorf("%s runs", id)
			}
		}
		return nil
	}
	unanswered, from := 0, s.d.soFar()
	poll(t, 30*time.Second, "the service is updated", func() error {
		for range 5 {
			for _, at := range []string{"127.0.0.1:8007", "127.0.0.1:8001", "127.0.0.1:8002"} {
				switch got := s.answer(at); got {
				case "web":
				case "":
					unanswered++
				default:
					t.Fatalf("during the update %q answers at %s, want web", got, at)
				}
			}
		}
		return replaced()
	})
	poll(t, 5*time.Second, "the log tells of each connection that a killed task took with it", func() error {
		s.d.mu.Lock()
		defer s.d.mu.Unlock()
		gone := 0
		for _, l := range s.d.lines[from:] {
			if l.str("reason") == "endpoint_gone" {
				gone++
			}
		}
		if gone != unanswered || gone > len(first) {
			return fmt.Errorf("%d had no answer, %d of them were a killed task's, of %d tasks", unanswered, gone, len(first))
		}
		return nil
	})
	out, err := exec.Command("nsenter", "-t", strconv.Itoa(s.e.cmd.Process.Pid), "-n", binary, "resolve", "--docker-host", s.e.endpoint(), "-o", "json", "swarm://web:7000").CombinedOutput()
	if err != nil || !strings.Contains(string(out), "impostor") || !strings.Contains(string(out), "has the labels of a task, and the engine says that it is none") {
		t.Errorf("swarm://web:7000 is %s, %v; want the tasks, and the impostor left out", out, err)
	}
}
