// Package watchable holds the latest value of something, for readers who take no lock and may
// wait for the next one.
package watchable

import (
	"sync"
	"sync/atomic"
)

// Value holds a T, which is replaced and never changed. Its zero value holds T's. All its
// methods may be called from any goroutine; it must not be copied.
type Value[T any] struct {
	mu      sync.Mutex // held by writers, and by the first reader of a zero Value
	current atomic.Pointer[stored[T]]
}

// stored is a value with the channel that tells of the next one.
type stored[T any] struct {
	value    T
	replaced chan struct{}
}

// Load returns the latest value.
func (v *Value[T]) Load() T {
	if h := v.current.Load(); h != nil {
		return h.value
	}
	var zero T
	return zero
}

// Watch returns the latest value, and a channel that is closed once another has been stored.
func (v *Value[T]) Watch() (T, <-chan struct{}) {
	h := v.current.Load()
	if h == nil {
		v.mu.Lock()
		defer v.mu.Unlock()
		h = v.now()
	}
	return h.value, h.replaced
}

// Store makes value the latest one and wakes those who wait.
func (v *Value[T]) Store(value T) {
	v.mu.Lock()
	defer v.mu.Unlock()
	v.store(value)
}

// Update is Store of what change makes of the latest value; no other writer comes between.
func (v *Value[T]) Update(change func(T) T) {
	v.mu.Lock()
	defer v.mu.Unlock()
	v.store(change(v.now().value))
}

// StoreQuietly makes value the latest one and wakes nobody: those who wait are woken by the
// next Store.
func (v *Value[T]) StoreQuietly(value T) {
	v.mu.Lock()
	defer v.mu.Unlock()
	v.current.Store(&stored[T]{value, v.now().replaced})
}

// store is called with mu held. The value is there before the channel of the last is closed.
func (v *Value[T]) store(value T) {
	last := v.current.Swap(&stored[T]{value, make(chan struct{})})
	if last != nil {
		close(last.replaced)
	}
}

// now is called with mu held.
func (v *Value[T]) now() *stored[T] {
	h := v.current.Load()
	if h == nil {
		h = &stored[T]{replaced: make(chan struct{})}
		v.current.Store(h)
	}
	return h
}
