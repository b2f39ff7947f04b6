package sourceguard

import (
	"maps"
	"net/netip"
	"reflect"
	"testing"
	"time"

	"github.com/ambassadord/ambassadord/internal/dockerd"
	"github.com/ambassadord/ambassadord/internal/identity"
	"github.com/ambassadord/ambassadord/netrules/guard"
	"github.com/ambassadord/ambassadord/netrules/netns"
)

var (
	addrA = netip.MustParseAddr("192.0.2.1")
	addrB = netip.MustParseAddr("192.0.2.2")
)

func TestEvidence(t *testing.T) {
	began := time.Now()
	later := began.Add(time.Minute)
	bind := func(port int, addr netip.Addr) guard.Binding { return guard.Binding{Port: port, Addr: addr} }
	before := evidenceOf(map[string][]guard.Binding{"one": {bind(7, addrA), bind(3, addrA)}, "two": {bind(8, addrB)}}, nil, began)
	want := map[netip.Addr]evidence{addrA: {"one", []int{3, 7}, began}, addrB: {"two", []int{8}, began}}
	if !reflect.DeepEqual(before, want) {
		t.Fatalf("at first: %v, want %v", before, want)
	}
	for name, test := range map[string]struct {
		owners map[string][]guard.Binding
		want   map[netip.Addr]evidence
	}{
		"the same in another order": {
			map[string][]guard.Binding{"one": {bind(3, addrA), bind(7, addrA)}, "two": {bind(8, addrB)}}, want,
		},
		"another port": {
			map[string][]guard.Binding{"one": {bind(3, addrA), bind(9, addrA)}, "two": {bind(8, addrB)}},
			map[netip.Addr]evidence{addrA: {"one", []int{3, 9}, later}, addrB: want[addrB]},
		},
		"another owner": {
			map[string][]guard.Binding{"three": {bind(3, addrA), bind(7, addrA)}},
			map[netip.Addr]evidence{addrA: {"three", []int{3, 7}, later}},
		},
		"several owners": {
			map[string][]guard.Binding{"one": {bind(3, addrA)}, "two": {bind(8, addrB), bind(7, addrA)}},
			map[netip.Addr]evidence{addrA: {"", []int{3, 7}, later}, addrB: want[addrB]},
		},
		"none": {nil, map[netip.Addr]evidence{}},
	} {
		if got := evidenceOf(test.owners, maps.Clone(before), later); !reflect.DeepEqual(got, test.want) {
			t.Errorf("%s: %v, want %v", name, got, test.want)
		}
	}
}

func TestProves(t *testing.T) {
	links, err := (*netns.Namespace)(nil).Links()
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { links.Close() })
	const (
		there = 1 // lo has it in every namespace
		gone  = 1 << 30
	)
	owner := &identity.Namespace{Owner: &dockerd.Container{ID: "one"}}
	now := time.Now()
	long := now.Add(-evidenceSettles)
	for name, test := range map[string]struct {
		evidence evidence
		want     bool
	}{
		"its port is there":                {evidence{"one", []int{there}, long}, true},
		"its port is gone":                 {evidence{"one", []int{gone}, long}, false},
		"one of its ports is gone":         {evidence{"one", []int{there, gone}, long}, false},
		"bound a moment ago":               {evidence{"one", []int{there}, long.Add(1)}, false},
		"bound to another container":       {evidence{"two", []int{there}, long}, false},
		"several containers have that one": {evidence{"", []int{there}, long}, false},
	} {
		s := &Guard{links: links}
		s.bound.Store(&map[netip.Addr]evidence{addrA: test.evidence})
		if got := s.proves(owner, addrA, now); got != test.want {
			t.Errorf("%s: %t, want %t", name, got, test.want)
		}
		if s.proves(owner, addrB, now) {
			t.Errorf("%s: it proves an address that is not bound", name)
		}
	}
	blind := &Guard{}
	blind.bound.Store(&map[netip.Addr]evidence{addrA: {"one", []int{there}, long}})
	for name, s := range map[string]*Guard{"no guard": nil, "one that binds nothing yet": {links: links}, "one that knows no links": blind} {
		if s.proves(owner, addrA, now) {
			t.Errorf("%s proves", name)
		}
	}
	links.Close()
	s := &Guard{links: links}
	s.bound.Store(&map[netip.Addr]evidence{addrA: {"one", []int{there}, long}})
	if s.proves(owner, addrA, now) {
		t.Error("one that has ended proves")
	}
}
