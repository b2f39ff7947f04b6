package proxy

import (
	"context"
	"io"
	"net"
	"testing"
)

// BenchmarkConnect is a connection from its dial to its end, with one byte each way.
func BenchmarkConnect(b *testing.B) {
	backend, err := net.ListenTCP("tcp", &net.TCPAddr{IP: net.IPv4(127, 0, 0, 1)})
	if err != nil {
		b.Fatal(err)
	}
	served := make(chan struct{})
	go func() {
		defer close(served)
		for {
			conn, err := backend.AcceptTCP()
			if err != nil {
				return
			}
			_, _ = io.CopyN(conn, conn, 1)
			conn.Close()
		}
	}()
	listener, err := net.ListenTCP("tcp", &net.TCPAddr{IP: net.IPv4(127, 0, 0, 1)})
	if err != nil {
		b.Fatal(err)
	}
	server := &Server{Loops: 1}
	target := Endpoint{Addr: backend.Addr().(*net.TCPAddr).AddrPort()}
	addr := listener.Addr().(*net.TCPAddr)
	stop, err := server.Accept(NewListener(listener), nonBlocking{func(context.Context, *net.TCPConn) (Route, error) {
		return Route{Client: Client{Name: "app"}, Endpoints: InOrder(target)}, nil
	}})
	if err != nil {
		b.Fatal(err)
	}
	b.ReportAllocs()
	var one [1]byte
	for b.Loop() {
		conn, err := net.DialTCP("tcp", nil, addr)
		if err != nil {
			b.Fatal(err)
		}
		if _, err := conn.Write(one[:]); err != nil {
			b.Fatal(err)
		}
		if _, err := io.ReadFull(conn, one[:]); err != nil {
			b.Fatal(err)
		}
		_ = conn.SetLinger(0) // no port is used up
		conn.Close()
	}
	b.StopTimer()
	backend.Close()
	<-served
	stop()
	server.Drain(b.Context())
}
