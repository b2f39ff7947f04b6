package agent

import (
	"log/slog"
	"slices"

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

// parts are what a resolver is made of. Building them does no I/O.
type parts struct {
	resolver *resolver.Resolver
	docker   *dockerd.Watcher
	close    func()
	// registries are the servers that cfg and the environment configure, HOST:PORT.
	registries []string
}

// build registers every source: a new one is a line here. permit nil permits everything.
func build(cfg config.Config, self string, permit resolver.Permission, log *slog.Logger) (*parts, error) {
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
	sources := map[string]resolver.Source{
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
	if agents.Explicit() { // then Consul's names are Consul's, live
		for _, scheme := range []string{resolver.SchemeDNS, resolver.SchemeSRV} {
			sources[scheme] = agents.Names(sources[scheme])
		}
	}
	return &parts{
		resolver: resolver.New(sources, resolver.Options{Timeout: cfg.ResolveTimeout, MaxStale: cfg.MaxStale, Log: log}),
		docker:   engine,

		registries: slices.Concat(agents.Configured(), clusters.Configured()),
		close: func() {
			_ = agents.Close() // it only drops idle connections
			_ = clusters.Close()
		},
	}, nil
}

// asksEngine reports whether target needs the engine's snapshots.
func asksEngine(target resolver.Target) bool {
	for q := range target.Queries() {
		if q.Scheme == docker.Scheme || q.Scheme == docker.SchemeSwarm {
			return true
		}
	}
	return false
}
