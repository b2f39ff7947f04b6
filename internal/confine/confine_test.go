package confine

import (
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"os/exec"
	"runtime"
	"strings"
	"sync"
	"testing"

	"go.uber.org/goleak"
	"golang.org/x/sys/unix"
)

// The test program is also the process that is confined.
const roleVariable = "CONFINE_TEST_ROLE"

func TestMain(m *testing.M) {
	if os.Getenv(roleVariable) == "" {
		goleak.VerifyTestMain(m)
		return
	}
	if err := confined(); err != nil {
		fmt.Fprintln(os.Stdout, err)
		os.Exit(1)
	}
	fmt.Fprintln(os.Stdout, "confined")
	os.Exit(0)
}

// confined confines itself and reports what it can do all the same, or not do any more.
func confined() error {
	here, there, err := os.Pipe()
	if err != nil {
		return err
	}
	// Threads that are there before, and stay.
	const threads = 4
	var ready, done sync.WaitGroup
	gate := make(chan struct{})
	found := make([]error, threads)
	for i := range threads {
		ready.Add(1)
		done.Go(func() {
			runtime.LockOSThread()
			ready.Done()
			<-gate
			found[i] = attempts(fmt.Sprintf("thread %d", i))
		})
	}
	ready.Wait()
	partly := ToOpenDescriptors()
	close(gate)
	done.Wait()
	errs := []error{errors.Join(found...), attempts("the thread that asked")}
	if partly != nil && !errors.Is(partly, errors.ErrUnsupported) {
		errs = append(errs, partly)
	}
	if partly == nil { // built without cgo
		header := unix.CapUserHeader{Version: unix.LINUX_CAPABILITY_VERSION_3}
		var data [2]unix.CapUserData
		if err := unix.Capget(&header, &data[0]); err != nil || data != [2]unix.CapUserData{} {
			errs = append(errs, fmt.Errorf("capabilities: %v, %w", data, err))
		}
	}
	if _, err := there.WriteString("still"); err != nil {
		errs = append(errs, err)
	}
	there.Close()
	if b, err := io.ReadAll(here); string(b) != "still" || err != nil {
		errs = append(errs, fmt.Errorf("read %q, %w", b, err))
	}
	return errors.Join(errs...)
}

// attempts tries what must not be possible.
func attempts(who string) error {
	var errs []error
	for what, try := range map[string]func() error{
		"open a file":   func() error { f, err := os.Open("/etc/passwd"); f.Close(); return err },
		"make a file":   func() error { f, err := os.Create("/tmp/confine-test"); f.Close(); return err },
		"remove a file": func() error { return os.Remove("/tmp/confine-test-not-there") },
		"dial": func() error {
			c, err := net.Dial("tcp", "127.0.0.1:9")
			if err == nil {
				c.Close()
			}
			return err
		},
		"listen": func() error {
			l, err := net.Listen("tcp", "127.0.0.1:0")
			if err == nil {
				l.Close()
			}
			return err
		},
		"start a program":   func() error { return exec.Command("/bin/true").Run() },
		"enter a namespace": func() error { return unix.Setns(0, 0) },
		"make a namespace":  func() error { return unix.Unshare(unix.CLONE_NEWNET) },
		"make a process":    func() error { return clone(uintptr(unix.SIGCHLD)) },
		"be another user":   func() error { return clone(unix.CLONE_NEWUSER | uintptr(unix.SIGCHLD)) },
		"trace a process":   func() error { return unix.PtraceAttach(os.Getppid()) },
		"end a process":     func() error { return unix.Kill(os.Getppid(), 0) },
	} {
		if err := try(); !errors.Is(err, unix.EPERM) && !errors.Is(err, unix.EACCES) {
			errs = append(errs, fmt.Errorf("%s: to %s ended by %w; want it refused", who, what, err))
		}
	}
	if _, _, errno := unix.RawSyscall(unix.SYS_CLONE3, 0, 0, 0); errno != unix.ENOSYS {
		errs = append(errs, fmt.Errorf("%s: clone3 ended by %w", who, errno))
	}
	return errors.Join(errs...)
}

// clone makes a process, which ends at once.
func clone(flags uintptr) error {
	pid, _, errno := unix.RawSyscall6(unix.SYS_CLONE, flags, 0, 0, 0, 0, 0)
	switch {
	case errno != 0:
		return errno
	case pid == 0:
		_, _, _ = unix.RawSyscall(unix.SYS_EXIT_GROUP, 0, 0, 0)
	}
	_, err := unix.Wait4(int(pid), nil, 0, nil)
	return err
}

func TestToOpenDescriptors(t *testing.T) {
	cmd := exec.CommandContext(t.Context(), os.Args[0])
	cmd.Env = append(os.Environ(), roleVariable+"=confined", "GORACE=atexit_sleep_ms=0")
	out, err := cmd.CombinedOutput()
	if err != nil || !strings.HasSuffix(string(out), "confined\n") {
		t.Errorf("%v:\n%s", err, out)
	}
}

// What a version of Landlock does not know it must not be asked for.
func TestHandledByLandlock(t *testing.T) {
	first, newest := handledBy(1), handledBy(7)
	if first.Handled_access_net != 0 || first.Scoped != 0 || first.Handled_access_fs != 1<<13-1 {
		t.Errorf("version 1 is asked for %+v", first)
	}
	if newest.Handled_access_fs != 1<<16-1 || newest.Handled_access_net != 3 || newest.Scoped != 3 {
		t.Errorf("version 7 is asked for %+v", newest)
	}
}

// A jump of the filter is one byte long; none goes further than over one answer.
func TestFilterIsShort(t *testing.T) {
	calls := refused()
	if program := assemble(1, calls); len(program) != 2*len(calls)+13 {
		t.Errorf("%d instructions for %d calls", len(program), len(calls))
	}
}
