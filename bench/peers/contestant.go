package main

import (
	"context"
	"encoding/json"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"

	"github.com/ambassadord/ambassadord/bench/internal/report"
)

// contestant is one way from a client to the backend.
type contestant struct {
	name    string
	program string // in PATH; empty is one of ours
	version []string
	setup   string // how it is set up, for readers
	// commands are what to start, after its configuration is in dir.
	commands func(o options, dir string, w backendSet) ([]command, error)
	forks    bool // a process for each connection: not for thousands of idle ones
}

// command is one process of a contestant.
type command struct {
	args   []string
	stdin  []byte
	status bool // docker-proxy reports at descriptor 3
}

const (
	dockerProxy   = "docker-proxy"
	socat         = "socat"
	haproxySplice = "haproxy-splice"
	unkept        = "ambassadord-unkept"
)

func usual() []string {
	return []string{
		report.Direct, report.Ours, report.Plain, report.HAProxy, report.Nginx, report.Rinetd, socat, dockerProxy,
	}
}

func unusual() []string { return []string{unkept, haproxySplice} } // and report.Before, by a flag of its own

func contestants() []contestant {
	return []contestant{
		{name: report.Direct, setup: "no proxy"},
		{
			name: report.Ours, setup: "the real daemon with fixed listeners, no engine, its log in a file, all else as by default",
			commands: daemon(),
		},
		{
			name: report.Before, setup: "another build of the daemon (-before), likewise",
			commands: func(o options, dir string, w backendSet) ([]command, error) {
				o.Daemon = o.Before
				return daemon()(o, dir, w)
			},
		},
		{
			name: unkept, setup: "the same with --keep-connections=false: no second process that outlives a crash", commands: daemon("--keep-connections=false"),
		},
		{
			name: report.Plain, setup: "a loop of accept, dial and two io.Copy in Go, built in bench/peers",
			commands: func(o options, _ string, w backendSet) ([]command, error) {
				stdin, err := json.Marshal(w.pairs())
				return []command{{args: []string{o.Self, roleWord, rolePlain}, stdin: stdin}}, err
			},
		},
		{
			name: report.HAProxy, program: "haproxy", version: []string{"-v"},
			setup: "mode tcp, no log, threads as by default (one for each core)", commands: haproxy(""),
		},
		{
			name: haproxySplice, program: "haproxy", version: []string{"-v"},
			setup: "the same with splice-request and splice-response", commands: haproxy("  option splice-request\n  option splice-response\n"),
		},
		{
			name: report.Nginx, program: "nginx", version: []string{"-v"},
			setup: "stream module, no log, a worker for each core, as Debian has it; each worker has the descriptors that others have in all", commands: nginxStream,
		},
		{
			name: report.Rinetd, program: "rinetd", version: []string{"-v"}, setup: "one process, no log",
			commands: func(_ options, dir string, w backendSet) ([]command, error) {
				var conf strings.Builder
				for _, p := range w.pairs() {
					conf.WriteString(strings.ReplaceAll(p.Listen+":"+p.Backend+"\n", ":", " "))
				}
				path := filepath.Join(dir, "rinetd.conf")
				return []command{{args: []string{"rinetd", "-f", "-c", path}}}, write(path, conf.String())
			},
		},
		{
			name: socat, program: "socat", version: []string{"-V"}, setup: "fork, a process for each connection; without idle connections", forks: true,
			commands: func(_ options, _ string, w backendSet) (all []command, _ error) {
				for _, p := range w.pairs() {
					host, port, _ := strings.Cut(p.Listen, ":")
					all = append(all, command{args: []string{
						"socat", "TCP-LISTEN:" + port + ",bind=" + host + ",fork,reuseaddr,backlog=4096", "TCP:" + p.Backend,
					}})
				}
				return all, nil
			},
		},
		{
			name: dockerProxy, program: dockerProxy, setup: "the engine's, a process for each port",
			commands: func(_ options, _ string, w backendSet) (all []command, _ error) {
				for _, p := range w.pairs() {
					host, port, _ := strings.Cut(p.Listen, ":")
					to, toPort, _ := strings.Cut(p.Backend, ":")
					all = append(all, command{status: true, args: []string{
						dockerProxy, "-proto", "tcp", "-host-ip", host, "-host-port", port, "-container-ip", to, "-container-port", toPort,
					}})
				}
				return all, nil
			},
		},
	}
}

func daemon(more ...string) func(options, string, backendSet) ([]command, error) {
	return func(o options, _ string, w backendSet) ([]command, error) {
		args := append([]string{o.Daemon, "run"}, more...)
		for _, p := range w.pairs() {
			args = append(args, p.Listen+"="+p.Backend)
		}
		return []command{{args: args}}, nil
	}
}

func haproxy(more string) func(options, string, backendSet) ([]command, error) {
	return func(o options, dir string, w backendSet) ([]command, error) {
		var conf strings.Builder
		conf.WriteString("global\n")
		if o.Threads > 0 {
			fmt.Fprintf(&conf, "  nbthread %d\n", o.Threads)
		}
		conf.WriteString("defaults\n  mode tcp\n  timeout connect 5s\n  timeout client 1h\n  timeout server 1h\n" + more)
		for i, p := range w.pairs() {
			fmt.Fprintf(&conf, "listen l%d\n  bind %s\n  server s %s\n", i, p.Listen, p.Backend)
		}
		path := filepath.Join(dir, "haproxy.cfg")
		return []command{{args: []string{"haproxy", "-db", "-f", path}}}, write(path, conf.String())
	}
}

// nginxModule is where Debian has the stream module.
const nginxModule = "/usr/lib/nginx/modules/ngx_stream_module.so"

func nginxStream(o options, dir string, w backendSet) ([]command, error) {
	workers := "auto"
	if o.Threads > 0 {
		workers = fmt.Sprint(o.Threads)
	}
	var conf strings.Builder
	fmt.Fprintf(&conf, "load_module %s;\nworker_processes %s;\npid %s/nginx.pid;\ndaemon off;\n", nginxModule, workers, dir)
	// 768, which Debian has, would be the end of 9,000 idle connections.
	conf.WriteString("events { worker_connections 19000; }\nstream {\n")
	for _, p := range w.pairs() {
		fmt.Fprintf(&conf, "  server { listen %s; proxy_pass %s; }\n", p.Listen, p.Backend)
	}
	conf.WriteString("}\n")
	path := filepath.Join(dir, "nginx.conf")
	return []command{{args: []string{"nginx", "-e", filepath.Join(dir, "error.log"), "-c", path}}}, write(path, conf.String())
}

func write(path, text string) error {
	return os.WriteFile(path, []byte(text), 0o644)
}

// missing says why a contestant cannot take part here.
func (c contestant) missing() string {
	if c.program == "" {
		return ""
	}
	if _, err := exec.LookPath(c.program); err != nil {
		return c.program + " is not in PATH; scripts/setup bench installs it, and docker-proxy comes with the engine"
	}
	if c.name == report.Nginx {
		if _, err := os.Stat(nginxModule); err != nil {
			return "nginx has no stream module: " + err.Error()
		}
	}
	return ""
}

// versionOf is the line of its version's output that has a number in it.
func (c contestant) versionOf(ctx context.Context) string {
	if len(c.version) == 0 {
		return ""
	}
	out, _ := exec.CommandContext(ctx, c.program, c.version...).CombinedOutput()
	for _, word := range []string{"version", c.program + " "} {
		for line := range strings.Lines(string(out)) {
			if strings.Contains(line, word) {
				return strings.TrimSpace(line)
			}
		}
	}
	return ""
}
