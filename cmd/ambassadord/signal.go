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

// outliveReader keeps the process alive, for the rest of its life, when whoever reads its
// standard error has ended: a write then fails, and the line is lost. Without this Go ends
// a process with SIGPIPE, and a daemon would leave its rules behind. The signal is not
// ignored, for that children would inherit.
func outliveReader() { signal.Notify(make(chan os.Signal, 1), syscall.SIGPIPE) }
