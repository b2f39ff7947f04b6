package netns

import (
	"bufio"
	"encoding/binary"
	"encoding/hex"
	"errors"
	"fmt"
	"io/fs"
	"net/netip"
	"os"
	"strconv"
	"strings"
)

// The columns of the kernel's tables of TCP sockets, and states in there
// (proc_pid_net(5), net/tcp_states.h of the kernel).
const (
	local, remote, state, inode = 1, 2, 3, 9

	established, listening = "01", "0A"
)

// ListeningPorts returns the TCP ports somebody listens on inside the namespace, on
// whatever address.
func (n *Namespace) ListeningPorts() (map[uint16]bool, error) {
	ports := map[uint16]bool{}
	err := n.eachSocket(func(fields []string) error {
		if fields[state] != listening {
			return nil
		}
		addr, err := parseAddrPort(fields[local])
		ports[addr.Port()] = true
		return err
	})
	if err != nil {
		return nil, fmt.Errorf("list listening ports in network namespace %s: %w", n.path, err)
	}
	return ports, nil
}

// Listeners returns the sockets that listen inside the namespace, by port. They are named
// by their inodes, as /proc/PID/fd names them.
func (n *Namespace) Listeners() (map[uint16][]uint64, error) {
	ports := map[uint16][]uint64{}
	err := n.eachSocket(func(fields []string) error {
		if fields[state] != listening || len(fields) <= inode {
			return nil
		}
		addr, err := parseAddrPort(fields[local])
		if err != nil {
			return err
		}
		number, err := strconv.ParseUint(fields[inode], 10, 64)
		ports[addr.Port()] = append(ports[addr.Port()], number)
		return err
	})
	if err != nil {
		return nil, fmt.Errorf("list listening sockets in network namespace %s: %w", n.path, err)
	}
	return ports, nil
}

// Accepted returns where the established connections to addr come from, also those
// that the kernel has accepted and no process has yet.
func (n *Namespace) Accepted(addr netip.AddrPort) ([]netip.AddrPort, error) {
	var sources []netip.AddrPort
	err := n.eachSocket(func(fields []string) error {
		if fields[state] != established {
			return nil
		}
		to, err := parseAddrPort(fields[local])
		if err != nil || to != addr {
			return err
		}
		from, err := parseAddrPort(fields[remote])
		sources = append(sources, from)
		return err
	})
	if err != nil {
		return nil, fmt.Errorf("list accepted connections in network namespace %s: %w", n.path, err)
	}
	return sources, nil
}

// Socket is a TCP or UDP socket of a namespace.
type Socket struct {
	// Local and Remote are its ends; the port of Remote is 0 of a socket that is not connected.
	Local, Remote netip.AddrPort
	// Listens says of a TCP socket that it accepts connections.
	Listens bool
}

// EachSocket calls fn for each socket of the namespace, of both families, until that returns false.
// protocol is "tcp" or "udp".
func (n *Namespace) EachSocket(protocol string, fn func(Socket) bool) error {
	err := n.eachOf(protocol, func(fields []string) error {
		here, err := parseAddrPort(fields[local])
		if err != nil {
			return err
		}
		there, err := parseAddrPort(fields[remote])
		if err != nil {
			return err
		}
		if !fn(Socket{Local: here, Remote: there, Listens: protocol == "tcp" && fields[state] == listening}) {
			return errEnough
		}
		return nil
	})
	if err != nil && !errors.Is(err, errEnough) {
		return fmt.Errorf("list %s sockets in network namespace %s: %w", protocol, n.path, err)
	}
	return nil
}

// errEnough ends a list early.
var errEnough = errors.New("enough")

// Counters are those that the kernel keeps of a protocol in the namespace, "Udp" or "Tcp", by the
// names of /proc/PID/net/snmp (the kernel's documentation, networking/snmp_counter.rst).
func (n *Namespace) Counters(protocol string) (map[string]uint64, error) {
	counters := map[string]uint64{}
	err := n.Do(func() error {
		text, err := os.ReadFile("/proc/thread-self/net/snmp")
		if err != nil {
			return err
		}
		var names []string
		for line := range strings.Lines(string(text)) {
			fields := strings.Fields(line)
			if len(fields) == 0 || fields[0] != protocol+":" {
				continue
			}
			if names == nil { // the line of names comes before that of values
				names = fields
				continue
			}
			for i := 1; i < min(len(names), len(fields)); i++ {
				if v, err := strconv.ParseUint(fields[i], 10, 64); err == nil { // MaxConn is -1
					counters[names[i]] = v
				}
			}
			return nil
		}
		return nil
	})
	if err != nil {
		return nil, fmt.Errorf("read the counters of network namespace %s: %w", n.path, err)
	}
	return counters, nil
}

// eachSocket calls fn with the columns of each TCP socket of the namespace.
func (n *Namespace) eachSocket(fn func(fields []string) error) error { return n.eachOf("tcp", fn) }

// eachOf is eachSocket for any protocol.
func (n *Namespace) eachOf(protocol string, fn func(fields []string) error) error {
	return n.Do(func() error {
		// thread-self, because self is the process's first thread, which is elsewhere.
		for _, name := range []string{protocol, protocol + "6"} {
			err := readSockets("/proc/thread-self/net/"+name, fn)
			if err != nil && !errors.Is(err, fs.ErrNotExist) { // a kernel without IPv6
				return err
			}
		}
		return nil
	})
}

func readSockets(path string, fn func(fields []string) error) error {
	file, err := os.Open(path)
	if err != nil {
		return err
	}
	defer file.Close()
	lines := bufio.NewScanner(file)
	lines.Scan() // the heading
	for lines.Scan() {
		fields := strings.Fields(lines.Text())
		if len(fields) <= state {
			continue
		}
		if err := fn(fields); err != nil {
			if errors.Is(err, errEnough) {
				return err
			}
			return fmt.Errorf("read %s: unexpected line %q", path, lines.Text())
		}
	}
	return lines.Err()
}

// parseAddrPort reads ADDRESS:PORT in hexadecimal digits, the address as words of
// 32 bits in the machine's byte order.
func parseAddrPort(text string) (netip.AddrPort, error) {
	host, port, _ := strings.Cut(text, ":")
	number, err := strconv.ParseUint(port, 16, 16)
	if err != nil {
		return netip.AddrPort{}, err
	}
	words, err := hex.DecodeString(host)
	if err != nil {
		return netip.AddrPort{}, err
	}
	for i := 0; i+4 <= len(words); i += 4 {
		binary.NativeEndian.PutUint32(words[i:], binary.BigEndian.Uint32(words[i:]))
	}
	addr, ok := netip.AddrFromSlice(words)
	if !ok {
		return netip.AddrPort{}, fmt.Errorf("an address of %d bytes", len(words))
	}
	return netip.AddrPortFrom(addr, uint16(number)), nil
}
