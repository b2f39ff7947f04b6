package dns

import (
	"net"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	mdns "github.com/miekg/dns"

	"github.com/ambassadord/ambassadord/internal/hint"
	"github.com/ambassadord/ambassadord/resolver"
	"github.com/ambassadord/ambassadord/resolver/sourcetest"
)

// at is q asked at a server of the target's own.
func at(server string, q resolver.Query) resolver.Query {
	q.Server = server
	return q
}

// askAt is the query of NAME:PORT or of the service NAME at that server.
func askAt(t testing.TB, server, name string) resolver.Query {
	t.Helper()
	if !strings.Contains(name, ":") {
		return at(server, serviceQuery(name))
	}
	q, err := resolver.ParseHostPort(name)
	if err != nil {
		t.Fatal(err)
	}
	return at(server, q)
}

// Neither the hosts file nor the search list has a say in what a given server is
// asked for.
func TestGivenServerIsAskedForTheNameAsItIs(t *testing.T) {
	given := newTestServer(t, "redis. 0 A 10.0.0.1", "redis.a.test. 0 A 10.0.0.2")
	config := testConfig(t, "search a.test\noptions ndots:3\n", "10.0.0.3 redis\n")
	w := sourcetest.Watch(t, New(config).Hosts(), at(given.addr, hostQuery("redis", 80)))
	w.Await(t, "10.0.0.1:80")
	w.Stop(t)
}

func TestGivenServerByName(t *testing.T) {
	one, system := newTestServer(t, "redis.test. 0 A 10.0.0.1"), newTestServer(t, "ns.test. 60 A 127.0.0.1")
	_, port, _ := net.SplitHostPort(one.addr)
	config := testConfig(t, "search test", "", system)
	config.MaxTTL = time.Minute
	source := New(config).Hosts()
	query := at(net.JoinHostPort("ns", port), hostQuery("redis.test", 80)) // a name of the search list
	w := sourcetest.Watch(t, source, query)
	w.Await(t, "10.0.0.1:80")
	one.serve(t, "redis.test. 0 A 10.0.0.2")
	w.Await(t, "10.0.0.2:80")
	w.Stop(t)
	if n := system.count("udp A ns.test."); n != 1 {
		t.Errorf("the server's own name was asked for %d times; its TTL is a minute", n)
	}

	for _, want := range []string{"finding the DNS server other:53: the name other does not exist", "REFUSED"} {
		err := sourcetest.Watch(t, source, at("other:53", hostQuery("redis.test", 80))).Err(t)
		if err == nil || !strings.Contains(err.Error(), want) || hint.Of(err) == "" {
			t.Errorf("error %v, want %q; hint %q", err, want, hint.Of(err))
		}
		system.handle(answerCode(mdns.RcodeRefused)) // the second time
	}
}

func TestGivenServerErrors(t *testing.T) {
	given := newTestServer(t)
	given.handle(answerCode(mdns.RcodeRefused))
	client := New(testConfig(t, "", "", newTestServer(t, "redis.test. 0 A 10.0.0.1")))
	err := sourcetest.Watch(t, client.Hosts(), at(given.addr, hostQuery("redis.test", 80))).Err(t)
	if err == nil || !strings.Contains(err.Error(), given.addr+": REFUSED") || !strings.Contains(hint.Of(err), "the target names this server") {
		t.Errorf("error %v, hint %q", err, hint.Of(err))
	}
	if err := client.Hosts().Check(at("nonsense", hostQuery("redis.test", 80))); err == nil {
		t.Error("a server without a port was accepted")
	}
}

func TestRotation(t *testing.T) {
	servers := []*testServer{newTestServer(t, "a.test. 0 A 10.0.0.1"), newTestServer(t, "a.test. 0 A 10.0.0.1"), newTestServer(t, "a.test. 0 A 10.0.0.1")}
	for text, times := range map[string]int{"options rotate": 1, "": 0} {
		client := New(testConfig(t, text, "", servers...))
		before := servers[2].count("")
		for range 3 {
			if _, err := client.lookupHost(t.Context(), hostQuery("a.test", 80)); err != nil {
				t.Fatal(err)
			}
		}
		// Both families, once of three times.
		if n := servers[2].count("") - before; n != 2*times {
			t.Errorf("with %q the third server was asked %d times, want %d", text, n, 2*times)
		}
	}
}

func TestSilentServerIsAskedLast(t *testing.T) {
	t.Parallel()
	silent, well := newTestServer(t), newTestServer(t, "a.test. 0 A 10.0.0.1")
	silent.handle(silence)
	config := testConfig(t, "", "", silent, well)
	config.Timeout = amidSilence
	client := New(config)
	look := func() {
		t.Helper()
		found, err := client.lookupHost(t.Context(), hostQuery("a.test", 80))
		if err != nil || len(found.answer.Endpoints) != 1 {
			t.Fatalf("%+v, %v", found, err)
		}
	}
	look()
	asked := silent.count("")
	for range 3 {
		look()
	}
	if n := silent.count(""); n != asked {
		t.Errorf("the silent server held up %d more questions", n-asked)
	}
	// It is still asked when the other fails, and then is first again.
	silent.serve(t, "a.test. 0 A 10.0.0.1")
	well.handle(answerCode(mdns.RcodeServerFailure))
	look()
	well.serve(t)
	look()
}

func TestTimeoutOption(t *testing.T) {
	for text, want := range map[string]time.Duration{"": 2 * time.Second, "options timeout:7": 7 * time.Second} {
		config := testConfig(t, text, "")
		config.Timeout = 0
		if up, err := New(config).system(); err != nil || up.timeout != want {
			t.Errorf("with %q the timeout is %v, %v; want %v", text, up.timeout, err, want)
		}
	}
}

func TestServersOfResolvConf(t *testing.T) {
	for text, want := range map[string]string{
		"": "127.0.0.1:53",
		"nameserver 10.0.0.1\nnameserver ::2\nnameserver 10.0.0.3\nnameserver 10.0.0.4": "10.0.0.1:53 [::2]:53 10.0.0.3:53 10.0.0.4:53",
	} {
		up, err := New(testConfig(t, text, "")).upstream(t.Context(), "")
		if got := strings.Join(up.servers, " "); err != nil || got != want {
			t.Errorf("%q: servers %s, %v; want %s", text, got, err, want)
		}
	}
}

func TestMemo(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var m expiringMap[int]
		expect := func(key string, want int, there bool) {
			t.Helper()
			if got, ok := m.get(key); got != want || ok != there {
				t.Errorf("%s: %d, %t; want %d, %t", key, got, ok, want, there)
			}
		}
		expect("a", 0, false)
		m.put("a", 1, 2*time.Second)
		m.put("b", 2, 10*time.Second)
		expect("a", 1, true)
		time.Sleep(2 * time.Second)
		expect("a", 0, false)
		expect("b", 2, true)
		m.put("c", 3, time.Second)
		if _, kept := m.entries["a"]; kept {
			t.Error("what has ended is kept")
		}
		m.drop("b")
		expect("b", 0, false)
	})
}
