//go:build integration

package e2e

import (
	"os/exec"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/ambassadord/ambassadord/internal/dockertest"
)

// TestGuardPrivileges runs modes host and link with their guard in a container with
// exactly the documented capabilities: honest traffic is served, forged is not
// answered. Without NET_ADMIN the daemon refuses to start; without any other it
// says which its guard lacks, and refuses whoever could have been forged.
func TestGuardPrivileges(t *testing.T) {
	image := image(t)
	gateway := dockerHost(t)
	backend := serveIn(t, hostNamespace(t), gateway+":0", echo)
	attacker := dockertest.Run(t, forgeOption(t), dockertest.Image(t))
	for _, test := range []struct {
		name         string
		mode         string
		options      []string
		capabilities []string
	}{
		{"host by the engine's folder", "host",
			[]string{"--network", "host", "-v", "/var/run/docker/netns:/var/run/docker/netns"},
			[]string{"NET_ADMIN", "SYS_ADMIN"}},
		{"host through proc", "host",
			[]string{"--network", "host", "--pid", "host"},
			[]string{"NET_ADMIN", "SYS_ADMIN", "SYS_PTRACE"}},
		{"link", "link",
			[]string{"--pid", "host"},
			[]string{"NET_ADMIN", "SYS_ADMIN", "SYS_PTRACE"}},
	} {
		t.Run(test.name, func(t *testing.T) {
			run := func(without string) []string {
				args := append([]string{engineSocket, "--cap-drop", "ALL"}, test.options...)
				for _, c := range test.capabilities {
					if c != without {
						args = append(args, "--cap-add", c)
					}
				}
				return append(args, image, "run", "--mode", test.mode)
			}
			// The client is there first: a folder that is not shared with the
			// container shows what is in it at the start.
			c := declaring(t, map[int]string{80: backend})
			where := func(d *contained) (address, via string) {
				if test.mode == "host" {
					return hostAddr4, gateway
				}
				return d.address(), d.address()
			}

			d := containerDaemon(t, run("")...)
			address, via := where(d)
			honest := func() {
				t.Helper()
				// A connection that stayed open would have the daemon drain until it is nearly killed.
				if _, err := echoed(c.ns, address+":80"); err != nil {
					t.Errorf("with %v: %v", test.capabilities, err)
				}
			}
			honest()
			if got := forge(t, containerNamespace(t, d.id), attacker, c.name, via, address+":80", "100"); got != "sent 100 accepted 0 answered 0" {
				t.Error(got)
			}
			honest()
			d.stop()

			out, err := exec.Command("docker", append([]string{"run", "--rm"}, run("NET_ADMIN")...)...).CombinedOutput()
			if err == nil || !strings.Contains(string(out), "mode "+test.mode+" lacks the capability NET_ADMIN") {
				t.Errorf("without NET_ADMIN: %v\n%s\nwant a refusal that names it", err, out)
			}
			for _, missing := range slices.DeleteFunc(slices.Clone(test.capabilities), func(c string) bool { return c == "NET_ADMIN" }) {
				d := containerDaemon(t, run(missing)...)
				l := d.wait("what the guard lacks", time.Second, func(l line) bool {
					return strings.HasPrefix(l.str("msg"), "source addresses cannot be checked")
				})
				if l.str("error") != "the guard lacks the capability "+missing || !strings.Contains(l.str("hint"), "--cap-add "+missing+",") {
					t.Errorf("without %s: log line %v; want an error and a hint that name it", missing, l)
				}
				address, _ := where(d)
				if _, err := refused(c.ns, address+":80"); err != nil {
					t.Errorf("without %s a container that others could pretend to be: %v", missing, err)
				}
				if l := d.connection(c.name, 80, nil); l.str("reason") != "denied" {
					t.Errorf("without %s: log line %v; want the reason denied", missing, l)
				}
				d.stop()
			}
		})
	}
}
