package agent

import (
	"context"
	"fmt"
	"log/slog"
	"net"
	"sync"

	"golang.org/x/sys/unix"

	"github.com/ambassadord/ambassadord/internal/handover"
	"github.com/ambassadord/ambassadord/internal/systemd"
)

// shelf keeps our listening sockets with the service manager, for the next process of our
// unit. Its zero value keeps nothing.
type shelf struct {
	manager *systemd.Manager
	log     *slog.Logger

	mu    sync.Mutex
	names map[string]int
	told  bool // that it fails
	// keep reports whether what is there stays there: the next process has a use for it.
	keep func() bool
}

// openShelf finds the service manager, and takes the sockets that it has kept for us, or
// was told to open for us.
//
// When ctx has ended the sockets stay where the rules do, with Config.KeepRules. When
// another daemon has taken over, it may be of our unit, and then they are its own.
func (a *agent) openShelf(ctx context.Context) error {
	manager, err := systemd.FromEnvironment()
	if err != nil {
		return err
	}
	a.shelf.manager, a.shelf.log, a.shelf.names = manager, a.log, map[string]int{}
	a.shelf.keep = func() bool { return a.departed.Load() || a.tuned().cfg.KeepRules && ctx.Err() != nil }
	files := systemd.Received()
	if len(files) == 0 {
		return nil
	}
	a.inherited = handover.NewSet()
	for _, file := range files {
		name := file.Name()
		if err := a.inherited.AddFile(handover.ParseName(name), file); err != nil {
			a.log.Warn("a descriptor of the service manager's is of no use", "name", name, "error", err)
		}
	}
	a.log.Info("received sockets of the service manager's", "sockets", len(files))
	return nil
}

// put keeps a socket until take.
func (s *shelf) put(socket handover.Socket, listener *net.TCPListener) (take func()) {
	if s.manager == nil || !socket.Stored() {
		return func() {}
	}
	name := socket.Name(handover.AddrOf(listener))
	s.mu.Lock()
	defer s.mu.Unlock()
	s.names[name]++
	if s.names[name] == 1 {
		s.complain(s.store(name, listener))
	}
	return func() {
		s.mu.Lock()
		defer s.mu.Unlock()
		if s.names[name]--; s.names[name] == 0 {
			delete(s.names, name)
			s.remove(name)
		}
	}
}

func (s *shelf) store(name string, listener *net.TCPListener) error {
	raw, err := listener.SyscallConn()
	if err != nil {
		return err
	}
	var sent error
	if err := raw.Control(func(fd uintptr) { sent = s.manager.Store(name, int(fd)) }); err != nil {
		return unix.EBADF // closed before it was served
	}
	return sent
}

// discard takes a socket away that nobody has put there in this process.
func (s *shelf) discard(socket handover.Socket, listener *net.TCPListener) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if name := socket.Name(handover.AddrOf(listener)); s.names[name] == 0 && socket.Stored() {
		s.remove(name)
	}
}

func (s *shelf) remove(name string) {
	if !s.keep() {
		s.complain(s.manager.Remove(name))
	}
}

// stopping says that we stop.
func (s *shelf) stopping() {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.complain(s.manager.Stopping())
}

// reloading says that we read our configuration again; ready has to follow.
func (s *shelf) reloading() {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.complain(s.manager.Reloading())
}

// ready says that we serve, as the unit's main process if we have taken over from it.
func (s *shelf) ready(main bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.complain(s.manager.Ready(main))
}

// complain says once that the manager cannot be told.
func (s *shelf) complain(err error) {
	if err != nil && !s.told {
		s.told = true
		s.log.Warn("sockets may not outlive this process", "error", fmt.Errorf("descriptor store: %w", err))
	}
}
