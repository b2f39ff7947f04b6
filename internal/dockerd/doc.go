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
// leaves it. The library makes the client (endpoint forms, TLS) and lists. Its
// event monitor is not used, for three reasons that its source shows: the
// goroutine and the connection of a removed listener live on until the engine
// happens to send something; a read error other than EOF that meets a monitor
// already stopped is sent on a closed channel, which ends the process; and
// neither connecting nor reading can be cancelled. The stream is read here
// instead, from the same API, over the client's own transport.
package dockerd
