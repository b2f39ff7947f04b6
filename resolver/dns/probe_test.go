package dns

import (
	"testing"

	mdns "github.com/miekg/dns"
)

func TestProbe(t *testing.T) {
	t.Parallel()
	answers, refuses, silent := newTestServer(t), newTestServer(t), newTestServer(t)
	refuses.handle(answerCode(mdns.RcodeRefused))
	silent.handle(silence)
	config := testConfig(t, "", "", answers, refuses, silent)
	config.Timeout = amidSilence
	got, err := New(config).Probe(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	for i, want := range []struct {
		server *testServer
		well   bool
	}{{answers, true}, {refuses, true}, {silent, false}} {
		if s := got[i]; s.Server != want.server.addr || (s.Err == nil) != want.well {
			t.Errorf("server %d: %+v, want %s well %t", i, s, want.server.addr, want.well)
		}
		if n := want.server.count("udp NS ."); n != 1 {
			t.Errorf("server %d was asked %d times, want once", i, n)
		}
	}
	if len(got) != 3 {
		t.Errorf("%d servers, want 3", len(got))
	}
}
