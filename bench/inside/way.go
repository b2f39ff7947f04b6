package main

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"time"

	"github.com/ambassadord/ambassadord/bench/inside/job"
	"github.com/ambassadord/ambassadord/bench/internal/daemon"
	"github.com/ambassadord/ambassadord/bench/internal/engine"
)

const (
	// startTime bounds how long a daemon may take to serve a client.
	startTime = 30 * time.Second
	// settleTime is longer than a daemon of mode host asks the engine at each connection
	// whose the address is (evidenceSettles in internal/sourceguard). A client that is measured
	// has been there for longer than that.
	settleTime = 3500 * time.Millisecond
)

// measuredWay is a contestant with what it takes: a client container, a generator in it, and a
// daemon where that is the way.
type measuredWay struct {
	insideContestant
	client  string // the container's ID
	session *generatorSession
	cpu     func() (time.Duration, error) // of the processes between, so far

	binary, dir, config string         // of the daemon
	daemon              *daemon.Daemon // nil while it is not up
}

// open returns what there is to close, even with an error. A daemon is up already, unless
// it is alone.
func (b insideBench) open(ctx context.Context, a *arena, c insideContestant) (*measuredWay, error) {
	w := &measuredWay{insideContestant: c, dir: a.dir, cpu: func() (time.Duration, error) { return 0, nil }}
	if c.docker {
		w.cpu = a.proxiesCPUTime
	}
	network := a.name
	if c.outside {
		network = "none"
	}
	name := a.name + "-" + c.word()
	var err error
	if w.client, err = engine.Run(ctx, "--name", name, "--network", network, image, "/load", "pause"); err != nil {
		return w, err
	}
	if c.outside {
		if err := plugIn(ctx, w.client); err != nil {
			return w, err
		}
	}
	if w.session, err = openSession(ctx, w.client); err != nil || c.mode == "" {
		return w, err
	}
	w.cpu = func() (time.Duration, error) { return w.daemon.CPUTime() }
	w.binary, w.config = filepath.Join(a.dir, c.mode), filepath.Join(a.dir, c.mode+".yaml")
	err = errors.Join(ownNames(w.binary, b.daemon, c.mode), os.WriteFile(w.config, declarations(a.name, name), 0o600))
	if err == nil && !c.alone {
		err = w.enter(ctx)
	}
	return w, err
}

// enter starts the daemon if it is not up.
func (w *measuredWay) enter(ctx context.Context) error {
	if w.mode == "" || w.daemon != nil {
		return nil
	}
	starting, cancel := context.WithTimeout(ctx, startTime)
	defer cancel()
	var err error
	if w.daemon, err = daemon.Start(w.binary, w.dir, "run", "--mode", w.mode, "--config", w.config); err != nil {
		return err
	}
	if _, err := w.daemon.Ready(starting); err != nil {
		return err
	}
	if w.mode == host {
		select {
		case <-time.After(settleTime):
		case <-ctx.Done():
		}
		return ctx.Err()
	}
	_, err = w.daemon.Attached(starting, 1)
	return err
}

// leave stops the daemon that is alone.
func (w *measuredWay) leave() error {
	if !w.alone || w.daemon == nil {
		return nil
	}
	d := w.daemon
	w.daemon = nil
	return d.Stop()
}

// close ends all of it. It does so although the context of open has ended.
func (w *measuredWay) close() error {
	var err error
	if w.daemon != nil {
		err = w.daemon.Stop()
	}
	if w.session != nil {
		w.session.close()
	}
	return errors.Join(err, engine.Remove(context.Background(), w.client))
}

// declarations lead the ports of one client to the backend. The daemons of other ways do
// not know it.
func declarations(backend, client string) []byte {
	var b bytes.Buffer
	fmt.Fprintf(&b, "clients:\n  - container: %s\n    ports:\n", client)
	for _, port := range job.Ports() {
		fmt.Fprintf(&b, "      %d: docker://%s\n", port, at(backend, port))
	}
	return b.Bytes()
}

// What the names of all abstract sockets of ambassadord begin with, and the folder of its
// lock and sockets. One of either lets one daemon alone serve a host; which, is a matter of
// the version.
const (
	namespace = "@ambassadord/"
	folder    = "/run/ambassadord"
)

// ownNames copies a daemon's binary, for it to run beside another: the copy differs in
// those names, and in nothing else.
func ownNames(to, from, word string) error {
	program, err := os.ReadFile(from)
	if err != nil {
		return err
	}
	if !bytes.Contains(program, []byte(namespace)) {
		return fmt.Errorf("%s has no %s in it; is it ambassadord?", from, namespace)
	}
	own := strings.Repeat(word, len(namespace))[:len("ambassadord")]
	program = bytes.ReplaceAll(program, []byte(namespace), []byte("@"+own+"/"))
	return os.WriteFile(to, bytes.ReplaceAll(program, []byte(folder), []byte("/run/"+own)), 0o755)
}
