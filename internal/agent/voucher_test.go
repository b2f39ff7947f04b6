package agent

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

func TestVouchers(t *testing.T) {
	began := time.Now()
	later := began.Add(time.Minute)
	bind := func(port int, addr netip.Addr) guard.Binding { return guard.Binding{Port: port, Addr: addr} }
	before := vouchers(map[string][]guard.Binding{"one": {bind(7, addrA), bind(3, addrA)}, "two": {bind(8, addrB)}}, nil, began)
	want := map[netip.Addr]voucher{addrA: {"one", []int{3, 7}, began}, addrB: {"two", []int{8}, began}}
	if !reflect.DeepEqual(before, want) {
		t.Fatalf("at first: %v, want %v", before, want)
	}
	for name, test := range map[string]struct {
		owners map[string][]guard.Binding
		want   map[netip.Addr]voucher
	}{
		"the same in another order": {
			map[string][]guard.Binding{"one": {bind(3, addrA), bind(7, addrA)}, "two": {bind(8, addrB)}}, want,
		},
		"another port": {
			map[string][]guard.Binding{"one": {bind(3, addrA), bind(9, addrA)}, "two": {bind(8, addrB)}},
			map[netip.Addr]voucher{addrA: {"one", []int{3, 9}, later}, addrB: want[addrB]},
		},
		"another owner": {
			map[string][]guard.Binding{"three": {bind(3, addrA), bind(7, addrA)}},
			map[netip.Addr]voucher{addrA: {"three", []int{3, 7}, later}},
		},
		"several owners": {
			map[string][]guard.Binding{"one": {bind(3, addrA)}, "two": {bind(8, addrB), bind(7, addrA)}},
			map[netip.Addr]voucher{addrA: {"", []int{3, 7}, later}, addrB: want[addrB]},
		},
		"none": {nil, map[netip.Addr]voucher{}},
	} {
		if got := vouchers(test.owners, maps.Clone(before), later); !reflect.DeepEqual(got, test.want) {
			t.Errorf("%s: %v, want %v", name, got, test.want)
		}
	}
}

func TestVouches(t *testing.T) {
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
	long := now.Add(-voucherSettles)
	for name, test := range map[string]struct {
		voucher voucher
		want    bool
	}{
		"its port is there":                {voucher{"one", []int{there}, long}, true},
		"its port is gone":                 {voucher{"one", []int{gone}, long}, false},
		"one of its ports is gone":         {voucher{"one", []int{there, gone}, long}, false},
		"bound a moment ago":               {voucher{"one", []int{there}, long.Add(1)}, false},
		"bound to another container":       {voucher{"two", []int{there}, long}, false},
		"several containers have that one": {voucher{"", []int{there}, long}, false},
	} {
		s := &sentry{links: links}
		s.bound.Store(&map[netip.Addr]voucher{addrA: test.voucher})
		if got := s.vouches(owner, addrA, now); got != test.want {
			t.Errorf("%s: %t, want %t", name, got, test.want)
		}
		if s.vouches(owner, addrB, now) {
			t.Errorf("%s: it vouches for an address that is not bound", name)
		}
	}
	blind := &sentry{}
	blind.bound.Store(&map[netip.Addr]voucher{addrA: {"one", []int{there}, long}})
	for name, s := range map[string]*sentry{"no guard": nil, "one that binds nothing yet": {links: links}, "one that knows no links": blind} {
		if s.vouches(owner, addrA, now) {
			t.Errorf("%s vouches", name)
		}
	}
	links.Close()
	s := &sentry{links: links}
	s.bound.Store(&map[netip.Addr]voucher{addrA: {"one", []int{there}, long}})
	if s.vouches(owner, addrA, now) {
		t.Error("one that has ended vouches")
	}
}
