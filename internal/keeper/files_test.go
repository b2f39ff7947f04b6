package keeper

import (
	"log/slog"
	"os"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// pipeOf is a pipe whose writing end is the only reference to it.
func pipeOf(t *testing.T) (r *os.File, w int) {
	t.Helper()
	var fds [2]int
	if err := unix.Pipe2(fds[:], unix.O_CLOEXEC|unix.O_NONBLOCK); err != nil {
		t.Fatal(err)
	}
	r = os.NewFile(uintptr(fds[0]), "reading end")
	t.Cleanup(func() { r.Close() })
	if err := r.SetReadDeadline(time.Now().Add(10 * time.Second)); err != nil {
		t.Fatal(err)
	}
	return r, fds[1]
}

// ended waits for the last reference to the writing end to go.
func ended(t *testing.T, r *os.File, whose string) {
	t.Helper()
	if n, err := r.Read(make([]byte, 1)); n != 0 || err == nil || os.IsTimeout(err) {
		t.Errorf("the file of %s is still open: read %d bytes, %v", whose, n, err)
	}
}

func openDescriptors(t *testing.T) int {
	t.Helper()
	all, err := os.ReadDir("/proc/self/fd")
	if err != nil {
		t.Fatal(err)
	}
	return len(all)
}

// TestFiles: references to the ends of many connections outlive their descriptors, in a
// ring and without one, and only for as long as they are wanted.
func TestFiles(t *testing.T) {
	r, err := newRing(2)
	possible := err == nil
	if possible {
		r.close()
	} else {
		t.Log("everything has descriptors:", err)
	}
	for _, c := range []struct {
		name  string
		never bool
	}{{"ring", !possible}, {"descriptors", true}} {
		t.Run(c.name, func(t *testing.T) {
			f := files{log: slog.New(slog.DiscardHandler), never: c.never}
			defer func() { f.close() }()
			type connection struct{ client, upstream *os.File }
			all := map[int]connection{}
			before := openDescriptors(t)
			places := []int{0, 1, perRing - 1, perRing, 3*perRing + 5}
			for _, at := range places {
				client, c := pipeOf(t)
				upstream, u := pipeOf(t)
				all[at] = connection{client, upstream}
				f.put(at, int32(c), int32(u))
			}
			reading := 2 * len(places)
			want := before + reading
			if c.never {
				want += 2 * len(places)
			} else {
				want += len(f.rings)
			}
			if n := openDescriptors(t); n != want {
				t.Errorf("%d descriptors are open with %d connections held in %d rings; want %d", n, len(places), len(f.rings), want)
			}

			client, upstream, err := f.take(perRing)
			if err != nil {
				t.Fatal(err)
			}
			for _, end := range []struct {
				fd int
				r  *os.File
			}{{client, all[perRing].client}, {upstream, all[perRing].upstream}} {
				if _, err := unix.Write(end.fd, []byte("x")); err != nil {
					t.Fatal(err)
				}
				if n, err := end.r.Read(make([]byte, 2)); n != 1 {
					t.Errorf("read %d bytes, %v; want the one that was written by the descriptor", n, err)
				}
				closeFD(int32(end.fd))
				ended(t, end.r, "one that was taken")
			}

			f.remove(1)
			ended(t, all[1].client, "one that was removed")
			ended(t, all[1].upstream, "one that was removed")
			client2, c2 := pipeOf(t)
			_, u2 := pipeOf(t)
			f.put(1, int32(c2), int32(u2)) // its place is used again

			f.close()
			for _, at := range []int{0, perRing - 1, 3*perRing + 5} {
				ended(t, all[at].client, "one that was there at the end")
				ended(t, all[at].upstream, "one that was there at the end")
			}
			ended(t, client2, "one that was there at the end")
		})
	}
}

// TestRingTakesAnyNumber: the queues of a ring go round.
func TestRingTakesAnyNumber(t *testing.T) {
	f := files{log: slog.New(slog.DiscardHandler)}
	defer f.close()
	for range 100 {
		r, w := pipeOf(t)
		_, u := pipeOf(t)
		f.put(0, int32(w), int32(u))
		client, upstream, err := f.take(0)
		if err != nil {
			t.Fatal(err)
		}
		closeFD(int32(client))
		closeFD(int32(upstream))
		ended(t, r, "one that was taken")
	}
}

// TestHalfInTheRing: where only one of the two ends can be registered both have
// descriptors, and the ring has neither.
func TestHalfInTheRing(t *testing.T) {
	f := files{log: slog.New(slog.DiscardHandler)}
	defer func() { f.close() }()
	r, w := pipeOf(t)
	const none = 1 << 20 // no descriptor
	f.put(0, int32(w), none)
	client, upstream, err := f.take(0)
	if err != nil || client != w || upstream != none {
		t.Fatalf("took %d, %d, %v; want %d and %d, as they were put there", client, upstream, err, w, none)
	}
	closeFD(int32(client))
	ended(t, r, "one of which the other end could not be registered")
}
