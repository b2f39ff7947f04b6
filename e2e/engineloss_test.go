//go:build integration

package e2e

import (
	"io"
	"net"
	"path/filepath"
	"sync"
	"testing"
)

// lateSocket leads to an engine's socket, if it is told to: an engine that starts again runs
// its containers before it answers, on a busy host for many seconds.
type lateSocket struct {
	path string

	mu    sync.Mutex
	open  chan struct{} // closed while it leads there
	conns map[net.Conn]bool
}

func newLateSocket(t *testing.T, to string) *lateSocket {
	t.Helper()
	s := &lateSocket{path: filepath.Join(filepath.Dir(to), "late.sock"), open: make(chan struct{}), conns: map[net.Conn]bool{}}
	listener, err := net.Listen("unix", s.path)
	if err != nil {
		t.Fatal(err)
	}
	var serving sync.WaitGroup
	ended := make(chan struct{})
	serving.Go(func() {
		for {
			conn, err := listener.Accept()
			if err != nil {
				return
			}
			serving.Go(func() { s.carry(conn, to, ended) })
		}
	})
	t.Cleanup(func() {
		close(ended)
		listener.Close()
		s.shut()
		serving.Wait()
	})
	return s
}

func (s *lateSocket) carry(conn net.Conn, to string, ended <-chan struct{}) {
	defer conn.Close()
	s.mu.Lock()
	open := s.open
	s.conns[conn] = true
	s.mu.Unlock()
	defer func() {
		s.mu.Lock()
		defer s.mu.Unlock()
		delete(s.conns, conn)
	}()
	select {
	case <-open:
	case <-ended:
		return
	}
	engine, err := net.Dial("unix", to)
	if err != nil {
		return
	}
	go func() {
		_, _ = io.Copy(engine, conn)
		engine.Close()
	}()
	_, _ = io.Copy(conn, engine)
}

// lead lets it lead to the engine.
func (s *lateSocket) lead() {
	s.mu.Lock()
	defer s.mu.Unlock()
	close(s.open)
}

// shut cuts what it carries off, and lets the next wait.
func (s *lateSocket) shut() {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.open = make(chan struct{})
	for conn := range s.conns {
		conn.Close()
	}
}
