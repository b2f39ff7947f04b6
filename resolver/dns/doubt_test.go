package dns

import (
	"context"
	"testing"
	"time"

	mdns "github.com/miekg/dns"

	"github.com/ambassadord/ambassadord/resolver"
	"github.com/ambassadord/ambassadord/resolver/sourcetest"
)

// A container behind a name is replaced: DNS knows at once, the answer of before holds for a
// minute, and nobody is there any more.
func TestDoubtedAnswerHoldsNoLonger(t *testing.T) {
	server := newTestServer(t, "a.test. 3600 A 10.0.0.1")
	config := testConfig(t, "", "", server)
	config.MinTTL, config.MaxTTL, config.FilesInterval = time.Hour, time.Hour, time.Hour
	client := New(config)
	r := resolver.New(map[string]resolver.Source{resolver.SchemeDNS: client.Hosts()}, resolver.Options{})
	ctx, cancel := context.WithCancel(t.Context())
	ended := make(chan struct{})
	go func() { defer close(ended); _ = r.Run(ctx) }()
	defer func() { cancel(); <-ended }()
	target, err := r.Parse("a.test:80")
	if err != nil {
		t.Fatal(err)
	}
	known, err := r.Resolve(ctx, target, nil)
	if err != nil {
		t.Fatal(err)
	}
	server.serve(t, "a.test. 3600 A 10.0.0.2")
	eventually(t, "the new address is known", func() bool { return r.Doubt(ctx, target, known) }) // at first it may not have come to wait yet
	got, err := r.Resolve(ctx, target, nil)
	if err != nil || got.Endpoints[0].String() != "10.0.0.2:80" {
		t.Errorf("%v, %v", got, err)
	}
}

// after answers late.
func after(delay time.Duration, zone []mdns.RR) func(*mdns.Msg, bool) *mdns.Msg {
	return func(request *mdns.Msg, _ bool) *mdns.Msg {
		<-time.After(delay)
		return zoneReply(request, zone)
	}
}

// What comes later than a try takes is an answer all the same.
func TestSlowServer(t *testing.T) {
	t.Parallel()
	server := newTestServer(t)
	server.handle(after(800*time.Millisecond, parseRecords(t, "a.test. 0 A 10.0.0.1")))
	config := testConfig(t, "", "", server)
	config.Timeout = 600 * time.Millisecond
	w := sourcetest.Watch(t, New(config).Hosts(), hostQuery("a.test", 80))
	w.Await(t, "10.0.0.1:80")
	w.Stop(t)
}

// The next server is asked when the first is slow, however long that may take.
func TestSecondServerIsAskedBesideASlowOne(t *testing.T) {
	t.Parallel()
	slow, well := newTestServer(t), newTestServer(t, "a.test. 0 A 10.0.0.1")
	slow.handle(silence)
	w := sourcetest.Watch(t, New(testConfig(t, "", "", slow, well)).Hosts(), hostQuery("a.test", 80)) // with a timeout of 10 s
	began := time.Now()
	w.Await(t, "10.0.0.1:80")
	if took := time.Since(began); took > 3*time.Second {
		t.Errorf("it took %v", took)
	}
	w.Stop(t)
}
