package systemd

import (
	"fmt"
	"net"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/ambassadord/ambassadord/internal/rights"
)

// manager is a stand-in: it receives what is told to it.
func manager(t *testing.T, address string) *net.UnixConn {
	t.Helper()
	conn, err := net.ListenUnixgram("unixgram", &net.UnixAddr{Name: address, Net: "unixgram"})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { conn.Close() })
	_ = conn.SetDeadline(time.Now().Add(10 * time.Second))
	return conn
}

func receive(t *testing.T, conn *net.UnixConn) (text string, descriptors int) {
	t.Helper()
	b := make([]byte, 4096)
	n, fds, _, err := rights.Receive(conn, b, make([]byte, rights.Room(4)))
	if err != nil {
		t.Fatal(err)
	}
	defer rights.Close(fds)
	return string(b[:n]), len(fds)
}

func TestNotifications(t *testing.T) {
	for name, address := range map[string]string{
		"path":     filepath.Join(t.TempDir(), "notify"),
		"abstract": fmt.Sprintf("@ambassadord-test-notify-%d", os.Getpid()),
	} {
		t.Run(name, func(t *testing.T) {
			there := manager(t, address)
			t.Setenv("NOTIFY_SOCKET", address)
			m, err := FromEnvironment()
			if err != nil || m == nil {
				t.Fatalf("FromEnvironment: %v, %v", m, err)
			}
			defer m.Close()
			if os.Getenv("NOTIFY_SOCKET") != "" {
				t.Error("our children would hear of the manager")
			}
			for _, c := range []struct {
				tell        func() error
				want        string
				descriptors int
			}{
				{func() error { return m.Ready(false) }, "READY=1", 0},
				{func() error { return m.Ready(true) }, fmt.Sprintf("READY=1\nMAINPID=%d", os.Getpid()), 0},
				{m.Stopping, "STOPPING=1", 0},
				{m.Reloading, "RELOADING=1\nMONOTONIC_USEC=", 0},
				{func() error { return m.Store("a-name", 0) }, "FDSTORE=1\nFDNAME=a-name\nFDPOLL=0", 1},
				{func() error { return m.Remove("a-name") }, "FDSTOREREMOVE=1\nFDNAME=a-name", 0},
			} {
				if err := c.tell(); err != nil {
					t.Fatal(err)
				}
				if text, n := receive(t, there); !strings.HasPrefix(text, c.want) || n != c.descriptors {
					t.Errorf("told %q with %d descriptors; want %q with %d", text, n, c.want, c.descriptors)
				}
			}
		})
	}
}

func TestNobodyListens(t *testing.T) {
	t.Setenv("NOTIFY_SOCKET", "")
	m, err := FromEnvironment()
	if m != nil || err != nil {
		t.Fatalf("FromEnvironment: %v, %v; want none", m, err)
	}
	if err := m.Ready(false); err != nil {
		t.Error(err)
	}
	m.Close()
	t.Setenv("NOTIFY_SOCKET", filepath.Join(t.TempDir(), "gone"))
	if _, err := FromEnvironment(); err == nil || !strings.Contains(err.Error(), "NOTIFY_SOCKET") {
		t.Errorf("FromEnvironment: %v; want it to name the variable", err)
	}
}

// Descriptors that are meant for another process are not ours.
func TestReceivedForAnother(t *testing.T) {
	t.Setenv("LISTEN_PID", fmt.Sprint(os.Getpid()+1))
	t.Setenv("LISTEN_FDS", "1")
	if files := Received(); len(files) > 0 {
		t.Errorf("received %v", files)
	}
	if os.Getenv("LISTEN_FDS") != "" {
		t.Error("our children would take them")
	}
}
