package nfnetlink

import (
	"encoding/binary"
	"errors"
	"fmt"
	"os"
	"syscall"
	"time"
	"unsafe"

	"golang.org/x/sys/unix"
)

// Budget is how much may still be read before that is enough.
type Budget struct {
	Messages, Bytes int
	Each            func(syscall.NetlinkMessage) error // called with every message; may be nil
}

// Spent reports whether nothing may be read any more.
func (b *Budget) Spent() bool { return b.Messages <= 0 || b.Bytes <= 0 }

// Dump has nftables list what there is of a kind, and breaks off when the budget is spent:
// the kernel lists no further than is read.
func (b *Budget) Dump(kind uint16, family byte, what []byte) error {
	if b.Spent() {
		return nil
	}
	fd, err := unix.Socket(unix.AF_NETLINK, unix.SOCK_RAW|unix.SOCK_CLOEXEC, unix.NETLINK_NETFILTER)
	if errors.Is(err, unix.EPROTONOSUPPORT) {
		return nil // no nftables, no rules
	}
	if err != nil {
		return os.NewSyscallError("socket", err)
	}
	defer func() { _ = unix.Close(fd) }()
	// The kernel answers at once; this is for the day it does not.
	wait := unix.NsecToTimeval(int64(answerTimeout / time.Nanosecond))
	if err := unix.SetsockoptTimeval(fd, unix.SOL_SOCKET, unix.SO_RCVTIMEO, &wait); err != nil {
		return os.NewSyscallError("setsockopt", err)
	}
	const headers = unix.SizeofNlMsghdr + header
	question := make([]byte, headers, headers+len(what))
	binary.NativeEndian.PutUint32(question, uint32(headers+len(what)))
	binary.NativeEndian.PutUint16(question[4:], unix.NFNL_SUBSYS_NFTABLES<<8|kind)
	binary.NativeEndian.PutUint16(question[6:], unix.NLM_F_REQUEST|unix.NLM_F_DUMP)
	question[unix.SizeofNlMsghdr] = family
	question = append(question, what...)
	if err := unix.Sendto(fd, question, 0, &unix.SockaddrNetlink{Family: unix.AF_NETLINK}); err != nil {
		return os.NewSyscallError("sendto", err)
	}
	buffer := make([]byte, 32<<10) // as much as the kernel says at once
	for !b.Spent() {
		n, _, err := unix.Recvfrom(fd, buffer, 0)
		if errors.Is(err, unix.EINTR) {
			continue
		}
		if err != nil {
			return os.NewSyscallError("recvfrom", err)
		}
		b.Bytes -= n
		if done, err := b.count(buffer[:n]); done || err != nil {
			return err
		}
	}
	return nil
}

// count counts the messages of one answer; done says that it was the last.
func (b *Budget) count(answer []byte) (done bool, err error) {
	messages, err := syscall.ParseNetlinkMessage(answer)
	if err != nil {
		return false, fmt.Errorf("what nftables answered: %w", err)
	}
	for _, m := range messages {
		switch m.Header.Type {
		case unix.NLMSG_DONE:
			return true, nil
		case unix.NLMSG_ERROR:
			if len(m.Data) < int(unsafe.Sizeof(int32(0))) {
				return false, errors.New("nftables answered with half an error")
			}
			errno := unix.Errno(-int32(binary.NativeEndian.Uint32(m.Data)))
			if errno == 0 || errno == unix.ENOENT { // there is no such table
				return true, nil
			}
			return false, fmt.Errorf("list nftables: %w", errno)
		}
		b.Messages--
		if b.Each == nil {
			continue
		}
		if err := b.Each(m); err != nil {
			return false, err
		}
	}
	return false, nil
}
