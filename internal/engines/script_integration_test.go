//go:build integration

package engines_test

import (
	"bytes"
	"errors"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/ambassadord/ambassadord/internal/dockertest"
)

// beside is scripts/engine with a temporary folder of the test's own.
func beside(t *testing.T, folder string, args ...string) (*exec.Cmd, *bytes.Buffer) {
	t.Helper()
	command := exec.Command(filepath.Join("..", "..", "scripts", "engine"), args...)
	command.Env = append(os.Environ(), "TMPDIR="+folder, "ENGINE_IMAGES="+dockertest.Image(t))
	output := new(bytes.Buffer)
	command.Stdout, command.Stderr = output, output
	return command, output
}

// shortFolder is a temporary folder; an engine's sockets are in there, and a path to one is
// short.
func shortFolder(t *testing.T) string {
	t.Helper()
	folder, err := os.MkdirTemp("", "e")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := os.RemoveAll(folder); err != nil {
			t.Error(err)
		}
	})
	return folder
}

// left is what runs in folder have left there, and their control groups.
func left(t *testing.T, folder string) []string {
	t.Helper()
	var all []string
	for _, pattern := range []string{folder + "/*", "/sys/fs/cgroup/ambassadord-engine.*", "/sys/fs/cgroup/*/ambassadord-engine.*"} {
		found, err := filepath.Glob(pattern)
		if err != nil {
			t.Fatal(err)
		}
		all = append(all, found...)
	}
	return all
}

// ours keeps those of paths that belong to the engine whose folder is root.
func ours(paths []string, root string) []string {
	return slices.DeleteFunc(slices.Clone(paths), func(p string) bool { return !strings.HasSuffix(p, filepath.Ext(root)) })
}

// The engine is apart from the machine's, and the command's exit status is the script's.
func TestEngineOfOnesOwn(t *testing.T) {
	folder := shortFolder(t)
	const script = `docker run -d --name apart "$0" >&2 && docker ps --format '{{.Names}}' && ls /sys/class/net && echo "$TMPDIR" && exit 7`
	command, output := beside(t, folder, "20.10", "sh", "-c", script, dockertest.Image(t))
	err := command.Run()
	var status *exec.ExitError
	if !errors.As(err, &status) || status.ExitCode() != 7 {
		t.Errorf("it ended by %v, want the command's exit status 7; %s", err, output)
	}
	if got := output.String(); !strings.Contains(got, "\napart\n") || !strings.Contains(got, "docker0") || !strings.Contains(got, folder+"/engine.") {
		t.Errorf("want the container alone, a bridge and a folder of its own; got\n%s", got)
	}
	if names := dockertest.Docker(t, "ps", "-a", "--format", "{{.Names}}"); slices.Contains(strings.Fields(names), "apart") {
		t.Error("the machine's engine has the container")
	}
	if entries, err := os.ReadDir(folder); err != nil || len(entries) > 0 {
		t.Errorf("left in its folder: %v, %v", entries, err)
	}
}

// Whatever ends it ends all of it, and the next run removes what a kill has left.
func TestEngineThatIsKilled(t *testing.T) {
	for _, c := range []struct {
		name   string
		signal syscall.Signal
	}{{"TERM", syscall.SIGTERM}, {"INT", syscall.SIGINT}, {"KILL", syscall.SIGKILL}} {
		t.Run(c.name, func(t *testing.T) {
			folder := shortFolder(t)
			ready := filepath.Join(folder, "ready")
			const script = `docker run -d "$0" >&2 && : >"$1" && exec sleep 1000`
			command, output := beside(t, folder, "20.10", "sh", "-c", script, dockertest.Image(t), ready)
			// What outlives the script would hold its output open.
			command.WaitDelay = 20 * time.Second
			if err := command.Start(); err != nil {
				t.Fatal(err)
			}
			wait(t, "the container runs", func() bool { _, err := os.Stat(ready); return err == nil })
			roots, err := filepath.Glob(folder + "/engine.*")
			if err != nil || len(roots) != 1 {
				t.Fatalf("its folders are %v, %v; %s", roots, err, output)
			}
			if groups := ours(left(t, folder), roots[0]); len(groups) < 2 {
				t.Errorf("while it runs there are %v, want control groups too", groups)
			}
			if err := command.Process.Signal(c.signal); err != nil {
				t.Fatal(err)
			}
			if err := command.Wait(); errors.Is(err, exec.ErrWaitDelay) {
				t.Errorf("processes have outlived it: %s", output)
			}
			// A run that is ended since it hangs tells what the engine was at.
			if c.signal != syscall.SIGKILL && !strings.Contains(output.String(), "the end of the engine's log:\n") {
				t.Errorf("it says %s; want the end of the engine's log", output)
			}
			if c.signal == syscall.SIGKILL {
				lock, err := os.Open(filepath.Join(roots[0], "running"))
				if err != nil {
					t.Fatal(err)
				}
				defer lock.Close()
				wait(t, "none of its processes runs", func() bool {
					return syscall.Flock(int(lock.Fd()), syscall.LOCK_EX|syscall.LOCK_NB) == nil
				})
				lock.Close()
				next, output := beside(t, folder, "20.10", "true")
				if err := next.Run(); err != nil || !strings.Contains(output.String(), "removing "+roots[0]) {
					t.Errorf("the next one ended by %v and said %s; want that it removes what is left", err, output)
				}
			}
			if rest := ours(left(t, folder), roots[0]); len(rest) > 0 {
				t.Errorf("left: %v\n%s", rest, output)
			}
		})
	}
}

