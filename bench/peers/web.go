package main

import (
	"context"
	"fmt"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
	"syscall"
	"time"

	"github.com/ambassadord/ambassadord/bench/internal/procstat"
	"github.com/ambassadord/ambassadord/bench/internal/report"
)

// webMissing says why nothing is measured with HTTP.
func webMissing() string {
	for _, program := range []string{"wrk", "nginx"} {
		if _, err := exec.LookPath(program); err != nil {
			return program + " is not in PATH; scripts/setup bench installs it"
		}
	}
	return ""
}

// startWeb starts the nginx behind all participants: one worker, a small reply, no log.
func (b *bench) startWeb(ctx context.Context, took []participant) (stop func(), err error) {
	if why := webMissing(); why != "" {
		b.note("HTTP is not measured: %s", why)
		return func() {}, nil
	}
	dir, err := os.MkdirTemp(b.Dir, "web")
	if err != nil {
		return nil, err
	}
	var conf strings.Builder
	fmt.Fprintf(&conf, "worker_processes 1;\npid %s/nginx.pid;\ndaemon off;\nevents { worker_connections 4096; }\nhttp {\n  access_log off;\n  keepalive_requests 1000000000;\n", dir)
	for _, path := range []string{"client_body", "proxy", "fastcgi", "uwsgi", "scgi"} {
		fmt.Fprintf(&conf, "  %s_temp_path %s/%s;\n", path, dir, path)
	}
	for _, p := range took {
		fmt.Fprintf(&conf, "  server { listen %s backlog=4096; location / { return 200 'hello, world'; } }\n", p.Backend.HTTP)
	}
	conf.WriteString("}\n")
	path, log := filepath.Join(dir, "nginx.conf"), filepath.Join(dir, "error.log")
	if err := write(path, conf.String()); err != nil {
		return nil, err
	}
	cmd := exec.CommandContext(ctx, "nginx", "-e", log, "-c", path)
	cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	if err := cmd.Start(); err != nil {
		return nil, err
	}
	r := running{contestant: contestant{name: "the nginx behind all"}, processes: []*exec.Cmd{cmd}}
	for deadline := time.Now().Add(10 * time.Second); ; time.Sleep(5 * time.Millisecond) {
		if err = listens(ctx, took[len(took)-1].Backend.HTTP); err == nil {
			return r.stop, nil
		}
		if time.Now().After(deadline) {
			text, _ := os.ReadFile(log)
			r.stop()
			return nil, fmt.Errorf("%s does not listen: %w: %.500s", r.name, err, text)
		}
	}
}

func (b *bench) web() []measurement {
	if webMissing() != "" {
		return nil
	}
	return []measurement{
		{report.HTTPKeepAlive, func(ctx context.Context, r *running) (report.Sample, error) { return b.wrk(ctx, r) }},
		{report.HTTPClose, func(ctx context.Context, r *running) (report.Sample, error) {
			return b.wrk(ctx, r, "-H", "Connection: close")
		}},
	}
}

// wrk has 64 connections for as long as the others, but whole seconds, which it wants.
func (b *bench) wrk(ctx context.Context, r *running, args ...string) (report.Sample, error) {
	seconds := max(1, int(b.Duration.Seconds()))
	before, err := r.cpu()
	if err != nil {
		return report.Sample{}, err
	}
	args = append(args, "-t1", "-c64", fmt.Sprintf("-d%ds", seconds), "--latency", "http://"+r.Listen.HTTP.String()+"/")
	text, err := output(ctx, "wrk", args...)
	if err != nil {
		return report.Sample{}, err
	}
	after, err := r.cpu()
	if err != nil {
		return report.Sample{}, err
	}
	s, requests, err := parseWrk(text)
	if err != nil {
		return s, err
	}
	s.CPU = (after - before).Seconds() / float64(requests)
	return s, nil
}

func (r *running) cpu() (sum time.Duration, err error) {
	for _, pid := range r.pids() {
		cpu, err := procstat.TreeCPU(pid)
		if err != nil {
			return 0, err
		}
		sum += cpu
	}
	return sum, nil
}

// parseWrk reads what wrk prints.
func parseWrk(text string) (s report.Sample, requests int, err error) {
	find := func(pattern string) string {
		if m := regexp.MustCompile(pattern).FindStringSubmatch(text); m != nil {
			return m[1]
		}
		return ""
	}
	requests, err = strconv.Atoi(find(`(\d+) requests in`))
	if err != nil || requests == 0 {
		return s, 0, fmt.Errorf("wrk made no requests: %.500s", text)
	}
	if s.Rate, err = strconv.ParseFloat(find(`Requests/sec:\s*([\d.]+)`), 64); err != nil {
		return s, 0, fmt.Errorf("wrk says no rate: %.500s", text)
	}
	for quantile, to := range map[string]*float64{"50": &s.P50, "99": &s.P99} {
		d, err := time.ParseDuration(find(`(?m)^\s*` + quantile + `%\s+([\d.]+[a-z]+)\s*$`))
		if err != nil {
			return s, 0, fmt.Errorf("wrk says no latency: %.500s", text)
		}
		*to = d.Seconds()
	}
	for _, kind := range []string{"connect", "read", "write", "timeout"} {
		n, _ := strconv.Atoi(find(`Socket errors:.*` + kind + ` (\d+)`))
		s.Failed += n
	}
	n, _ := strconv.Atoi(find(`Non-2xx or 3xx responses: (\d+)`))
	s.Failed += n
	return s, requests, nil
}

func listens(ctx context.Context, at netip.AddrPort) error {
	conn, err := dialer().DialContext(ctx, "tcp", at.String())
	if err != nil {
		return err
	}
	return conn.Close()
}
