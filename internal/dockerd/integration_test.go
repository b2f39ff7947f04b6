//go:build integration

package dockerd

import (
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/ambassadord/ambassadord/internal/containerproc"
	"github.com/ambassadord/ambassadord/internal/dockertest"
)

// watchEngine watches the machine's engine. A full list is an hour away, so
// whatever a test sees, an event brought.
func watchEngine(t *testing.T) *Watcher {
	t.Helper()
	w, err := New(Config{ResyncInterval: time.Hour})
	if err != nil {
		t.Fatal(err)
	}
	runWatcher(t, w)
	await(t, w, "the first", func(*Snapshot) bool { return true })
	return w
}

func TestEngineLifeOfAContainer(t *testing.T) {
	w := watchEngine(t)
	image, name := dockertest.Image(t), dockertest.Name(t)
	id := dockertest.Create(t, "--name", name, "-e", "BACKEND_6379=redis:6379", "--label", "connect.80=web:80",
		"--hostname", "inside", "--expose", "81", "--expose", "80", "--expose", "53/udp", image)
	await(t, w, "created", stopped(id))

	dockertest.Docker(t, "start", id)
	s := await(t, w, "started", running(id))
	c := s.Get(id)
	if c.Name != name || c.Hostname != "inside" || c.Image != image || c.Labels["connect.80"] != "web:80" {
		t.Errorf("container: %+v", c)
	}
	if c.Env[0] != "BACKEND_6379=redis:6379" {
		t.Errorf("environment: %q", c.Env)
	}
	if c.PID <= 0 || c.SandboxKey == "" || c.StartedAt.IsZero() {
		t.Errorf("pid %d, sandbox %q, started %v", c.PID, c.SandboxKey, c.StartedAt)
	}
	if len(c.ExposedPorts) != 2 || c.ExposedPorts[0] != 80 || c.ExposedPorts[1] != 81 {
		t.Errorf("exposed ports: %v, want 80 and 81", c.ExposedPorts)
	}

	dockertest.Docker(t, "pause", id)
	await(t, w, "paused", func(s *Snapshot) bool { c := s.Get(id); return c.Paused && c.Running })
	dockertest.Docker(t, "unpause", id)
	await(t, w, "unpaused", func(s *Snapshot) bool { return !s.Get(id).Paused })

	renamed := dockertest.Name(t)
	dockertest.Docker(t, "rename", id, renamed)
	await(t, w, "renamed", func(s *Snapshot) bool { return s.Get(id).Name == renamed })

	dockertest.Docker(t, "restart", "-t", "0", id)
	s = await(t, w, "restarted", func(s *Snapshot) bool {
		now := s.Get(id)
		return now.Running && now.StartedAt.After(c.StartedAt)
	})
	if now := s.Get(id); now.PID == c.PID {
		t.Errorf("pid %d after the restart too", now.PID)
	}

	dockertest.Docker(t, "kill", id)
	s = await(t, w, "killed", stopped(id))
	if c := s.Get(id); c.PID != 0 || c.SandboxKey != "" {
		t.Errorf("stopped: pid %d, sandbox %q, want none", c.PID, c.SandboxKey)
	}
	dockertest.Docker(t, "rm", id)
	await(t, w, "removed", func(s *Snapshot) bool { return s.Get(id) == nil })
}

func TestEngineHealth(t *testing.T) {
	w := watchEngine(t)
	id := dockertest.Run(t, "--health-cmd", "test -e /tmp/well", "--health-interval", "200ms", "--health-retries", "1", dockertest.Image(t))
	health := func(want string) func(*Snapshot) bool {
		return func(s *Snapshot) bool { c := s.Get(id); return c != nil && c.Running && c.Health == want }
	}
	await(t, w, "unhealthy", health("unhealthy"))
	if _, err := dockertest.Exec(t, id, "touch", "/tmp/well"); err != nil {
		t.Fatal(err)
	}
	await(t, w, "healthy", health("healthy"))
}

// TestEngineCommitsAHealthyOne: the engine stops to probe a container that is paused, which a
// commit does, and calls it unhealthy until the next probe has passed.
func TestEngineCommitsAHealthyOne(t *testing.T) {
	t.Parallel()
	w := watchEngine(t)
	id := dockertest.Run(t, "--health-cmd", "true", "--health-interval", "2s", dockertest.Image(t))
	await(t, w, "healthy", func(s *Snapshot) bool { c := s.Get(id); return c != nil && c.Health == "healthy" })
	seen := make(chan string, 1)
	go func() { // every snapshot until it is over
		var s *Snapshot
		for {
			next, err := w.Wait(t.Context(), s)
			if err != nil {
				close(seen)
				return
			}
			s = next
			if c := s.Get(id); c == nil || c.Health == "unhealthy" {
				seen <- "unhealthy"
				return
			}
		}
	}()
	name := dockertest.Name(t)
	t.Cleanup(func() { dockertest.Docker(t, "rmi", name) })
	dockertest.Docker(t, "commit", id, name)
	if word := dockertest.Docker(t, "inspect", "-f", "{{.State.Health.Status}}", id); word != "unhealthy" {
		t.Logf("the engine already calls it %s", word)
	}
	dockertest.Docker(t, "pause", id)
	await(t, w, "paused", func(s *Snapshot) bool { return s.Get(id).Paused })
	dockertest.Docker(t, "unpause", id)
	s := await(t, w, "unpaused", func(s *Snapshot) bool { return !s.Get(id).Paused })
	if c := s.Get(id); c.Health != "healthy" || !c.HealthUnsure {
		t.Errorf("after the pause it is %q, unsure %t; want healthy, and unsure until the next probe", c.Health, c.HealthUnsure)
	}
	await(t, w, "probed anew", func(s *Snapshot) bool { c := s.Get(id); return c.Health == "healthy" && !c.HealthUnsure })
	select {
	case word := <-seen:
		t.Errorf("it was %s, and no probe has failed", word)
	default:
	}
}

