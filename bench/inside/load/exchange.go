package main

import (
	"errors"
	"fmt"
	"net/netip"
	"time"

	"golang.org/x/sys/unix"
)

// exchangeLoad is the load of connections that stay. On each the next message is sent when
// the last has come back.
type exchangeLoad struct {
	*poll
	message, buffer []byte
	sent            map[int]*flight
}

// flight is a message on its way.
type flight struct {
	since time.Time
	back  int // bytes of it
}

func newExchange(to netip.AddrPort, size, connections int) (*exchangeLoad, error) {
	p, err := newPoll()
	if err != nil {
		return nil, err
	}
	e := &exchangeLoad{poll: p, message: make([]byte, size), buffer: make([]byte, size), sent: map[int]*flight{}}
	for range connections {
		fd, err := dial(to)
		if err != nil {
			e.close()
			return nil, err
		}
		e.sent[fd] = &flight{}
		if err = unix.SetNonblock(fd, true); err == nil {
			err = e.set(unix.EPOLL_CTL_ADD, fd, unix.EPOLLIN)
		}
		if err != nil {
			e.close()
			return nil, err
		}
	}
	return e, nil
}

func (e *exchangeLoad) close() {
	for fd := range e.sent {
		_ = unix.Close(fd)
	}
	e.poll.close()
}

func (e *exchangeLoad) run(d time.Duration, _ int) (tally, error) {
	var t tally
	began := time.Now()
	for fd, f := range e.sent {
		if err := e.send(fd, f); err != nil {
			return t, err
		}
	}
	for away := len(e.sent); away > 0; {
		events, err := e.wait(silence)
		if err != nil {
			return t, err
		}
		for _, event := range events {
			fd := int(event.Fd)
			f := e.sent[fd]
			whole, err := e.receive(fd, f)
			if err != nil {
				return t, err
			}
			if !whole {
				continue
			}
			now := time.Now()
			t.latencies = append(t.latencies, now.Sub(f.since))
			if now.Sub(began) >= d {
				away--
			} else if err := e.send(fd, f); err != nil {
				return t, err
			}
		}
	}
	return t, nil
}

func (e *exchangeLoad) send(fd int, f *flight) error {
	*f = flight{since: time.Now()}
	if err := writeAll(fd, e.message); err != nil {
		return fmt.Errorf("write: %w", err)
	}
	return nil
}

// receive reports whether the message is back.
func (e *exchangeLoad) receive(fd int, f *flight) (bool, error) {
	n, err := unix.Read(fd, e.buffer[f.back:])
	if errors.Is(err, unix.EAGAIN) {
		return false, nil
	}
	if err != nil {
		return false, fmt.Errorf("read: %w", err)
	}
	if n == 0 {
		return false, errors.New("the connection was closed")
	}
	f.back += n
	return f.back == len(e.message), nil
}
