package main

import (
	"context"
	"os"
	"os/signal"
	"syscall"
)

// secondSignal returns what is closed at the second of the signals that end the daemon:
// the first ends ctx, and somebody who sends another does not want to wait.
func secondSignal(ctx context.Context) (second <-chan struct{}, stop func()) {
	signals := make(chan os.Signal, 2)
	signal.Notify(signals, os.Interrupt, syscall.SIGTERM)
	closed := make(chan struct{})
	stopped, cancel := context.WithCancel(context.WithoutCancel(ctx))
	go func() {
		for range 2 {
			select {
			case <-signals:
			case <-stopped.Done():
				return
			}
		}
		close(closed)
	}()
	return closed, func() {
		signal.Stop(signals)
		cancel()
	}
}
