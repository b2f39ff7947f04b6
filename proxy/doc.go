// Package proxy carries connections: accept, route, dial, splice, drain.
//
//	accept → who and which port → binding → endpoints   (the listener's Router)
//	       → dial, next on failure → splice → one Record
//
// Serve accepts for one listener; connection.go reads top to bottom as the way
// of one connection. The package knows no Docker, no registry and no iptables:
// what it must know of a connection it asks the Router that came with the
// listener. Sockets stay *net.TCPConn throughout, because anything wrapped
// around one turns splice(2) off.
package proxy
