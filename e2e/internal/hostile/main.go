// Command hostile is what a tenant who means harm runs in a container of the end-to-end
// tests.
//
//	hostile hold COUNT ADDRESS     open COUNT connections and say nothing on them
//	hostile flood COUNT ADDRESS    write on COUNT connections for ever, and read nothing
//	hostile reset COUNT ADDRESS    open and reset connections in COUNT loops
//	hostile squat FIRST LAST       take these ports on every address, and answer "squatter"
//
// It prints "ready" once that is so, and goes on until it is killed. A connection that
// ends is opened again.
package main

import (
	"context"
	"fmt"
	"net"
	"os"
	"strconv"
	"sync"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

func main() {
	if len(os.Args) != 4 {
		fmt.Fprintln(os.Stderr, "want VERB and two arguments")
		os.Exit(2)
	}
	number, err := strconv.Atoi(os.Args[2])
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(2)
	}
	switch verb, last := os.Args[1], os.Args[3]; verb {
	case "hold":
		each(number, last, func(conn *net.TCPConn) { _, _ = conn.Read(make([]byte, 1)) })
	case "flood":
		each(number, last, flood)
	case "reset":
		each(number, last, func(conn *net.TCPConn) { _ = conn.SetLinger(0) })
	case "squat":
		squat(number, last)
	default:
		fmt.Fprintf(os.Stderr, "no such verb: %s\n", verb)
		os.Exit(2)
	}
}

// each calls do for one connection after the other in count loops, and closes it then.
func each(count int, address string, do func(*net.TCPConn)) {
	dialer := net.Dialer{Timeout: 10 * time.Second}
	dialer.SetMultipathTCP(false)
	var first, loops sync.WaitGroup
	dialling := make(chan struct{}, 64)
	first.Add(count)
	for range count {
		loops.Go(func() {
			reached := sync.OnceFunc(first.Done)
			for {
				dialling <- struct{}{}
				conn, err := dialer.Dial("tcp", address)
				<-dialling
				reached()
				if err != nil {
					time.Sleep(10 * time.Millisecond) // refused: the daemon is spared a part of it
					continue
				}
				do(conn.(*net.TCPConn))
				conn.Close()
			}
		})
	}
	first.Wait()
	fmt.Println("ready")
	loops.Wait()
}

func flood(conn *net.TCPConn) {
	block := make([]byte, 64<<10)
	for {
		if _, err := conn.Write(block); err != nil {
			return
		}
	}
}

// squat takes the ports of a range on 127.0.0.1 and on all addresses, and lets others
// take them as well, who would get a share of what comes.
func squat(first int, to string) {
	last, err := strconv.Atoi(to)
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(2)
	}
	shared := net.ListenConfig{Control: func(_, _ string, raw syscall.RawConn) error {
		var err error
		controlled := raw.Control(func(fd uintptr) {
			err = unix.SetsockoptInt(int(fd), unix.SOL_SOCKET, unix.SO_REUSEPORT, 1)
		})
		if controlled != nil {
			return controlled
		}
		return err
	}}
	for port := first; port <= last; port++ {
		for _, host := range []string{"127.0.0.1", "0.0.0.0", "::1", "::"} {
			listener, err := shared.Listen(context.Background(), "tcp", net.JoinHostPort(host, strconv.Itoa(port)))
			if err != nil {
				fmt.Println("not taken:", err)
				continue
			}
			go func() {
				for {
					conn, err := listener.Accept()
					if err != nil {
						return
					}
					fmt.Fprintln(conn, "squatter")
					conn.Close()
				}
			}()
		}
	}
	fmt.Println("ready")
	select {}
}
