package advance

import (
	"encoding/binary"
	"errors"
	"fmt"
	"os"

	"github.com/mdlayher/netlink"
	"golang.org/x/sys/unix"

	"github.com/ambassadord/ambassadord/netrules/netns"
)

// rawSocket is a netlink socket of nftables. mdlayher/netlink's own starts a goroutine for each
// system call and waits for it, so that on a busy host a dozen of them take as long as the
// operating system takes to run a dozen threads. The kernel has answered when sendto(2)
// returns, so nothing here waits at all.
type rawSocket int

func openSocket(ns *netns.Namespace) (rawSocket, error) {
	fd := -1
	err := ns.Do(func() (err error) { // it stays in the namespace that it was made in
		fd, err = unix.Socket(unix.AF_NETLINK, unix.SOCK_RAW|unix.SOCK_CLOEXEC, unix.NETLINK_NETFILTER)
		return os.NewSyscallError("socket", err)
	})
	if err != nil {
		return -1, err
	}
	if err := unix.Bind(fd, &unix.SockaddrNetlink{Family: unix.AF_NETLINK}); err != nil {
		_ = unix.Close(fd)
		return -1, os.NewSyscallError("bind", err)
	}
	// An error need not repeat what we have said.
	_ = unix.SetsockoptInt(fd, unix.SOL_NETLINK, unix.NETLINK_CAP_ACK, 1)
	return rawSocket(fd), nil
}

func (s rawSocket) close() error { return unix.Close(int(s)) }

// transact has the kernel do all of messages, or none.
func (s rawSocket) transact(messages ...nftMessage) error {
	var batch []byte
	for i, m := range append([]nftMessage{bracket(unix.NFNL_MSG_BATCH_BEGIN)}, append(messages, bracket(unix.NFNL_MSG_BATCH_END))...) {
		flags := netlink.Request | m.flags
		if i == len(messages) {
			flags |= netlink.Acknowledge // the last one: if it is done, all are
		}
		encoded, err := (netlink.Message{
			Header: netlink.Header{Length: uint32(unix.NLMSG_HDRLEN + len(m.data)), Type: m.kind, Flags: flags, Sequence: uint32(i)},
			Data:   m.data,
		}).MarshalBinary()
		if err != nil {
			return fmt.Errorf("encode a message: %w", err)
		}
		batch = append(batch, encoded...)
	}
	if err := unix.Sendto(int(s), batch, 0, &unix.SockaddrNetlink{Family: unix.AF_NETLINK}); err != nil {
		return os.NewSyscallError("sendto", err)
	}
	return s.answer()
}

// answer reads the kernel's answer to a batch: an error for each message that it does not do, or
// one that says that there is none.
func (s rawSocket) answer() error {
	var buffer [4 << 10]byte
	answered, failed := false, error(nil)
	for {
		n, _, err := unix.Recvfrom(int(s), buffer[:], unix.MSG_DONTWAIT)
		switch {
		case errors.Is(err, unix.EAGAIN) && failed != nil:
			return failed
		case errors.Is(err, unix.EAGAIN) && answered:
			return nil
		case err != nil:
			return os.NewSyscallError("recvfrom", err)
		case n < unix.SizeofNlMsghdr+4 || binary.NativeEndian.Uint16(buffer[4:]) != unix.NLMSG_ERROR:
			return fmt.Errorf("an answer of %d bytes that is none", n)
		}
		answered = true
		if errno := -int32(binary.NativeEndian.Uint32(buffer[unix.SizeofNlMsghdr:])); errno != 0 && failed == nil {
			failed = unix.Errno(errno)
		}
	}
}
