package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/netip"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"time"

	"github.com/ambassadord/ambassadord/bench/inside/job"
	"github.com/ambassadord/ambassadord/bench/internal/engine"
	"github.com/ambassadord/ambassadord/bench/internal/procstat"
)

// image holds the load generator alone.
const image = "ambassadord-bench/load"

// arena is what all turns share: a network, and the backend on it.
type arena struct {
	name        string // of the network, and of the backend
	dir         string // for what is thrown away
	backend     string // its ID
	backendAddr netip.Addr
	published   map[int]netip.AddrPort // where the host publishes each port
}

// openArena returns what there is to close, even with an error.
func openArena(ctx context.Context, dir string) (*arena, error) {
	a := &arena{dir: dir, published: map[int]netip.AddrPort{}}
	program := filepath.Join(dir, "load")
	if err := engine.Build(ctx, program, "bench/inside/load"); err != nil {
		return a, err
	}
	if err := engine.Image(ctx, image, program); err != nil {
		return a, err
	}
	name := fmt.Sprintf("ambassadord-test-inside-%x", time.Now().UnixNano())
	if _, err := engine.Docker(ctx, "network", "create", "--label", engine.Label, name); err != nil {
		return a, err
	}
	a.name = name
	gateway, err := engine.Docker(ctx, "network", "inspect", "-f", "{{(index .IPAM.Config 0).Gateway}}", name)
	if err != nil {
		return a, err
	}
	// At the gateway's address alone, so that nobody but this host gets there.
	args := []string{"--name", name, "--network", name}
	for _, port := range job.Ports() {
		args = append(args, "-p", gateway+"::"+strconv.Itoa(port))
	}
	if a.backend, err = engine.Run(ctx, append(args, image, "/load", "serve")...); err != nil {
		return a, err
	}
	err = a.inspect(ctx)
	return a, err
}

// inspect learns where the backend is.
func (a *arena) inspect(ctx context.Context) error {
	text, err := engine.Docker(ctx, "inspect", "-f", "{{json .NetworkSettings}}", a.backend)
	if err != nil {
		return err
	}
	var settings struct {
		Ports    map[string][]struct{ HostIP, HostPort string }
		Networks map[string]struct{ IPAddress string }
	}
	if err := json.Unmarshal([]byte(text), &settings); err != nil {
		return fmt.Errorf("inspect the backend: %w", err)
	}
	if a.backendAddr, err = netip.ParseAddr(settings.Networks[a.name].IPAddress); err != nil {
		return fmt.Errorf("the backend's address: %w", err)
	}
	for _, port := range job.Ports() {
		at := settings.Ports[strconv.Itoa(port)+"/tcp"]
		if len(at) == 0 {
			return fmt.Errorf("the engine has not published port %d of the backend", port)
		}
		if a.published[port], err = netip.ParseAddrPort(at[0].HostIP + ":" + at[0].HostPort); err != nil {
			return fmt.Errorf("where port %d is published: %w", port, err)
		}
	}
	return nil
}

// proxies are the docker-proxy processes of the backend. An engine that runs without
// them has none.
func (a *arena) proxies() ([]int, error) {
	files, err := filepath.Glob("/proc/[0-9]*/cmdline")
	if err != nil {
		return nil, err
	}
	var pids []int
	for _, file := range files {
		line, err := os.ReadFile(file)
		if err != nil {
			continue // ended
		}
		args := strings.Split(string(line), "\x00")
		if !strings.HasSuffix(args[0], "docker-proxy") || !strings.Contains(string(line), "\x00"+a.backendAddr.String()+"\x00") {
			continue
		}
		pid, err := strconv.Atoi(filepath.Base(filepath.Dir(file)))
		if err != nil {
			return nil, err
		}
		pids = append(pids, pid)
	}
	return pids, nil
}

// proxiesCPUTime is what they have used together.
func (a *arena) proxiesCPUTime() (time.Duration, error) {
	pids, err := a.proxies()
	var total time.Duration
	for _, pid := range pids {
		t, err := procstat.CPUTime(pid)
		if err != nil {
			return 0, err
		}
		total += t
	}
	return total, err
}

func (a *arena) close() {
	ctx := context.Background() // the measuring one may have ended
	err := engine.Remove(ctx, a.backend)
	if a.name != "" {
		_, e := engine.Docker(ctx, "network", "rm", a.name)
		err = errors.Join(err, e)
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, "inside: left behind:", err)
	}
}
