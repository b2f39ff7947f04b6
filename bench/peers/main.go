// Command peers measures ambassadord beside other proxies and beside a direct
// connection, on this machine.
//
//	go run ./bench/peers
//	go run ./bench/peers -rounds 16 -json docs/performance.json -docs docs
//	go run ./bench/peers -contestants direct,plain,ambassadord -rounds 1 -duration 100ms
//	go run ./bench/peers -parts traffic -contestants ambassadord -before bin/old -rounds 16
//	go run ./bench/peers -parts traffic -measures 'churn 1,churn 64'
//	go run ./bench/peers -render docs/performance.json -docs docs
//
// All contestants are up at once and take turns, in rounds whose order is shuffled;
// they are compared within a round. The daemon is the real one, with its log on, and
// fixed listeners in place of containers. Everything runs in a network namespace of
// its own, because the NAT rules of an engine, and a congestion control that paces,
// cost more than what is to be measured; -host measures outside as well. Nothing is
// pinned to a processor. It runs as root.
package main

import (
	"context"
	"encoding/json"
	"flag"
	"fmt"
	"io"
	"os"
	"os/signal"
	"strings"
	"syscall"
	"time"

	"github.com/ambassadord/ambassadord/bench/internal/report"
)

func main() {
	if len(os.Args) > 2 && os.Args[1] == roleWord {
		if err := play(os.Args[2], os.Stdin, os.Stdout); err != nil {
			fmt.Fprintf(os.Stderr, "peers %s: %v\n", os.Args[2], err)
			os.Exit(1)
		}
		return
	}
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	err := run(ctx, os.Args[1:], os.Stdout, os.Stderr)
	stop()
	if err != nil {
		fmt.Fprintln(os.Stderr, "peers:", err)
		os.Exit(1)
	}
}

// options are what the flags say; they travel to the process inside the namespace.
type options struct {
	Daemon      string // its binary
	Before      string // that of another build, to be compared with; may be empty
	Self        string // this program's, where every user may execute it
	Dir         string
	Contestants []string
	Parts       []string
	Measures    []string
	Rounds      int
	Duration    time.Duration
	Threads     int
	Place       report.Place
}

const (
	partTraffic      = "traffic"
	partIdle         = "idle"
	partUnprivileged = "unprivileged"
)

func run(ctx context.Context, args []string, out, progress io.Writer) error {
	var o options
	flags := flag.NewFlagSet("peers", flag.ContinueOnError)
	flags.StringVar(&o.Daemon, "daemon", "", "the daemon's binary; without one it is built")
	flags.StringVar(&o.Before, "before", "", "another build of the daemon, which takes part, too, and is compared with")
	flags.IntVar(&o.Rounds, "rounds", 5, "how many rounds; 16 for a claim of parity")
	flags.DurationVar(&o.Duration, "duration", time.Second, "how long each measurement lasts; those by wrk last a second at least")
	flags.IntVar(&o.Threads, "threads", 0, "threads of HAProxy and processes of nginx; 0 is one for each core, as both come")
	contestants := flags.String("contestants", strings.Join(usual(), ","), "who takes part; also: "+strings.Join(unusual(), ", "))
	parts := flags.String("parts", "traffic,unprivileged,idle", "what to measure")
	measures := flags.String("measures", strings.Join(report.Measures(), ","), "which of traffic's measures")
	host := flags.Bool("host", false, "measure traffic in the host's network namespace as well")
	toJSON := flags.String("json", "", "write the result to this file")
	docs := flags.String("docs", "", "write performance.md and performance.svg in this folder")
	render := flags.String("render", "", "measure nothing: show the result in this file")
	if err := flags.Parse(args); err != nil {
		return err
	}
	var result report.Result
	if *render != "" {
		text, err := os.ReadFile(*render)
		if err != nil {
			return err
		}
		if err := json.Unmarshal(text, &result); err != nil {
			return fmt.Errorf("%s: %w", *render, err)
		}
	} else {
		var err error
		if o.Contestants, err = words(*contestants, append(usual(), unusual()...)); err != nil {
			return fmt.Errorf("-contestants: %w", err)
		}
		if o.Before != "" {
			o.Contestants = append(o.Contestants, report.Before)
		}
		if o.Parts, err = words(*parts, []string{partTraffic, partIdle, partUnprivileged}); err != nil {
			return fmt.Errorf("-parts: %w", err)
		}
		if o.Measures, err = words(*measures, report.Measures()); err != nil {
			return fmt.Errorf("-measures: %w", err)
		}
		if o.Rounds < 1 || o.Duration < 10*time.Millisecond {
			return fmt.Errorf("-rounds %d -duration %s: there must be a round, of 10ms a measurement at least", o.Rounds, o.Duration)
		}
		if result, err = measure(ctx, o, *host, progress); err != nil {
			return err
		}
		result.Command = strings.Join(append([]string{"go run ./bench/peers"}, args...), " ")
	}
	result.Text(out)
	if *toJSON != "" {
		text, err := json.MarshalIndent(result, "", " ")
		if err != nil {
			return err
		}
		if err := os.WriteFile(*toJSON, append(text, '\n'), 0o644); err != nil {
			return err
		}
	}
	if *docs != "" {
		return result.Docs(*docs)
	}
	return nil
}

// words splits a list and refuses what is not among known.
func words(list string, known []string) ([]string, error) {
	names := strings.Split(list, ",")
	for _, name := range names {
		found := false
		for _, k := range known {
			found = found || k == name
		}
		if !found {
			return nil, fmt.Errorf("%q is none of %s", name, strings.Join(known, ", "))
		}
	}
	return names, nil
}

// measure prepares, and runs the process inside the namespace, and beside it.
func measure(ctx context.Context, o options, host bool, progress io.Writer) (result report.Result, err error) {
	if os.Geteuid() != 0 {
		return result, fmt.Errorf("a network namespace and users of the proxies' own need root: run it as root")
	}
	if o.Dir, err = os.MkdirTemp("", "bench-peers"); err != nil {
		return result, err
	}
	defer os.RemoveAll(o.Dir)
	if err := os.Chmod(o.Dir, 0o755); err != nil { //nolint:gosec // the proxies' users read their configuration there
		return result, err
	}
	if err := o.programs(ctx); err != nil {
		return result, err
	}
	began := time.Now()
	o.Place = report.Private
	if result, err = inside(ctx, o, progress); err != nil {
		return result, err
	}
	if host {
		o.Place, o.Parts = report.Host, []string{partTraffic}
		beside, err := (&bench{options: o, progress: progress}).run(ctx)
		if err != nil {
			return result, fmt.Errorf("in the host's network namespace: %w", err)
		}
		result.Samples = append(result.Samples, beside.Samples...)
	}
	result.Began, result.Rounds, result.Duration = began, o.Rounds, o.Duration
	peers := result.Machine.Peers
	result.Machine = machine(ctx)
	result.Machine.Peers = peers
	return result, nil
}
