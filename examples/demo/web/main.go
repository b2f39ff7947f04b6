// Command web is the service of the demo: it answers every request with its own
// name, and on SIGTERM ends without losing a connection.
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"net"
	"net/http"
	"os"
	"os/signal"
	"sync"
	"sync/atomic"
	"syscall"
	"time"
)

func main() {
	listen := flag.String("listen", ":80", "address to serve on")
	flag.Parse()
	if err := run(*listen); err != nil {
		fmt.Fprintln(os.Stderr, "web:", err)
		os.Exit(1)
	}
}

func run(listen string) error {
	ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGTERM, os.Interrupt)
	defer stop()
	name, err := os.Hostname()
	if err != nil {
		return err
	}
	listener, err := new(net.ListenConfig).Listen(ctx, "tcp", listen)
	if err != nil {
		return err
	}
	return serve(ctx, listener, name)
}

const (
	// lameDuck is how long a stopping server still takes connections: by then
	// whoever balances over it has heard that it is going.
	lameDuck = time.Second
	// finish is how long the open ones then have.
	finish = 5 * time.Second
)

// serve answers on listener until ctx ends, and then stops without losing a
// connection, which http.Server.Shutdown alone would: closing a listener resets
// the connections that wait in its queue, and a request that was not yet read is
// not answered any more. So the listener is closed right after a connection was
// taken from it, when a client that calls again and again has nothing in the
// queue, or after lameDuck, when nobody calls; and then the open ones finish.
func serve(ctx context.Context, listener net.Listener, name string) error {
	var stopping atomic.Bool
	var open sync.WaitGroup
	server := &http.Server{
		Handler: http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
			fmt.Fprintf(w, "hello from %s\n", name)
		}),
		ConnState: func(_ net.Conn, state http.ConnState) {
			switch state {
			case http.StateNew:
				open.Add(1)
				if stopping.Load() {
					listener.Close()
				}
			case http.StateClosed:
				open.Done()
			}
		},
		ReadHeaderTimeout: finish,
	}
	served := make(chan error, 1)
	go func() { served <- server.Serve(listener) }()
	select {
	case err := <-served:
		return err
	case <-ctx.Done():
	}

	stopping.Store(true)
	server.SetKeepAlivesEnabled(false)
	quiet := time.AfterFunc(lameDuck, func() { listener.Close() })
	defer quiet.Stop()
	if err := <-served; !errors.Is(err, net.ErrClosed) {
		return err
	}
	overdue := time.AfterFunc(finish, func() { server.Close() })
	defer overdue.Stop()
	open.Wait()
	return nil
}
