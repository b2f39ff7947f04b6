//go:build integration

package e2e

import (
	"bytes"
	"crypto/sha256"
	"fmt"
	"io"
	"math/rand/v2"
	"net"
	"net/netip"
	"os"
	"strings"
	"sync"
	"testing"

	mdns "github.com/miekg/dns"

	"github.com/ambassadord/ambassadord/internal/consultest"
	"github.com/ambassadord/ambassadord/internal/netlab"
	"github.com/ambassadord/ambassadord/netrules/netns"
)

// exchangeSize is how much goes each way: far more than the buffers between the
// ends hold, so that a direction that stalls or ends early shows.
const exchangeSize = 16 << 20

// pseudo is a stream of random bytes that seed decides.
func pseudo(seed string, size int64) io.Reader {
	return io.LimitReader(rand.NewChaCha8(sha256.Sum256([]byte(seed))), size)
}

// answerDigest answers a request, which ends where the client's stream does, with
// its SHA-256 and a body of random bytes that the backend's name decides.
func answerDigest(name string) func(*net.TCPConn) {
	return func(conn *net.TCPConn) {
		h := sha256.New()
		if _, err := io.Copy(h, conn); err != nil {
			return // the client sees the answer missing
		}
		if _, err := conn.Write(h.Sum(nil)); err != nil {
			return
		}
		_, _ = io.Copy(conn, pseudo(name, exchangeSize))
	}
}

// exchange sends a request, closes that direction, and expects the whole answer of
// answerDigest, from any of the backends named.
func exchange(conn *net.TCPConn, backends ...string) error {
	request := sha256.New()
	if _, err := io.Copy(io.MultiWriter(conn, request), pseudo("request", exchangeSize)); err != nil {
		return fmt.Errorf("send the request: %w", err)
	}
	if err := conn.CloseWrite(); err != nil {
		return err
	}
	got := make([]byte, sha256.Size)
	if _, err := io.ReadFull(conn, got); err != nil {
		return fmt.Errorf("read the digest, after our stream has ended: %w", err)
	}
	if want := request.Sum(nil); !bytes.Equal(got, want) {
		return fmt.Errorf("the backend read bytes with the digest %x, want those sent: %x", got, want)
	}
	body := sha256.New()
	n, err := io.Copy(body, conn)
	if err != nil {
		return fmt.Errorf("read the body: %w", err)
	}
	for _, name := range backends {
		want := sha256.New()
		if _, err := io.Copy(want, pseudo(name, exchangeSize)); err != nil {
			return err
		}
		if bytes.Equal(body.Sum(nil), want.Sum(nil)) {
			return nil
		}
	}
	return fmt.Errorf("a body of %d bytes that is of none of %v, want %d bytes", n, backends, exchangeSize)
}

// names are the records of serveNames.
const names = `
backend.example.test.  60 IN A    10.77.0.2
one.example.test.      60 IN A    10.77.0.2
two.example.test.      60 IN A    10.77.0.3
_db._tcp.example.test. 60 IN SRV  1 1 7100 one.example.test.
db.service.test.       60 IN SRV  1 1 7100 one.example.test.
db.                    60 IN SRV  1 1 7100 one.example.test.
`

// serveNames is a DNS server at 127.0.0.1:53 of ns that knows names.
func serveNames(t *testing.T, ns *netns.Namespace) {
	t.Helper()
	records := map[string][]mdns.RR{}
	for text := range strings.Lines(strings.TrimSpace(names)) {
		rr, err := mdns.NewRR(text)
		if err != nil {
			t.Fatal(err)
		}
		records[rr.Header().Name] = append(records[rr.Header().Name], rr)
	}
	var packets net.PacketConn
	err := ns.Do(func() (err error) { packets, err = net.ListenPacket("udp", "127.0.0.1:53"); return err })
	if err != nil {
		t.Fatal(err)
	}
	server := &mdns.Server{PacketConn: packets, Handler: mdns.HandlerFunc(func(w mdns.ResponseWriter, question *mdns.Msg) {
		reply := new(mdns.Msg).SetReply(question)
		known := records[question.Question[0].Name]
		if known == nil {
			reply.Rcode = mdns.RcodeNameError
		}
		for _, rr := range known {
			if rr.Header().Rrtype == question.Question[0].Qtype {
				reply.Answer = append(reply.Answer, rr)
			}
		}
		_ = w.WriteMsg(reply) // who asked asks again
	})}
	var running sync.WaitGroup
	started := make(chan struct{})
	server.NotifyStartedFunc = func() { close(started) }
	running.Go(func() { _ = server.ActivateAndServe() }) // until it is shut down
	<-started
	t.Cleanup(func() {
		if err := server.Shutdown(); err != nil {
			t.Error(err)
		}
		running.Wait()
	})
}

// serveConsul makes a real Consul reachable at 127.0.0.1:8500 of ns.
func serveConsul(t *testing.T, ns *netns.Namespace, pairs map[string]string) {
	t.Helper()
	consul := consultest.Start(t)
	for key, value := range pairs {
		putKey(t, consul, key, value)
	}
	serveIn(t, ns, "127.0.0.1:8500", func(client *net.TCPConn) {
		agent, err := net.Dial("tcp", consul.HTTPAddr)
		if err != nil {
			return
		}
		defer agent.Close()
		var answers sync.WaitGroup
		answers.Go(func() { _, _ = io.Copy(client, agent) })
		_, _ = io.Copy(agent, client)
		_ = agent.Close() // the client is gone: end the query that it waited for
		answers.Wait()
	})
}

// putKey writes to the KV store.
func putKey(t *testing.T, consul *consultest.Server, key, value string) {
	t.Helper()
	consulPut(t, consul, "/v1/kv/"+key, value)
}

