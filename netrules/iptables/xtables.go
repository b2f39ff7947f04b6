package iptables

import (
	"encoding/binary"
	"errors"
	"fmt"
	"os"
	"runtime"
	"unsafe"

	"golang.org/x/sys/unix"

	"github.com/ambassadord/ambassadord/netrules"
	"github.com/ambassadord/ambassadord/netrules/nfnetlink"
)

// The legacy variant's own system calls: getsockopt on any socket of the family,
// as linux/netfilter_ipv4/ip_tables.h and its IPv6 sister describe them. A
// datagram socket does, where iptables-legacy opens a raw one and so needs
// CAP_NET_RAW.
const (
	soGetInfo    = 64 // IPT_SO_GET_INFO, IP6T_SO_GET_INFO
	soGetEntries = 65 // IPT_SO_GET_ENTRIES, IP6T_SO_GET_ENTRIES

	maxTableName = 32 // XT_TABLE_MAXNAMELEN
	tries        = 10 // to get a table that others are changing
)

// tableInfo is struct ipt_getinfo.
type tableInfo struct {
	Name       [maxTableName]byte
	ValidHooks uint32
	HookEntry  [5]uint32
	Underflow  [5]uint32
	NumEntries uint32
	Size       uint32 // of all entries, in bytes
}

// entryLayout is where things are in struct ipt_entry or ip6t_entry.
type entryLayout struct {
	next     int // offset of next_offset, an uint16: the entry's size in bytes; target_offset comes before it
	counters int // offset of two counters of 8 bytes each
}

func layoutOf(f netrules.Family) entryLayout {
	if f == netrules.IPv6 {
		return entryLayout{next: 142, counters: align8(148)}
	}
	return entryLayout{next: 90, counters: 96}
}

// align8 rounds up to where C puts a number of 8 bytes.
func align8(n int) int {
	if runtime.GOARCH == "386" {
		return n
	}
	return (n + 7) &^ 7
}

// legacyEntries returns the nat table of the calling thread's namespace as the
// kernel holds it, with all counters at zero. The table must exist, or the kernel
// makes it.
func legacyEntries(f netrules.Family) ([]byte, error) {
	fd, level, err := legacySocket(f)
	if err != nil {
		return nil, err
	}
	defer func() { _ = unix.Close(fd) }()

	for range tries {
		info, err := infoAt(fd, level)
		if err != nil {
			return nil, err
		}
		size := info.Size
		if size > maxOutput {
			return nil, tooMuch(fmt.Errorf("entries of table %s: %d bytes", natTable, size))
		}

		// struct ipt_get_entries: the table's name, its size, its entries.
		request := make([]byte, align8(maxTableName+4)+int(size))
		copy(request, natTable)
		binary.NativeEndian.PutUint32(request[maxTableName:], size)
		err = getsockopt(fd, level, soGetEntries, request)
		if errors.Is(err, unix.EAGAIN) {
			continue // it has another size by now
		}
		if err != nil {
			return nil, fmt.Errorf("entries of table %s: %w", natTable, err)
		}
		entries := request[align8(maxTableName+4):]
		return entries, zeroCounters(entries, layoutOf(f))
	}
	return nil, fmt.Errorf("entries of table %s: changed %d times while we read them", natTable, tries)
}

// legacySocket is a socket for the system calls of a family, and their level.
func legacySocket(f netrules.Family) (fd, level int, err error) {
	domain, level := unix.AF_INET, unix.IPPROTO_IP
	if f == netrules.IPv6 {
		domain, level = unix.AF_INET6, unix.IPPROTO_IPV6
	}
	fd, err = unix.Socket(domain, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC, 0)
	return fd, level, os.NewSyscallError("socket", err)
}

// infoAt asks for the size of the nat table.
func infoAt(fd, level int) (info tableInfo, err error) {
	value := make([]byte, unsafe.Sizeof(info))
	copy(value, natTable)
	if err := getsockopt(fd, level, soGetInfo, value); err != nil {
		return info, fmt.Errorf("size of table %s: %w", natTable, err)
	}
	info.NumEntries = binary.NativeEndian.Uint32(value[unsafe.Offsetof(info.NumEntries):])
	info.Size = binary.NativeEndian.Uint32(value[unsafe.Offsetof(info.Size):])
	return info, nil
}

// zeroCounters sets the counters of every entry to zero: traffic is no change.
func zeroCounters(entries []byte, at entryLayout) error {
	return eachEntry(entries, at, func(entry []byte) { clear(entry[at.counters : at.counters+16]) })
}

// chainNames lists the chains of a table that are not built in. Each begins with
// an entry whose target, named ERROR, holds the chain's name (iptables itself
// makes and reads them so; the table's last entry is one too, called ERROR).
func chainNames(entries []byte, at entryLayout) ([]string, error) {
	const (
		targetName = 2  // offset in struct xt_entry_target, after its size
		nameLength = 29 // XT_EXTENSION_MAXNAMELEN
		targetData = 32 // offset of what the target holds
	)
	var names []string
	err := eachEntry(entries, at, func(entry []byte) {
		start := int(binary.NativeEndian.Uint16(entry[at.next-2:])) // target_offset
		if start+targetData > len(entry) {
			return
		}
		target := entry[start:]
		if nfnetlink.Text(target[targetName:targetName+nameLength]) == "ERROR" {
			names = append(names, nfnetlink.Text(target[targetData:]))
		}
	})
	return names, err
}

// eachEntry calls fn with each entry, which holds its fixed part at least.
func eachEntry(entries []byte, at entryLayout, fn func(entry []byte)) error {
	for rest := entries; len(rest) > 0; {
		if len(rest) < at.counters+16 {
			return fmt.Errorf("an entry of %d bytes ends too early", len(rest))
		}
		size := int(binary.NativeEndian.Uint16(rest[at.next:]))
		if size < at.counters+16 || size > len(rest) {
			return fmt.Errorf("an entry says it has %d bytes, of %d that are left", size, len(rest))
		}
		fn(rest[:size])
		rest = rest[size:]
	}
	return nil
}

// getsockopt reads an option into all of value, which also holds the question.
func getsockopt(fd, level, name int, value []byte) error {
	size := uint32(len(value))
	_, _, errno := unix.Syscall6(unix.SYS_GETSOCKOPT, uintptr(fd), uintptr(level), uintptr(name),
		uintptr(unsafe.Pointer(&value[0])), uintptr(unsafe.Pointer(&size)), 0) //nolint:gosec // x/sys has no getsockopt for bytes
	if errno != 0 {
		return os.NewSyscallError("getsockopt", errno)
	}
	return nil
}
