package balance

import (
	"bytes"
	"log/slog"
	"strings"
	"testing"
	"testing/synctest"
	"time"
)

var (
	tenant = &Reporter{Key: "0123", Name: "tenant"}
	other  = &Reporter{Key: "4567", Name: "other"}
)

// resets makes endpoint want reset n connections of r.
func resets(t *testing.T, p *Pool, r *Reporter, n int) {
	t.Helper()
	for range n {
		u := useBy(t, p, r)
		u.Opened()
		u.Closed(Reset)
	}
}

// useBy is a use of the first endpoint by r.
func useBy(t *testing.T, p *Pool, r *Reporter) Use {
	t.Helper()
	c := p.ChooseFor(r)
	for {
		u, ok := c.Next()
		if !ok {
			t.Fatal("it was not offered")
		}
		if u.Addr == addr(0) {
			return u
		}
		u.Cancelled()
	}
}

// TestOneClientsResetsHoldForIt: what a client alone says of an endpoint that answers
// others does not heed.
func TestOneClientsResetsHoldForIt(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p := newTestPool(Options{EjectAfter: 3, EjectFor: time.Hour, EjectForMax: 24 * time.Hour, Policy: First}, alike(2)...)
		for range 5 { // time and again
			resets(t, p, tenant, 3)
			if !isEjected(p, addr(0)) {
				t.Fatal("it is not ejected for who has seen its resets")
			}
			if c := p.ChooseFor(tenant); !first(t, &c, 1) {
				t.Fatal("who has seen its resets is still offered it first")
			}
			if c := p.ChooseFor(other); !first(t, &c, 0) {
				t.Fatal("another one is not offered it first")
			}
		}
		if s := statusOf(p, addr(0)); s.Ejections != 0 {
			t.Errorf("%d ejections are remembered, which would make the next one longer", s.Ejections)
		}
	})
}

// first reports whether c offers endpoint i first, and gives it up.
func first(t *testing.T, c *Choice, i int) bool {
	t.Helper()
	u, ok := c.Next()
	if !ok {
		t.Fatal("nobody was offered")
	}
	u.Cancelled()
	return u.Addr == addr(i)
}

// TestSeveralClientsEject: by resets that they see both, or a dial among them.
func TestSeveralClientsEject(t *testing.T) {
	for name, report := range map[string]func(*testing.T, *Pool){
		"resets of two": func(t *testing.T, p *Pool) { resets(t, p, tenant, 2); resets(t, p, other, 1) },
		"dials of one": func(t *testing.T, p *Pool) {
			for range 3 {
				useBy(t, p, tenant).Failed(errRefused)
			}
		},
		"resets and a dial": func(t *testing.T, p *Pool) { resets(t, p, tenant, 2); useBy(t, p, tenant).Failed(errRefused) },
	} {
		synctest.Test(t, func(t *testing.T) {
			p := newTestPool(Options{EjectAfter: 3, EjectFor: time.Hour, EjectForMax: time.Hour, Policy: First}, alike(2)...)
			report(t, p)
			for _, r := range []*Reporter{tenant, other, {Key: "89ab"}} {
				if c := p.ChooseFor(r); !first(t, &c, 1) {
					t.Errorf("%s: %s is offered it first", name, r.Key)
				}
			}
		})
	}
}

// TestLogNamesTheReporter, by its name and its key.
func TestLogNamesTheReporter(t *testing.T) {
	var log bytes.Buffer
	p := New(Config{Log: slog.New(slog.NewTextHandler(&log, nil))}).Pool("redis.service", Options{EjectAfter: 1})
	p.Update(new(int), alike(2))
	resets(t, p, tenant, 1)
	if want := "reported_by=tenant reporter_id=0123\n"; !strings.HasSuffix(log.String(), want) {
		t.Errorf("logged %s; want %s at its end", log.String(), want)
	}
}
