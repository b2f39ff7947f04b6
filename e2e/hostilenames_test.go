//go:build integration

package e2e

import (
	"net"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/miekg/dns"
)

// junkNames is the address of a tenant's own name server. How it answers depends on the
// last digit of the name: with what is no message, with an alias of itself, with as many
// records as a message holds, each of another kind of address of ours, byte by byte, not at
// all, or with a time to live of none.
func junkNames(t *testing.T) string {
	t.Helper()
	address := serveIn(t, hostNamespace(t), dockerHost(t)+":0", func(conn *net.TCPConn) {
		for {
			query, err := readQuery(conn)
			if err != nil {
				return
			}
			answer := junkAnswer(query, dns.MaxMsgSize)
			message := append([]byte{byte(len(answer) >> 8), byte(len(answer))}, answer...)
			if kindOf(query) != '4' {
				if _, err := conn.Write(message); err != nil {
					return
				}
				continue
			}
			for i := range message {
				if _, err := conn.Write(message[i : i+1]); err != nil {
					return
				}
				time.Sleep(20 * time.Millisecond) // the attack: somebody who is slow
			}
		}
	})
	packets, err := net.ListenPacket("udp", address)
	if err != nil {
		t.Fatal(err)
	}
	done := make(chan struct{})
	go func() {
		defer close(done)
		for buffer := make([]byte, dns.MaxMsgSize); ; {
			n, from, err := packets.ReadFrom(buffer)
			if err != nil {
				return // closed below
			}
			query := new(dns.Msg)
			if query.Unpack(buffer[:n]) != nil {
				continue
			}
			if answer := junkAnswer(query, 512); answer != nil {
				_, _ = packets.WriteTo(answer, from)
			}
		}
	}()
	t.Cleanup(func() {
		packets.Close()
		<-done
	})
	return address
}

func readQuery(conn *net.TCPConn) (*dns.Msg, error) {
	wire := dns.Conn{Conn: conn}
	return wire.ReadMsg()
}

// kindOf is the last digit of the name that query asks for.
func kindOf(query *dns.Msg) byte {
	name, _, _ := strings.Cut(query.Question[0].Name, ".")
	return name[len(name)-1]
}

// junkAnswer is what the server says in a message of at most size bytes; nil is nothing.
//
// What takes long to make is made once: the processors are to be the daemon's.
func junkAnswer(query *dns.Msg, size int) []byte {
	asked, err := query.Pack()
	if err != nil {
		return nil
	}
	kind := junkKind{kindOf(query), size, query.Question[0].Qtype, len(query.Question[0].Name)}
	known, ok := junkMade.Load(kind)
	if !ok {
		known, _ = junkMade.LoadOrStore(kind, makeJunk(query, size))
	}
	answer := slices.Clone(known.([]byte))
	if kind.digit != '0' && len(answer) > 0 {
		const header = 12 // RFC 1035, section 4.1.1; all names of the answer point to the question
		copy(answer, asked[:2])
		copy(answer[header:], asked[header:header+kind.name])
	}
	return answer
}

type junkKind struct {
	digit byte
	size  int
	asked uint16
	name  int // its length
}

var junkMade sync.Map // junkKind → []byte

func makeJunk(query *dns.Msg, size int) []byte {
	answer := new(dns.Msg)
	answer.SetReply(query)
	name := query.Question[0].Name
	header := func(kind uint16) dns.RR_Header {
		return dns.RR_Header{Name: name, Rrtype: kind, Class: dns.ClassINET, Ttl: 60}
	}
	address := func(ip ...byte) *dns.A { return &dns.A{Hdr: header(dns.TypeA), A: net.IP(ip)} }
	switch kindOf(query) {
	case '0':
		return []byte(strings.Repeat("junk", size/4))
	case '1':
		answer.Answer = append(answer.Answer, &dns.CNAME{Hdr: header(dns.TypeCNAME), Target: name})
	case '2', '4':
		if size < dns.MaxMsgSize {
			answer.Truncated = true // ask by TCP
			break
		}
		for i := range 4000 {
			answer.Answer = append(answer.Answer, address(10, 99, byte(i>>8), byte(i)))
		}
	case '3':
		return nil
	case '5':
		for _, a := range [][]byte{{127, 0, 0, 1}, {0, 0, 0, 0}, {169, 254, 169, 254}, {255, 255, 255, 255}, {224, 0, 0, 1}} {
			answer.Answer = append(answer.Answer, address(a...))
		}
	default:
		short := address(10, 99, 0, 1)
		short.Hdr.Ttl = 0
		answer.Answer = append(answer.Answer, short)
	}
	answer.Compress = true
	packed, err := answer.Pack()
	if err != nil {
		panic(err) // it is this test's own
	}
	return packed
}