func TestEngineNetworks(t *testing.T) {
	w := watchEngine(t)
	image := dockertest.Image(t)
	first, second := dockertest.Network(t), dockertest.Network(t)

	onBridge := dockertest.Run(t, image)
	linked := dockertest.Run(t, "--link", onBridge+":db", image)
	s := await(t, w, "default bridge", running(linked))
	c := s.Get(linked)
	if c.NetworkMode != "default" && c.NetworkMode != "bridge" {
		t.Errorf("network mode: %q", c.NetworkMode)
	}
	if len(c.Networks) != 1 || c.Networks[0].Name != "bridge" || !c.Networks[0].IPv4.Is4() || c.Networks[0].ID == "" {
		t.Errorf("networks: %+v, want the bridge", c.Networks)
	}
	if len(c.Links) != 1 || c.Links[0] != (Link{Container: s.Get(onBridge).Name, Alias: "db"}) {
		t.Errorf("links: %+v, want db", c.Links)
	}

	onUser := dockertest.Run(t, "--network", first, "--network-alias", "backends", image)
	s = await(t, w, "user network", running(onUser))
	c = s.Get(onUser)
	if c.NetworkMode != first || len(c.Networks) != 1 || c.Networks[0].Name != first || !c.Networks[0].IPv4.Is4() {
		t.Errorf("on %s: mode %q, networks %+v", first, c.NetworkMode, c.Networks)
	}
	if aliases := c.Networks[0].Aliases; len(aliases) == 0 || aliases[0] != "backends" {
		t.Errorf("aliases: %q, want backends", aliases)
	}
	dockertest.Docker(t, "network", "connect", "--link", onBridge+":db", second, onUser)
	s = await(t, w, "connected", func(s *Snapshot) bool { return len(s.Get(onUser).Networks) == 2 })
	for _, n := range s.Get(onUser).Networks {
		want := 0
		if n.Name == second {
			want = 1
		}
		if !n.IPv4.Is4() || len(n.Links) != want {
			t.Errorf("network %+v, want an address and %d links", n, want)
		}
	}
	dockertest.Docker(t, "network", "disconnect", first, onUser)
	await(t, w, "disconnected", func(s *Snapshot) bool {
		n := s.Get(onUser).Networks
		return len(n) == 1 && n[0].Name == second
	})

	none := dockertest.Run(t, "--network", "none", image)
	host := dockertest.Run(t, "--network", "host", image)
	shared := dockertest.Run(t, "--network", "container:"+onUser, image)
	s = await(t, w, "none, host and container:ID", running(shared))
	if c := s.Get(none); c.NetworkMode != "none" || c.SandboxKey == "" || (len(c.Networks) > 0 && c.Networks[0].IPv4.IsValid()) {
		t.Errorf("none: %+v", c)
	}
	if c := s.Get(host); c.NetworkMode != "host" || (len(c.Networks) > 0 && c.Networks[0].IPv4.IsValid()) {
		t.Errorf("host: %+v", c)
	}
	if c := s.Get(shared); c.SandboxKey != "" || s.NetnsOwner(c) != s.Get(onUser) {
		t.Errorf("container:ID: %+v, owner %v, want %s", c, s.NetnsOwner(c), onUser)
	}
}

// TestEngineSelf finds a container's ID from its own files.
func TestEngineSelf(t *testing.T) {
	id := dockertest.Run(t, dockertest.Image(t))
	for _, file := range []string{"/proc/self/mountinfo", "/proc/self/cgroup"} {
		text, err := dockertest.Exec(t, id, "cat", file)
		if err != nil {
			t.Fatal(err)
		}
		path := filepath.Join(t.TempDir(), "file")
		if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
		got, ok := containerproc.Self(t.Context(), path)
		if file == "/proc/self/cgroup" && !ok {
			continue // the container has a cgroup namespace of its own
		}
		if got != id {
			t.Errorf("Self from %s: %q, want %q", file, got, id)
		}
	}
}

// TestEngineStartIsSeenAtOnce measures from the engine's own record of the
// start, which precedes its event, to the snapshot.
func TestEngineStartIsSeenAtOnce(t *testing.T) {
	w := watchEngine(t)
	image := dockertest.Image(t)
	best := time.Hour
	for range 5 {
		name := dockertest.Name(t)
		seen := make(chan time.Time, 1)
		go func() {
			last := w.Snapshot()
			for {
				s, err := w.Wait(t.Context(), last)
				if err != nil {
					return
				}
				if c := s.ByName(name); c != nil && c.Running {
					seen <- time.Now()
					return
				}
				last = s
			}
		}()
		id := dockertest.Run(t, "--name", name, image)
		var at time.Time
		select {
		case at = <-seen:
		case <-time.After(patience):
			t.Fatal("the start was never seen")
		}
		s := await(t, w, "started", running(id))
		best = min(best, at.Sub(s.Get(id).StartedAt))
	}
	t.Logf("best of 5: %v after the start", best)
	if best > 250*time.Millisecond {
		t.Errorf("a start shows after %v at best", best)
	}
}
