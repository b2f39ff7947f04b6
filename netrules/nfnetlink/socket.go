package nfnetlink

import (
	"encoding/binary"
	"errors"
	"fmt"
	"os"
	"syscall"
	"time"

	"github.com/mdlayher/netlink"
	"golang.org/x/sys/unix"
)

// socket is a netlink socket for one exchange with nftables. A container is attached with some
// twenty of them. mdlayher/netlink makes one for long waits: it registers the socket with the
// runtime's poller and seeds a random generator for it, which costs more than the kernel's answer.
type socket int

// open makes a socket in the calling thread's namespace. The caller has to close it.
func open() (socket, error) {
	fd, err := unix.Socket(unix.AF_NETLINK, unix.SOCK_RAW|unix.SOCK_CLOEXEC, unix.NETLINK_NETFILTER)
	if err != nil {
		return -1, os.NewSyscallError("socket", err)
	}
	// The kernel answers at once; this is for the day it does not.
	wait := unix.NsecToTimeval(int64(answerTimeout / time.Nanosecond))
	if err := unix.SetsockoptTimeval(fd, unix.SOL_SOCKET, unix.SO_RCVTIMEO, &wait); err != nil {
		_ = unix.Close(fd)
		return -1, os.NewSyscallError("setsockopt", err)
	}
	return socket(fd), nil
}

func (s socket) close() { _ = unix.Close(int(s)) }

// room makes the socket able to send a message of so many bytes, with CAP_NET_ADMIN beyond the
// bound of the system (net.core.wmem_max).
func (s socket) room(size int) error {
	err := unix.SetsockoptInt(int(s), unix.SOL_SOCKET, unix.SO_SNDBUFFORCE, size)
	if err != nil {
		err = unix.SetsockoptInt(int(s), unix.SOL_SOCKET, unix.SO_SNDBUF, size)
	}
	return os.NewSyscallError("setsockopt", err)
}

func (s socket) send(b []byte) error {
	return os.NewSyscallError("sendto", unix.Sendto(int(s), b, 0, &unix.SockaddrNetlink{Family: unix.AF_NETLINK}))
}

// receive reads one datagram of the kernel's. A process with CAP_NET_ADMIN in the namespace
// may send to our socket, too: a datagram that is not from the kernel is dropped.
func (s socket) receive(buffer []byte) (int, error) {
	deadline := time.Now().Add(answerTimeout)
	for {
		n, from, err := unix.Recvfrom(int(s), buffer, 0)
		if kernel, ok := from.(*unix.SockaddrNetlink); err == nil && ok && kernel.Pid == 0 {
			return n, nil
		}
		if err != nil && !errors.Is(err, unix.EINTR) {
			return 0, os.NewSyscallError("recvfrom", err)
		}
		if time.Now().After(deadline) {
			return 0, os.NewSyscallError("recvfrom", unix.EAGAIN)
		}
	}
}

// appendMessage adds a message as it is sent; the kernel needs it aligned to four bytes.
func appendMessage(b []byte, m netlink.Message) []byte {
	const headerSize, alignment = unix.NLMSG_HDRLEN, unix.NLMSG_ALIGNTO
	b = binary.NativeEndian.AppendUint32(b, uint32(headerSize+len(m.Data)))
	b = binary.NativeEndian.AppendUint16(b, uint16(m.Header.Type))
	b = binary.NativeEndian.AppendUint16(b, uint16(m.Header.Flags))
	b = append(b, make([]byte, 8)...) // the sequence and the sender, which an exchange of one question does not need
	b = append(b, m.Data...)
	for len(b)%alignment != 0 {
		b = append(b, 0)
	}
	return b
}

// errorOf is what a message of type NLMSG_ERROR says: nil if that is an acknowledgement.
func errorOf(m syscall.NetlinkMessage) error {
	const size = 4 // of the number, which the message that it is about follows
	if len(m.Data) < size {
		return errors.New("nftables answered with half an error")
	}
	if errno := unix.Errno(-int32(binary.NativeEndian.Uint32(m.Data))); errno != 0 {
		return errno
	}
	return nil
}

// answer is the first message that the kernel answers. An answer about one thing, and an
// acknowledgement, fit into the buffer; an error brings the message along that it is about, of
// which nobody needs the rest.
func (s socket) answer() (syscall.NetlinkMessage, error) {
	buffer := make([]byte, 4<<10)
	n, err := s.receive(buffer)
	if err != nil {
		return syscall.NetlinkMessage{}, err
	}
	if n < unix.NLMSG_HDRLEN {
		return syscall.NetlinkMessage{}, errors.New("nftables answered with half a message")
	}
	m := syscall.NetlinkMessage{
		Header: syscall.NlMsghdr{Len: binary.NativeEndian.Uint32(buffer), Type: binary.NativeEndian.Uint16(buffer[4:])},
		Data:   buffer[unix.NLMSG_HDRLEN:min(n, max(int(binary.NativeEndian.Uint32(buffer)), unix.NLMSG_HDRLEN))],
	}
	if m.Header.Type == unix.NLMSG_ERROR {
		return m, errorOf(m)
	}
	if int(m.Header.Len) > n {
		return m, fmt.Errorf("nftables answered %d bytes at once", m.Header.Len)
	}
	return m, nil
}
