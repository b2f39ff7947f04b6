//go:build integration

package e2e

import (
	"encoding/json"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/ambassadord/ambassadord/internal/dockertest"
)

// composeFile is a project whose services need each other by name: one by a label, one by a
// variable, one in the network of another, and one by a link to an ambassadord of the project.
// Its verbs are the client's option, the name of its database, and the images of the tests and
// of the daemon.
const composeFile = `
services:
  db:
    image: &image %[3]s
    volumes: &client [%[1]q]
    command: [/client, -serve, %[2]q, -n, "-1", "0.0.0.0:7000"]
  labelled:
    image: *image
    volumes: *client
    labels:
      connect.6379: docker://db:7000
  alone:
    image: *image
    volumes: *client
    network_mode: none
    labels:
      connect.6379: docker://db:7000
  variable:
    image: *image
    volumes: *client
    environment:
      BACKEND_6379: docker://db:7000?project=${COMPOSE_PROJECT_NAME}
  joined:
    image: *image
    volumes: *client
    network_mode: service:labelled
    labels:
      connect.6380: docker://db:7000
  ambassador:
    image: %[4]s
    command: [--omnimode]
    volumes: [/var/run/docker.sock:/var/run/docker.sock]
    cap_add: [NET_ADMIN]
  linked:
    image: *image
    volumes: *client
    links: [ambassador:backends]
    labels:
      connect.6379: docker://db:7000
`

// composeProject is one that is up.
type composeProject struct {
	t          *testing.T
	name, file string
}

// compose runs docker-compose, which scripts/setup compose builds.
func (p *composeProject) compose(args ...string) (string, error) {
	p.t.Helper()
	command := exec.Command("docker-compose", append([]string{"--project-name", p.name, "--file", p.file}, args...)...)
	out, err := command.CombinedOutput()
	if err != nil {
		err = fmt.Errorf("docker-compose %s: %w: %s", strings.Join(args, " "), err, out)
	}
	return string(out), err
}

// composeUp brings a project up whose database answers by the project's name.
func composeUp(t *testing.T) *composeProject {
	t.Helper()
	p := &composeProject{t: t, name: dockertest.Name(t), file: filepath.Join(t.TempDir(), "compose.yaml")}
	text := fmt.Sprintf(composeFile, strings.TrimPrefix(clientOption(t), "-v="), p.name, dockertest.Image(t), image(t))
	if err := os.WriteFile(p.file, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if _, err := p.compose("down", "--timeout", "0", "--volumes"); err != nil {
			t.Error(err)
		}
		if left, err := dockertest.Try(t, "network", "inspect", p.name+"_default"); err == nil { // of which down only warns
			t.Errorf("the project's network is left: %s", left)
		}
	})
	if _, err := p.compose("up", "--detach", "--pull", "never"); err != nil {
		t.Fatal(err)
	}
	return p
}

// dials demands that a service reaches its own project's database at address.
func (p *composeProject) dials(service, address string) {
	p.t.Helper()
	if _, err := p.compose("exec", "-T", service, "/client", "-want", p.name, address); err != nil {
		p.t.Errorf("%s dials %s: %v", service, address, err)
	}
}

// resolveAs is whom target leads to when a container asks, "" for the host, and what else the
// command says.
func resolveAs(t *testing.T, container, target string) (names []string, said string) {
	t.Helper()
	args := []string{"resolve", "-o", "json", target}
	if container != "" {
		args = append(args, "--as", container)
	}
	command := exec.Command(binary, args...)
	command.Env = append(os.Environ(), "GORACE=atexit_sleep_ms=50") // else each takes a second at its end
	var stderr strings.Builder
	command.Stderr = &stderr
	out, _ := command.Output() // what it says tells of a failure, too
	var answer struct {
		Endpoints []struct{ Name string }
	}
	if len(out) > 0 {
		if err := json.Unmarshal(out, &answer); err != nil {
			t.Fatalf("%v: %s", err, out)
		}
	}
	for _, e := range answer.Endpoints {
		names = append(names, e.Name)
	}
	return names, stderr.String() + string(out)
}

// Two projects of one file are up at once, by Compose v5: each service reaches the database of
// its own by the name that both have, also when that is made anew.
func TestCompose(t *testing.T) {
	if out, err := exec.Command("docker-compose", "version", "--short").CombinedOutput(); err != nil || !strings.HasPrefix(string(out), "v5.") && !strings.HasPrefix(string(out), "5.") {
		t.Fatalf("docker-compose is %s, %v, want v5; scripts/setup compose builds it", out, err)
	}
	d := start(t, "run", "--mode", "redirect")
	projects := []*composeProject{composeUp(t), composeUp(t)}
	t.Run("service names", func(t *testing.T) {
		for _, p := range projects {
			d.attached(p.name + "-labelled-1")
			p.dials("labelled", "localhost:6379")
			p.dials("variable", "localhost:6379")
			p.dials("alone", "localhost:6379")
			d.connection(p.name+"-labelled-1", 6379, func(l line) bool { return l.str("reason") == "" })
		}
	})
	t.Run("network_mode service", func(t *testing.T) {
		for _, p := range projects {
			p.dials("joined", "localhost:6379")
			p.dials("joined", "localhost:6380")
		}
	})
	t.Run("links", func(t *testing.T) {
		for _, p := range projects {
			p.dials("linked", "backends:6379")
		}
	})
	t.Run("tasks serve nobody", func(t *testing.T) {
		p := projects[0]
		t.Cleanup(func() { dockertest.Docker(t, "rm", "--force", p.name+"-task") }) // which down leaves, and then the network
		if _, err := p.compose("run", "--detach", "--name", p.name+"-task", "db"); err != nil {
			t.Fatal(err)
		}
		for target, want := range map[string]string{
			"docker://?label=com.docker.compose.project=" + p.name + "&label=com.docker.compose.service=db&port=7000": p.name + "-db-1",
			"docker://db:7000?project=" + p.name: p.name + "-db-1",
			"docker://" + p.name + "-task:7000":  p.name + "-task",
		} {
			if names, _ := resolveAs(t, "", target); !slices.Equal(names, []string{want}) {
				t.Errorf("%s leads to %q, want %s", target, names, want)
			}
		}
	})
	t.Run("as whom", func(t *testing.T) {
		for _, p := range projects {
			for _, service := range []string{"labelled", "joined", "alone"} {
				if names, said := resolveAs(t, p.name+"-"+service+"-1", "docker://db:7000"); !slices.Equal(names, []string{p.name + "-db-1"}) {
					t.Errorf("as %s it leads to %q, %s", service, names, said)
				}
			}
		}
		names, said := resolveAs(t, "", "docker://db:7000")
		if len(names) > 0 || !strings.Contains(said, "db is a service of more than one project on this host") || !strings.Contains(said, "?project=") {
			t.Errorf("as the host it leads to %q, %s", names, said)
		}
		if names, said = resolveAs(t, "nobody-of-that-name", "docker://db:7000"); len(names) > 0 || !strings.Contains(said, "there is no container nobody-of-that-name") {
			t.Errorf("as nobody it leads to %q, %s", names, said)
		}
	})
	t.Run("recreated", func(t *testing.T) {
		p := projects[0]
		if _, err := p.compose("up", "--detach", "--pull", "never", "--force-recreate", "--timeout", "0", "db", "labelled", "joined"); err != nil {
			t.Fatal(err)
		}
		for _, service := range []string{"labelled", "variable", "joined"} {
			p.dials(service, "localhost:6379")
		}
	})
}
