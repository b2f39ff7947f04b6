package netns

import (
	"context"
	"errors"
	"fmt"
	"os"
	"time"

	"golang.org/x/sys/unix"
)

// groups are what the kernel tells of, by protocol: changed nftables rules (which the
// iptables programs of that variant make too, and so do Docker and firewalld), links and
// addresses. See netlink(7), rtnetlink(7) and linux/netfilter/nfnetlink.h.
func groups() map[int][]int {
	return map[int][]int{
		unix.NETLINK_NETFILTER: {unix.NFNLGRP_NFTABLES},
		unix.NETLINK_ROUTE:     {unix.RTNLGRP_LINK, unix.RTNLGRP_IPV4_IFADDR, unix.RTNLGRP_IPV6_IFADDR},
	}
}

// Changes returns a channel that holds a token after the rules, links or addresses
// of the namespace have changed, and a function that ends it and waits until it has
// ended; until then it keeps the namespace alive. No kernel tells of changes by the
// legacy iptables. A nil namespace is the process's own.
func (n *Namespace) Changes(ctx context.Context) (changed <-chan struct{}, end func(), err error) {
	var sockets []*os.File
	err = n.Do(func() (err error) {
		sockets, err = listenToAll()
		return err
	})
	if err != nil {
		return nil, nil, fmt.Errorf("listen to changes of %s: %w", n.Name(), err)
	}
	token := make(chan struct{}, 1)
	done := make(chan struct{}, len(sockets))
	reading, stopReading := context.WithCancel(ctx)
	for _, socket := range sockets {
		go func() { readChanges(reading, socket, token); done <- struct{}{} }()
	}
	stop := context.AfterFunc(ctx, func() { closeAll(sockets) })
	return token, func() {
		stop()
		stopReading()
		closeAll(sockets)
		for range sockets {
			<-done
		}
	}, nil
}

// listenToAll opens the sockets in the calling thread's namespace.
func listenToAll() ([]*os.File, error) {
	var sockets []*os.File
	for protocol, members := range groups() {
		socket, err := listenTo(protocol, members)
		if errors.Is(err, unix.EPROTONOSUPPORT) || errors.Is(err, unix.ENOENT) {
			continue // this kernel has no nftables
		}
		if err != nil {
			closeAll(sockets)
			return nil, err
		}
		sockets = append(sockets, socket)
	}
	return sockets, nil
}

// listenTo opens a netlink socket that is told of some groups.
func listenTo(protocol int, groups []int) (*os.File, error) {
	fd, err := unix.Socket(unix.AF_NETLINK, unix.SOCK_RAW|unix.SOCK_CLOEXEC|unix.SOCK_NONBLOCK, protocol)
	if err != nil {
		return nil, err
	}
	// A message that is not read in time is lost, which says as much as what it would have said; so
	// a namespace that changes all the time holds as little of the kernel's memory as can be.
	err = unix.SetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_RCVBUF, 1) // the kernel makes it its least
	if err == nil {
		err = unix.Bind(fd, &unix.SockaddrNetlink{Family: unix.AF_NETLINK})
	}
	for _, group := range groups {
		if err == nil {
			err = unix.SetsockoptInt(fd, unix.SOL_NETLINK, unix.NETLINK_ADD_MEMBERSHIP, group)
		}
	}
	if err != nil {
		_ = unix.Close(fd)
		return nil, err
	}
	return os.NewFile(uintptr(fd), "netlink"), nil
}

const (
	// pause is how long what socket says is let be after it was read: a namespace whose
	// rules somebody changes all the time costs us no more than so many readings.
	pause = 20 * time.Millisecond
	// together is how many messages are read at once.
	together = 64
)

// readChanges turns whatever socket says into a token, until it is closed or ctx ends.
func readChanges(ctx context.Context, socket *os.File, token chan<- struct{}) {
	raw, err := socket.SyscallConn()
	if err != nil {
		return
	}
	for {
		var fail error
		if err := raw.Read(func(fd uintptr) (read bool) {
			read, fail = readAll(int(fd))
			return read
		}); err != nil || fail != nil {
			return
		}
		select {
		case token <- struct{}{}:
		default:
		}
		select {
		case <-time.After(pause):
		case <-ctx.Done():
			return
		}
	}
}

// readAll reads what there is, and reports whether there was anything. That messages were
// lost (ENOBUFS) says as much.
func readAll(fd int) (read bool, err error) {
	buffer := make([]byte, 16) // what it says does not matter; the kernel drops the rest of a message
	for range together {
		_, err := unix.Read(fd, buffer)
		switch {
		case errors.Is(err, unix.EAGAIN):
			return read, nil
		case err == nil, errors.Is(err, unix.ENOBUFS):
			read = true
		case !errors.Is(err, unix.EINTR):
			return true, err
		}
	}
	return true, nil
}

func closeAll(files []*os.File) {
	for _, f := range files {
		_ = f.Close() // a second time it does nothing
	}
}
