package resolver_test

import (
	"errors"
	"net"
	"net/netip"
	"strings"
	"sync/atomic"
	"testing"

	"github.com/ambassadord/ambassadord/resolver"
	"github.com/ambassadord/ambassadord/resolver/consul"
	"github.com/ambassadord/ambassadord/resolver/dns"
	"github.com/ambassadord/ambassadord/resolver/etcd"
	"github.com/ambassadord/ambassadord/resolver/sourcetest"
)

// TestServersThatTargetsNameAreAskedByLeave: a source connects to no server that a target
// names where it must not, whatever name that goes by, and by no proxy either.
func TestServersThatTargetsNameAreAskedByLeave(t *testing.T) {
	var reached atomic.Int64
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	packets, err := net.ListenPacket("udp", listener.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	served := make(chan struct{}, 2)
	go func() {
		defer func() { served <- struct{}{} }()
		for {
			conn, err := listener.Accept()
			if err != nil {
				return
			}
			reached.Add(1)
			conn.Close()
		}
	}()
	go func() {
		defer func() { served <- struct{}{} }()
		for {
			if _, _, err := packets.ReadFrom(make([]byte, 512)); err != nil {
				return
			}
			reached.Add(1)
		}
	}()
	t.Cleanup(func() { listener.Close(); packets.Close(); <-served; <-served })
	port := listener.Addr().(*net.TCPAddr).AddrPort().Port()
	for _, proxy := range []string{"HTTP_PROXY", "HTTPS_PROXY", "http_proxy", "https_proxy"} {
		t.Setenv(proxy, "http://"+listener.Addr().String())
	}

	forbidden := errors.New("not there")
	var asked atomic.Pointer[string]
	permit := func(server string, addr netip.AddrPort) error {
		asked.Store(&server)
		if addr.Addr().IsLoopback() {
			return forbidden
		}
		return nil
	}
	agents := consul.New(consul.Config{Address: "192.0.2.1:1", Permit: permit})
	clusters := etcd.New(etcd.Config{Endpoints: []string{"192.0.2.1:1"}, Permit: permit})
	names := dns.New(dns.Config{Permit: permit})
	t.Cleanup(func() { _, _ = agents.Close(), clusters.Close() })
	for what, source := range map[string]struct {
		source resolver.Source
		query  resolver.Query
	}{
		"Consul": {agents.KV(), resolver.Query{Scheme: "consul", Host: "localhost", Port: port, Path: "k"}},
		"etcd":   {clusters, resolver.Query{Scheme: "etcd", Host: "localhost", Port: port, Path: "k"}},
		"DNS":    {names.Hosts(), resolver.Query{Scheme: "dns", Server: listener.Addr().String(), Host: "db.test", Port: 80}},
		"SRV":    {names.Services(), resolver.Query{Scheme: "srv", Server: listener.Addr().String(), Host: "db.test"}},
	} {
		asked.Store(nil)
		err := sourcetest.Watch(t, source.source, source.query).Err(t)
		if !errors.Is(err, forbidden) {
			t.Errorf("%s: %v; want what forbids it", what, err)
		}
		if server := asked.Load(); server == nil || !strings.HasSuffix(*server, listener.Addr().String()[len("127.0.0.1"):]) {
			t.Errorf("%s: asked about %v; want the server as the target names it", what, server)
		}
	}
	elsewhere := func(_ string, addr netip.AddrPort) error { // a proxy at loopback would be permitted
		if addr.Addr().IsLoopback() {
			return nil
		}
		return forbidden
	}
	byProxy := consul.New(consul.Config{Address: "192.0.2.1:1", Permit: elsewhere})
	farther := etcd.New(etcd.Config{Endpoints: []string{"192.0.2.1:1"}, Permit: elsewhere})
	t.Cleanup(func() { _, _ = byProxy.Close(), farther.Close() })
	for what, err := range map[string]error{
		"Consul": sourcetest.Watch(t, byProxy.KV(), resolver.Query{Scheme: "consul", Host: "192.0.2.9", Port: port, Path: "k"}).Err(t),
		"etcd":   sourcetest.Watch(t, farther, resolver.Query{Scheme: "etcd", Host: "192.0.2.9", Port: port, Path: "k"}).Err(t),
	} {
		if !errors.Is(err, forbidden) {
			t.Errorf("%s beside a proxy: %v; want what forbids it", what, err)
		}
	}
	if n := reached.Load(); n > 0 {
		t.Errorf("the server was reached %d times", n)
	}
}
