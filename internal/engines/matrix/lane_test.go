package main

import (
	"context"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/ambassadord/ambassadord/internal/engines"
)

// fake is a lane on the machine whose parts are shell scripts, in the place of tests.
func fake(t *testing.T, out *printer, name string, parts ...packageRun) *engineLane {
	t.Helper()
	l := newLane(engines.Engine{Name: name, Release: "another engine's"}, out)
	l.machine = true
	for _, p := range parts {
		p.folder = t.TempDir()
		l.parts = append(l.parts, p)
	}
	return l
}

// shell is a part that runs text, alone or not.
func shell(text string, alone bool) packageRun {
	return packageRun{args: []string{"sh", "-c", text}, alone: alone}
}

// says is a line of test2json about a test.
func says(action, test, output string) string {
	line := `{"Action":"` + action + `","Package":"` + module + `/e2e","Test":"` + test + `","Output":"` + output + `"}`
	return "printf '%s\\n' '" + line + "'\n"
}

// noEngine has no docker on the path of the test.
func noEngine(t *testing.T) {
	t.Helper()
	folder := t.TempDir()
	if err := os.WriteFile(filepath.Join(folder, "docker"), []byte("#!/bin/sh\necho engine-version: none\n"), 0o755); err != nil {
		t.Fatal(err)
	}
	t.Setenv("PATH", folder+":"+os.Getenv("PATH"))
}

// What is to run alone runs when nothing else does, one engine after the other.
func TestAloneIsAlone(t *testing.T) {
	noEngine(t)
	log := filepath.Join(t.TempDir(), "log")
	note := func(text string) string { return "echo " + text + " >>" + log + "\n" }
	var out strings.Builder
	p := &printer{stdout: &out}
	slow := "until [ -e " + log + ".go ]; do sleep 0.01; done\n"
	err := runLanes(t.Context(), []*engineLane{
		fake(t, p, "a", shell(note("a-beside")+"> "+log+".go", false), shell(note("a-begin")+"sleep 0.1\n"+note("a-end"), true)),
		fake(t, p, "b", shell(slow+note("b-beside"), false), shell(note("b-begin")+"sleep 0.1\n"+note("b-end"), true)),
		fake(t, p, "c", shell(slow+"sleep 0.2\n"+note("c-beside"), false)),
	})
	if err != nil {
		t.Fatalf("%v\n%s", err, out.String())
	}
	text, err := os.ReadFile(log)
	got := strings.Fields(string(text))
	if err != nil || len(got) != 7 {
		t.Fatalf("%v, %v", got, err)
	}
	slices.Sort(got[:3])
	if want := []string{"a-beside", "b-beside", "c-beside", "a-begin", "a-end", "b-begin", "b-end"}; !slices.Equal(got, want) {
		t.Errorf("the order is %v, want %v", got, want)
	}
}

// One that hangs is ended, and what the others found counts; what failed is told at the end.
func TestLaneThatHangs(t *testing.T) {
	noEngine(t)
	var out strings.Builder
	p := &printer{stdout: &out}
	hangs := fake(t, p, "hangs", shell(says("run", "TestStuck", "")+says("output", "TestStuck", "at the well\\n")+"sleep 1000", false), shell("true", true))
	hangs.timeout = 5 * time.Second
	silent := fake(t, p, "silent", shell(says("run", "TestMute", "")+"sleep 1000", false))
	silent.silence = 300 * time.Millisecond
	// It may be silent while it waits for the others.
	patient := fake(t, p, "patient", shell("true", false), shell("true", true))
	patient.silence = 2500 * time.Millisecond
	fails := fake(t, p, "fails", shell(says("run", "TestBad", "")+says("output", "TestBad", "bad news\\n")+says("fail", "TestBad", "")+"exit 1", false),
		shell(says("run", "TestLate", "")+says("pass", "TestLate", ""), true))
	fine := fake(t, p, "fine", shell(says("run", "TestGood", "")+says("pass", "TestGood/part", "")+says("pass", "TestGood", ""), false))
	err := runLanes(t.Context(), []*engineLane{hangs, silent, patient, fails, fine})
	if err == nil {
		t.Fatal("no error")
	}
	for _, want := range []string{"engine hangs, none: it was ended after 5s\n", "it was ended after 300ms of silence\n", "unfinished e2e.TestStuck", "engine fails, none: exit status 1", "fail e2e.TestBad"} {
		if !strings.Contains(err.Error(), want) {
			t.Errorf("the error is %v, want %q", err, want)
		}
	}
	if strings.Contains(err.Error(), "fine") || strings.Contains(err.Error(), "patient") {
		t.Errorf("the error is %v", err)
	}
	for _, want := range []string{"at the well", "bad news"} {
		if strings.Count(out.String(), "\n"+want+"\n") != 2 {
			t.Errorf("want %q at once and at the end:\n%s", want, out.String())
		}
	}
}

// When the run is ended, all that it started is.
func TestRunThatIsEnded(t *testing.T) {
	noEngine(t)
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
	var out strings.Builder
	err := runLanes(ctx, []*engineLane{fake(t, &printer{stdout: &out}, "a", shell(": >"+began+"; sleep 1000", false))})
	if err == nil || !strings.Contains(err.Error(), "context canceled") {
		t.Errorf("%v, want that it was ended; %s", err, out.String())
	}
}

// What comes first has ended when others begin, and they begin also if it has failed.
func TestFirstIsFirst(t *testing.T) {
	noEngine(t)
	log := filepath.Join(t.TempDir(), "log")
	var out strings.Builder
	p := &printer{stdout: &out}
	first := fake(t, p, "first", shell("sleep 0.2; echo first >>"+log+"; exit 1", false))
	first.first = true
	err := runLanes(t.Context(), []*engineLane{fake(t, p, "other", shell("echo other >>"+log, false)), first})
	if err == nil || !strings.Contains(err.Error(), "engine first, none: exit status 1") {
		t.Errorf("%v, want that the first has failed", err)
	}
	if text, err := os.ReadFile(log); err != nil || string(text) != "first\nother\n" {
		t.Errorf("%q, %v; want the first, and then the other", text, err)
	}
}

// A package that has passed is told of as Go does.
func TestSummary(t *testing.T) {
	for text, want := range map[string]string{
		"PASS\nok  \tx/y\t1.013s\n": "ok  \tx/y\t1.013s", "?   \tx/z\t[no test files]\n": "?   \tx/z\t[no test files]", "": "",
	} {
		if got := summary(text); got != want {
			t.Errorf("of %q it is %q, want %q", text, got, want)
		}
	}
}

// What is to be alone is in parts of its own.
func TestTableParts(t *testing.T) {
	for _, e := range engines.Engines {
		for _, p := range tableParts("/root", "/bin", e) {
			all := strings.Join(p.args, " ")
			if strings.Contains(all, "EngineRestartsItsContainers") != p.alone {
				t.Errorf("engine %s: alone is %v: %s", e.Name, p.alone, all)
			}
		}
	}
}
