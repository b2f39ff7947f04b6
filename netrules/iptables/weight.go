package iptables

import (
	"encoding/binary"
	"errors"
	"fmt"
	"os"
	"syscall"
	"time"
	"unsafe"

	"golang.org/x/sys/unix"

	"github.com/ambassadord/ambassadord/netrules"
	"github.com/ambassadord/ambassadord/netrules/netns"
)

const (
	// manyRules is from how many rules, chains and sets on a namespace is heavy: iptables
	// lists 30,000 in half a second of processor time, and 1,000 no slower than it starts.
	manyRules = 1000
	// manyBytes is likewise how long what describes them is.
	manyBytes = 1 << 20
)

// Heavy reports whether it takes long to read the rules of a namespace, which whoever has
// NET_ADMIN in there decides; a nil namespace is the process's own. To ask costs a few
// system calls and no process, however many rules there are: nobody counts beyond what is
// many.
func (r *Rules) Heavy(ns *netns.Namespace) (bool, error) {
	heavy, err := within(ns, func() (bool, error) {
		for _, t := range []*tool{r.v4, r.v6} {
			if t == nil {
				continue
			}
			heavy, err := t.heavy()
			if heavy || err != nil {
				return heavy, err
			}
		}
		return false, nil
	})
	if err != nil {
		return false, fmt.Errorf("count the rules in %s: %w", where(ns), err)
	}
	return heavy, nil
}

// heavy is asked in the namespace.
func (t *tool) heavy() (bool, error) {
	if t.variant == Legacy {
		exists, err := legacyTable(t.family)
		if err != nil || !exists {
			return false, err
		}
		info, err := legacyInfo(t.family)
		return info.NumEntries > manyRules || info.Size > manyBytes, err
	}
	left := budget{messages: manyRules, bytes: manyBytes}
	// What belongs to one table can be asked for by its name; chains cannot.
	table := nameAttribute(unix.NFTA_RULE_TABLE, natTable)
	for _, asked := range []struct {
		kind uint16
		what []byte
	}{{unix.NFT_MSG_GETRULE, table}, {unix.NFT_MSG_GETCHAIN, nil}, {unix.NFT_MSG_GETSET, table}} {
		if err := left.dump(asked.kind, byte(nftFamily(t.family)), asked.what); err != nil {
			return false, err
		}
	}
	return left.spent(), nil
}

// budget is how much may still be read before that is enough.
type budget struct {
	messages, bytes int
	each            func(syscall.NetlinkMessage) error // called with every message; may be nil
}

func (b *budget) spent() bool { return b.messages <= 0 || b.bytes <= 0 }

// dump has nftables list what there is of a kind, in the calling thread's namespace, and
// breaks off when the budget is spent: the kernel lists no further than is read.
func (b *budget) dump(kind uint16, family byte, what []byte) error {
	if b.spent() {
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
	wait := unix.NsecToTimeval(int64(execTimeout / time.Nanosecond))
	if err := unix.SetsockoptTimeval(fd, unix.SOL_SOCKET, unix.SO_RCVTIMEO, &wait); err != nil {
		return os.NewSyscallError("setsockopt", err)
	}
	const headers = unix.SizeofNlMsghdr + 4 // and struct nfgenmsg
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
	for !b.spent() {
		n, _, err := unix.Recvfrom(fd, buffer, 0)
		if errors.Is(err, unix.EINTR) {
			continue
		}
		if err != nil {
			return os.NewSyscallError("recvfrom", err)
		}
		b.bytes -= n
		if done, err := b.count(buffer[:n]); done || err != nil {
			return err
		}
	}
	return nil
}

// count counts the messages of one answer; done says that it was the last.
func (b *budget) count(answer []byte) (done bool, err error) {
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
		b.messages--
		if b.each == nil {
			continue
		}
		if err := b.each(m); err != nil {
			return false, err
		}
	}
	return false, nil
}

// nameAttribute is a netlink attribute with a name in it, as in netlink(7).
func nameAttribute(kind uint16, name string) []byte {
	const header, alignment = 4, 4
	size := header + len(name) + 1
	b := make([]byte, (size+alignment-1)&^(alignment-1))
	binary.NativeEndian.PutUint16(b, uint16(size))
	binary.NativeEndian.PutUint16(b[2:], kind)
	copy(b[header:], name)
	return b
}

// legacyInfo asks for the size of the nat table of the calling thread's namespace, which
// must exist, or the kernel makes it.
func legacyInfo(f netrules.Family) (info tableInfo, err error) {
	fd, level, err := legacySocket(f)
	if err != nil {
		return info, err
	}
	defer func() { _ = unix.Close(fd) }()
	return infoAt(fd, level)
}
