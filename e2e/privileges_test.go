//go:build integration

package e2e

import (
	"os/exec"
	"strings"
	"testing"

	"github.com/ambassadord/ambassadord/internal/dockertest"
)

// leastPrivileges is how the daemon runs in a container in each mode, as
// docs/modes.md says it: no capability besides these.
var leastPrivileges = []struct {
	name         string
	mode         string
	options      []string
	capabilities []string
	arguments    []string
}{
	{"redirect by the engine's folder", "redirect",
		[]string{"--network", "host", "-v", "/var/run/docker/netns:/var/run/docker/netns"},
		[]string{"NET_ADMIN", "SYS_ADMIN"}, nil},
	{"redirect through proc", "redirect",
		[]string{"--network", "host", "--pid", "host"},
		[]string{"NET_ADMIN", "SYS_ADMIN", "SYS_PTRACE"}, nil},
	{"listen by the engine's folder", "listen",
		[]string{"--network", "host", "-v", "/var/run/docker/netns:/var/run/docker/netns"},
		[]string{"NET_BIND_SERVICE", "SYS_ADMIN"}, nil},
	{"listen through proc", "listen",
		[]string{"--network", "host", "--pid", "host"},
		[]string{"NET_BIND_SERVICE", "SYS_ADMIN", "SYS_PTRACE"}, nil},
	// Without a guard, which takes more; TestLinkForgery and TestHostForgery have it.
	{"link", "link", nil, []string{"NET_ADMIN"}, []string{"--trust-source-addresses"}},
	{"host", "host", []string{"--network", "host"}, []string{"NET_ADMIN"}, []string{"--trust-source-addresses"}},
}

// TestLeastPrivileges serves with exactly the documented capabilities, and refuses
// by name when one of them is missing.
func TestLeastPrivileges(t *testing.T) {
	image := image(t)
	host := dockerHost(t)
	backend := serveIn(t, hostNamespace(t), host+":0", echo)
	for _, test := range leastPrivileges {
		t.Run(test.name, func(t *testing.T) {
			run := func(capabilities []string) []string {
				args := append([]string{engineSocket, "--cap-drop", "ALL"}, test.options...)
				for _, c := range capabilities {
					args = append(args, "--cap-add", c)
				}
				return append(append(args, image, "run", "--mode", test.mode), test.arguments...)
			}
			// The client is there first: a folder that is not shared with the
			// container shows what is in it at the start.
			c := declaring(t, map[int]string{80: backend})
			d := containerDaemon(t, run(test.capabilities)...)
			address := "127.0.0.1:80"
			switch test.mode {
			case "host":
				address = "169.254.77.1:80"
			case "link":
				address = dockertest.Docker(t, "inspect", "-f", "{{.NetworkSettings.Networks.bridge.IPAddress}}", d.id) + ":80"
			default:
				d.attached(c.name)
			}
			// A connection that stayed open would have the daemon drain until it is nearly killed.
			if _, err := echoed(c.ns, address); err != nil {
				t.Errorf("with %v: %v", test.capabilities, err)
			}
			d.stop()
			for i, missing := range test.capabilities {
				fewer := append(append([]string{}, test.capabilities[:i]...), test.capabilities[i+1:]...)
				out, err := exec.Command("docker", append([]string{"run", "--rm"}, run(fewer)...)...).CombinedOutput()
				if err == nil || !strings.Contains(string(out), "lacks the capability "+missing) {
					t.Errorf("without %s: %v\n%s\nwant a refusal that names it", missing, err, out)
				}
			}
		})
	}
}
