package main

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"net/http"
	"path/filepath"
	"slices"
	"strings"
	"time"
)

// source is one kind of target, and how to move what it leads to.
type source struct {
	name, target string
	// move makes place i, 0 or 1, where the target leads.
	move func(ctx context.Context, i int) error
	// leave, if there is one, ends place i once the target has been seen to lead to the
	// other. It is not measured.
	leave func(ctx context.Context, i int) error
	// looks is how often the daemon asks, where it is not told: the time of a change is
	// spread over as much, and fewer of them are measured.
	looks time.Duration
	// bound is, for people, what most of the time goes into where that is not us.
	bound string
}

// sources are all, with the registries behind them: started, until stop is called.
func (b resolveBench) sources(ctx context.Context, dir string, consul *registry, places [2]progressServer) (all []source, stop func(), err error) {
	var stops []func()
	stop = func() {
		for _, s := range slices.Backward(stops) {
			s()
		}
	}
	defer func() {
		if err != nil {
			stop()
		}
	}()
	etcd, err := startEtcd(ctx, dir)
	if err != nil {
		return nil, nil, err
	}
	stops = append(stops, etcd.stop)
	label := "ambassadord.bench=" + fmt.Sprintf("%x", time.Now().UnixNano())
	containers, err := startContainers(ctx, dir, label, places)
	if err != nil {
		return nil, nil, err
	}
	stops = append(stops, func() { containers.remove(context.WithoutCancel(ctx)) })
	host := func(i int) string { h, _, _ := strings.Cut(places[i].address, ":"); return h }
	records := func(i int) string {
		return fmt.Sprintf("moving 0 A %s\n_moving._tcp 0 SRV 0 1 %d moving", host(i), places[i].port)
	}
	names, err := startNameserver(ctx, dir, records(0))
	if err != nil {
		return nil, nil, err
	}
	stops = append(stops, names.stop)
	if err := consul.sendJSON(ctx, http.MethodPost, "/v1/query", map[string]any{"Name": "queried", "Service": map[string]any{"Service": "queried"}}); err != nil {
		return nil, nil, err
	}

	list := filepath.Join(dir, "moving.list")
	const (
		floor    = time.Second     // of resolver/dns
		executes = 5 * time.Second // of resolver/consul
		dnsBound = "the TTL is 0, the daemon asks once a second at most"
	)
	register := func(name string) func(context.Context, int) error {
		return func(ctx context.Context, i int) error { return consul.register(ctx, name, places[i].address) }
	}
	edit := func(_ context.Context, i int) error { return names.set(records(i)) }
	return []source{
		{name: "Consul service", target: "consul-service://moving", move: register("moving")},
		{name: "Consul KV, one value", target: "consul://" + consul.address + "/moving", move: func(ctx context.Context, i int) error {
			return consul.put(ctx, "moving", places[i].address)
		}},
		{name: "Consul KV, Registrator's layout", target: "consul://" + consul.address + "/reg/moving", move: func(ctx context.Context, i int) error {
			return consul.put(ctx, "reg/moving/host:moving:80", places[i].address)
		}},
		{
			name: "Consul prepared query", target: "consul-query://queried", move: register("queried"),
			looks: executes, bound: "Consul has no blocking form of it, the daemon asks every 5 s",
		},
		{name: "etcd", target: "etcd://" + etcd.address + "/moving", move: func(ctx context.Context, i int) error {
			return etcd.put(ctx, "moving", places[i].address)
		}},
		{name: "file, replaced by a rename", target: "file://" + list, move: func(_ context.Context, i int) error {
			return replace(list, "# by hand\n"+places[i].address+" 10\n")
		}},
		{
			name: "docker, a container started", target: "docker://?label=" + label + "&port=" + placePort,
			move: containers.start, leave: containers.kill, bound: "the engine starts the container meanwhile",
		},
		{
			name: "DNS, addresses (NSD)", target: fmt.Sprintf("dns://%s/moving.%s:%d", nameserverAddress, zone, places[0].port),
			move: edit, looks: floor, bound: dnsBound,
		},
		{
			name: "DNS, SRV records (NSD)", target: fmt.Sprintf("srv://%s/_moving._tcp.%s", nameserverAddress, zone),
			move: edit, looks: floor, bound: dnsBound,
		},
	}, stop, nil
}

// between is the pause before each change: the daemon asks an agent whose answers
// never stand still only every 100 ms, and this is not to measure that.
const between = 200 * time.Millisecond

// times are how long after its beginning each change was told to the registry, and
// how long until a connection through the daemon got to the new place.
type times struct{ told, seen []time.Duration }

func (t *times) String() string {
	slices.Sort(t.told)
	slices.Sort(t.seen)
	at := func(all []time.Duration, percent int) time.Duration {
		d := all[len(all)*percent/100]
		if d < time.Second {
			return d.Round(100 * time.Microsecond)
		}
		return d.Round(10 * time.Millisecond)
	}
	return fmt.Sprintf("median %s, 95%% within %s, of %d changes; telling it %s", at(t.seen, 50), at(t.seen, 95), len(t.seen), at(t.told, 50))
}

// changes moves the target of s back and forth.
func (b resolveBench) changes(ctx context.Context, consul *registry, s source, places [2]progressServer) (*times, error) {
	if err := s.move(ctx, 0); err != nil {
		return nil, err
	}
	const listener = "127.0.0.1:31999"
	d, err := start(ctx, b.daemon, consul.address, listener+"="+s.target)
	if err != nil {
		return nil, err
	}
	defer d.stop()
	if _, err := until(ctx, listener, places[0].name); err != nil {
		return nil, err
	}
	rounds := b.rounds
	if s.looks > between {
		rounds = max(1, rounds/min(5, int(s.looks/time.Second)))
	}
	var all times
	for i := range rounds {
		from, to := i%2, (i+1)%2
		if err := rest(ctx, between+rand.N(s.looks+1)); err != nil {
			return nil, err
		}
		began := time.Now()
		if err := s.move(ctx, to); err != nil {
			return nil, err
		}
		told := time.Now()
		seen, err := until(ctx, listener, places[to].name)
		if err != nil {
			return nil, err
		}
		all.told, all.seen = append(all.told, told.Sub(began)), append(all.seen, seen.Sub(began))
		if s.leave != nil {
			if err := s.leave(ctx, from); err != nil {
				return nil, err
			}
		}
	}
	return &all, nil
}

// chosen are those of all whose name contains only, in any case.
func chosen(all []source, only string) ([]source, error) {
	var names []string
	some := slices.DeleteFunc(slices.Clone(all), func(s source) bool {
		names = append(names, s.name)
		return !strings.Contains(strings.ToLower(s.name), strings.ToLower(only))
	})
	if len(some) == 0 {
		return nil, errors.New("-only names none of: " + strings.Join(names, "; "))
	}
	return some, nil
}
