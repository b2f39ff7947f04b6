// Command intruder is a tenant who wants the daemon's sockets. It dials every Unix socket
// that it can find, in the kernel's table and in the folders that it is given, asks each
// for a takeover as a new daemon would, and takes what it gets.
//
//	intruder [-squat NAME,NAME…] [-for DURATION] [FOLDER…]
//
// With -squat it first takes names, listens there, and says "squatting". At its end it
// prints one JSON object: how often it has asked, and what it has got.
package main

import (
	"context"
	"encoding/json"
	"flag"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"strings"
	"time"

	"github.com/ambassadord/ambassadord/internal/rights"
)

type intruderResult struct{ Asked, Descriptors, Answers int }

func main() {
	squat := flag.String("squat", "", "names to take")
	duration := flag.Duration("for", 3*time.Second, "how long")
	flag.Parse()
	for _, name := range strings.Split(*squat, ",") {
		if name == "" {
			continue
		}
		kind := "unix"
		if strings.Contains(name, "/control") {
			kind = "unixpacket"
		}
		l, err := net.ListenUnix(kind, &net.UnixAddr{Name: name, Net: kind})
		if err != nil {
			fmt.Println(err)
			os.Exit(1)
		}
		go func() {
			for {
				conn, err := l.AcceptUnix()
				if err != nil {
					return
				}
				defer conn.Close() // never: whoever dials waits
			}
		}()
	}
	if *squat != "" {
		fmt.Println("squatting")
	}
	var r intruderResult
	for end := time.Now().Add(*duration); time.Now().Before(end); {
		for _, name := range sockets(flag.Args()) {
			for _, kind := range []string{"unixpacket", "unix"} {
				r.ask(kind, name)
			}
		}
	}
	out, _ := json.Marshal(r) // of numbers
	fmt.Println(string(out))
}

// sockets are all that can be found.
func sockets(folders []string) []string {
	var names []string
	text, _ := os.ReadFile("/proc/net/unix")
	for line := range strings.Lines(string(text)) {
		if f := strings.Fields(line); len(f) == 8 && strings.Contains(f[7], "ambassadord") {
			names = append(names, f[7])
		}
	}
	for _, folder := range folders {
		found, _ := filepath.Glob(filepath.Join(folder, "*"))
		names = append(names, found...)
	}
	return names
}

// ask says what a new daemon says.
func (r *intruderResult) ask(kind, name string) {
	r.Asked++
	dialer := net.Dialer{Timeout: 100 * time.Millisecond}
	conn, err := dialer.DialContext(context.Background(), kind, name)
	if err != nil {
		return
	}
	defer conn.Close()
	_ = conn.SetDeadline(time.Now().Add(200 * time.Millisecond))
	_, _ = conn.Write([]byte(`{"version":1,"request":"takeover","program":"intruder","process":1}`))
	b, oob := make([]byte, 64<<10), make([]byte, rights.Room(128))
	for range 3 {
		n, fds, _, err := rights.Receive(conn.(*net.UnixConn), b, oob)
		if err != nil {
			continue // a reset comes before what was sent
		}
		if n > 0 {
			r.Answers++
		}
		r.Descriptors += len(fds)
	}
	if r.Descriptors > 0 {
		_, _ = conn.Write([]byte(`{"phase":"accepting"}`))
		time.Sleep(time.Second)
	}
}
