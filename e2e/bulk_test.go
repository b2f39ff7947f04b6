//go:build integration

package e2e

import (
	"bufio"
	"bytes"
	"crypto/sha256"
	"fmt"
	"io"
	"math/rand/v2"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/ambassadord/ambassadord/internal/dockertest"
)

// plainBinary is the daemon as it is shipped, without the race detector.
var plainBinary = sync.OnceValues(func() (string, error) { return build("ambassadord-plain", "../cmd/ambassadord") })

// startPlain is start for the daemon as it is shipped.
func startPlain(t *testing.T, args ...string) *daemon {
	t.Helper()
	path, err := plainBinary()
	if err != nil {
		t.Fatal(err)
	}
	d := launch(t, exec.Command(path, append(lenient(args), "--log-format", "json")...), nil)
	d.wait("ready", 20*time.Second, func(l line) bool { return l.str("msg") == "ready" })
	return d
}

// sendBulk writes size bytes that seed decides, closes that direction, and returns
// their SHA-256.
func sendBulk(conn *net.TCPConn, seed string, size int) ([]byte, error) {
	h := sha256.New()
	stream := rand.NewChaCha8(sha256.Sum256([]byte(seed)))
	block := make([]byte, 256<<10)
	for sent := 0; sent < size; sent += len(block) {
		_, _ = stream.Read(block) // never fails
		h.Write(block)
		if _, err := conn.Write(block); err != nil {
			return nil, fmt.Errorf("after %d of %d bytes: %w", sent, size, err)
		}
	}
	return h.Sum(nil), conn.CloseWrite()
}

// receiveBulk reads to the end and returns the size and the SHA-256.
func receiveBulk(conn *net.TCPConn) (int64, []byte, error) {
	h := sha256.New()
	n, err := io.CopyBuffer(h, onlyReader{conn}, make([]byte, 256<<10))
	return n, h.Sum(nil), err
}

// onlyReader hides the WriteTo of a connection, which would use a buffer of its own.
type onlyReader struct{ io.Reader }

// digests are those of one end of a bulk transfer.
type digests struct {
	sent, received []byte
	size           int64 // received
	err            error
}

// both sends and receives at the same time.
func both(conn *net.TCPConn, seed string, size int) digests {
	var d digests
	var sendErr error
	var sending sync.WaitGroup
	sending.Go(func() { d.sent, sendErr = sendBulk(conn, seed, size) })
	d.size, d.received, d.err = receiveBulk(conn)
	sending.Wait()
	if d.err == nil {
		d.err = sendErr
	}
	return d
}

// transfer carries size bytes each way at once from a new container through d to a
// backend, and compares what left one end with what arrived at the other.
func transfer(t *testing.T, d *daemon, container, port string, backend <-chan digests, size int) {
	t.Helper()
	client := both(dialIn(t, containerNamespace(t, container), "127.0.0.1:"+port), "up", size)
	server := <-backend
	if client.err != nil || server.err != nil {
		t.Fatalf("client: %v, backend: %v", client.err, server.err)
	}
	for _, way := range []struct {
		name           string
		sent, received []byte
		size           int64
	}{
		{"client to backend", client.sent, server.received, server.size},
		{"backend to client", server.sent, client.received, client.size},
	} {
		if way.size != int64(size) || !bytes.Equal(way.sent, way.received) {
			t.Errorf("%s: %d bytes with SHA-256 %x arrived, want %d with %x", way.name, way.size, way.received, size, way.sent)
		}
	}
	number, err := strconv.Atoi(port)
	if err != nil {
		t.Fatal(err)
	}
	l := d.wait("the transfer", connPatience, func(l line) bool { return l.str("msg") == "connection" && l.num("port") == int64(number) })
	if l.num("bytes_up") != int64(size) || l.num("bytes_down") != int64(size) || l.str("reason") != "" {
		t.Errorf("the daemon logged %v, want %d bytes each way and no reason", l, size)
	}
}

