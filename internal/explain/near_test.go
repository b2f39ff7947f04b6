package explain

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	"github.com/ambassadord/ambassadord/internal/dockerd"
	"github.com/ambassadord/ambassadord/internal/hint"
)

// TestNames: a number is a port only where no other digit stands beside it.
func TestNames(t *testing.T) {
	for text, want := range map[string]bool{
		"connect.80": true, "connect.8080": false, "80": true, "x8080y80z": true, "CONNECT_80_WAIT": true, "180": false, "": false, "connect.808": false,
	} {
		if got := names(text, 80); got != want {
			t.Errorf("names(%q) is %t", text, got)
		}
	}
}

// TestKeys: labels and variables that have the port in their names, of which those about UDP say so;
// bounded, whatever a container has.
func TestKeys(t *testing.T) {
	e := &Explanation{Asked: Question{Port: 80}}
	e.keys(&dockerd.Container{
		Labels: map[string]string{"ambassadord.connect-80": "a", "connect.80/udp": "b", "connect.81": "c", "80": "d", "connect.80" + strings.Repeat("x", maxKey): "e"},
		Env:    []string{"CONNECTION_80=x", "PORT=80"},
	})
	var got []string
	for _, n := range e.NearMisses {
		got = append(got, n.Where)
		if udp := strings.Contains(n.Where, "udp"); udp != strings.Contains(n.Why, "UDP") {
			t.Errorf("of %s it says %s", n.Where, n.Why)
		}
	}
	if want := "label ambassadord.connect-80, label connect.80/udp, environment CONNECTION_80"; strings.Join(got, ", ") != want {
		t.Errorf("found %s, want %s", got, want)
	}

	hostile := &dockerd.Container{Labels: map[string]string{}}
	for i := range 10_000 {
		hostile.Labels[fmt.Sprintf("connect%d-80", i)] = strings.Repeat("x", 1000)
	}
	e = &Explanation{Asked: Question{Port: 80}}
	e.keys(hostile)
	if len(e.NearMisses) != mostNear {
		t.Errorf("%d near misses, want %d", len(e.NearMisses), mostNear)
	}
}

// TestOtherPorts: those that are one slip away.
func TestOtherPorts(t *testing.T) {
	e := &Explanation{Asked: Question{Port: 6379}, Ports: []uint16{80, 637, 3679, 6378, 6397}}
	e.otherPorts()
	var got []string
	for _, n := range e.NearMisses {
		got = append(got, n.Where)
	}
	if want := "port 637, port 6378, port 6397"; strings.Join(got, ", ") != want && strings.Join(got, ", ") != "port 637, port 3679, port 6378, port 6397" {
		t.Errorf("found %s, want %s", got, want)
	}
}

// TestALineOfTheComposeFile: a file that declares what the container does not have is told with its line; one that says the
// same, or leaves it to a variable, is not, nor what is no regular file.
func TestALineOfTheComposeFile(t *testing.T) {
	folder := t.TempDir()
	write := func(text string) string {
		path := filepath.Join(folder, fmt.Sprint(len(text), ".yaml"))
		if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
		return path
	}
	pipe := filepath.Join(folder, "pipe")
	if err := syscall.Mkfifo(pipe, 0o600); err != nil {
		t.Fatal(err)
	}
	for _, c := range []struct {
		name, file, declared string
		line                 int
	}{
		{"another target", write("labels:\n  connect.80: a:2\n"), "a:1", 2},
		{"as a list", write("labels:\n  - connect.80=a:2\n"), "a:1", 2},
		{"the same", write("labels:\n   connect.80: \"a:1\"\n"), "a:1", 0},
		{"a variable", write("labels:\n  connect.80: ${REDIS}\n"), "a:1", 0},
		{"an option", write("labels:\n  connect.80.wait: 5s\n"), "a:1", 0},
		{"another port", write("labels:\n  connect.8080: a:2\n"), "a:1", 0},
		{"a comment", write("# connect.80: a:2 is what it was before\n"), "a:1", 0},
		{"new", write("environment:\n    CONNECT_80: a:2\n"), "", 2},
		{"past the bound", write(strings.Repeat("x: y\n", mostFile/5+1) + "  connect.80: a:2\n"), "a:1", 0},
		{"a pipe", pipe, "", 0},
		{"a relative path", "compose.yaml", "", 0},
	} {
		t.Run(c.name, func(t *testing.T) {
			e := &Explanation{Asked: Question{Port: 80}}
			if c.declared != "" {
				e.Declaration = &Declaration{Target: c.declared}
			}
			e.compose(&dockerd.Container{Labels: map[string]string{labelFiles: c.file}})
			want := ""
			if c.line > 0 {
				want = fmt.Sprintf("%s:%d", c.file, c.line)
			}
			got := ""
			for _, n := range e.NearMisses {
				got += n.Where
			}
			if got != want {
				t.Errorf("found %q, want %q", got, want)
			}
		})
	}
}

// TestFind: a name before a service; a service of one project by any of its instances, those that run
// first; of several projects none, and PROJECT/SERVICE says which.
func TestFind(t *testing.T) {
	made := 0
	of := func(name, project, service string, running bool) *dockerd.Container {
		made++
		return &dockerd.Container{ID: fmt.Sprintf("%d%063d", made, 0), Name: name, Running: running, Labels: map[string]string{
			dockerd.LabelProject: project, "com.docker.compose.service": service,
		}}
	}
	s := dockerd.NewSnapshot(of("a-web-1", "a", "web", true), of("a-web-2", "a", "web", false), of("b-web-1", "b", "web", true), of("a-db-1", "a", "db", false), of("web-tool", "", "", true))
	for ref, want := range map[string]string{"a-web-2": "a-web-2", "30000": "b-web-1", "a/web": "a-web-1", "b/web": "b-web-1", "db": "a-db-1", "web-tool": "web-tool"} {
		c, err := find(s, ref)
		if err != nil || c.Name != want {
			t.Errorf("%s is %v, %v; want %s", ref, c, err, want)
		}
	}
	for ref, fix := range map[string]string{
		"web": "a/web, or b/web", "web-tol": "did you mean web-tool?", strings.Repeat("x", 1000): "docker ps -a", "c/web": "docker ps -a", "": "docker ps -a",
	} {
		c, err := find(s, ref)
		if err == nil || !strings.Contains(hint.Of(err), fix) || len(err.Error()) > 300 {
			t.Errorf("%s is %v, %v (%s); want none, and %s", ref, c, err, hint.Of(err), fix)
		}
	}
}
