// The receivers command finds out how long a PROXY protocol header real servers take. It starts
// those that are installed, each with its Debian configuration and PROXY protocol on, sends
// headers of version 2 of growing length, with the TLVs of package proxyproto, and prints the
// rows of docs/proxy-protocol.md. It needs no root, but MariaDB's user is nobody then.
//
//	go run ./bench/receivers
package main

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"regexp"
	"strings"
	"syscall"
	"time"

	"github.com/ambassadord/ambassadord/internal/proxyproto"
)

const (
	most     = 32 << 10 // the longest header that is tried
	patience = 20 * time.Second
	answerIn = 3 * time.Second
)

// receiver is a server that takes PROXY headers.
type receiver struct {
	name    string
	program string
	version []string // prints the version, somewhere in the first line
	// prepare writes what it needs into dir, and returns its command, to listen at port.
	prepare func(dir string, port uint16) ([]string, error)
	say     string // what a client says after the header
	answer  string // what the server's answer has in it
}

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	if err := run(ctx); err != nil {
		fmt.Fprintln(os.Stderr, "receivers:", err)
		stop()
		os.Exit(1) //nolint:gocritic // stop has been called
	}
}

func run(ctx context.Context) error {
	fmt.Println("| server | version | longest header, bytes | beyond that |\n| --- | --- | --- | --- |")
	var all []error
	for _, r := range receivers {
		if _, err := exec.LookPath(r.program); err != nil {
			fmt.Fprintln(os.Stderr, r.name, "is not installed")
			continue
		}
		longest, beyond, err := r.measure(ctx)
		if err != nil {
			all = append(all, fmt.Errorf("%s: %w", r.name, err))
			continue
		}
		fmt.Printf("| %s | %s | %s | %s |\n", r.name, r.versionOf(ctx), longest, beyond)
	}
	return errors.Join(all...)
}

var number = regexp.MustCompile(`\d+\.\d+(\.\d+)*`)

func (r *receiver) versionOf(ctx context.Context) string {
	out, _ := exec.CommandContext(ctx, r.program, r.version...).CombinedOutput()
	return number.FindString(string(out))
}

// measure starts the server and finds the longest header that it takes, and what it does to a
// longer one.
func (r *receiver) measure(ctx context.Context) (longest, beyond string, err error) {
	dir, err := os.MkdirTemp("", "receiver")
	if err != nil {
		return "", "", err
	}
	defer os.RemoveAll(dir)
	if err := os.Chmod(dir, 0o755); err != nil { //nolint:gosec // servers change their user
		return "", "", err
	}
	free, err := net.Listen("tcp", "127.0.0.1:0") //nolint:noctx // at once
	if err != nil {
		return "", "", err
	}
	at := free.Addr().(*net.TCPAddr).AddrPort()
	free.Close()
	args, err := r.prepare(dir, at.Port())
	if err != nil {
		return "", "", err
	}
	var log bytes.Buffer
	cmd := exec.CommandContext(ctx, args[0], args[1:]...)
	cmd.Dir, cmd.Stdout, cmd.Stderr = dir, &log, &log
	cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL, Setpgid: true}
	if err := cmd.Start(); err != nil {
		return "", "", err
	}
	defer func() {
		_ = syscall.Kill(-cmd.Process.Pid, syscall.SIGKILL)
		_ = cmd.Wait()
	}()
	const bare = 28
	for deadline := time.Now().Add(patience); ; time.Sleep(50 * time.Millisecond) {
		if err = r.try(at, bare); err == nil {
			break
		}
		if time.Now().After(deadline) || ctx.Err() != nil {
			_ = syscall.Kill(-cmd.Process.Pid, syscall.SIGKILL)
			_ = cmd.Wait()
			return "", "", fmt.Errorf("it does not take the shortest header: %w; it says: %.2000s", err, log.String())
		}
	}
	takes, refuses := bare, most+1
	for refuses-takes > 1 {
		middle := (takes + refuses) / 2
		if middle > most || middle > bare && middle < bare+4 { // a TLV has at least 3 bytes
			middle = min(middle, most)
		}
		if err := r.try(at, middle); err == nil {
			takes = middle
		} else {
			refuses = middle
		}
		if takes == most {
			return fmt.Sprintf("%d or more", most), "", nil
		}
	}
	return fmt.Sprint(takes), outcome(r.try(at, takes+1)), nil
}

// outcome is what a server did to a header that was too long, in a word.
func outcome(err error) string {
	var timeout net.Error
	switch {
	case errors.Is(err, syscall.ECONNRESET), errors.Is(err, syscall.EPIPE):
		return "reset"
	case errors.As(err, &timeout) && timeout.Timeout():
		return "silence"
	case err == nil:
		return "taken after all"
	}
	return err.Error()
}

// try sends a header of so many bytes and what a client says, and looks for the answer.
func (r *receiver) try(at netip.AddrPort, long int) error {
	header, err := headerOf(long, at)
	if err != nil {
		return err
	}
	conn, err := (&net.Dialer{Timeout: time.Second}).DialContext(context.Background(), "tcp", at.String())
	if err != nil {
		return err
	}
	defer conn.Close()
	if err := conn.SetDeadline(time.Now().Add(answerIn)); err != nil {
		return err
	}
	if _, err := conn.Write(append(header, r.say...)); err != nil {
		return err
	}
	var got []byte
	buffer := make([]byte, 4<<10)
	for {
		n, err := conn.Read(buffer)
		got = append(got, buffer[:n]...)
		if bytes.Contains(got, []byte(r.answer)) {
			return nil
		}
		if err != nil {
			if len(got) > 0 || err.Error() == "EOF" {
				return fmt.Errorf("closed, after %.60q", got)
			}
			return err
		}
	}
}

// headerOf is a header of exactly so many bytes.
func headerOf(long int, to netip.AddrPort) ([]byte, error) {
	c := proxyproto.Client{Source: netip.MustParseAddrPort("127.0.0.1:40000"), Destination: to}
	bare, err := proxyproto.Header(2, c, 0)
	if err != nil || len(bare) == long {
		return bare, err
	}
	const head, key = 3, "a="
	if left := long - len(bare) - head; left < len(key) {
		c.Name = strings.Repeat("n", left)
	} else {
		c.Labels = map[string]string{"a": strings.Repeat("x", left-len(key))}
	}
	header, err := proxyproto.Header(2, c, long)
	if err == nil && len(header) != long {
		err = fmt.Errorf("no header has %d bytes", long)
	}
	return header, err
}

// file writes a file into dir and returns its path.
func file(dir, name, format string, args ...any) (string, error) {
	path := filepath.Join(dir, name)
	return path, os.WriteFile(path, fmt.Appendf(nil, format, args...), 0o644)
}
