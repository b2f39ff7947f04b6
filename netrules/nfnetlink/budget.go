package nfnetlink

import (
	"errors"
	"fmt"
	"syscall"

	"github.com/mdlayher/netlink"
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
	s, err := open()
	if errors.Is(err, unix.EPROTONOSUPPORT) {
		return nil // no nftables, no rules
	}
	if err != nil {
		return err
	}
	defer s.close()
	question := netlink.Message{
		Header: netlink.Header{Type: netlink.HeaderType(unix.NFNL_SUBSYS_NFTABLES<<8 | kind), Flags: netlink.Request | netlink.Dump},
		Data:   append([]byte{family, unix.NFNETLINK_V0, 0, 0}, what...),
	}
	if err := s.send(appendMessage(nil, question)); err != nil {
		return err
	}
	// The kernel says a page at first, and later on as much as it was let say before.
	buffer := make([]byte, 8<<10)
	for !b.Spent() {
		n, err := s.receive(buffer)
		if err != nil {
			return err
		}
		b.Bytes -= n
		if done, err := b.count(buffer[:n]); done || err != nil {
			return err
		}
		if most := 32 << 10; len(buffer) < most {
			buffer = make([]byte, most)
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
			err := errorOf(m)
			if err == nil || errors.Is(err, unix.ENOENT) { // there is no such table
				return true, nil
			}
			return false, fmt.Errorf("list nftables: %w", err)
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