// TestCommandLinesForward runs each command line that forwards ports, those of the
// first ambassadord above all, on a machine of its own with a DNS server and
// Consul, and carries a request and its answer over every port.
func TestCommandLinesForward(t *testing.T) {
	near, far := netlab.New(t), netlab.New(t)
	netlab.Connect(t, near, netip.MustParsePrefix("10.77.0.1/24"), far, netip.MustParsePrefix("10.77.0.2/24"))
	far.Run(t, "", "ip", "addr", "add", "10.77.0.3/24", "dev", "eth0")
	for _, lab := range []*netlab.Lab{near, far} {
		lab.Do(t, func() error { return os.WriteFile("/proc/sys/net/ipv6/conf/eth0/disable_ipv6", []byte("0"), 0) })
	}
	near.Run(t, "", "ip", "addr", "add", "fd77::1/64", "dev", "eth0", "nodad")
	far.Run(t, "", "ip", "addr", "add", "fd77::2/64", "dev", "eth0", "nodad")
	for _, address := range []string{"10.77.0.2:7100", "10.77.0.3:7100", "10.77.0.2:7200", "[fd77::2]:7100"} {
		serveIn(t, far.NS(), address, answerDigest(address))
	}
	serveNames(t, near.NS())
	serveConsul(t, near.NS(), map[string]string{
		"value":        "10.77.0.2:7100",
		"parent":       "10.77.0.2:1", // children win over it
		"parent/one":   "10.77.0.2:7200",
		"several/one":  "10.77.0.2:7100",
		"several/more": "10.77.0.3:7100,10.77.0.2:7200",
	})

	const one, two, other, six = "10.77.0.2:7100", "10.77.0.3:7100", "10.77.0.2:7200", "[fd77::2]:7100"
	type ports map[string][]string // where it listens → the backends that may answer
	tests := []struct {
		line string // arguments, by spaces
		env  []string
		want ports
	}{
		{line: one, want: ports{":7100": {one}}},
		{line: six, want: ports{":7100": {six}}},
		{line: "backend.example.test:7100", want: ports{":7100": {one}}},
		{line: one + "," + two, want: ports{":7100": {one, two}}},
		{line: "one.example.test:7100,two.example.test:7100", want: ports{":7100": {one, two}}},
		{line: "10.77.0.2:1,10.77.0.2:7200", env: []string{"PORT=7300"}, want: ports{":7300": {other}}},
		{line: "db.service.test", want: ports{":10000": {one}}},
		{line: "db", want: ports{":10000": {one}}}, // a bare word, which is somebody's name
		{line: "_db._tcp.example.test", want: ports{":10000": {one}}},
		{line: "consul://127.0.0.1:8500/value", want: ports{":10000": {one}}},
		{line: "consul://127.0.0.1:8500/parent", want: ports{":10000": {other}}},
		{line: "consul://127.0.0.1:8500/several", want: ports{":10000": {one, two, other}}},
		{line: one, env: []string{"PORT=7300"}, want: ports{":7300": {one}}},
		{line: "db.service.test", env: []string{"PORT=7300"}, want: ports{":7300": {one}}},
		{line: "consul://127.0.0.1:8500/value", env: []string{"PORT=7300"}, want: ports{":7300": {one}}},
		{
			line: "--links",
			env: []string{
				"DB_NAME=/ambassador/db", "DB_PORT=tcp://10.77.0.2:7100",
				"DB_PORT_6379_TCP=tcp://10.77.0.2:7100", "DB_PORT_6379_TCP_ADDR=10.77.0.2",
				"DB_PORT_6379_TCP_PORT=7100", "DB_PORT_6379_TCP_PROTO=tcp",
				"CACHE_PORT_6379_TCP=tcp://10.77.0.3:7100", "WEB_PORT_80_TCP=tcp://10.77.0.2:7200",
			},
			want: ports{":6379": {one, two}, ":80": {other}},
		},
		{line: "--listen 7300 " + one, want: ports{":7300": {one}}},
		{line: "run --listen 127.0.0.1:7300 " + one, want: ports{"127.0.0.1:7300": {one}}},
		{line: "run --listen :7300 " + one, env: []string{"PORT=7400"}, want: ports{":7300": {one}}},
		{line: "run 7301=" + one + " 7302=db.service.test", want: ports{":7301": {one}, ":7302": {one}}},
		{line: "run [::1]:7301=" + two, want: ports{"[::1]:7301": {two}}},
	}
	for _, tt := range tests {
		name := tt.line
		if len(tt.env) == 1 {
			name = tt.env[0] + " " + name
		}
		t.Run(name, func(t *testing.T) {
			d := startIn(t, near.NS(), map[string]string{"/etc/resolv.conf": "nameserver 127.0.0.1\n"}, tt.env, strings.Fields(tt.line)...)
			for address, backends := range tt.want {
				host, port, err := net.SplitHostPort(address)
				if err != nil {
					t.Fatal(err)
				}
				listening := address
				if host == "" {
					host, listening = "127.0.0.1", "[::]:"+port
				}
				d.wait("listening on "+listening, 0, func(l line) bool { return l.str("msg") == "listening" && l.str("address") == listening })
				if err := exchange(dialIn(t, near.NS(), net.JoinHostPort(host, port)), backends...); err != nil {
					t.Errorf("through %s: %v", address, err)
				}
				l := d.wait("a connection to "+address, connPatience, func(l line) bool {
					return l.str("msg") == "connection" && fmt.Sprint(l.num("port")) == port
				})
				if l.str("reason") != "" || l.num("bytes_up") != exchangeSize || l.num("bytes_down") != sha256.Size+exchangeSize {
					t.Errorf("through %s the daemon logged %v, want no reason and all bytes of both ways", address, l)
				}
			}
			d.stop()
		})
	}
}
