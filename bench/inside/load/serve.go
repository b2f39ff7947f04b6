package main

import (
	"encoding/binary"
	"errors"
	"fmt"
	"time"

	"golang.org/x/sys/unix"

	"github.com/ambassadord/ambassadord/bench/inside/job"
)

// chunk is what a stream is read and written by, in bytes.
const chunk = 256 << 10

// loadServer is the backend.
type loadServer struct {
	*poll
	listeners map[int]int // descriptor → port
	peers     map[int]*peer
	buffer    [chunk]byte
}

// peer is one connection.
type peer struct {
	port  int
	bytes uint64    // a sink has read
	until time.Time // a source sends
}

func serve() error {
	p, err := newPoll()
	if err != nil {
		return err
	}
	defer p.close()
	s := &loadServer{poll: p, listeners: map[int]int{}, peers: map[int]*peer{}}
	for _, port := range job.Ports() {
		if err := s.listen(port); err != nil {
			return fmt.Errorf("listen on %d: %w", port, err)
		}
	}
	for {
		events, err := s.wait(-1)
		if err != nil {
			return err
		}
		for _, event := range events {
			fd := int(event.Fd)
			if port, ok := s.listeners[fd]; ok {
				err = s.accept(fd, port)
			} else {
				s.handle(fd)
			}
			if err != nil {
				return err
			}
		}
	}
}

func (s *loadServer) listen(port int) error {
	fd, err := unix.Socket(unix.AF_INET, unix.SOCK_STREAM|unix.SOCK_NONBLOCK|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return err
	}
	if err := unix.SetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_REUSEADDR, 1); err != nil {
		return err
	}
	// Inherited by what is accepted.
	if err := unix.SetsockoptInt(fd, unix.IPPROTO_TCP, unix.TCP_NODELAY, 1); err != nil {
		return err
	}
	if err := unix.Bind(fd, &unix.SockaddrInet4{Port: port}); err != nil {
		return err
	}
	if err := unix.Listen(fd, 4096); err != nil {
		return err
	}
	s.listeners[fd] = port
	return s.set(unix.EPOLL_CTL_ADD, fd, unix.EPOLLIN)
}

func (s *loadServer) accept(listener, port int) error {
	fd, _, err := unix.Accept4(listener, unix.SOCK_NONBLOCK|unix.SOCK_CLOEXEC)
	if errors.Is(err, unix.EAGAIN) || errors.Is(err, unix.ECONNABORTED) {
		return nil
	}
	if err != nil {
		return fmt.Errorf("accept: %w", err)
	}
	s.peers[fd] = &peer{port: port}
	return s.set(unix.EPOLL_CTL_ADD, fd, unix.EPOLLIN)
}

// handle serves a connection that is ready. What goes wrong with one ends that one: the
// client's side tells of it.
func (s *loadServer) handle(fd int) {
	p := s.peers[fd]
	var err error
	switch {
	case p.port == job.Sink:
		err = s.sink(fd, p)
	case p.port != job.Source:
		err = s.echo(fd)
	case p.until.IsZero():
		err = s.told(fd, p)
	default:
		err = s.source(fd, p)
	}
	if err != nil && !errors.Is(err, unix.EAGAIN) {
		delete(s.peers, fd)
		_ = unix.Close(fd)
	}
}

// errDone ends a connection in order.
var errDone = errors.New("done")

func (s *loadServer) read(fd int) ([]byte, error) {
	n, err := unix.Read(fd, s.buffer[:])
	if err != nil {
		return nil, err
	}
	return s.buffer[:n], nil
}

// echo relies on what one exchange sends fitting the socket's buffer.
func (s *loadServer) echo(fd int) error {
	data, err := s.read(fd)
	if err != nil {
		return err
	}
	if len(data) == 0 {
		return errDone
	}
	return writeAll(fd, data)
}

func (s *loadServer) sink(fd int, p *peer) error {
	data, err := s.read(fd)
	if err != nil {
		return err
	}
	p.bytes += uint64(len(data))
	if len(data) > 0 {
		return nil
	}
	if err := writeAll(fd, binary.BigEndian.AppendUint64(nil, p.bytes)); err != nil {
		return err
	}
	return errDone
}

func (s *loadServer) told(fd int, p *peer) error {
	data, err := s.read(fd)
	if err != nil {
		return err
	}
	if len(data) != 8 {
		return errDone
	}
	p.until = time.Now().Add(time.Duration(binary.BigEndian.Uint64(data)))
	return s.set(unix.EPOLL_CTL_MOD, fd, unix.EPOLLOUT)
}

func (s *loadServer) source(fd int, p *peer) error {
	if time.Now().After(p.until) {
		return errDone
	}
	_, err := unix.Write(fd, s.buffer[:])
	return err
}

// writeAll writes what has to fit the socket's buffer.
func writeAll(fd int, data []byte) error {
	n, err := unix.Write(fd, data)
	if err == nil && n < len(data) {
		err = fmt.Errorf("wrote %d of %d bytes", n, len(data))
	}
	return err
}
