package dockerd

import (
	"fmt"
	"net/http"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"testing"

	"github.com/ambassadord/ambassadord/internal/containerproc"
)

func TestNetnsOwner(t *testing.T) {
	sharing := func(id, name, mode string) *Container { return &Container{ID: id, Name: name, NetworkMode: mode} }
	containers := []*Container{
		sharing("aaa1", "own", "bridge"),
		sharing("aaa2", "byid", "container:aaa1"),
		sharing("bbb1", "byname", "container:own"),
		sharing("bbb2", "byslash", "container:/own"),
		sharing("bbb3", "byprefix", "container:ccc"),
		sharing("bbb4", "ambiguous", "container:aaa"),
		sharing("ccc1", "chain", "container:byname"),
		sharing("ddd1", "orphan", "container:fff"),
		sharing("ddd2", "loop", "container:ddd2"),
		sharing("ddd3", "nobody", "container:"),
	}
	// hop8 is eight hops from its owner, hop9 nine.
	containers = append(containers, sharing("h0", "hop0", "host"))
	for i := 1; i <= 9; i++ {
		containers = append(containers, sharing(fmt.Sprintf("h%d", i), fmt.Sprintf("hop%d", i), fmt.Sprintf("container:h%d", i-1)))
	}
	s := NewSnapshot(containers...)
	for name, want := range map[string]string{
		"own": "own", "byid": "own", "byname": "own", "byslash": "own", "byprefix": "own", "ambiguous": "",
		"chain": "own", "orphan": "", "loop": "", "nobody": "", "hop8": "hop0", "hop9": "",
	} {
		owner := s.NetnsOwner(s.ByName(name))
		if got := nameOf(owner); got != want {
			t.Errorf("owner of %s: %q, want %q", name, got, want)
		}
	}
}

func nameOf(c *Container) string {
	if c == nil {
		return ""
	}
	return c.Name
}

func TestSnapshotGet(t *testing.T) {
	s := NewSnapshot(&Container{ID: "c"}, &Container{ID: "a"}, &Container{ID: "b"})
	for _, id := range []string{"a", "b", "c"} {
		if c := s.Get(id); c == nil || c.ID != id {
			t.Errorf("Get(%q): %v", id, c)
		}
	}
	for _, id := range []string{"", "aa", "d"} {
		if c := s.Get(id); c != nil {
			t.Errorf("Get(%q): %v, want nil", id, c)
		}
	}
}

func TestService(t *testing.T) {
	for _, tt := range []struct {
		labels map[string]string
		want   string
	}{
		{nil, ""},
		{map[string]string{LabelSwarmService: "stack_web"}, "stack_web"},
		{map[string]string{labelComposeService: "web", LabelSwarmService: "stack_web"}, "web"},
	} {
		if got := (&Container{Labels: tt.labels, Task: true}).Service(); got != tt.want {
			t.Errorf("Service with %v: %q, want %q", tt.labels, got, tt.want)
		}
	}
}

// What was known before the engine was lost is unconfirmed until each container was inspected.
func TestWhatWasKnownIsUnconfirmedAfterALoss(t *testing.T) {
	f := newFakeEngine(t)
	f.set("a", fakeContainer{Name: "a", Running: true})
	f.set("b", fakeContainer{Name: "b", Running: true})
	f.start()
	w := f.watch(Config{})
	s := await(t, w, "both run", func(s *Snapshot) bool { return running("a")(s) && running("b")(s) })
	if s.Unconfirmed() != 0 || w.Away() != nil {
		t.Errorf("%d are unconfirmed, away: %v; want none", s.Unconfirmed(), w.Away())
	}
	f.stop()
	s = await(t, w, "they are unconfirmed", func(s *Snapshot) bool { return s.Unconfirmed() == 2 })
	if c := s.Get("a"); !c.Running || s.Current(c) {
		t.Errorf("a: %+v, current %t; want what was known, unconfirmed", c, s.Current(c))
	}
	until(t, "the engine is away", func() bool { return w.Away() != nil })
	release := make(chan struct{})
	f.update(func() {
		f.onInspect = func(_ http.ResponseWriter, id string) bool {
			if id == "b" {
				<-release
			}
			return true
		}
	})
	f.start()
	s = await(t, w, "a is confirmed", func(s *Snapshot) bool { return s.Current(s.Get("a")) })
	if s.Current(s.Get("b")) || w.Away() != nil {
		t.Errorf("b is current: %t, away: %v; want it unconfirmed, and the engine there", s.Current(s.Get("b")), w.Away())
	}
	close(release)
	await(t, w, "b is confirmed", func(s *Snapshot) bool { return s.Unconfirmed() == 0 })
}

