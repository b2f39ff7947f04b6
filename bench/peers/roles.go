package main

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"

	"golang.org/x/sys/unix"

	"github.com/ambassadord/ambassadord/bench/internal/load"
)

// The program runs itself in these roles, `peers role NAME`, with JSON at its
// standard input and output.
const (
	roleWord    = "role"
	roleInside  = "inside"
	roleLoad    = "load"
	roleHold    = "hold"
	roleBackend = "backend"
	rolePlain   = "plain"
)

func play(name string, in io.Reader, out io.Writer) error {
	switch name {
	case roleInside:
		return playInside(in, out)
	case roleLoad:
		return playLoad(in, out)
	case roleHold:
		return playHold(in, out)
	case roleBackend:
		return playBackend(in, out)
	case rolePlain:
		return playPlain(in)
	}
	return fmt.Errorf("there is no role %q", name)
}

// loadAnswer is what a load, or a holder, says.
type loadAnswer struct {
	Result load.Result
	Held   int
	Error  string
}

// playLoad makes one load.
func playLoad(in io.Reader, out io.Writer) error {
	var s load.Spec
	if err := json.NewDecoder(in).Decode(&s); err != nil {
		return err
	}
	load.Quiet()
	var a loadAnswer
	var err error
	if a.Result, err = load.Run(s); err != nil {
		a.Error = err.Error()
	}
	return json.NewEncoder(out).Encode(a)
}

// playHold holds the connections that the first line asks for; each line more counts
// those that still work, and the end of input lets them go.
func playHold(in io.Reader, out io.Writer) error {
	if err := manyDescriptors(); err != nil {
		return err
	}
	lines, answers := json.NewDecoder(in), json.NewEncoder(out)
	var s load.Spec
	if err := lines.Decode(&s); err != nil {
		return err
	}
	held, err := load.Hold(s.Conns, s.To)
	if err != nil {
		return answers.Encode(loadAnswer{Error: err.Error()})
	}
	defer held.Close()
	a := loadAnswer{Held: held.Len()}
	for {
		if err := answers.Encode(a); err != nil {
			return err
		}
		var next struct{}
		switch err := lines.Decode(&next); {
		case errors.Is(err, io.EOF):
			return nil
		case err != nil:
			return err
		}
		a.Held = held.Count()
	}
}

// playBackend serves until it is killed.
func playBackend(in io.Reader, out io.Writer) error {
	var listeners []load.Listener
	if err := json.NewDecoder(in).Decode(&listeners); err != nil {
		return err
	}
	if err := manyDescriptors(); err != nil {
		return err
	}
	load.Quiet()
	return load.Serve(listeners, func() error { return json.NewEncoder(out).Encode(loadAnswer{}) })
}

// manyDescriptors lets both ends of the traffic have as many descriptors as they need
// for a crowd, and more where that is allowed.
func manyDescriptors() error {
	var limit unix.Rlimit
	if err := unix.Getrlimit(unix.RLIMIT_NOFILE, &limit); err != nil {
		return fmt.Errorf("limit of open files: %w", err)
	}
	limit.Cur = limit.Max
	if limit.Max < descriptors {
		limit.Cur, limit.Max = descriptors, descriptors // takes CAP_SYS_RESOURCE
	}
	if err := unix.Setrlimit(unix.RLIMIT_NOFILE, &limit); err != nil {
		return fmt.Errorf("raise the limit of open files to %d: %w", limit.Cur, err)
	}
	return nil
}
