//go:build integration

package e2e

import (
	"bufio"
	"context"
	"fmt"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"time"
)

// TestReloadAThousandTimes reloads good and broken files in turn beside connections of a container
// and of a listener, long ones as well as short ones: none is lost, and the daemon has what it had.
func TestReloadAThousandTimes(t *testing.T) {
	const reloads, warm = 1000, 100
	patient := func(conn *net.TCPConn) {
		_ = conn.SetDeadline(time.Time{}) // some of its connections last as long as the test
		echo(conn)
	}
	a, b := serveIn(t, hostNamespace(t), "127.0.0.1:0", patient), serveIn(t, hostNamespace(t), "127.0.0.1:0", patient)
	addrs := freeAddrs(t, 3)
	kept, comes, taken := addrs[0], addrs[1], addrs[2]
	if l, err := net.Listen("tcp", taken); err != nil {
		t.Fatal(err)
	} else {
		defer l.Close()
	}
	dir, err := os.MkdirTemp("/tmp", "reloads-") // a socket's path is short
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.RemoveAll(dir) })
	file, socket := filepath.Join(dir, "ambassadord.yml"), filepath.Join(dir, "admin.sock")
	files := []struct {
		text, why string // why it is refused; "" if it is not
	}{
		{text: fmt.Sprintf("listen:\n  - {address: %q, target: %q}\n", kept, a)},
		{text: fmt.Sprintf("listen:\n  - {address: %q, target: %q}\nlisten: [\n", kept, a), why: "ambassadord.yml:4"},
		{text: fmt.Sprintf(`
listen:
  - {address: %q, target: %q}
  - {address: %q, target: %q, timeout: 2s}
defaults: {policy: least-connections, check: tcp, check-interval: 1s}
targets: {"%s,%s": {wait: 2s}}
clients:
  - container: "nobody-*"
    ports: {6380: %q}
policy:
  - {name: others, action: deny, container: "nobody-*", to: 192.0.2.0/24}
`, kept, b, comes, a, a, b, a)},
		{text: fmt.Sprintf("listen:\n  - {address: %q, target: 127.0.0.1:99999}\n", kept), why: "99999"},
		{text: fmt.Sprintf("listen:\n  - {address: %q, target: %q}\n  - {address: %q, target: %q}\n", kept, a, taken, a), why: "address already in use"},
	}
	write := func(text string) {
		t.Helper()
		// As an editor does: the daemon never reads half a file.
		if err := os.WriteFile(file+".new", []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
		if err := os.Rename(file+".new", file); err != nil {
			t.Fatal(err)
		}
	}
	write(files[0].text)
	d := startPlain(t, "run", "--config", file, "--admin", socket, "--mode", "redirect", "--access-log-sample", "0")
	reloaded := func(from, n int) loaded {
		t.Helper()
		inside, outside := startLoad(t, a, "127.0.0.1:6379", 200, 50), keepDialling(t, kept)
		for i := range n {
			f := files[(from+i)%len(files)]
			write(f.text)
			status, _, stderr := ambassadord(t, "reload")
			if f.why == "" && status != 0 || f.why != "" && (status == 0 || !strings.Contains(stderr, f.why)) {
				t.Fatalf("reload %d: exit %d, %q; want %q", from+i, status, stderr, f.why)
			}
		}
		if err := outside(); err != nil {
			t.Errorf("a connection to the listener: %v", err)
		}
		return inside.finish()
	}
	reloaded(0, warm)
	before := usageAtRest(t, socket)
	done := reloaded(warm, reloads)
	after := usageAtRest(t, socket)
	if after.goroutines > before.goroutines+10 {
		t.Errorf("%g goroutines; there were %g", after.goroutines, before.goroutines)
	}
	if after.descriptors > before.descriptors+10 {
		t.Errorf("%g descriptors; there were %g", after.descriptors, before.descriptors)
	}
	if after.resident > before.resident+16<<20 {
		t.Errorf("%g MiB; there were %g", after.resident/(1<<20), before.resident/(1<<20))
	}
	t.Logf("%+v; before %+v, after %+v", done, before, after)
	d.stop()
}

// keepDialling dials address again and again, and asks once a round on a connection that stays, until
// the function that it returns is called, which says what went wrong.
func keepDialling(t *testing.T, address string) (finish func() error) {
	t.Helper()
	ctx, stop := context.WithCancel(t.Context())
	ended := make(chan error, 1)
	ask := func(c net.Conn) error {
		if _, err := c.Write([]byte("x\n")); err != nil {
			return err
		}
		_, err := bufio.NewReader(c).ReadString('\n')
		return err
	}
	go func() {
		ended <- func() error {
			stays, err := net.Dial("tcp", address)
			if err != nil {
				return err
			}
			defer stays.Close()
			pace := time.NewTicker(10 * time.Millisecond) // or it would take the reloads' processor
			defer pace.Stop()
			for n := 0; ctx.Err() == nil; n++ {
				<-pace.C
				short, err := net.Dial("tcp", address)
				if err != nil {
					return fmt.Errorf("after %d: %w", n, err)
				}
				err = ask(short)
				short.Close()
				if err != nil {
					return fmt.Errorf("after %d: %w", n, err)
				}
				if err := ask(stays); err != nil {
					return fmt.Errorf("the one that stays, after %d: %w", n, err)
				}
			}
			return nil
		}()
	}()
	t.Cleanup(stop)
	return func() error { stop(); return <-ended }
}

// usage is what a daemon takes of its host, beside so many connections.
type usage struct{ goroutines, descriptors, resident, connections float64 }

// usageAtRest is what a daemon takes once its connections have ended.
func usageAtRest(t *testing.T, socket string) (u usage) {
	t.Helper()
	poll(t, 20*time.Second, "no connection is left", func() error {
		if u = usageOf(t, socket); u.connections > 0 {
			return fmt.Errorf("there are %g", u.connections)
		}
		return nil
	})
	return u
}

// usageOf asks the daemon whose admin interface is at socket.
func usageOf(t *testing.T, socket string) usage {
	t.Helper()
	client := http.Client{Transport: &http.Transport{DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) {
		return new(net.Dialer).DialContext(ctx, "unix", socket)
	}}}
	defer client.CloseIdleConnections()
	answer, err := client.Get("http://localhost/metrics")
	if err != nil {
		t.Fatal(err)
	}
	defer answer.Body.Close()
	found := map[string]float64{}
	for lines := bufio.NewScanner(answer.Body); lines.Scan(); {
		if name, value, ok := strings.Cut(lines.Text(), " "); ok {
			found[name], _ = strconv.ParseFloat(value, 64)
		}
	}
	u := usage{found["go_goroutines"], found["process_open_fds"], found["process_resident_memory_bytes"], found["ambassadord_connections_open"]}
	if u.goroutines == 0 || u.descriptors == 0 || u.resident == 0 {
		t.Fatalf("the metrics have %+v", u)
	}
	return u
}
