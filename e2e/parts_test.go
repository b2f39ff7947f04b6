//go:build integration

package e2e

import (
	"context"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/ambassadord/ambassadord/internal/consultest"
	"github.com/ambassadord/ambassadord/internal/dockertest"
	"github.com/ambassadord/ambassadord/internal/servertest"
)

// clientOption mounts the program of e2e/internal/client into a container, where
// it is /client. It is built once, beside the daemon.
func clientOption(t *testing.T) string {
	t.Helper()
	path, err := buildClient()
	if err != nil {
		t.Fatal(err)
	}
	return "-v=" + path + ":/client:ro"
}

var buildClient = program("client")

// program builds the program of e2e/internal/NAME beside the daemon, once.
func program(name string) func() (string, error) {
	return sync.OnceValues(func() (string, error) {
		return build(name, "./internal/"+name, "CGO_ENABLED=0") // it runs where there is no libc
	})
}

// build builds a package into a file beside the daemon. Several runs of these tests may use
// that folder at a time; while one builds, the others wait, and what is there already is left
// as it is, since containers have it mounted.
func build(name, pkg string, env ...string) (string, error) {
	folder, err := lockFolder(filepath.Dir(binary))
	if err != nil {
		return "", err
	}
	defer folder.Close()
	path := filepath.Join(folder.Name(), name)
	command := exec.Command("go", "build", "-o", path, pkg)
	command.Env = append(os.Environ(), env...)
	if out, err := command.CombinedOutput(); err != nil {
		return "", fmt.Errorf("build %s: %w: %s", pkg, err, out)
	}
	return path, nil
}

// image makes the daemon's image, as make image does, and returns its name. A run of
// these tests after a make image, on an engine that has it, says so by E2E_IMAGE.
func image(t *testing.T) string {
	t.Helper()
	if os.Getenv("E2E_IMAGE") == imageName {
		return imageName
	}
	if err := makeImage(); err != nil {
		t.Fatal(err)
	}
	return imageName
}

const imageName = "ambassadord:local"

// lockBin waits until no other process makes files in the checkout's bin: tests beside other
// engines make the daemon and its image from the same. The lock goes with the file.
func lockBin() (*os.File, error) {
	if err := os.MkdirAll("../bin", 0o755); err != nil {
		return nil, err
	}
	return lockFolder("../bin")
}

// lockFolder waits until no other process has the lock of a folder. It goes with the file.
func lockFolder(path string) (*os.File, error) {
	folder, err := os.Open(path)
	if err != nil {
		return nil, err
	}
	if err := syscall.Flock(int(folder.Fd()), syscall.LOCK_EX); err != nil {
		folder.Close()
		return nil, fmt.Errorf("lock %s: %w", path, err)
	}
	return folder, nil
}

var makeImage = sync.OnceValue(func() error {
	lock, err := lockBin()
	if err != nil {
		return err
	}
	defer lock.Close()
	command := exec.Command("make", "-C", "..", "image")
	if out, err := command.CombinedOutput(); err != nil {
		return fmt.Errorf("make image: %w: %s", err, out)
	}
	return nil
})

// dockerHost is the address of this host on the engine's default bridge, which
// containers of every network reach.
func dockerHost(t *testing.T) string {
	t.Helper()
	name := dockertest.Docker(t, "network", "inspect", "-f", `{{index .Options "com.docker.network.bridge.name"}}`, "bridge")
	bridge, err := net.InterfaceByName(name)
	if err != nil {
		t.Fatalf("the engine's default bridge %q: %v", name, err)
	}
	addrs, err := bridge.Addrs()
	if err != nil {
		t.Fatal(err)
	}
	for _, a := range addrs {
		if prefix, err := netip.ParsePrefix(a.String()); err == nil && prefix.Addr().Is4() {
			return prefix.Addr().String()
		}
	}
	t.Fatalf("the engine's default bridge %q has the addresses %v, none of them IPv4", name, addrs)
	return ""
}

// redis is a real Redis server.
type redis struct {
	*servertest.Process
	addr netip.AddrPort
}

