// Command load is the client of the end-to-end tests in which no connection may be lost:
// one process in a container makes new connections at a rate, and keeps a number of long
// streams, each to an echo server.
//
//	load [-rate N] [-streams N] ADDRESS
//	load -serve ADDRESS
//
// With -serve it is such an echo server.
//
// Every byte that comes back is compared with what was sent. It prints a line for what
// goes wrong, "loaded" when all streams are up, and after SIGTERM, when everything has
// come to its end, what it has done as one line of JSON.
package main

import (
	"bytes"
	"context"
	"encoding/binary"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"io"
	"math/rand/v2"
	"net"
	"os"
	"os/signal"
	"sync"
	"sync/atomic"
	"syscall"
	"time"
)

// patience bounds an answer.
const patience = 20 * time.Second

// loadResult is what is printed at the end.
type loadResult struct {
	Connections int64  `json:"connections"`
	Streams     int64  `json:"streams"` // that came to their end
	Bytes       int64  `json:"bytes"`   // of streams, each way
	Refused     int64  `json:"refused"` // connections that were not made
	Broken      int64  `json:"broken"`  // connections and streams that failed later
	Slowest     string `json:"slowest"` // of the new connections, to the end of its answer
}

type clientLoad struct {
	address string
	dialer  net.Dialer

	connections, streams, bytes, refused, broken, slowest atomic.Int64
}

func main() {
	rate := flag.Int("rate", 500, "new connections in a second")
	streams := flag.Int("streams", 500, "long streams at a time")
	serve := flag.String("serve", "", "where to be an echo server")
	flag.Parse()
	if *serve != "" {
		fmt.Println(echo(*serve))
		os.Exit(1)
	}
	if flag.NArg() != 1 {
		flag.Usage()
		os.Exit(2)
	}
	l := &clientLoad{address: flag.Arg(0), dialer: net.Dialer{Timeout: patience}}
	l.dialer.SetMultipathTCP(false)
	if err := l.await(); err != nil {
		fmt.Println(err)
		os.Exit(1)
	}
	ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGTERM)
	defer stop()
	var up, running sync.WaitGroup
	for i := range *streams {
		up.Add(1)
		running.Go(func() { l.stream(ctx, uint64(i), sync.OnceFunc(up.Done)) })
	}
	up.Wait()
	fmt.Println("loaded")
	l.connect(ctx, *rate, &running)
	running.Wait()
	_ = json.NewEncoder(os.Stdout).Encode(loadResult{
		Connections: l.connections.Load(), Streams: l.streams.Load(), Bytes: l.bytes.Load(),
		Refused: l.refused.Load(), Broken: l.broken.Load(), Slowest: time.Duration(l.slowest.Load()).String(),
	})
}

// echo serves until it fails.
func echo(address string) error {
	var config net.ListenConfig
	config.SetMultipathTCP(false)
	listener, err := config.Listen(context.Background(), "tcp", address)
	if err != nil {
		return err
	}
	for {
		conn, err := listener.Accept()
		if err != nil {
			return err
		}
		go func() {
			defer conn.Close()
			_, _ = io.Copy(conn, conn) // who does not get it all complains
		}()
	}
}

// await returns when somebody answers: a container may dial before the daemon has seen it.
func (l *clientLoad) await() error {
	for end := time.Now().Add(patience); ; {
		conn, err := l.dialer.Dial("tcp", l.address)
		if err == nil {
			return conn.Close()
		}
		if time.Now().After(end) {
			return fmt.Errorf("nobody answers: %w", err)
		}
		time.Sleep(10 * time.Millisecond)
	}
}

// connect makes rate new connections a second until ctx ends.
func (l *clientLoad) connect(ctx context.Context, rate int, running *sync.WaitGroup) {
	const tick = 10 * time.Millisecond
	ticker := time.NewTicker(tick)
	defer ticker.Stop()
	began, made := time.Now(), 0
	for {
		select {
		case <-ticker.C:
		case <-ctx.Done():
			return
		}
		for due := int(time.Since(began).Seconds() * float64(rate)); made < due; made++ {
			number := made
			running.Go(func() { l.one(number) })
		}
	}
}

func (l *clientLoad) dial() *net.TCPConn {
	conn, err := l.dialer.Dial("tcp", l.address)
	if err != nil {
		l.refused.Add(1)
		fmt.Println("refused:", err)
		return nil
	}
	return conn.(*net.TCPConn)
}

func (l *clientLoad) fail(what string, err error) {
	l.broken.Add(1)
	fmt.Println("broken:", what, err)
}

// one makes a connection, sends a line and expects it back, and no more.
func (l *clientLoad) one(number int) {
	began := time.Now()
	conn := l.dial()
	if conn == nil {
		return
	}
	defer conn.Close()
	_ = conn.SetDeadline(time.Now().Add(patience))
	line := fmt.Appendf(nil, "connection %d\n", number)
	_, err := conn.Write(line)
	if err == nil {
		err = conn.CloseWrite()
	}
	var answer []byte
	if err == nil {
		answer, err = io.ReadAll(conn)
	}
	if err == nil && !bytes.Equal(answer, line) {
		err = fmt.Errorf("answered %q", answer)
	}
	if err != nil {
		l.fail("a connection", err)
		return
	}
	l.connections.Add(1)
	for took := int64(time.Since(began)); ; {
		slowest := l.slowest.Load()
		if took <= slowest || l.slowest.CompareAndSwap(slowest, took) {
			return
		}
	}
}

// stream keeps one long stream after the other, until ctx ends. Each lives between 2 and
// 20 seconds, so that at any time some are young and some are old.
func (l *clientLoad) stream(ctx context.Context, lane uint64, up func()) {
	defer up()
	for life := uint64(0); ctx.Err() == nil; life++ {
		var seed [32]byte
		binary.NativeEndian.PutUint64(seed[:], lane)
		binary.NativeEndian.PutUint64(seed[8:], life)
		if err := l.live(ctx, rand.NewChaCha8(seed), up); err != nil {
			l.fail("a stream", err)
			return
		}
	}
}

func (l *clientLoad) live(ctx context.Context, source *rand.ChaCha8, up func()) error {
	conn := l.dial()
	if conn == nil {
		return errors.New("not made")
	}
	defer conn.Close()
	long := 2*time.Second + time.Duration(source.Uint64()%uint64(18*time.Second))
	sent, got := make([]byte, 700), make([]byte, 700)
	for end := time.Now().Add(long); time.Now().Before(end) && ctx.Err() == nil; {
		_, _ = source.Read(sent) // never fails
		_ = conn.SetDeadline(time.Now().Add(patience))
		if _, err := conn.Write(sent); err != nil {
			return err
		}
		if _, err := io.ReadFull(conn, got); err != nil {
			return err
		}
		if !bytes.Equal(sent, got) {
			return errors.New("other bytes came back than were sent")
		}
		l.bytes.Add(int64(len(sent)))
		up()
		select {
		case <-time.After(300*time.Millisecond + time.Duration(source.Uint64()%uint64(200*time.Millisecond))):
		case <-ctx.Done():
		}
	}
	if err := conn.CloseWrite(); err != nil {
		return err
	}
	if rest, err := io.ReadAll(conn); err != nil || len(rest) > 0 {
		return fmt.Errorf("at the end %d bytes, %w", len(rest), err)
	}
	l.streams.Add(1)
	return nil
}
