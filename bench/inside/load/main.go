// Command load is what bench/inside runs in its containers.
//
//	load serve    the backend
//	load drive    the client: jobs on standard input, results on standard output
//	load pause    nothing, for ever
//
// Server and client are one thread each around epoll(7), so that what they cost and how
// late they are depends little on what is between them.
package main

import (
	"errors"
	"fmt"
	"os"
	"os/signal"
	"runtime"
)

func main() {
	if err := run(os.Args[1:]); err != nil {
		fmt.Fprintln(os.Stderr, "load:", err)
		os.Exit(1)
	}
}

func run(args []string) error {
	if len(args) != 1 {
		return errors.New("one argument: serve, drive or pause")
	}
	runtime.LockOSThread()
	switch args[0] {
	case "serve":
		return serve()
	case "drive":
		return drive(os.Stdin, os.Stdout)
	case "pause":
		stop := make(chan os.Signal, 1)
		signal.Notify(stop)
		select {} // as process 1, it is killed
	default:
		return fmt.Errorf("%q is none of serve, drive and pause", args[0])
	}
}
