// Command client is the program that the end-to-end tests run in containers: it
// dials one address and speaks to the tests' backends, which answer one line,
// their name, to the one line that they are told.
//
//	client [-token TEXT] [-want NAME] [-n COUNT] [-within DURATION] [-patience DURATION] [-serve NAME [-pause DURATION]] [-rate RATE] ADDRESS
//
// With -serve it is first of all such a backend itself, at that very address; with -n -1 as
// well it is nothing else. With -rate it makes so many connections a second until it is
// killed, each once, whatever becomes of the others, and prints what rate.go says.
//
// It prints the container's host name, which is its short ID, and every answer.
// A connection that is refused or reset is tried again, because a container may
// dial before the daemon has seen it; an answer from anybody but NAME ends it at
// once.
package main

import (
	"bufio"
	"context"
	"errors"
	"flag"
	"fmt"
	"net"
	"os"
	"strings"
	"time"
)

// Exit codes, beside the flag package's 2 for a mistake on the command line.
const (
	exitNoAnswer = 1
	exitForeign  = 3
)

// errForeign is an answer from a backend that this client must not reach.
var errForeign = errors.New("foreign answer")

// patience bounds one connection.
var patience = flag.Duration("patience", 5*time.Second, "how long one connection may take")

func main() {
	token := flag.String("token", "", "what to tell the backend")
	want := flag.String("want", "", "the only answer that is right (default any)")
	count := flag.Int("n", 1, "how many answers to get; 0 goes on for ever, -1 asks nobody")
	within := flag.Duration("within", 10*time.Second, "how long to try for one answer; 0 tries once")
	serve := flag.String("serve", "", "listen at ADDRESS before dialling it, and answer that")
	pause := flag.Duration("pause", 0, "how long to take for that answer")
	rate := flag.Int("rate", 0, "how many connections to make in a second")
	flag.Parse()
	if flag.NArg() != 1 {
		flag.Usage()
		os.Exit(2)
	}
	name, err := os.Hostname()
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(exitNoAnswer)
	}
	if *serve != "" {
		if err := backend(flag.Arg(0), *serve, *pause); err != nil {
			fmt.Fprintln(os.Stderr, err)
			os.Exit(exitNoAnswer)
		}
	}
	if *count < 0 {
		fmt.Println("serving", time.Now().UnixNano())
		select {}
	}
	if *rate > 0 {
		steadily(*rate, func() error { _, err := ask(flag.Arg(0), name, *want); return err })
	}
	fmt.Println(name)
	for i := 0; *count == 0 || i < *count; i++ {
		answer, err := persist(*within, func() (string, error) { return ask(flag.Arg(0), name+" "+*token, *want) })
		if err != nil {
			fmt.Fprintln(os.Stderr, err)
			if errors.Is(err, errForeign) {
				os.Exit(exitForeign)
			}
			os.Exit(exitNoAnswer)
		}
		fmt.Println(answer)
	}
}

// backend listens at address and serves until the program ends.
func backend(address, name string, pause time.Duration) error {
	var lc net.ListenConfig
	listener, err := lc.Listen(context.Background(), "tcp", address)
	if err != nil {
		return err
	}
	go func() {
		for {
			conn, err := listener.Accept()
			if err != nil {
				return
			}
			go func() {
				defer conn.Close()
				if _, err := bufio.NewReader(conn).ReadString('\n'); err == nil {
					time.Sleep(pause)
					_, _ = fmt.Fprintln(conn, name) // who does not get it complains
				}
			}()
		}
	}()
	return nil
}

// persist calls ask until it succeeds, meets a foreign backend, or time is up.
func persist(within time.Duration, ask func() (string, error)) (string, error) {
	deadline := time.Now().Add(within)
	for {
		answer, err := ask()
		if err == nil || errors.Is(err, errForeign) || !time.Now().Before(deadline) {
			return answer, err
		}
		time.Sleep(5 * time.Millisecond)
	}
}

// ask makes one connection.
func ask(address, line, want string) (string, error) {
	ctx, cancel := context.WithTimeout(context.Background(), *patience)
	defer cancel()
	var dialer net.Dialer
	conn, err := dialer.DialContext(ctx, "tcp", address)
	if err != nil {
		return "", err
	}
	defer conn.Close()
	if err := conn.SetDeadline(time.Now().Add(*patience)); err != nil {
		return "", err
	}
	if _, err := fmt.Fprintln(conn, line); err != nil {
		return "", err
	}
	answer, err := bufio.NewReader(conn).ReadString('\n')
	if err != nil {
		return "", err
	}
	answer = strings.TrimSuffix(answer, "\n")
	if want != "" && answer != want {
		return answer, fmt.Errorf("%w: %q, want %q", errForeign, answer, want)
	}
	return answer, nil
}
