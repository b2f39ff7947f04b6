package balance

import (
	"bytes"
	"errors"
	"log/slog"
	"net/netip"
	"slices"
	"strings"
	"testing"
	"time"
)

// chain is two endpoints of a first choice, and one of each further one.
func chain() []Endpoint {
	all := alike(4)
	all[2].Choice, all[3].Choice = 1, 2
	return all
}

// TestAChoiceThatChecksFindDead: the next choice serves while every endpoint of the one before it
// is out by its check, and only then; and no longer.
func TestAChoiceThatChecksFindDead(t *testing.T) {
	w := newWorld()
	dead := errors.New("frozen")
	var log bytes.Buffer
	running(t, w, slog.New(slog.NewTextHandler(&log, nil)), func(t *testing.T, r *Registry) {
		p := r.Pool("a|b|c", Options{EjectAfter: 1, EjectMost: 50, Check: Check{Kind: TCPCheck, Interval: 10 * time.Second, Rise: 2, Fall: 3}})
		p.Update(new(int), chain())
		want := func(choice int, addrs ...netip.AddrPort) {
			t.Helper()
			got := order(p, "")
			slices.SortFunc(got, netip.AddrPort.Compare)
			if !slices.Equal(got, addrs) || p.Serving() != choice {
				t.Errorf("choice %d: %v; want choice %d: %v", p.Serving(), got, choice, addrs)
			}
		}
		sleep(2 * wakePause)
		want(0, addr(0), addr(1))
		for range 3 {
			next(t, p, "").Failed(errRefused) // so that both are ejected
		}
		want(0, addr(0), addr(1))
		w.set(addr(0), dead)
		sleep(time.Minute)
		want(0, addr(0), addr(1))
		w.set(addr(1), dead)
		sleep(time.Minute)
		want(1, addr(2))
		for range 6 { // well for a moment, and never twice in a row
			w.set(addr(1), nil)
			sleep(10 * time.Second)
			want(1, addr(2))
			w.set(addr(1), dead)
			sleep(10 * time.Second)
			want(1, addr(2))
		}
		w.set(addr(2), dead)
		sleep(time.Minute)
		want(2, addr(3))
		w.set(addr(3), dead)
		sleep(time.Minute)
		want(0, addr(0), addr(1)) // somebody is to be tried
		w.set(addr(3), nil)
		sleep(time.Minute)
		want(2, addr(3))
		w.set(addr(1), nil)
		sleep(time.Minute)
		want(0, addr(0), addr(1))
	})
	if n := strings.Count(log.String(), "checks find every endpoint of a choice dead"); n != 3 {
		t.Errorf("it is logged %d times that the next choice serves, want 3:\n%s", n, log.String())
	}
	if n := strings.Count(log.String(), "an earlier choice of the target serves again"); n != 2 {
		t.Errorf("it is logged %d times that an earlier one does, want 2", n)
	}
}

// Without a check, and with an address that comes twice, the first choice is used.
func TestAChainWithoutChecks(t *testing.T) {
	again := chain()
	again[2].Addr = addr(0)
	p := newTestPool(Options{}, again...)
	failing(t, p, addr(0), 5)
	if got := order(p, ""); len(got) != 2 || slices.Contains(got, addr(3)) {
		t.Errorf("%v; want the first choice's", got)
	}
}