// bulkBackend is a backend for one transfer, and what it found.
func bulkBackend(t *testing.T, size int) (address string, found <-chan digests) {
	t.Helper()
	results := make(chan digests, 1)
	return serveIn(t, hostNamespace(t), "127.0.0.1:0", func(conn *net.TCPConn) { results <- both(conn, "down", size) }), results
}

func TestBulkIsIdentical(t *testing.T) {
	const size = 1 << 30
	backend, found := bulkBackend(t, size)
	name := dockertest.Name(t)
	id := dockertest.Run(t, "--name", name, "-l", "connect.6379="+backend, dockertest.Image(t))
	d := startPlain(t, "run")
	d.attached(name)
	transfer(t, d, id, "6379", found, size)
}

// TestBytesAreSpliced counts what the daemon's system calls carry: splice(2) must move
// every byte, once into a pipe and once out of it, but for the first few of each stream,
// which is read until it proves bulky.
func TestBytesAreSpliced(t *testing.T) {
	const size = 64 << 20
	backend, found := bulkBackend(t, size)
	name := dockertest.Name(t)
	id := dockertest.Run(t, "--name", name, "-l", "connect.6379="+backend, dockertest.Image(t))
	d := startPlain(t, "run")
	d.attached(name)

	calls := straced(t, d, func() { transfer(t, d, id, "6379", found, size) })
	spliced := calls["splice"]
	delete(calls, "splice")
	var copied int64
	for _, n := range calls {
		copied += n
	}
	if want := int64(2 * 2 * size); spliced > want || spliced+copied < want {
		t.Errorf("splice carried %d bytes and other calls %d, want %d: %d each way, into a pipe and out of it", spliced, copied, want, size)
	}
	// The beginnings, the log line, the engine's events and wake-ups are all that may be in there.
	if limit := int64(64 << 10); copied > limit {
		t.Errorf("%d bytes went through user space by %v, want less than %d", copied, calls, limit)
	}
}

// straced counts by name the bytes that calls of the daemon returned during do.
func straced(t *testing.T, d *daemon, do func()) map[string]int64 {
	t.Helper()
	output := filepath.Join(t.TempDir(), "strace")
	strace := exec.Command("strace", "-f", "-p", strconv.Itoa(d.cmd.Process.Pid), "-o", output, "-e",
		"trace=splice,sendfile,tee,read,readv,pread64,recvfrom,recvmsg,recvmmsg,write,writev,pwrite64,sendto,sendmsg,sendmmsg")
	stderr, err := strace.StderrPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := strace.Start(); err != nil {
		t.Fatal(err)
	}
	ended := make(chan struct{})
	attached := make(chan string, 1)
	go func() {
		defer close(ended)
		lines := bufio.NewScanner(stderr)
		for first := true; lines.Scan(); first = false {
			if first {
				attached <- lines.Text()
			}
		}
		_ = strace.Wait() // it reports the signal that it detaches at
	}()
	detach := sync.OnceFunc(func() {
		_ = strace.Process.Signal(syscall.SIGINT)
		<-ended
	})
	defer detach()
	select {
	case text := <-attached:
		if !strings.Contains(text, "attached") {
			t.Fatalf("strace: %s", text)
		}
	case <-ended:
		t.Fatal("strace ended before it attached")
	case <-time.After(20 * time.Second):
		t.Fatal("strace did not attach within 20 s")
	}
	do()
	detach()
	return readStrace(t, output)
}

// returned matches a call with its result, whole or after it was interrupted in
// the output: "PID splice(…) = 65536", "PID <... splice resumed>) = 65536".
var returned = regexp.MustCompile(`^\d+ +(?:<\.\.\. )?([a-z0-9]+)(?:\(| resumed>).*= (\d+)$`)

func readStrace(t *testing.T, path string) map[string]int64 {
	t.Helper()
	text, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	calls := map[string]int64{}
	for l := range strings.Lines(string(text)) {
		match := returned.FindStringSubmatch(strings.TrimSpace(l))
		if match == nil {
			continue
		}
		n, err := strconv.ParseInt(match[2], 10, 64)
		if err != nil {
			t.Fatalf("strace: %s: %v", l, err)
		}
		calls[match[1]] += n
	}
	return calls
}
