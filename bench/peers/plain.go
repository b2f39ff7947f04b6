package main

import (
	"encoding/json"
	"io"
	"net"
)

// backendPair is a port of a contestant and the backend behind it.
type backendPair struct{ Listen, Backend string }

// playPlain is the yardstick: the proxy that Go makes in a few lines, two copies for
// each connection, which the standard library splices.
func playPlain(in io.Reader) error {
	var pairs []backendPair
	if err := json.NewDecoder(in).Decode(&pairs); err != nil {
		return err
	}
	failed := make(chan error)
	for _, p := range pairs {
		listener, err := net.Listen("tcp", p.Listen) //nolint:noctx // until it is killed
		if err != nil {
			return err
		}
		go func() { failed <- acceptPlain(listener, p.Backend) }()
	}
	return <-failed
}

func acceptPlain(listener net.Listener, backend string) error {
	for {
		conn, err := listener.Accept()
		if err != nil {
			return err
		}
		go copyBothWays(conn.(*net.TCPConn), backend)
	}
}

func copyBothWays(client *net.TCPConn, backend string) {
	defer client.Close()
	conn, err := net.Dial("tcp", backend) //nolint:noctx // as plain as it gets
	if err != nil {
		return
	}
	upstream := conn.(*net.TCPConn)
	defer upstream.Close()
	done := make(chan struct{})
	go func() {
		_, _ = io.Copy(upstream, client)
		_ = upstream.CloseWrite()
		close(done)
	}()
	_, _ = io.Copy(client, upstream)
	_ = client.CloseWrite()
	<-done
}
