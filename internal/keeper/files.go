package keeper

import (
	"log/slog"

	"golang.org/x/sys/unix"
)

// files are references to the two ends of connections, by a connection's place. They take
// no descriptors where the kernel lets them do without: the limit of open files is then
// the daemon's alone, and an idle connection has two descriptors on the whole host.
type files struct {
	log   *slog.Logger
	rings []*ring          // of perRing connections each
	fds   map[int][2]int32 // of those that are in no ring
	never bool             // there can be no ring
}

// perRing is for how many connections a ring has places.
const perRing = 1024

// put takes two descriptors over.
func (f *files) put(at int, client, upstream int32) {
	if r := f.ring(at); r != nil {
		if err := r.put(2*(at%perRing), client, upstream); err == nil {
			closeFD(client)
			closeFD(upstream)
			return
		}
		_ = r.put(2*(at%perRing), -1, -1) // one of the two may be there
	}
	if f.fds == nil {
		f.fds = map[int][2]int32{}
	}
	f.fds[at] = [2]int32{client, upstream}
}

// ring is where the files of a place go; nil if they are to have descriptors.
func (f *files) ring(at int) *ring {
	n := at / perRing
	for len(f.rings) <= n && !f.never {
		r, err := newRing(2 * perRing)
		if err != nil {
			f.never = true
			f.log.Debug("connections are held by descriptors", "error", err)
			break
		}
		f.rings = append(f.rings, r)
	}
	if n < len(f.rings) {
		return f.rings[n]
	}
	return nil
}

// take gives descriptors of both ends away, and the references to them up.
func (f *files) take(at int) (client, upstream int, err error) {
	if fds, ok := f.fds[at]; ok {
		delete(f.fds, at)
		return int(fds[0]), int(fds[1]), nil
	}
	defer f.remove(at)
	r := f.rings[at/perRing]
	if client, err = r.install(2 * (at % perRing)); err != nil {
		return -1, -1, err
	}
	if upstream, err = r.install(2*(at%perRing) + 1); err != nil {
		closeFD(int32(client))
		return -1, -1, err
	}
	return client, upstream, nil
}

// remove gives the references up.
func (f *files) remove(at int) {
	if fds, ok := f.fds[at]; ok {
		delete(f.fds, at)
		closeFD(fds[0])
		closeFD(fds[1])
		return
	}
	// It fails only if nothing is there.
	_ = f.rings[at/perRing].put(2*(at%perRing), -1, -1)
}

// close gives all references up.
func (f *files) close() {
	for _, r := range f.rings {
		r.close()
	}
	for at := range f.fds {
		f.remove(at)
	}
	f.rings = nil
}

func closeFD(fd int32) { _ = unix.Close(int(fd)) }
