// Package onclose is context.AfterFunc for channels that are closed.
package onclose

import "sync"

// Call calls then, in a goroutine of its own, when c is closed, unless stop is called before.
// A nil c is never closed. stop has to be called; it may be called again.
func Call(c <-chan struct{}, then func()) (stop func()) {
	stopped := make(chan struct{})
	go func() {
		select {
		case <-c:
			then()
		case <-stopped:
		}
	}()
	return sync.OnceFunc(func() { close(stopped) })
}
