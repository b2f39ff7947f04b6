package netns

import (
	"sync/atomic"

	"golang.org/x/sys/unix"
)

// Visit is Do for several steps: fn gets the namespace as it is inside, and each Do of that is a
// call and no more, since the thread is there already. To enter costs two changes of threads, a
// look at /proc and two system calls, and to attach a container takes a dozen steps. What holds for
// fn of Do holds for all of fn here. In other goroutines, and when Visit has returned, inside is
// the namespace as any other.
func (n *Namespace) Visit(fn func(inside *Namespace) error) error {
	if n == nil || n.entered() {
		return fn(n)
	}
	return n.Do(func() error {
		inside := &Namespace{file: n.file, path: n.path, id: n.id, visitor: new(atomic.Int64)}
		inside.visitor.Store(int64(unix.Gettid()))
		// Another goroutine may have the thread after this one.
		defer inside.visitor.Store(0)
		return fn(inside)
	})
}

// entered reports whether the calling thread is in the namespace, by a Visit that goes on. That
// thread runs nothing else, so its number is as good as the goroutine's.
func (n *Namespace) entered() bool {
	return n.visitor != nil && n.visitor.Load() == int64(unix.Gettid())
}
