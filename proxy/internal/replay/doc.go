// Package replay sends an endpoint what a client sends without taking it from the client's socket, so
// that all of it can be sent to another endpoint as long as none has answered.
package replay
