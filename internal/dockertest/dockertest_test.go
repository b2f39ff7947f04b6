//go:build integration

package dockertest_test

import (
	"strings"
	"testing"

	"github.com/ambassadord/ambassadord/internal/dockertest"
)

func TestContainerIsRemovedWithItsTest(t *testing.T) {
	var id, network string
	t.Run("inner", func(t *testing.T) {
		network = dockertest.Network(t)
		id = dockertest.Run(t, "--network", network, dockertest.Image(t))
		out, err := dockertest.Exec(t, id, "echo", "hello")
		if err != nil || out != "hello\n" {
			t.Fatalf("exec: %q, %v", out, err)
		}
		if _, err := dockertest.Exec(t, id, "cat", "/nowhere"); err == nil || !strings.Contains(err.Error(), "No such file") {
			t.Errorf("a failing exec: %v, want its standard error", err)
		}
	})
	if left := dockertest.Docker(t, "ps", "-aq", "--no-trunc", "--filter", "id="+id); left != "" {
		t.Errorf("container %s is still there", left)
	}
	if left := dockertest.Docker(t, "network", "ls", "-q", "--filter", "name="+network); left != "" {
		t.Errorf("network %s is still there", left)
	}
}

func TestImageHasTheApplets(t *testing.T) {
	id := dockertest.Run(t, dockertest.Image(t))
	for _, applet := range []string{"sh", "nc", "wget", "httpd", "sleep", "cat", "ip", "nslookup"} {
		if out, err := dockertest.Exec(t, id, "ls", "/bin/"+applet); err != nil {
			t.Errorf("%s: %v %s", applet, err, out)
		}
	}
}

// A killed run leaves its networks behind.
func TestNetworkThatWasLeft(t *testing.T) {
	const subnet = "203.0.113.240/29"
	left := dockertest.Name(t)
	dockertest.Docker(t, "network", "create", "--label", "ambassadord.test=1", "--subnet", subnet, left)
	t.Cleanup(func() { _, _ = dockertest.Try(t, "network", "rm", left) })
	dockertest.Network(t, "--subnet", subnet)
	if out, err := dockertest.Try(t, "network", "inspect", left); err == nil {
		t.Errorf("it is still there: %s", out)
	}
}
