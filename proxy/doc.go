// Package proxy carries connections: accept, route, dial, relay, drain.
//
//	accept → who and which port → binding → endpoints   (the listener's Router)
//	       → dial, next on failure → relay → one Record
//
// Accept takes one listener; connection.go reads top to bottom as the way
// of one connection. The package knows no Docker, no registry and no iptables:
// what it must know of a connection it asks the Router that came with the
// listener.
//
// A few loops around epoll_wait(2) do what need not wait: acceptor.go accepts, firstdial.go
// dials the first endpoint where all is known at once, and relay.go carries the bytes and
// the ends of both streams. Whatever takes more than that is done in a goroutine, on
// sockets of package net, by connection.go and search.go, which give the connection to a
// loop when its endpoint has answered.
package proxy