func TestHolds(t *testing.T) {
	at := netip.MustParseAddrPort("172.17.0.2:80")
	folder := t.TempDir()
	key := filepath.Join(folder, "0123456789ab")
	web := &Container{ID: "web", Name: "web", Running: true, NetworkMode: "bridge", SandboxKey: key,
		Networks: []Network{{Name: "bridge", IPv4: at.Addr()}}, Published: []Published{{Port: 80, At: netip.MustParseAddrPort("0.0.0.0:8080")}}}
	joiner := &Container{ID: "joiner", Name: "joiner", Running: true, NetworkMode: "container:web"}
	ended := &Container{ID: "ended", Name: "ended", NetworkMode: "bridge", Networks: web.Networks}
	host := &Container{ID: "host", Name: "host", Running: true, NetworkMode: "host"}
	current := NewSnapshot(web, joiner, ended, host)
	unconfirmed := current.withUnconfirmed(current.ids())
	check := func(s *Snapshot, id, addr string, want bool) {
		t.Helper()
		if err := s.Holds(id, netip.MustParseAddrPort(addr)); (err == nil) != want {
			t.Errorf("%s at %s with %d unconfirmed: %v; want it held: %t", id, addr, s.Unconfirmed(), err, want)
		}
	}
	for id, addrs := range map[string]map[string]bool{
		"web":    {"172.17.0.2:80": true, "172.17.0.3:80": false, "127.0.0.1:8080": true, "127.0.0.1:80": false},
		"joiner": {"172.17.0.2:80": true, "172.17.0.3:80": false},
		"ended":  {"172.17.0.2:80": false},
		"host":   {"127.0.0.1:80": true},
		"gone":   {"172.17.0.2:80": false},
	} {
		for addr, want := range addrs {
			check(current, id, addr, want)
			check(unconfirmed, id, addr, false)
		}
	}
	// Its namespace is there, by a name that no other ever has.
	if err := os.Symlink("/proc/self/ns/net", key); err != nil {
		t.Fatal(err)
	}
	check(unconfirmed, "web", "172.17.0.2:80", true)
	check(unconfirmed, "joiner", "172.17.0.2:80", true)
	check(unconfirmed, "host", "127.0.0.1:80", false)
	// Its process was seen, and is gone.
	seen := *web
	seen.Seen, seen.PID = true, os.Getpid()
	other := NewSnapshot(&seen)
	check(other.withUnconfirmed(other.ids()), "web", "172.17.0.2:80", false)
}

// TestEndedHoldsNothing: an engine that is slow tells late of a container that has ended, whose
// address may be another's by then.
func TestEndedHoldsNothing(t *testing.T) {
	at := netip.MustParseAddrPort("172.17.0.2:80")
	process := exec.Command("sleep", "60")
	if err := process.Start(); err != nil {
		t.Fatal(err)
	}
	web := &Container{
		ID: "web", Name: "web", Running: true, NetworkMode: "bridge", Networks: []Network{{Name: "bridge", IPv4: at.Addr()}},
		Seen: true, PID: process.Process.Pid, Netns: containerproc.Netns("self"),
	}
	joiner := &Container{ID: "joiner", Name: "joiner", Running: true, NetworkMode: "container:web"}
	s := NewSnapshot(web, joiner)
	wantHeld := func(want bool) {
		t.Helper()
		for _, id := range []string{"web", "joiner"} {
			if err := s.Holds(id, at); (err == nil) != want {
				t.Errorf("%s: %v; want it held: %t", id, err, want)
			}
		}
	}
	wantHeld(true)
	again := *web
	again.Netns++ // its process ID is that of a process elsewhere by now
	s = NewSnapshot(&again, joiner)
	wantHeld(false)
	if err := process.Process.Kill(); err != nil {
		t.Fatal(err)
	}
	_ = process.Wait()
	s = NewSnapshot(web, joiner)
	wantHeld(false)
}

// wantUnconfirmed demands that what was known stays, and that none of it is current.
func wantUnconfirmed(t *testing.T, before, now *Snapshot) {
	t.Helper()
	if !slices.Equal(now.Containers(), before.Containers()) || now.Unconfirmed() != len(before.Containers()) {
		t.Errorf("without the engine there are %v, of which %d are unconfirmed; want all of %v", now.Containers(), now.Unconfirmed(), before.Containers())
	}
}
