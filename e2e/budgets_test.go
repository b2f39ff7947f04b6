//go:build integration

package e2e

import (
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"slices"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/ambassadord/ambassadord/internal/dockertest"
)

// bridgeAddress is this host's on the default bridge.
func bridgeAddress(t *testing.T) string {
	t.Helper()
	name := dockertest.Docker(t, "network", "inspect", "bridge", "-f", `{{index .Options "com.docker.network.bridge.name"}}`)
	bridge, err := net.InterfaceByName(name)
	if err != nil {
		t.Fatal(err)
	}
	addrs, err := bridge.Addrs()
	if err != nil {
		t.Fatal(err)
	}
	for _, addr := range addrs {
		if ip := addr.(*net.IPNet).IP.To4(); ip != nil {
			return ip.String()
		}
	}
	t.Fatalf("%s has no address", name)
	return ""
}

// TestNobodyFillsTheLog: one container dials a port 5,000 times for which it has declared
// 65,000 bytes that make no sense. The log stays short and says what it leaves out, and
// another container's failures are all in it.
func TestNobodyFillsTheLog(t *testing.T) {
	const dials, failing, most = 5000, 20, 3 << 20
	gateway := bridgeAddress(t)
	hostile := labelled(t, "connect.6379="+strings.Repeat("x", 65_000))
	quiet := labelled(t, "connect.6379="+gateway+":1", "connect.6379.wait=0s") // where nobody listens
	d := startPlain(t, "run")
	d.attached(hostile.name)
	d.attached(quiet.name)
	honest := besideHonest(t, d)
	dial := func(c client) {
		conn, err := tryDialIn(c.ns, loopback(6379))
		if err != nil { // reset at once
			return
		}
		_, _ = io.Copy(io.Discard, conn)
		conn.Close()
	}
	var all sync.WaitGroup
	for range 20 {
		all.Go(func() {
			for range dials / 20 {
				dial(hostile)
			}
		})
	}
	pace := time.NewTicker(100 * time.Millisecond)
	defer pace.Stop()
	for range failing { // for about as long as the other dials
		dial(quiet)
		<-pace.C
	}
	all.Wait()
	honest.want()
	var left, told, failures int
	poll(t, 10*time.Second, "every dial in the log, or counted", func() error {
		d.mu.Lock()
		defer d.mu.Unlock()
		left, told, failures = 0, 0, 0
		for _, l := range d.lines {
			switch {
			case l.str("msg") == "connection" && l.str("client") == hostile.name:
				told++
			case l.str("msg") == "connection" && l.str("client") == quiet.name:
				failures++
			case l.str("of") == "connection" && l.str("client") == hostile.name && l.str("reason") == "no_binding":
				left += int(l.num("lines"))
			}
		}
		if told+left < dials || failures < failing {
			return fmt.Errorf("%d lines and %d left out of %d dials; %d of %d failures of the other container", told, left, dials, failures, failing)
		}
		return nil
	})
	d.mu.Lock()
	defer d.mu.Unlock()
	size := 0
	for text := range strings.Lines(d.raw.String()) {
		if !slices.ContainsFunc(honest.clients, func(c client) bool { return strings.Contains(text, c.name) }) {
			size += len(text)
		}
	}
	if size > most {
		t.Errorf("the log has %d bytes; want at most %d", size, most)
	}
	t.Logf("%d bytes, %d lines, %d left out", size, told, left)
}

// TestARegistryOfATenantsOwn answers 30 MiB to each of 40 targets. They fail with a reason,
// the daemon's memory does not grow by that, and other containers are served all along.
func TestARegistryOfATenantsOwn(t *testing.T) {
	const targets, most = 40, 100 << 10 // KiB
	gateway := bridgeAddress(t)
	listener, err := net.Listen("tcp", gateway+":0")
	if err != nil {
		t.Fatal(err)
	}
	var asked atomic.Int64
	entry := `{"Key":"k","Value":"` + strings.Repeat("eHh4", 1000) + `"},`
	piece := []byte(strings.Repeat(entry, 16))
	registry := &http.Server{ReadHeaderTimeout: time.Minute, Handler: http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set("X-Consul-Index", strconv.FormatInt(asked.Add(1), 10))
		_, _ = io.WriteString(w, "[")
		for range (30 << 20) / len(piece) {
			if _, err := w.Write(piece); err != nil {
				return
			}
		}
		_, _ = io.WriteString(w, `{"Key":"k0","Value":"MTAuMC4wLjE6MQ=="}]`)
	})}
	var serving sync.WaitGroup
	serving.Go(func() { _ = registry.Serve(listener) })
	defer serving.Wait()
	defer registry.Close()

	d := startPlain(t, "run")
	honest := besideHonest(t, d)
	before := residentKiB(t, d.cmd.Process.Pid)
	var labels []string
	for i := range targets {
		labels = append(labels, fmt.Sprintf("connect.%d=consul://%s/k%d", 7000+i, listener.Addr(), i))
	}
	hostile := labelled(t, labels...)
	d.attached(hostile.name)
	grown := 0
	for until := time.Now().Add(8 * time.Second); time.Now().Before(until); time.Sleep(20 * time.Millisecond) { // a sample each time
		if grown = max(grown, residentKiB(t, d.cmd.Process.Pid)-before); grown > 5*most {
			break
		}
	}
	honest.want()
	if grown > most {
		t.Errorf("the daemon takes %d MiB more; want at most %d", grown>>10, most>>10)
	}
	if asked.Load() < targets/2 {
		t.Errorf("the registry was asked %d times; it would prove nothing", asked.Load())
	}
	_, _ = refused(hostile.ns, loopback(7000))
	l := d.connection(hostile.name, 7000, nil)
	if l.str("reason") != "resolve_failed" || l.str("hint") == "" {
		t.Errorf("log line %v; want the reason resolve_failed, and a hint", l)
	}
	t.Logf("%d MiB more, asked %d times; %s", grown>>10, asked.Load(), l.str("error"))
}

// residentKiB is how much memory a process has.
func residentKiB(t *testing.T, pid int) int {
	t.Helper()
	text, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", pid))
	if err != nil {
		t.Fatal(err)
	}
	_, rest, _ := strings.Cut(string(text), "VmRSS:")
	kib, err := strconv.Atoi(strings.Fields(rest)[0])
	if err != nil {
		t.Fatal(err)
	}
	return kib
}
