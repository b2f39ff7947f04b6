package main

import (
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"net/netip"
	"time"

	"golang.org/x/sys/unix"
)

// streamLoad is the load of one connection in one direction, a new one each time.
type streamLoad struct {
	to   netip.AddrPort
	move func(fd int, d time.Duration) (int64, error)
}

func (s streamLoad) close() {}

func (s streamLoad) run(d time.Duration, _ int) (tally, error) {
	fd, err := dial(s.to)
	if err != nil {
		return tally{}, err
	}
	defer func() { _ = unix.Close(fd) }()
	bytes, err := s.move(fd, d)
	return tally{bytes: bytes}, err
}

// up sends for d, and ends when the backend has said that it has it all.
func up(fd int, d time.Duration) (int64, error) {
	buffer := make([]byte, chunk)
	var sent int64
	for began := time.Now(); time.Since(began) < d; {
		n, err := unix.Write(fd, buffer)
		if err != nil {
			return sent, fmt.Errorf("write: %w", err)
		}
		sent += int64(n)
	}
	if err := unix.Shutdown(fd, unix.SHUT_WR); err != nil {
		return sent, fmt.Errorf("shutdown: %w", err)
	}
	var count [8]byte
	if _, err := io.ReadFull(descriptorReader(fd), count[:]); err != nil {
		return sent, fmt.Errorf("read the backend's count: %w", err)
	}
	if got := int64(binary.BigEndian.Uint64(count[:])); got != sent {
		return sent, fmt.Errorf("the backend got %d of %d bytes", got, sent)
	}
	return sent, nil
}

// down receives what the backend sends for d, and ends with that.
func down(fd int, d time.Duration) (int64, error) {
	if err := writeAll(fd, binary.BigEndian.AppendUint64(nil, uint64(d))); err != nil {
		return 0, fmt.Errorf("write: %w", err)
	}
	buffer := make([]byte, chunk)
	var got int64
	for {
		n, err := descriptorReader(fd).Read(buffer)
		got += int64(n)
		if errors.Is(err, io.EOF) {
			return got, nil
		}
		if err != nil {
			return got, err
		}
	}
}

// descriptorReader is a descriptor as an io.Reader.
type descriptorReader int

func (r descriptorReader) Read(b []byte) (int, error) {
	n, err := unix.Read(int(r), b)
	if err != nil {
		return 0, fmt.Errorf("read: %w", err)
	}
	if n == 0 {
		return 0, io.EOF
	}
	return n, nil
}
