package main

import (
	"context"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/ambassadord/ambassadord/internal/engines"
)

// fakes is a run of hosts that are a shell on this machine: jobs are shell scripts, in the
// place of tests.
type fakes struct {
	t       *testing.T
	out     strings.Builder
	printer *printer
	queue   *jobQueue
	columns []*column
	hosts   []*host
}

// newFakes has no docker on the path of the test.
func newFakes(t *testing.T) *fakes {
	t.Helper()
	folder := t.TempDir()
	if err := os.WriteFile(filepath.Join(folder, "docker"), []byte("#!/bin/sh\necho engine-version: none\n"), 0o755); err != nil {
		t.Fatal(err)
	}
	t.Setenv("PATH", folder+":"+os.Getenv("PATH"))
	f := &fakes{t: t, queue: newQueue(10)}
	f.printer = &printer{stdout: &f.out}
	return f
}

// add adds an engine with one host. A signal to that is one to its job, too, as with a host's own
// namespaces.
func (f *fakes) add(name string, jobs ...*job) *host {
	f.t.Helper()
	c := newColumn(engines.Engine{Name: name, Release: "another engine's"}, f.printer)
	for _, j := range jobs {
		j.folder = f.t.TempDir()
	}
	f.queue.add(name, 1, jobs)
	h := newHost(c, f.queue)
	h.start = []string{"sh", "-c", "trap 'kill -KILL 0' TERM\nexec 3<&0\n(" + script + ") <&3 & wait $!\n"}
	f.columns, f.hosts = append(f.columns, c), append(f.hosts, h)
	return h
}

func (f *fakes) run(ctx context.Context) error { return runHosts(ctx, f.hosts, f.columns, f.queue) }

// shell is a job that runs text, alone or not.
func shell(text string, alone bool) *job {
	return &job{name: "shell", args: []string{"sh", "-c", strings.ReplaceAll(text, "\n", ";")}, alone: alone}
}

// says is a line of test2json about a test.
func says(action, test, output string) string {
	line := `{"Action":"` + action + `","Package":"` + module + `/e2e","Test":"` + test + `","Output":"` + output + `"}`
	return "printf '%s\\n' '" + line + "'\n"
}

// What is to run alone runs when nothing else does, one engine after the other.
func TestAloneIsAlone(t *testing.T) {
	f := newFakes(t)
	log := filepath.Join(t.TempDir(), "log")
	note := func(text string) string { return "echo " + text + " >>" + log + "\n" }
	slow := "until [ -e " + log + ".go ]; do sleep 0.01; done\n"
	f.add("a", shell(note("a-beside")+"> "+log+".go", false), shell(note("alone-begin")+"sleep 0.1\n"+note("alone-end"), true))
	f.add("b", shell(slow+note("b-beside"), false), shell(note("alone-begin")+"sleep 0.1\n"+note("alone-end"), true))
	f.add("c", shell(slow+"sleep 0.2\n"+note("c-beside"), false))
	if err := f.run(t.Context()); err != nil {
		t.Fatalf("%v\n%s", err, f.out.String())
	}
	text, err := os.ReadFile(log)
	got := strings.Fields(string(text))
	if err != nil || len(got) != 7 {
		t.Fatalf("%v, %v", got, err)
	}
	slices.Sort(got[:3])
	if want := []string{"a-beside", "b-beside", "c-beside", "alone-begin", "alone-end", "alone-begin", "alone-end"}; !slices.Equal(got, want) {
		t.Errorf("the order is %v, want %v", got, want)
	}
}

// One that hangs is ended, and what the others found counts; what failed is told at the end.
func TestHostThatHangs(t *testing.T) {
	f := newFakes(t)
	hangs := f.add("hangs", shell(says("run", "TestStuck", "")+says("output", "TestStuck", "at the well\\n")+"sleep 1000", false), shell("true", true))
	hangs.timeout = 3 * time.Second
	silent := f.add("silent", shell(says("run", "TestMute", "")+"sleep 1000", false))
	silent.silence = 300 * time.Millisecond
	// It may be silent while it waits for the others.
	patient := f.add("patient", shell("true", false), shell("true", true))
	patient.silence, patient.timeout = 2*time.Second, 2*time.Second
	f.add("fails", shell(says("run", "TestBad", "")+says("output", "TestBad", "bad news\\n")+says("fail", "TestBad", "")+"exit 1", false),
		shell(says("run", "TestLate", "")+says("pass", "TestLate", ""), true))
	f.add("crashes", shell(says("run", "TestCrash", "")+says("output", "TestCrash", "panic: oh\\n"), false), shell("exit 3", true))
	f.add("fine", shell(says("run", "TestGood", "")+says("pass", "TestGood/part", "")+says("pass", "TestGood", ""), false))
	err := f.run(t.Context())
	if err == nil {
		t.Fatal("no error")
	}
	for _, want := range []string{"engine hangs, none: it was ended after 3s\n", "not run: shell", "it was ended after 300ms of silence\n", "unfinished e2e.TestStuck",
		"engine fails, none: fail e2e.TestBad", "engine crashes, none: unfinished e2e.TestCrash\nshell: exit status 3"} {
		if !strings.Contains(err.Error(), want) {
			t.Errorf("the error is %v, want %q", err, want)
		}
	}
	if strings.Contains(err.Error(), "fine") || strings.Contains(err.Error(), "patient") {
		t.Errorf("the error is %v", err)
	}
	for _, want := range []string{"at the well", "bad news", "panic: oh"} {
		if strings.Count(f.out.String(), "\n"+want+"\n") != 2 {
			t.Errorf("want %q at once and at the end:\n%s", want, f.out.String())
		}
	}
}

