package turns

import (
	"runtime"
	"testing"

	"golang.org/x/sys/unix"
)

func TestShorten(t *testing.T) {
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()
	if err := Shorten(); err != nil {
		t.Fatal(err)
	}
	attr, err := unix.SchedGetAttr(0, 0)
	if err != nil {
		t.Fatal(err)
	}
	if attr.Runtime == 0 {
		t.Skip("this kernel knows no turns of a thread's own")
	}
	if attr.Runtime != uint64(length) {
		t.Errorf("its turns are of %d ns, want %d", attr.Runtime, length)
	}
	inherited := make(chan uint64)
	go func() {
		runtime.LockOSThread() // and the thread ends with this, so that it is a new one's
		attr, err := unix.SchedGetAttr(0, 0)
		if err != nil {
			t.Error(err)
			attr = &unix.SchedAttr{}
		}
		inherited <- attr.Runtime
	}()
	if got := <-inherited; got != uint64(length) {
		t.Errorf("turns of another thread are of %d ns, want %d", got, length)
	}
}
