// Package dockerd shows the containers of one Docker engine as immutable
// snapshots.
//
// A Watcher keeps a Snapshot equal to what the engine says: it lists and
// inspects everything when it connects, follows the engine's events, and lists
// again on a timer. An event is only a hint that a container may have changed:
// what it says is never believed, the container is inspected instead. So events
// that are late, repeated, out of order or lost cost at most a needless inspect
// or the wait for the next full list.
//
// Readers never wait for the engine. While it is away or hangs, the last
// snapshot stays and Watcher.Err says why nothing newer comes.
//
// This package is the only importer of go-dockerclient; no type of that library
// leaves it. The library makes the client (endpoint forms, TLS), pings, and asks
// which containers are tasks of Swarm; what the engine says is decoded into its
// types where they have what is needed. The requests that go around its methods,
// over a transport of our own, are in rawapi.go, with the reason for each.
package dockerd