// startRedis runs a Redis server on a free port of host until the test ends.
func startRedis(t *testing.T, host string) *redis {
	t.Helper()
	r := &redis{Process: servertest.New(t, "Redis", "redis-server", "AMBASSADORD_REDIS", "redis")}
	r.Ready = r.answers
	r.Choose(t, 1, func(ports []string) []string {
		r.addr = netip.MustParseAddrPort(net.JoinHostPort(host, ports[0]))
		return []string{"--port", ports[0], "--bind", host, "--dir", r.Dir(), "--save", "", "--daemonize", "no", "--protected-mode", "no"}
	})
	return r
}

// answers reports whether the server answers, and no other that was there before it.
func (r *redis) answers(ctx context.Context) error {
	var d net.Dialer
	conn, err := d.DialContext(ctx, "tcp", r.addr.String())
	if err != nil {
		return err
	}
	defer conn.Close()
	defer context.AfterFunc(ctx, func() { conn.Close() })()
	if _, err := io.WriteString(conn, "INFO server\r\nQUIT\r\n"); err != nil {
		return err
	}
	answer, err := io.ReadAll(conn)
	if want := fmt.Sprintf("\nprocess_id:%d\r", r.PID()); err == nil && !strings.Contains(string(answer), want) {
		err = fmt.Errorf("to INFO: %q, want %q", answer, want)
	}
	return err
}

// consulPut sends body to a Consul server's HTTP API.
func consulPut(t *testing.T, server *consultest.Server, path, body string) {
	t.Helper()
	request, err := http.NewRequestWithContext(t.Context(), http.MethodPut, "http://"+server.HTTPAddr+path, strings.NewReader(body))
	if err != nil {
		t.Fatal(err)
	}
	request.Close = true
	response, err := http.DefaultClient.Do(request)
	if err != nil {
		t.Fatal(err)
	}
	defer response.Body.Close()
	if response.StatusCode != http.StatusOK {
		t.Fatalf("PUT %s: %s", path, response.Status)
	}
}

// register makes r the only instance of service in Consul, wherever it was.
func register(t *testing.T, server *consultest.Server, service string, r *redis) {
	t.Helper()
	consulPut(t, server, "/v1/agent/service/register",
		fmt.Sprintf(`{"Name": %q, "Address": %q, "Port": %d}`, service, r.addr.Addr(), r.addr.Port()))
}

// askRedis talks to a Redis from inside a container, with an unmodified client:
// busybox's nc. The answer is the server's, a line for each.
func askRedis(t *testing.T, container, host, port string, commands ...string) ([]string, error) {
	t.Helper()
	input := strings.Join(append(commands, "QUIT"), `\r\n`) + `\r\n`
	out, err := dockertest.Exec(t, container, "sh", "-c", fmt.Sprintf(`printf '%s' | nc -w 5 %s %s`, input, host, port))
	lines := strings.Split(strings.ReplaceAll(strings.TrimSpace(out), "\r", ""), "\n")
	if err == nil && lines[len(lines)-1] != "+OK" { // to QUIT
		err = fmt.Errorf("Redis answered %q, which does not end with +OK", out)
	}
	return lines[:len(lines)-1], err
}

// setAndGet writes through the connection and reads it back, and demands that
// the server is the one on port.
func setAndGet(t *testing.T, container, host, dialled string, port uint16) {
	t.Helper()
	value := dockertest.Name(t)
	got, err := askRedis(t, container, host, dialled, "SET key "+value, "GET key", "CONFIG GET port")
	want := []string{"+OK", fmt.Sprintf("$%d", len(value)), value, "*2", "$4", "port",
		fmt.Sprintf("$%d", len(strconv.Itoa(int(port)))), strconv.Itoa(int(port))}
	if err != nil || strings.Join(got, " ") != strings.Join(want, " ") {
		t.Errorf("Redis through %s:%s answered %q, %v; want %q", host, dialled, got, err, want)
	}
}

// poll calls check until it returns nil, and fails the test if it never does.
func poll(t *testing.T, patience time.Duration, what string, check func() error) {
	t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	defer cancel()
	for {
		err := check()
		if err == nil {
			return
		}
		select {
		case <-time.After(20 * time.Millisecond):
		case <-ctx.Done():
			t.Fatalf("not within %s: %s: %v", patience, what, err)
		}
	}
}

// shortFolder is a temporary folder for sockets: a path to one is at most 108 bytes long.
func shortFolder(t *testing.T) string {
	t.Helper()
	folder, err := os.MkdirTemp("", "s")
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
