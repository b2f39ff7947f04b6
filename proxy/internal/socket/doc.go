// Package socket is what package proxy asks of the kernel about sockets, by their descriptors: raw
// calls that neither block nor allocate, for loops, and what TCP_INFO says of a connection. It
// decides nothing.
package socket
