package main

import (
	"errors"
	"fmt"
	"net/netip"
	"time"

	"golang.org/x/sys/unix"
)

// churn is the load of connections that carry one exchange each.
type churn struct {
	*poll
	to              []netip.AddrPort
	next            int // of to
	message, buffer []byte
	connections     int
	open            map[int]*churnVisit
}

// churnVisit is one connection.
type churnVisit struct {
	since     time.Time
	connected bool
	back      int // bytes of the message
}

func newChurn(to []netip.AddrPort, size, connections int) (*churn, error) {
	p, err := newPoll()
	if err != nil {
		return nil, err
	}
	return &churn{
		poll: p, to: to, message: make([]byte, size), buffer: make([]byte, size),
		connections: connections, open: map[int]*churnVisit{},
	}, nil
}

func (c *churn) close() {
	for fd := range c.open {
		_ = unix.Close(fd)
	}
	c.poll.close()
}

func (c *churn) run(d time.Duration, most int) (tally, error) {
	var t tally
	began := time.Now()
	begun := 0
	for ; begun < min(c.connections, most); begun++ {
		if err := c.begin(); err != nil {
			return t, err
		}
	}
	for len(c.open) > 0 {
		events, err := c.wait(silence)
		if err != nil {
			return t, err
		}
		for _, event := range events {
			fd := int(event.Fd)
			v := c.open[fd]
			done, err := c.advance(fd, v)
			if err != nil {
				return t, err
			}
			if !done {
				continue
			}
			now := time.Now()
			t.latencies = append(t.latencies, now.Sub(v.since))
			if now.Sub(began) >= d || begun >= most {
				continue
			}
			if err := c.begin(); err != nil {
				return t, err
			}
			begun++
		}
	}
	return t, nil
}

func (c *churn) begin() error {
	v := &churnVisit{since: time.Now()}
	fd, err := connect(c.to[c.next])
	if err != nil {
		return err
	}
	c.next = (c.next + 1) % len(c.to)
	c.open[fd] = v
	return c.set(unix.EPOLL_CTL_ADD, fd, unix.EPOLLOUT)
}

// advance goes on with a connection that is ready, and reports whether it has ended.
func (c *churn) advance(fd int, v *churnVisit) (bool, error) {
	if !v.connected {
		if err := connected(fd); err != nil {
			return false, err
		}
		v.connected = true
		if err := writeAll(fd, c.message); err != nil {
			return false, fmt.Errorf("write: %w", err)
		}
		return false, c.set(unix.EPOLL_CTL_MOD, fd, unix.EPOLLIN)
	}
	n, err := unix.Read(fd, c.buffer[v.back:])
	if errors.Is(err, unix.EAGAIN) {
		return false, nil
	}
	if err != nil {
		return false, fmt.Errorf("read: %w", err)
	}
	if n == 0 {
		return false, errors.New("the connection was closed")
	}
	if v.back += n; v.back < len(c.message) {
		return false, nil
	}
	delete(c.open, fd)
	return true, unix.Close(fd)
}