// What the engine makes beside its folder is not on the machine.
func TestEngineTouchesNothingElse(t *testing.T) {
	listing := func() string {
		out, err := exec.Command("sh", "-c", `find /etc /opt /var/lib -maxdepth 2 -printf '%p %T@ %C@\n' |
			grep -E 'docker|containerd|ambassadord' | grep -v '^/var/lib/docker/' | sort`).Output()
		if err != nil && len(out) > 0 {
			t.Fatal(err)
		}
		return string(out)
	}
	t.Cleanup(func() { // after a failure
		for _, place := range []string{"/etc", "/opt", "/opt/containerd", "/etc/docker"} {
			_ = os.Remove(filepath.Join(place, "ambassadord-test"))
		}
	})
	for _, name := range []string{"20.10", "29"} {
		before := listing()
		const script = `set -e
docker run --rm "$0" true
for place in /etc /opt /opt/containerd $([ "$ENGINE" != 20.10 ] || echo /etc/docker); do : >"$place/ambassadord-test"; done
docker info --format '{{.DockerRootDir}}'`
		command, output := beside(t, shortFolder(t), name, "sh", "-c", script, dockertest.Image(t))
		err := command.Run()
		if name != "20.10" && strings.Contains(output.String(), "run: scripts/setup") {
			t.Logf("%s: %s", name, output)
			continue
		}
		if err != nil || strings.Contains(output.String(), "/var/lib/docker") {
			t.Errorf("%s: %v: %s; want that it has folders of its own", name, err, output)
		}
		if after := listing(); after != before {
			t.Errorf("%s: on the machine there was\n%s\nand is\n%s", name, before, after)
		}
	}
}

// Many that begin at once, and remove what others have left, remove nobody's that lives.
func TestEnginesThatBeginAtOnce(t *testing.T) {
	folder := shortFolder(t)
	// Without the engine: a dockerd that is none ends it at once, after all of the folder's making.
	tools := t.TempDir()
	for _, program := range []string{"dockerd", "docker-proxy", "containerd", "containerd-shim-runc-v2", "runc"} {
		if err := os.MkdirAll(filepath.Join(tools, "engine29"), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(filepath.Join(tools, "engine29", program), []byte("#!/bin/sh\nexit 1\n"), 0o755); err != nil {
			t.Fatal(err)
		}
	}
	const count = 16
	var running sync.WaitGroup
	for i := range count {
		running.Go(func() {
			for range 3 {
				command, output := beside(t, folder, "29", "true")
				command.Env = append(command.Env, "AMBASSADORD_CACHE="+tools, "ENGINE_IMAGES=")
				_ = command.Run()
				if got := output.String(); !strings.Contains(got, "dockerd has ended by itself") || strings.Contains(got, "removing") || strings.Contains(got, "cannot remove") {
					t.Errorf("run %d: %s; want that its folder is its own until it ends", i, got)
				}
			}
		})
	}
	running.Wait()
	if entries, err := os.ReadDir(folder); err != nil || len(entries) > 0 {
		t.Errorf("left in its folder: %v, %v", entries, err)
	}
}

// Without an engine there is a reason, and an exit status that no test run has.
func TestNoEngine(t *testing.T) {
	for _, c := range []struct {
		name string
		env  string
		args []string
		want string
	}{
		{"an unknown name", "", []string{"21", "true"}, "no engine has this name; there are 20.10, 29 and 29-nft"},
		{"no command", "", []string{"29"}, "usage: scripts/engine"},
		{"not built", "AMBASSADORD_CACHE=/nowhere", []string{"29", "true"}, "/nowhere/engine29/dockerd is missing; run: scripts/setup engine29"},
		{"the distribution's on a base", "ENGINE_BASE=/", []string{"20.10", "true"}, "ENGINE_BASE takes 29 or 29-nft"},
		{"no base", "ENGINE_BASE=/nowhere", []string{"29", "true"}, "there is no folder /nowhere"},
	} {
		t.Run(c.name, func(t *testing.T) {
			command, output := beside(t, shortFolder(t), c.args...)
			command.Env = append(command.Env, c.env)
			err := command.Run()
			var status *exec.ExitError
			if !errors.As(err, &status) || status.ExitCode() != 125 || !strings.Contains(output.String(), c.want) {
				t.Errorf("%v: %s; want the exit status 125 and %q", err, output, c.want)
			}
		})
	}
}

// wait polls until condition holds.
func wait(t *testing.T, what string, condition func() bool) {
	t.Helper()
	for deadline := time.Now().Add(time.Minute); !condition(); {
		if time.Now().After(deadline) {
			t.Fatalf("not in time: %s", what)
		}
		time.Sleep(20 * time.Millisecond)
	}
}
