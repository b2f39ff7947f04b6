package holders

import (
	"net"
	"os"
	"path/filepath"
	"slices"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/ambassadord/ambassadord/internal/rundir"
	"github.com/ambassadord/ambassadord/netrules/netns"
)

func inodeOf(t *testing.T, l *net.TCPListener) uint64 {
	t.Helper()
	raw, err := l.SyscallConn()
	if err != nil {
		t.Fatal(err)
	}
	var st unix.Stat_t
	if err := raw.Control(func(fd uintptr) { err = unix.Fstat(int(fd), &st) }); err != nil {
		t.Fatal(err)
	}
	return st.Ino
}

// TestScanFindsUs: this process is a daemon only while it holds a daemon's lock.
func TestScanFindsUs(t *testing.T) {
	l, err := net.ListenTCP("tcp4", &net.TCPAddr{IP: net.IPv4(127, 0, 0, 1)})
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	own, err := netns.Current()
	if err != nil {
		t.Fatal(err)
	}
	defer own.Close()
	inode, us := inodeOf(t, l), Process{PID: os.Getpid(), Namespace: own.ID()}
	if got := Scan(t.Context())[inode]; !slices.Equal(got, []Process{us}) {
		t.Errorf("Scan found %+v; want %+v", got, us)
	}
	dir, err := rundir.Open(filepath.Join(t.TempDir(), "run"))
	if err != nil {
		t.Fatal(err)
	}
	lock, err := dir.Take(dir.HostLock())
	if err != nil {
		t.Fatal(err)
	}
	defer lock.Release()
	us.Daemon = true
	if got := Scan(t.Context())[inode]; !slices.Equal(got, []Process{us}) {
		t.Errorf("with a lock Scan found %+v; want %+v", got, us)
	}
	ports, err := own.Listeners()
	if err != nil {
		t.Fatal(err)
	}
	if port := uint16(l.Addr().(*net.TCPAddr).Port); !slices.Contains(ports[port], inode) {
		t.Errorf("Listeners has %v at %d; want %d among them", ports[port], port, inode)
	}
}
