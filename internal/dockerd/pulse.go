package dockerd

import (
	"context"
	"errors"
	"io/fs"
	"time"

	"golang.org/x/sys/unix"
)

// An event stream on which nothing comes may be that of an engine that hangs, or that listens
// somewhere else by now. So the socket is looked at, and the engine is asked for a sign of life.
const (
	lookInterval = time.Second
	// A ping costs an engine a tenth of a millisecond and takes none of its locks.
	pingInterval = 5 * lookInterval
)

// socketFile is the file of a Unix socket: its device, its inode, and when that was made
// (statx(2)), since an inode's number is given to another file afterwards.
type socketFile struct {
	major, minor uint32
	inode        uint64
	made         unix.StatxTimestamp
}

// socketAt returns the socket at path.
func socketAt(path string) (socketFile, error) {
	var s unix.Statx_t
	if err := unix.Statx(unix.AT_FDCWD, path, 0, unix.STATX_INO|unix.STATX_BTIME, &s); err != nil {
		return socketFile{}, &fs.PathError{Op: "statx", Path: path, Err: err}
	}
	return socketFile{s.Dev_major, s.Dev_minor, s.Ino, s.Btime}, nil
}

// listensStill returns an error if the engine's socket is not the one that was seen before it was
// connected to: what connects to it now reaches somebody else, or nobody. Where there is no
// socket, or it is out of our sight, nothing can be said.
func (e *engine) listensStill(ctx context.Context, before socketFile) error {
	if e.socket == "" || before == (socketFile{}) {
		return nil
	}
	now, err := socketAt(e.socket)
	switch {
	case errors.Is(err, fs.ErrNotExist):
		return e.explain(ctx, "looking at its socket", err)
	case err == nil && now != before:
		return e.explain(ctx, "looking at its socket", errors.New("it was removed and made anew since it was connected to"))
	}
	return nil
}

// pulse looks whether the engine can still be reached, the nth time on this connection.
func (f *eventFollower) pulse(ctx context.Context, n int) error {
	if err := f.w.engine.listensStill(ctx, f.socket); err != nil {
		return err
	}
	if n%int(pingInterval/lookInterval) == 0 {
		f.ping(ctx)
	}
	return nil
}

// ping asks the engine for a sign of life, if it is not being asked already.
func (f *eventFollower) ping(ctx context.Context) {
	if !f.pinging {
		f.pinging = true
		f.wg.Go(func() { f.pinged <- f.w.engine.ping(ctx) })
	}
}
