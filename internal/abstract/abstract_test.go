package abstract

import (
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"os/exec"
	"strings"
	"syscall"
	"testing"

	"go.uber.org/goleak"
)

// The test program is also a squatter of another user.
const squatVariable = "ABSTRACT_TEST_SQUAT"

func TestMain(m *testing.M) {
	name := os.Getenv(squatVariable)
	if name == "" {
		goleak.VerifyTestMain(m)
		return
	}
	if _, err := net.Listen("unix", name); err != nil {
		fmt.Fprintln(os.Stdout, err)
		os.Exit(1)
	}
	fmt.Fprintln(os.Stdout, "listening")
	_, _ = os.Stdin.Read(make([]byte, 1))
	os.Exit(0)
}

func own(t *testing.T) string {
	return fmt.Sprintf("%stest-%d-%s", Prefix, os.Getpid(), t.Name())
}

func TestDaemonIsBelievedByEvidence(t *testing.T) {
	name := own(t)
	if err := Daemon(t.Context(), name); !errors.Is(err, ErrNobody) {
		t.Errorf("of nobody: %v", err)
	}
	l, err := net.Listen("unix", name)
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	if err := Daemon(t.Context(), name); err != nil {
		t.Errorf("of a process of our own system: %v", err)
	}
}

// TestBoundIsNotListening: a name that nobody listens at is no daemon's, and is held.
func TestBoundIsNotListening(t *testing.T) {
	name := own(t)
	fd, err := syscall.Socket(syscall.AF_UNIX, syscall.SOCK_STREAM|syscall.SOCK_CLOEXEC, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer syscall.Close(fd)
	if err := syscall.Bind(fd, &syscall.SockaddrUnix{Name: name}); err != nil {
		t.Fatal(err)
	}
	var s *Squatter
	if err := Daemon(t.Context(), name); !errors.As(err, &s) || s.Name != name {
		t.Errorf("Daemon: %v; want a squatter", err)
	}
}

// TestElsewhere: a process that could serve this host although it has a mount namespace of
// its own is named; one that could not, for it lacks SYS_ADMIN or is of another user, is
// not. It takes root.
func TestElsewhere(t *testing.T) {
	if os.Geteuid() != 0 {
		t.Log("only root can make a mount namespace")
		return
	}
	for kind, attr := range map[string]*syscall.SysProcAttr{
		"a daemon":              {Cloneflags: syscall.CLONE_NEWNS},
		"another user":          {Cloneflags: syscall.CLONE_NEWNS, Credential: &syscall.Credential{Uid: 65534, Gid: 65534}},
		"root of its own users": {Cloneflags: syscall.CLONE_NEWNS | syscall.CLONE_NEWUSER, UidMappings: []syscall.SysProcIDMap{{Size: 1}}},
		"nobody":                nil,
	} {
		t.Run(kind, func(t *testing.T) {
			name, want := own(t), ""
			if attr != nil {
				cmd := squat(t, name, attr)
				if kind == "a daemon" {
					want = fmt.Sprintf("process %d (", cmd.Process.Pid)
				}
			}
			if got := elsewhere(t.Context(), name); (got == "") != (want == "") || !strings.HasPrefix(got, want) {
				t.Errorf("elsewhere = %q; want %q", got, want)
			}
		})
	}
}

// squat has another process listen at name until the test's end.
func squat(t *testing.T, name string, attr *syscall.SysProcAttr) *exec.Cmd {
	t.Helper()
	program, err := os.Open("/proc/self/exe")
	if err != nil {
		t.Fatal(err)
	}
	defer program.Close()
	cmd := exec.Command("/proc/self/fd/3")
	cmd.ExtraFiles = []*os.File{program}
	cmd.Env = []string{squatVariable + "=" + name, "GORACE=atexit_sleep_ms=0"}
	cmd.Dir = "/"
	cmd.SysProcAttr = attr
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
	t.Cleanup(func() { in.Close(); _ = cmd.Wait() })
	said := make([]byte, len("listening"))
	if _, err := out.Read(said); err != nil || string(said) != "listening" {
		t.Fatalf("the squatter said %q, %v", said, err)
	}
	return cmd
}

// TestSquatterOfAnotherUser takes root, to be two users.
func TestSquatterOfAnotherUser(t *testing.T) {
	if os.Geteuid() != 0 {
		t.Log("only root can be two users")
		return
	}
	name := draining + own(t) // it is found in any name that begins so
	cmd := squat(t, name, &syscall.SysProcAttr{Credential: &syscall.Credential{Uid: 65534, Gid: 65534}})
	if Drains(t.Context()) {
		t.Error("a squatter's name counts as a daemon that drains")
	}
	found := Squatters(t.Context())
	if len(found) != 1 || found[0].Name != name || !strings.Contains(found[0].Error(), fmt.Sprintf("process %d", cmd.Process.Pid)) {
		t.Errorf("Squatters = %v; want process %d", found, cmd.Process.Pid)
	}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if Drains(ctx) {
		t.Error("what could not be asked counts as a daemon")
	}
}
