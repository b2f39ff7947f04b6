package failures

import (
	"errors"
	"fmt"
	"net/netip"
	"strings"
	"testing"
	"time"

	"github.com/ambassadord/ambassadord/internal/hint"
	"github.com/ambassadord/ambassadord/internal/status"
	"github.com/ambassadord/ambassadord/proxy"
)

func failed(id string, port uint16, second int, err error) proxy.Record {
	return proxy.Record{
		Route:  proxy.Route{Client: proxy.Client{Name: "name of " + id, ID: id}, Port: port, Target: "a:1"},
		Source: netip.MustParseAddrPort("172.17.0.2:1"), Ended: time.Unix(int64(second), 0), Err: err,
	}
}

func reported(l *Last) []status.Failure {
	var s status.Snapshot
	l.Report(&s)
	return s.Failures
}

// TestLastOfEachClientAndPort: the last failure and how many there were, apart for each client and
// port; what ended well is none.
func TestLastOfEachClientAndPort(t *testing.T) {
	var l Last
	l.Done(failed("a", 1, 1, proxy.Fail(proxy.NoEndpoints, errors.New("nobody"))))
	l.Done(failed("b", 1, 2, proxy.Fail(proxy.DialFailed, errors.New("refused"))))
	l.Done(failed("a", 2, 3, proxy.Fail(proxy.DialFailed, errors.New("refused"))))
	l.Done(failed("a", 1, 4, proxy.Fail(proxy.DialFailed, hint.Wrap(errors.New("no route"), "look at routes"))))
	l.Done(failed("a", 1, 5, nil))
	all := reported(&l)
	if len(all) != 3 || all[0].ID != "a" || all[0].Port != 1 || all[1].Port != 2 || all[2].ID != "b" {
		t.Fatalf("reported %+v; want a:1, a:2, b:1", all)
	}
	if f := all[0]; f.Count != 2 || f.First.Unix() != 1 || f.Last.Unix() != 4 || f.Reason != proxy.DialFailed || f.Hint != "look at routes" || !strings.Contains(f.Error, "no route") {
		t.Errorf("reported %+v; want the last of two", f)
	}
}

// TestNobodyDisplacesOthers by failing at many ports, or from many addresses.
func TestNobodyDisplacesOthers(t *testing.T) {
	var l Last
	why := errors.New("nobody")
	l.Done(failed("honest", 1, 1, why))
	for i := range 3 * mostKept {
		l.Done(failed("hostile", uint16(i+1), i, why))
		r := failed("", 1, i, why)
		r.Source = netip.AddrPortFrom(netip.AddrFrom4([4]byte{10, 0, byte(i >> 8), byte(i)}), 1)
		l.Done(r)
	}
	n := map[string]int{}
	for _, f := range reported(&l) {
		n[f.ID]++
	}
	if n["honest"] != 1 || n["hostile"] != mostOfOne || n[""] != mostOfOthers {
		t.Errorf("of each are kept %v; want 1, %d and %d", n, mostOfOne, mostOfOthers)
	}
	l.Done(failed("hostile", 9999, 1, why))
	if f := reported(&l)[0]; f.Port != 9999 {
		t.Errorf("the last failure of who has many is forgotten; the last known is at port %d", f.Port)
	}
}

// TestServedSince: a connection that began after the last failure and ended well is told of, until the next fails.
func TestServedSince(t *testing.T) {
	var l Last
	served := func() int64 {
		if all := reported(&l); len(all) != 1 || all[0].Served.IsZero() {
			return 0
		}
		return reported(&l)[0].Served.Unix()
	}
	well := func(port uint16, second int, lasted time.Duration) {
		r := failed("a", port, second, nil)
		r.Duration = lasted
		l.Done(r)
	}
	well(1, 1, 0)
	l.Done(failed("a", 1, 10, proxy.Fail(proxy.NoEndpoints, errors.New("nobody"))))
	well(2, 12, 0)             // by another port
	well(1, 13, 9*time.Second) // from before
	if got := served(); got != 0 {
		t.Errorf("one was served at %d; want none", got)
	}
	well(1, 14, time.Second)
	if got := served(); got != 14 {
		t.Errorf("one was served at %d; want 14", got)
	}
	l.Done(failed("a", 1, 15, proxy.Fail(proxy.NoEndpoints, errors.New("nobody"))))
	if got := served(); got != 0 {
		t.Errorf("one was served at %d since the next has failed", got)
	}
}

// TestKeepsFew: whoever fails at every port, or with long errors, has the oldest forgotten, and no more.
func TestKeepsFew(t *testing.T) {
	var l Last
	long := errors.New(strings.Repeat("x", 1<<16))
	for i := range mostKept + 10 {
		l.Done(failed(fmt.Sprint(i), 1, i, long))
	}
	all := reported(&l)
	if len(all) != mostKept || all[0].ID != fmt.Sprint(mostKept+9) || all[mostKept-1].ID != "10" {
		t.Errorf("%d are kept, from %s to %s", len(all), all[0].ID, all[len(all)-1].ID)
	}
	if n := len(all[0].Error); n > mostText+100 {
		t.Errorf("an error of %d bytes is kept", n)
	}
}
