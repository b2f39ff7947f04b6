package handover

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"os"
	"time"

	"golang.org/x/sys/unix"

	"github.com/ambassadord/ambassadord/internal/abstract"
	"github.com/ambassadord/ambassadord/internal/control"
	"github.com/ambassadord/ambassadord/internal/hint"
	"github.com/ambassadord/ambassadord/internal/rundir"
)

// ErrServed says that another daemon serves this host.
var ErrServed = errors.New("another ambassadord serves this host already")

// HostLock makes one daemon serve a host, in any mode but link.
type HostLock struct {
	file  *rundir.Lock
	guard *net.UnixListener // nil if somebody else has the name
}

// TakeHostLock takes the lock of the host in dir, or goes on with that of the daemon
// before us, if it is in inherited, which may be nil. The error is ErrServed when another
// daemon has it, also one that is older than the folder and is believed to be one.
//
// It takes that one's lock as well, so that neither an older daemon that is started later
// nor one in a container, with a /run of its own, serves beside us: two that did would
// replace each other's rules for ever. A squatter of that name that could not serve a
// host itself is told to log, and is of no consequence.
func TakeHostLock(ctx context.Context, dir *rundir.Dir, inherited *Set, log *slog.Logger) (*HostLock, error) {
	served := hint.Wrap(ErrServed, "stop the other one first, or start with --takeover; one daemon serves the whole host")
	l := &HostLock{file: inherited.TakeLock(dir, dir.HostLock()), guard: inherited.TakeUnix(abstract.Guard)}
	if l.file == nil {
		file, err := takeSoon(ctx, dir)
		if err != nil {
			l.closeGuard()
			if errors.Is(err, rundir.ErrHeld) {
				who, _ := control.Holder(dir, dir.Socket(""))
				return nil, hint.Wrap(fmt.Errorf("%w: %s", ErrServed, who), hint.Of(served))
			}
			return nil, err
		}
		l.file = file
	}
	if l.guard != nil {
		return l, nil
	}
	var err error
	if l.guard, err = net.ListenUnix("unix", &net.UnixAddr{Name: abstract.Guard, Net: "unix"}); err == nil {
		return l, nil
	}
	if abstract.Runs(context.WithoutCancel(ctx)) {
		l.Leave()
		return nil, served
	}
	if who := abstract.Elsewhere(context.WithoutCancel(ctx)); who != "" {
		l.Leave()
		return nil, hint.Errorf("stop that one first; to take over from a daemon with a /run of its own, start both with one --run-dir and --run-dir-shared",
			"%w: %s, which has a folder of its own for locks", ErrServed, who)
	}
	fix := "see who has it: ambassadord doctor; if it is a daemon, stop one of the two, else it changes nothing"
	if squatter := abstract.Daemon(context.WithoutCancel(ctx), abstract.Guard); !errors.Is(squatter, abstract.ErrNobody) {
		err = squatter
		if s := (*abstract.Squatter)(nil); errors.As(err, &s) && s.Unseen {
			fix = "see who has it: run ambassadord doctor on the host, or give this container --pid host; if it is a daemon, stop one of the two, for both would repair the same rules"
		}
	}
	log.Warn("the name that older versions have as their lock is not ours; another daemon, of an older version or one in a container, may serve beside this one", "error", fmt.Sprint(err), "hint", fix)
	return l, nil
}

// LockHost makes sure that no daemon serves this host, in any mode but link, until unlock is called:
// for a command that changes rules itself. folder is config.Config.RunDir. The error is ErrServed
// when a daemon has the lock.
func LockHost(ctx context.Context, folder string, log *slog.Logger) (unlock func(), err error) {
	dir, err := rundir.Open(folder)
	if err != nil {
		return nil, err
	}
	l, err := TakeHostLock(ctx, dir, nil, log)
	if err != nil {
		return nil, err
	}
	return l.Release, nil
}

// takeSoon takes the lock of the host. It waits for who has it and serves nobody, a command
// that removes rules or the sweeper of a daemon that was killed, which will soon let go of it.
func takeSoon(ctx context.Context, dir *rundir.Dir) (*rundir.Lock, error) {
	const (
		patience = 5 * time.Second
		interval = 100 * time.Millisecond
	)
	late := time.After(patience)
	for {
		file, err := dir.Take(dir.HostLock())
		if !errors.Is(err, rundir.ErrHeld) || control.Held(dir, dir.Socket("")) {
			return file, err
		}
		select {
		case <-time.After(interval):
		case <-late:
			return file, err
		case <-ctx.Done():
			return file, err
		}
	}
}

// Claim makes the lock of older versions tell of our process. It is called once the daemon
// before us has let go: until then it is that one's.
func (l *HostLock) Claim(log *slog.Logger) {
	if l == nil || l.guard == nil {
		return
	}
	if err := listenAgain(l.guard); err != nil {
		log.Warn("whoever asks who has the lock of older versions is told of the daemon before us", "error", err)
	}
}

// listenAgain makes a socket that another process has listened at ours: a client that dials it
// is told of our process, not of that one, which will end (SO_PEERCRED, unix(7)).
func listenAgain(listener *net.UnixListener) error {
	raw, err := listener.SyscallConn()
	if err != nil {
		return err
	}
	var errno error
	if err := raw.Control(func(fd uintptr) { errno = unix.Listen(int(fd), unix.SOMAXCONN) }); err != nil {
		return err
	}
	return os.NewSyscallError("listen", errno)
}

// Register adds what a successor inherits; remove takes it away again.
func (l *HostLock) Register(r *Registry) (remove func()) {
	file, guard := r.Add(Socket{Role: LockFile}, l.file.File()), func() {}
	if l.guard != nil {
		guard = r.Add(Socket{Role: Guard}, l.guard)
	}
	return func() { file(); guard() }
}

// Release gives the lock up. Nobody may have inherited it.
func (l *HostLock) Release() {
	l.file.Release()
	l.closeGuard()
}

// Leave lets go of our own hold alone.
func (l *HostLock) Leave() {
	l.file.Leave()
	l.closeGuard()
}

func (l *HostLock) closeGuard() {
	if l.guard != nil {
		l.guard.Close()
	}
}
