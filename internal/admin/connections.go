package admin

import (
	"container/list"
	"context"
	"net"
	"net/http"
	"sync"
)

const (
	// mostConnections bounds the connections of a socket at once.
	mostConnections = 64
	// mostHeavy bounds the requests of a socket that are answered from a snapshot at once: each may hold an answer
	// of megabytes until its client has read it.
	mostHeavy = 8
)

// few is a listener that has few connections at once. One more takes the place of the oldest that
// waits for its client, to send a request or its rest, or else of the oldest: so clients that are slow
// on purpose make room for each other, and keep nobody out.
type few struct {
	net.Listener
	most int

	mu      sync.Mutex
	waiting *list.List // of *counted, the oldest first
	served  *list.List // likewise
}

func newFew(l net.Listener, most int) *few {
	return &few{Listener: l, most: most, waiting: list.New(), served: list.New()}
}

// counted is a connection in one of the lists.
type counted struct {
	net.Conn
	of   *few
	in   *list.List // nil once it is closed
	item *list.Element
}

// Accept is part of net.Listener.
func (f *few) Accept() (net.Conn, error) {
	conn, err := f.Listener.Accept()
	if err != nil {
		return nil, err
	}
	c := &counted{Conn: conn, of: f}
	f.mu.Lock()
	var oldest *counted
	if f.waiting.Len()+f.served.Len() >= f.most {
		front := f.waiting.Front()
		if front == nil {
			front = f.served.Front()
		}
		oldest = front.Value.(*counted)
		oldest.leave()
	}
	c.in, c.item = f.waiting, f.waiting.PushBack(c)
	f.mu.Unlock()
	if oldest != nil {
		oldest.Conn.Close()
	}
	return c, nil
}

// leave takes the connection out of its list. of.mu is held.
func (c *counted) leave() {
	if c.in != nil {
		c.in.Remove(c.item)
		c.in = nil
	}
}

// move puts the connection last in a list, if it is not closed.
func (c *counted) move(to *list.List) {
	c.of.mu.Lock()
	defer c.of.mu.Unlock()
	if c.in != nil {
		c.leave()
		c.in, c.item = to, to.PushBack(c)
	}
}

// Close is part of net.Conn.
func (c *counted) Close() error {
	c.of.mu.Lock()
	c.leave()
	c.of.mu.Unlock()
	return c.Conn.Close()
}

// countedKey is that of the connection in the context of its requests.
type countedKey struct{}

// context is http.Server.ConnContext.
func (f *few) context(ctx context.Context, conn net.Conn) context.Context {
	if wrapper, ok := conn.(interface{ NetConn() net.Conn }); ok { // of TLS
		conn = wrapper.NetConn()
	}
	return context.WithValue(ctx, countedKey{}, conn)
}

// count tells connections whose request is served from those that wait.
func (f *few) count(next http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if c, ok := r.Context().Value(countedKey{}).(*counted); ok {
			c.move(f.served)
			defer c.move(f.waiting)
		}
		next.ServeHTTP(w, r)
	})
}
