// Package sources has the list of every source that a target can name, and makes a resolver of
// them as the configuration says: a new source is a line in Build (docs/sources.md). Commands
// and the daemon build theirs alike, so that a target means the same to both.
package sources

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"slices"
	"time"

	"github.com/ambassadord/ambassadord/internal/config"
	"github.com/ambassadord/ambassadord/internal/dockerd"
	"github.com/ambassadord/ambassadord/resolver"
	"github.com/ambassadord/ambassadord/resolver/consul"
	"github.com/ambassadord/ambassadord/resolver/dns"
	"github.com/ambassadord/ambassadord/resolver/docker"
	"github.com/ambassadord/ambassadord/resolver/etcd"
	"github.com/ambassadord/ambassadord/resolver/file"
	"github.com/ambassadord/ambassadord/resolver/static"
)

// Sources are a resolver with every source, and what the daemon asks some of them besides.
type Sources struct {
	Resolver *resolver.Resolver
	// Docker watches the engine, which the sources docker and swarm ask. It has to run while
	// targets of theirs are resolved: see AskEngine.
	Docker *dockerd.Watcher
	// Registries are the servers that the configuration and the environment name, HOST:PORT.
	Registries []string

	close func()
}

// Build makes every source as cfg says, without any I/O. self is the ID of the container that
// this process runs in, "" outside of one. permit decides where a registry that a target names
// may be; nil permits every address. The error is of an engine's address that cannot be read.
func Build(cfg config.Config, self string, permit resolver.Permission, log *slog.Logger) (*Sources, error) {
	engine, err := dockerd.New(dockerd.Config{Endpoint: cfg.DockerHost, Log: log})
	if err != nil {
		return nil, err
	}
	// A registry's own reason is to come before the resolver's, that there was no answer.
	patience := cfg.ResolveTimeout - cfg.ResolveTimeout/10
	agents := consul.New(consul.Config{Address: cfg.ConsulAddr, Domain: cfg.ConsulDomain, Timeout: patience, Permit: permit})
	clusters := etcd.New(etcd.Config{Endpoints: cfg.EtcdEndpoints, Timeout: patience, Permit: permit})
	names := dns.New(dns.Config{Timeout: min(dns.DefaultTimeout, patience/2), Permit: permit}) // each server is asked twice
	containers := docker.New(engine, docker.Options{Self: self, Tasks: engine.Tasks})
	all := map[string]resolver.Source{
		resolver.SchemeStatic: static.Source{},
		resolver.SchemeDNS:    names.Hosts(),
		resolver.SchemeSRV:    names.Services(),
		"consul-service":      agents.Services(),
		"consul-query":        agents.Queries(),
		"consul":              agents.KV(),
		"etcd":                clusters,
		file.Scheme:           file.Source{},
		docker.Scheme:         containers,
		docker.SchemeSwarm:    containers,
	}
	for _, scheme := range []string{resolver.SchemeDNS, resolver.SchemeSRV} {
		all[scheme] = advisedSource{all[scheme], func(ctx context.Context, q resolver.Query) string {
			return cmp.Or(agents.Advice(ctx, q), containers.Advice(q))
		}}
	}
	if agents.Explicit() { // then Consul's names are Consul's, live
		for _, scheme := range []string{resolver.SchemeDNS, resolver.SchemeSRV} {
			all[scheme] = agents.Names(all[scheme])
		}
	}
	return &Sources{
		Resolver: resolver.New(all, resolver.Options{Timeout: cfg.ResolveTimeout, MaxStale: cfg.MaxStale, Log: log}),
		Docker:   engine,

		Registries: slices.Concat(agents.Configured(), clusters.Configured()),
		close: func() {
			_ = agents.Close() // it only drops idle connections
			_ = clusters.Close()
		},
	}, nil
}

// EngineTimeout is how long a command that needs the engine waits for it.
const EngineTimeout = 10 * time.Second

// WithSnapshot runs the watcher for as long as it takes to get one snapshot and use it, for a
// command that does not run the watcher itself. The error is that the engine did not answer within
// EngineTimeout, and why, or that of use.
func (s *Sources) WithSnapshot(ctx context.Context, use func(*dockerd.Snapshot) error) error {
	ctx, cancel := context.WithCancel(ctx)
	done := make(chan struct{})
	go func() { defer close(done); _ = s.Docker.Run(ctx) }() // returns nil, when ctx ends
	defer func() { cancel(); <-done }()
	waiting, stop := context.WithTimeout(ctx, EngineTimeout)
	defer stop()
	snapshot, err := s.Docker.Wait(waiting, nil)
	if err != nil {
		return errors.Join(fmt.Errorf("the engine at %s did not answer within %s", s.Docker.Endpoint(), EngineTimeout), s.Docker.Err())
	}
	return use(snapshot)
}

// Close lets go of what the sources keep open, after the resolver and the watcher have ended.
func (s *Sources) Close() { s.close() }

// AskEngine reports whether target needs the engine's snapshots.
func AskEngine(target resolver.Target) bool {
	for q := range target.Queries() {
		if q.Scheme == docker.Scheme || q.Scheme == docker.SchemeSwarm {
			return true
		}
	}
	return false
}
