package listenset

import (
	"fmt"
	"log/slog"
	"net"
	"sync"

	"golang.org/x/sys/unix"

	"github.com/ambassadord/ambassadord/internal/handover"
	"github.com/ambassadord/ambassadord/internal/systemd"
)

// descriptorStore keeps our listening sockets with the service manager (sd_notify(3), FDSTORE=1), for the
// next process of our unit. Without a manager it keeps nothing.
type descriptorStore struct {
	manager *systemd.Manager
	log     *slog.Logger

	mu    sync.Mutex
	names map[string]int
	told  bool // that it fails
	// keep reports whether what is there stays there: the next process has a use for it.
	keep func() bool
}

// OpenStore finds the service manager, and takes the sockets that it has kept for us, or was told
// to open for us. keep reports whether what is stored stays there when it is served no more: the
// next process has a use for it. CloseStore has to follow.
func (s *Set) OpenStore(keep func() bool) error {
	manager, err := systemd.FromEnvironment()
	if err != nil {
		return err
	}
	s.store.manager, s.store.names, s.store.keep = manager, map[string]int{}, keep
	files := systemd.Received()
	if len(files) == 0 {
		return nil
	}
	s.inherited = handover.NewSet()
	for _, file := range files {
		name := file.Name()
		if err := s.inherited.AddFile(handover.ParseName(name), file); err != nil {
			s.log.Warn("a descriptor of the service manager's is of no use", "name", name, "error", err)
		}
	}
	s.log.Info("received sockets of the service manager's", "sockets", len(files))
	return nil
}

// CloseStore lets go of the service manager.
func (s *Set) CloseStore() { s.store.manager.Close() }

// Stopping tells the service manager that we stop.
func (s *Set) Stopping() { s.store.tell((*systemd.Manager).Stopping) }

// Reloading tells it that we read our configuration again; Ready has to follow.
func (s *Set) Reloading() { s.store.tell((*systemd.Manager).Reloading) }

// Ready tells it that we serve, as the unit's main process if we have taken over from it.
func (s *Set) Ready(main bool) {
	s.store.tell(func(m *systemd.Manager) error { return m.Ready(main) })
}

// tell tells the manager something.
func (s *descriptorStore) tell(what func(*systemd.Manager) error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.complain(what(s.manager))
}

// put keeps a socket until take.
func (s *descriptorStore) put(socket handover.Socket, listener *net.TCPListener) (take func()) {
	if s.manager == nil || !socket.Stored() {
		return func() {}
	}
	name := socket.Name(handover.AddrOf(listener))
	s.mu.Lock()
	defer s.mu.Unlock()
	s.names[name]++
	if s.names[name] == 1 {
		s.complain(s.send(name, listener))
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

func (s *descriptorStore) send(name string, listener *net.TCPListener) error {
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
func (s *descriptorStore) discard(socket handover.Socket, listener *net.TCPListener) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if name := socket.Name(handover.AddrOf(listener)); s.manager != nil && s.names[name] == 0 && socket.Stored() {
		s.remove(name)
	}
}

func (s *descriptorStore) remove(name string) {
	if !s.keep() {
		s.complain(s.manager.Remove(name))
	}
}

// complain says once that the manager cannot be told.
func (s *descriptorStore) complain(err error) {
	if err != nil && !s.told {
		s.told = true
		s.log.Warn("sockets may not outlive this process", "error", fmt.Errorf("descriptor store: %w", err))
	}
}
