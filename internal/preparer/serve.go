package preparer

import (
	"context"
	"encoding/json"
	"errors"
	"os"
	"runtime"
	"runtime/debug"
	"runtime/metrics"
	"slices"
	"sync"
	"time"

	"golang.org/x/sys/unix"

	"github.com/ambassadord/ambassadord/internal/hint"
	"github.com/ambassadord/ambassadord/internal/rights"
	"github.com/ambassadord/ambassadord/internal/sandbox"
)

const (
	// processors has the runtime always have one to spare for the thread that wakes.
	processors = 4
	// memory is how much of it there may be before garbage is collected while it works;
	// some kilobytes are left for each namespace.
	memory = 48 << 20
	// restful is how long nothing has appeared before garbage is collected, if there is a
	// worthwhile amount.
	restful    = 2 * time.Second
	worthwhile = 4 << 20
	// mostTime is how long the kernel lets a thread of real-time priority run without a pause
	// before it ends the process (RLIMIT_RTTIME).
	mostTime = time.Second
)

// Serve is the process: it prepares what appears for the daemon at the other end of socket,
// until that has ended.
func Serve(ctx context.Context, socket *os.File, c Config) error {
	runtime.GOMAXPROCS(processors)
	debug.SetGCPercent(-1)
	debug.SetMemoryLimit(memory)
	bound := unix.Rlimit{Cur: uint64(mostTime.Microseconds()), Max: uint64(mostTime.Microseconds())}
	_ = unix.Setrlimit(unix.RLIMIT_RTTIME, &bound)
	s := &preparerServer{config: c, socket: int(socket.Fd()), appeared: make(chan struct{}, 1)} // which blocks from now on
	defer func() { _ = socket.Close() }()
	debug.FreeOSMemory() // of the program's beginning, while nothing can be late yet
	if !s.take(0) {      // the first order: what is redirected from the beginning
		return nil
	}
	ctx, cancel := context.WithCancel(ctx)
	var tidying sync.WaitGroup
	defer tidying.Wait()
	defer cancel()
	tidying.Go(func() { s.tidy(ctx) })
	w := &sandbox.Watcher{
		Folders: c.Folders, Appeared: s.prepare,
		Descriptor: s.socket, Told: func() bool { return s.take(unix.MSG_DONTWAIT) },
		Urgent: func(has sandbox.Priority, err error) {
			switch {
			case err == nil:
				s.sayThere()
				s.say(preparerReport{Watching: true})
			case errors.Is(err, sandbox.ErrOverspent):
				s.say(preparerReport{Spent: true})
			case has == sandbox.Nice:
				beNice()
				s.sayThere()
				s.say(preparerReport{Watching: true, Nice: true, Failure: err.Error()})
			default:
				s.say(preparerReport{Denied: true, Failure: err.Error()})
				cancel()
			}
		},
	}
	if err := w.Run(ctx); err != nil {
		s.say(preparerReport{Failure: err.Error(), Hint: hint.Of(err)})
	}
	return nil
}

// preparerServer is what Serve has. All but tidy is for one thread at a time.
type preparerServer struct {
	config   Config
	socket   int
	ports    []uint16
	there    []string // that were there before; what is not fresh is not added once told is true
	told     bool
	buffer   [maxMessage]byte
	appeared chan struct{} // holds a token when something has appeared
}

// take takes an order, and reports whether there may be more: the daemon has not ended.
func (s *preparerServer) take(flags int) bool {
	n, _, err := unix.Recvfrom(s.socket, s.buffer[:], flags)
	switch {
	case errors.Is(err, unix.EAGAIN), errors.Is(err, unix.EINTR):
		return flags != 0 || s.take(flags)
	case err != nil || n == 0:
		return false
	}
	var o order
	if json.Unmarshal(s.buffer[:n], &o) != nil {
		return false
	}
	s.ports = o.Ports
	return true
}

// prepare prepares the namespace at path if it is fresh, and tells of it. It is called on the
// watching thread.
func (s *preparerServer) prepare(path string, fresh bool) {
	if !fresh && !s.told {
		s.there = append(s.there, path)
		return
	}
	r := preparerReport{Path: path}
	var fds []int
	if fresh {
		began := time.Now()
		var err error
		if r, fds, err = prepare(s.config, path, s.ports); err != nil {
			rights.Close(fds)
			r, fds = preparerReport{Path: path}, nil // the daemon tries again
			if !errors.Is(err, unix.EEXIST) && !errors.Is(err, unix.ENOENT) && !errors.Is(err, unix.EINVAL) {
				r.Unprepared = err.Error()
			}
		}
		r.Took = int64(time.Since(began))
	}
	s.say(r, fds...)
	rights.Close(fds) // the message holds references of its own
	select {
	case s.appeared <- struct{}{}:
	default:
	}
}

// sayThere tells of what was there when the watching began. Each by a message of its own they
// would keep what is new waiting: the daemon is busy when it begins.
func (s *preparerServer) sayThere() {
	for some := range slices.Chunk(s.there, mostThere) {
		s.say(preparerReport{There: some})
	}
	s.there, s.told = nil, true
}

// say sends r, and waits until there is room for it.
func (s *preparerServer) say(r preparerReport, fds ...int) {
	packet, err := encode(r)
	if err != nil {
		return
	}
	var oob []byte
	if len(fds) > 0 {
		oob = unix.UnixRights(fds...)
	}
	for errors.Is(unix.Sendmsg(s.socket, packet, oob, nil, unix.MSG_NOSIGNAL), unix.EINTR) {
	} // any other failure is that the daemon has ended, as take will see
}

// beNice has the kernel prefer this process to those of other sessions, where it groups
// processes by those (autogroup, sched(7)): nice values count within a group only. This process
// is a session of its own.
func beNice() {
	_ = os.WriteFile("/proc/self/autogroup", []byte("-10"), 0)
}

// tidy collects garbage when nothing has appeared for a while, and it is worth it: the thread
// waits for others meanwhile.
func (s *preparerServer) tidy(ctx context.Context) {
	var since <-chan time.Time
	for {
		select {
		case <-s.appeared:
			since = time.After(restful)
		case <-since:
			since = nil
			if inUse() > worthwhile {
				debug.FreeOSMemory()
			}
		case <-ctx.Done():
			return
		}
	}
}

// inUse is how much memory objects take, and garbage.
func inUse() uint64 {
	sample := []metrics.Sample{{Name: "/memory/classes/heap/objects:bytes"}}
	metrics.Read(sample)
	if sample[0].Value.Kind() != metrics.KindUint64 {
		return 0
	}
	return sample[0].Value.Uint64()
}