// A host that cannot be has its jobs told of, and keeps nobody waiting.
func TestHostThatCannotBe(t *testing.T) {
	f := newFakes(t)
	f.add("none", shell("true", false)).start = []string{"sh", "-c", "exit 125"}
	f.add("nowhere", shell("true", false)).start = []string{"/nowhere"}
	f.add("fine", shell("true", true))
	err := f.run(t.Context())
	for _, want := range []string{"engine none, : exit status 125\nnot run: shell", "engine nowhere, : fork/exec /nowhere: no such file or directory\nnot run: shell"} {
		if err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("the error is %v, want %q", err, want)
		}
	}
	if strings.Contains(err.Error(), "fine") {
		t.Errorf("the error is %v", err)
	}
}

// When the run is ended, all that it started is.
func TestRunThatIsEnded(t *testing.T) {
	f := newFakes(t)
	began := filepath.Join(t.TempDir(), "began")
	ctx, cancel := context.WithCancel(t.Context())
	go func() {
		for ctx.Err() == nil {
			if _, err := os.Stat(began); err == nil {
				cancel()
			}
			time.Sleep(10 * time.Millisecond)
		}
	}()
	f.add("a", shell(": >"+began+"; sleep 1000", false), shell("true", false))
	if err := f.run(ctx); err == nil || !strings.Contains(err.Error(), "context canceled") || !strings.Contains(err.Error(), "1 of its parts were not begun") {
		t.Errorf("%v, want that it was ended; %s", err, f.out.String())
	}
}

// A package in several parts is told of once, as Go does, when the last has ended, with the time
// of all; not if one has failed.
func TestPackageInParts(t *testing.T) {
	var out strings.Builder
	c := newColumn(engines.Engine{Name: "x"}, &printer{stdout: &out})
	c.whole = true
	for _, pkg := range []string{"x/good", "x/good", "x/bad", "x/bad"} {
		c.expect(pkg)
	}
	end := func(pkg, action string) { c.part(engines.Event{Action: action, Package: pkg, Elapsed: 1.5}, "PASS\n") }
	end("x/good", engines.Passed)
	end("x/bad", engines.Failed)
	end("x/bad", engines.Passed)
	if out.Len() > 0 {
		t.Errorf("too early: %s", out.String())
	}
	end("x/good", engines.Passed)
	if want := "ok  \tx/good\t3.000s\n"; out.String() != want {
		t.Errorf("it says %q, want %q", out.String(), want)
	}
}

// Hosts end with the run also when that is killed.
func TestRunThatIsKilled(t *testing.T) {
	const inside = "MATRIX_TEST_PID_FILE"
	if file := os.Getenv(inside); file != "" { // the run that is killed
		f := newFakes(t)
		f.add("a", shell("echo $$ >"+file+".new; mv "+file+".new "+file+"; sleep 1000", false))
		_ = f.run(t.Context())
		return
	}
	file := filepath.Join(t.TempDir(), "pid")
	killed := exec.Command(os.Args[0], "-test.run=^TestRunThatIsKilled$")
	killed.Env = append(os.Environ(), inside+"="+file)
	if err := killed.Start(); err != nil {
		t.Fatal(err)
	}
	until := func(what string, holds func() bool) {
		t.Helper()
		for deadline := time.Now().Add(20 * time.Second); !holds(); time.Sleep(10 * time.Millisecond) {
			if time.Now().After(deadline) {
				t.Errorf("not in time: %s", what)
				break
			}
		}
	}
	var pid int
	until("the job has begun", func() bool {
		text, err := os.ReadFile(file)
		if err == nil {
			pid, err = strconv.Atoi(strings.TrimSpace(string(text)))
		}
		return err == nil
	})
	_ = killed.Process.Kill()
	_ = killed.Wait()
	if pid != 0 {
		group, _ := syscall.Getpgid(pid)
		until("the job has ended", func() bool { return syscall.Kill(pid, 0) != nil })
		if t.Failed() && group > 1 {
			_ = syscall.Kill(-group, syscall.SIGKILL)
		}
	}
}
