package claim

import (
	"maps"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/ambassadord/ambassadord/internal/rundir"
	"github.com/ambassadord/ambassadord/netrules"
	"github.com/ambassadord/ambassadord/netrules/netns"
)

// The test program is also a daemon, which has a child that carries what it is told to.
const roleVariable = "CLAIM_TEST_ROLE"

func TestMain(m *testing.M) {
	if os.Getenv(roleVariable) == "child" { // says what it carries each time that it reads a byte; from then on it is less
		writer := NewWriter(os.NewFile(3, "claim"))
		needs := Needs{first: 2, second: 1}
		for line := make([]byte, 1); ; {
			if _, err := os.Stdin.Read(line); err != nil {
				os.Exit(0)
			}
			err := writer.Write(needs)
			if err == nil {
				_, err = os.Stdout.WriteString("said\n")
			}
			if err != nil {
				os.Exit(1)
			}
			delete(needs, first)
		}
	}
	os.Exit(m.Run())
}

var (
	first  = Need{netns.ID{Dev: 4, Inode: 1000}, netrules.IPv4}
	second = Need{netns.ID{Dev: 4, Inode: 1001}, netrules.IPv6}
)

type process struct {
	t   *testing.T
	cmd *exec.Cmd
	say func()
}

// carrying starts a child that has a claim; the daemon is dead when it returns.
func carrying(t *testing.T, dir *rundir.Dir) process {
	t.Helper()
	made, err := dir.MakeClaim()
	if err != nil {
		t.Fatal(err)
	}
	cmd := exec.CommandContext(t.Context(), os.Args[0])
	cmd.Env = append(os.Environ(), roleVariable+"=child")
	cmd.ExtraFiles = []*os.File{made.File()}
	in, err := cmd.StdinPipe()
	if err != nil {
		t.Fatal(err)
	}
	out, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	p := process{t: t, cmd: cmd, say: func() {
		t.Helper()
		if _, err := in.Write([]byte("x")); err != nil {
			t.Fatal(err)
		}
		if _, err := out.Read(make([]byte, 16)); err != nil {
			t.Fatal(err)
		}
	}}
	t.Cleanup(p.kill)
	all, others, err := Find(dir)
	if err != nil || len(others) > 0 || slices.ContainsFunc(all, func(c Carrier) bool { return c.Name == made.Name() }) {
		t.Fatalf("carriers while its daemon lives: %+v, %v, %v; want it not to be one", all, others, err)
	}
	made.HandedOver()
	made.Orphan()
	return p
}

func (p *process) kill() { _ = p.cmd.Process.Kill(); _ = p.cmd.Wait() }

func openDir(t *testing.T) *rundir.Dir {
	t.Helper()
	dir, err := rundir.Open(filepath.Join(t.TempDir(), "run"))
	if err != nil {
		t.Fatal(err)
	}
	return dir
}

// TestFind: what two processes carry is told of both until one has ended.
func TestFind(t *testing.T) {
	dir := openDir(t)
	want := func(what string, wanted ...Needs) {
		t.Helper()
		all, others, err := Find(dir)
		if err != nil || len(others) > 0 || len(all) != len(wanted) {
			t.Fatalf("%s: %+v, %v, %v; want %d", what, all, others, err, len(wanted))
		}
		for i, needs := range wanted {
			if !maps.Equal(all[i].Needs, needs) || all[i].Everything || all[i].Total != needs.Total() || !strings.HasPrefix(all[i].Who, "process ") {
				t.Errorf("%s: %+v; want %v", what, all[i], needs)
			}
		}
	}
	one := carrying(t, dir)
	one.say()
	want("the first", Needs{first: 2, second: 1})
	other := carrying(t, dir)
	other.say()
	want("both", Needs{first: 2, second: 1}, Needs{first: 2, second: 1})
	one.say()
	want("after some have ended", Needs{second: 1}, Needs{first: 2, second: 1})
	one.kill()
	want("when the first was killed", Needs{first: 2, second: 1})
	other.kill()
	want("when both were")
}

// TestOrphan: whoever knows the daemon to be dead does not take the lock's word, which it may
// yet hold for a moment.
func TestOrphan(t *testing.T) {
	dir := openDir(t)
	made, err := dir.MakeClaim()
	if err != nil {
		t.Fatal(err)
	}
	defer made.Release()
	if c, err := Orphan(dir, "carrier-0-0.claim"); err != nil || len(c.Needs) > 0 || c.Everything {
		t.Errorf("Orphan of a claim that is nobody's = %+v, %v; want nothing", c, err)
	}
	needs := Needs{first: 2, second: 1}
	if err := NewWriter(made.File()).Write(needs); err != nil {
		t.Fatal(err)
	}
	if all, _, err := Find(dir); err != nil || len(all) > 0 {
		t.Errorf("carriers %+v, %v; want none, for the daemon lives", all, err)
	}
	if c, err := Orphan(dir, made.Name()); err != nil || !maps.Equal(c.Needs, needs) {
		t.Errorf("Orphan = %+v, %v; want %v", c, err, needs)
	}
}

// TestCarrierThatHasYetToSay is waited for; one that does not say needs everything.
func TestCarrierThatHasYetToSay(t *testing.T) {
	dir := openDir(t)
	p := carrying(t, dir)
	found := make(chan []Carrier)
	go func() {
		all, _, _ := Find(dir)
		found <- all
	}()
	p.say()
	if all := <-found; len(all) != 1 || all[0].Total != 3 {
		t.Errorf("carriers %+v; want the one with 3 connections", all)
	}
	silent := carrying(t, dir)
	all, others, err := Find(dir)
	if err != nil || len(all) != 2 || len(others) != 1 {
		t.Fatalf("carriers %+v, %v, %v; want two, and that one of them is silent", all, others, err)
	}
	if connections, needed := all[1].Count(Need{netns.ID{Dev: 1, Inode: 1}, netrules.IPv4}); connections != 0 || !needed {
		t.Errorf("the silent one needs %d, %t; want that it may need anything", connections, needed)
	}
	silent.kill()
}

// TestClaimOfTooMany says how many, where it cannot say where.
func TestClaimOfTooMany(t *testing.T) {
	needs := Needs{}
	for i := range uint64(20_000) {
		needs[Need{netns.ID{Dev: 4, Inode: i}, netrules.IPv4}] = 1
	}
	text, err := encode(content{}, needs)
	if err != nil || len(text) > rundir.MaxClaim {
		t.Fatalf("%d bytes, %v", len(text), err)
	}
	said, err := decode(text)
	if c := said.carrier("x"); err != nil || !c.Everything || c.Total != 20_000 {
		t.Errorf("%+v, %v; want everything for 20,000", c, err)
	}
}

// FuzzDecode: whatever is there is either whole or not, and no work.
func FuzzDecode(f *testing.F) {
	text, err := encode(content{PID: 1}, Needs{first: 1})
	if err != nil {
		f.Fatal(err)
	}
	f.Add(text)
	f.Add([]byte("00000000\n\n"))
	f.Fuzz(func(t *testing.T, text []byte) {
		said, err := decode(text)
		if err != nil {
			return
		}
		if c := said.carrier("x"); c.Total < 0 {
			t.Errorf("%d connections", c.Total)
		}
	})
}
