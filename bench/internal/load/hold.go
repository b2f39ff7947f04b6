package load

import (
	"fmt"
	"net/netip"
	"time"

	"golang.org/x/sys/unix"
)

// opening is how many connections are begun and not yet served at a time, and patience
// how long each has.
const (
	opening  = 128
	patience = 2 * time.Second
)

// Held are idle connections that have each carried one exchange.
type Held struct {
	to  netip.AddrPort
	fds []int
}

// Hold opens n connections and makes an exchange on each, so that the whole way is
// there. Those that are not served within 2 s, or break, are let go.
func Hold(n int, to netip.AddrPort) (*Held, error) {
	h := &Held{to: to}
	p, err := newPoller()
	if err != nil {
		return nil, err
	}
	defer shut(p.fd)
	request, buffer := make([]byte, 64), make([]byte, 64)
	under := map[int]*exchange{}
	for begun := 0; begun < n || len(under) > 0; {
		for ; begun < n && len(under) < opening; begun++ {
			fd, err := dial(netip.Addr{}, to)
			if err != nil {
				return nil, fmt.Errorf("connection %d of %d: %w", begun+1, n, err)
			}
			under[fd] = &exchange{since: time.Now(), left: len(request)}
			if err := p.add(fd, unix.EPOLLOUT); err != nil {
				return nil, err
			}
		}
		for _, event := range p.wait(50 * time.Millisecond) {
			fd := int(event.Fd)
			done, failed := under[fd].step(p, fd, request, buffer)
			if done {
				h.fds = append(h.fds, fd)
				_ = unix.EpollCtl(p.fd, unix.EPOLL_CTL_DEL, fd, nil)
			} else if failed {
				shut(fd)
			}
			if done || failed {
				delete(under, fd)
			}
		}
		for fd, x := range under {
			if time.Since(x.since) > patience {
				shut(fd)
				delete(under, fd)
			}
		}
	}
	return h, nil
}

// Len is how many are held.
func (h *Held) Len() int { return len(h.fds) }

// Count makes another exchange on each connection that is held and says on how many
// it succeeded; the others are let go.
func (h *Held) Count() int {
	request, buffer := make([]byte, 64), make([]byte, 64)
	alive := h.fds[:0]
	for _, fd := range h.fds {
		if n, _ := write(fd, request); n != len(request) || !answered(fd, buffer) {
			shut(fd)
			continue
		}
		alive = append(alive, fd)
	}
	h.fds = alive
	return len(alive)
}

func answered(fd int, buffer []byte) bool {
	for left := len(buffer); left > 0; {
		ready := []unix.PollFd{{Fd: int32(fd), Events: unix.POLLIN}}
		n, err := unix.Poll(ready, int(patience.Milliseconds()))
		if err == unix.EINTR {
			continue
		}
		if err != nil || n != 1 {
			return false
		}
		got, errno := read(fd, buffer)
		if got <= 0 && (got == 0 || !again(errno)) {
			return false
		}
		left -= max(got, 0)
	}
	return true
}

// Close lets all go.
func (h *Held) Close() {
	for _, fd := range h.fds {
		shut(fd)
	}
	h.fds = nil
}
