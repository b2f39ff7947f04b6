// Package proxy carries connections: accept, route, dial, splice, drain.
//
//	accept → who and which port → binding → endpoints   (the listener's Router)
//	       → dial, next on failure → splice → one Record
//
// Serve accepts for one listener; connection.go reads top to bottom as the way
// of one connection. The package knows no Docker, no registry and no iptables:
// what it must know of a connection it asks the Router that came with the
// listener.
//
// There are two ways to carry one. In goroutines: connection.go, search.go and
// splice.go, on sockets that stay *net.TCPConn throughout, because anything wrapped
// around one turns splice(2) off. Or, with Server.Loops, in a few loops around
// epoll_wait(2): acceptor.go accepts, firstdial.go dials the first endpoint where all is known
// at once and leaves everything else to search.go, and relay.go is what splice.go is to
// the other way. Every test of this package runs either way.
package proxy
