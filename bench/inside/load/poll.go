package main

import (
	"errors"
	"fmt"
	"net/netip"
	"time"

	"golang.org/x/sys/unix"
)

// silence is how long nothing may happen before a measurement is given up.
const silence = 10 * time.Second

var errSilence = fmt.Errorf("nothing happened for %s", silence)

// poll is an epoll instance.
type poll struct {
	fd     int
	events [128]unix.EpollEvent
}

func newPoll() (*poll, error) {
	fd, err := unix.EpollCreate1(unix.EPOLL_CLOEXEC)
	if err != nil {
		return nil, fmt.Errorf("epoll_create1: %w", err)
	}
	return &poll{fd: fd}, nil
}

func (p *poll) close() { _ = unix.Close(p.fd) }

// set asks for events of fd; op is EPOLL_CTL_ADD or EPOLL_CTL_MOD.
func (p *poll) set(op, fd int, events uint32) error {
	if err := unix.EpollCtl(p.fd, op, fd, &unix.EpollEvent{Events: events, Fd: int32(fd)}); err != nil {
		return fmt.Errorf("epoll_ctl: %w", err)
	}
	return nil
}

// wait returns the next events, and errSilence after silence; never is a negative one.
func (p *poll) wait(silence time.Duration) ([]unix.EpollEvent, error) {
	timeout := -1
	if silence >= 0 {
		timeout = int(silence.Milliseconds())
	}
	for {
		n, err := unix.EpollWait(p.fd, p.events[:], timeout)
		if errors.Is(err, unix.EINTR) {
			continue
		}
		if err != nil {
			return nil, fmt.Errorf("epoll_wait: %w", err)
		}
		if n == 0 {
			return nil, errSilence
		}
		return p.events[:n], nil
	}
}

// connect begins a connection that does not block.
func connect(to netip.AddrPort) (int, error) {
	fd, err := unix.Socket(unix.AF_INET, unix.SOCK_STREAM|unix.SOCK_NONBLOCK|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return -1, fmt.Errorf("socket: %w", err)
	}
	err = unix.SetsockoptInt(fd, unix.IPPROTO_TCP, unix.TCP_NODELAY, 1)
	if err == nil {
		err = unix.Connect(fd, &unix.SockaddrInet4{Port: int(to.Port()), Addr: to.Addr().As4()})
	}
	if err != nil && !errors.Is(err, unix.EINPROGRESS) {
		_ = unix.Close(fd)
		return -1, fmt.Errorf("connect to %s: %w", to, err)
	}
	return fd, nil
}

// connected says what became of a connection that has become writable.
func connected(fd int) error {
	code, err := unix.GetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_ERROR)
	if err != nil {
		return fmt.Errorf("SO_ERROR: %w", err)
	}
	if code != 0 {
		return fmt.Errorf("connect: %w", unix.Errno(code))
	}
	return nil
}

// dial connects, and blocks.
func dial(to netip.AddrPort) (int, error) {
	fd, err := connect(to)
	if err != nil {
		return -1, err
	}
	ready := []unix.PollFd{{Fd: int32(fd), Events: unix.POLLOUT}}
	n, err := unix.Poll(ready, int(silence.Milliseconds()))
	for errors.Is(err, unix.EINTR) {
		n, err = unix.Poll(ready, int(silence.Milliseconds()))
	}
	switch {
	case err != nil:
		err = fmt.Errorf("poll: %w", err)
	case n == 0:
		err = errSilence
	default:
		err = connected(fd)
	}
	if err == nil {
		err = unix.SetNonblock(fd, false)
	}
	if err != nil {
		_ = unix.Close(fd)
		return -1, err
	}
	return fd, nil
}
