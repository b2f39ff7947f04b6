// Command place is what bench/resolve runs in a container: it says its name to whoever
// connects to its port.
//
//	place NAME PORT
package main

import (
	"fmt"
	"io"
	"net"
	"os"
)

func main() {
	listener, err := net.Listen("tcp", ":"+os.Args[2]) //nolint:noctx // it ends with its container
	if err != nil {
		fmt.Fprintln(os.Stderr, "place:", err)
		os.Exit(1)
	}
	for {
		conn, err := listener.Accept()
		if err != nil {
			fmt.Fprintln(os.Stderr, "place:", err)
			os.Exit(1)
		}
		_, _ = io.WriteString(conn, os.Args[1])
		_ = conn.Close()
	}
}
