// Package routetest has what tests of routes and of the ways in share: a source that says what a
// test tells it, a resolver of its targets that runs in a bubble of testing/synctest, containers with labels, and a
// comparison of routes.
package routetest

import (
	"context"
	"net/netip"
	"reflect"
	"sync"
	"testing"

	"github.com/ambassadord/ambassadord/internal/dockerd"
	"github.com/ambassadord/ambassadord/proxy"
	"github.com/ambassadord/ambassadord/resolver"
)

// Told is a source that says what a test tells it.
type Told struct {
	mu      sync.Mutex
	answer  resolver.Answer
	changed chan struct{}
}

// Say makes a the answer from now on.
func (s *Told) Say(a resolver.Answer) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.answer = a
	if s.changed != nil {
		close(s.changed)
	}
	s.changed = make(chan struct{})
}

// Check is part of resolver.Source.
func (s *Told) Check(resolver.Query) error { return nil }

// Watch is part of resolver.Source.
func (s *Told) Watch(ctx context.Context, _ resolver.Query, publish func(resolver.Answer)) error {
	for {
		s.mu.Lock()
		answer, changed := s.answer, s.changed
		s.mu.Unlock()
		publish(answer)
		select {
		case <-changed:
		case <-ctx.Done():
			return nil
		}
	}
}

// At is an answer with the endpoints at addrs, each of which is its own name.
func At(addrs ...string) resolver.Answer {
	var a resolver.Answer
	for _, addr := range addrs {
		a.Endpoints = append(a.Endpoints, resolver.Endpoint{Addr: netip.MustParseAddrPort(addr), Name: addr})
	}
	return a
}

// Labelled is a running container that declares what labels say.
func Labelled(name string, labels map[string]string) *dockerd.Container {
	return &dockerd.Container{
		ID: name + "-0123456789abcdef", Name: name, Running: true, Labels: labels,
		Networks: []dockerd.Network{{Name: "u", IPv4: netip.MustParseAddr("127.0.0.1")}},
	}
}

// SameRoute says in what a route that is shared differs from one that is not.
func SameRoute(t *testing.T, route proxy.Route, shared *proxy.Route, c proxy.Chooser) {
	t.Helper()
	if shared.Endpoints != nil {
		t.Error("the shared route has the chooser of one connection")
	}
	if !reflect.DeepEqual(route.Endpoints, c) {
		t.Errorf("chooser %+v; want %+v", c, route.Endpoints)
	}
	for _, part := range []string{"router", "set"} { // of which all connections have the same one
		of := func(c proxy.Chooser) uintptr { return reflect.ValueOf(c).Elem().FieldByName(part).Pointer() }
		if of(route.Endpoints) != of(c) {
			t.Errorf("the chooser has another %s", part)
		}
	}
	want, got := reflect.ValueOf(route), reflect.ValueOf(*shared)
	for i := range want.NumField() {
		field := want.Type().Field(i)
		switch a, b := want.Field(i), got.Field(i); {
		case field.Name == "Endpoints":
		case field.Type.Kind() == reflect.Func:
			if a.IsNil() != b.IsNil() {
				t.Errorf("%s is there: %t; want %t", field.Name, !b.IsNil(), !a.IsNil())
			}
		case !reflect.DeepEqual(a.Interface(), b.Interface()):
			t.Errorf("%s = %v; want %v", field.Name, b, a)
		}
	}
	for i, l := range shared.Limits {
		if l != route.Limits[i] {
			t.Errorf("limit %d is another one", i)
		}
	}
}
