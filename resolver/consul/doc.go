// Package consul resolves targets through Consul's HTTP API, and is the only
// importer of consul/api. One Client is behind two sources:
//
//   - "consul-service", consul-service://NAME?tag=a&port=grpc&dc=dc2&near=_agent: the
//     instances of a service whose checks all pass, from the health endpoint of
//     the configured agent;
//   - "consul", consul://HOST:PORT/path: lists of host:port in the KV store of
//     that agent, or of the configured one in consul:///path.
//
// Both wait for changes with blocking queries
// (https://developer.hashicorp.com/consul/api-docs/features/blocking): a request
// carries the index of the last answer and is held until there is a newer one.
//
// The agent's address comes from Config. Everything else, tokens and TLS
// included, comes from the CONSUL_* environment as in Consul's own tools, and its
// secrets go to the configured agent alone: a target names an agent, but its
// author is a container's.
//
//	Watch → watch (index, rate) → ask (one request) → endpoints or KV items
package consul
