package main

import (
	"cmp"
	"encoding/json"
	"fmt"
	"io"
	"log/slog"
	"net/netip"
	"strings"
	"text/tabwriter"
	"time"

	"github.com/spf13/cobra"

	"github.com/ambassadord/ambassadord/internal/hint"
	"github.com/ambassadord/ambassadord/internal/oneshot"
	"github.com/ambassadord/ambassadord/resolver"
)

const resolveHelp = `Print the endpoints of a target: where, with which priority and weight, which
source named it, how long ago, its health where that is known, and its name.

Below them, each line with a #: the instances that were left out and why, what
the sources have to say, and which of them fail. With -o json each answer is one
object on a line of its own.`

func resolveCommand(environ []string) *cobra.Command {
	flags := newRunFlags(environ)
	var question oneshot.Question
	var out output
	cmd := &cobra.Command{
		Use:   "resolve TARGET",
		Short: "Print the endpoints of a target",
		Long:  resolveHelp,
		Example: `  ambassadord resolve redis.service.consul
  ambassadord resolve --watch 'docker://?label=app=redis&port=6379'
  ambassadord resolve --as shop-app-1 docker://redis:6379
  ambassadord resolve -o json 'consul-service://redis | file:///etc/redis.list'`,
		Args: exactArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			if err := out.check(); err != nil {
				return err
			}
			if err := mistakenTarget(cmd.Root(), args[0]); err != nil {
				return err
			}
			cfg, err := flags.config(cmd.Flags(), nil)
			if err != nil {
				return err
			}
			log := slog.New(slog.DiscardHandler) // the answer says what failed
			parse, err := oneshot.NewParser(cfg, log)
			if err != nil {
				return usage(err)
			}
			if _, err := parse(args[0]); err != nil {
				return usage(err)
			}
			printer := statusPrinter{out: cmd.OutOrStdout(), json: out.format == "json", watch: question.Watch}
			question.Target = args[0]
			return oneshot.Resolve(cmd.Context(), cfg, question, log, func(s resolver.Status) { printer.print(s) })
		},
	}
	flags.registerSources(cmd.Flags())
	flags.registerMaxStale(cmd.Flags())
	cmd.Flags().StringVar(&question.As, "as", "", "`CONTAINER`, by its name or ID, for which to ask: a name in docker:// means one of its own project and networks first")
	cmd.Flags().BoolVar(&question.Watch, "watch", false, "print again after every change, until interrupted")
	out.register(cmd.Flags())
	return cmd
}

// resolvedJSON is what "resolve -o json" prints, one object on a line for each
// answer. docs/targets.md documents it: fields are added, not changed.
type resolvedJSON struct {
	Target string `json:"target"`
	Time   string `json:"time"`
	// Choice counts from 1; 0 while no choice of the target has endpoints.
	Choice    int                `json:"choice"`
	Endpoints []resolvedEndpoint `json:"endpoints"`
	LeftOut   []resolvedLeftOut  `json:"left_out"`
	Sources   []resolvedSource   `json:"sources"`
	Error     string             `json:"error,omitempty"`
	Hint      string             `json:"hint,omitempty"`
}

type resolvedEndpoint struct {
	Address    string  `json:"address"`
	Name       string  `json:"name,omitempty"`
	Priority   uint16  `json:"priority"`
	Weight     uint16  `json:"weight"`
	Health     string  `json:"health,omitempty"`
	Distance   string  `json:"distance,omitempty"`
	Source     string  `json:"source"`
	AgeSeconds float64 `json:"age_seconds"`
}

type resolvedLeftOut struct {
	Name    string `json:"name,omitempty"`
	Address string `json:"address,omitempty"`
	Why     string `json:"why"`
	Source  string `json:"source"`
}

type resolvedSource struct {
	Source string `json:"source"`
	Choice int    `json:"choice"`
	// State is well, failing, or waiting for a first answer.
	State          string   `json:"state"`
	Endpoints      int      `json:"endpoints"`
	AgeSeconds     *float64 `json:"age_seconds,omitempty"`
	FailingSeconds *float64 `json:"failing_seconds,omitempty"`
	Notes          []string `json:"notes,omitempty"`
	Error          string   `json:"error,omitempty"`
	Hint           string   `json:"hint,omitempty"`
}

// describe is s as it is printed, at now.
func describe(s resolver.Status, now time.Time) resolvedJSON {
	d := resolvedJSON{
		Target: s.Target.String(), Time: now.UTC().Format(time.RFC3339Nano), Choice: s.Choice + 1,
		Endpoints: []resolvedEndpoint{}, LeftOut: []resolvedLeftOut{}, Sources: []resolvedSource{},
	}
	if s.Err != nil {
		d.Error, d.Hint = s.Err.Error(), hint.Of(s.Err)
	}
	seen := map[netip.AddrPort]bool{}
	for _, q := range s.Queries {
		source := q.Query.String()
		one := resolvedSource{Source: source, Choice: q.Choice + 1, State: "well", Endpoints: len(q.Endpoints), Notes: q.Notes}
		if !q.Answered.IsZero() {
			one.AgeSeconds = seconds(now.Sub(q.Answered))
		}
		if !q.Failing.IsZero() {
			one.FailingSeconds = seconds(now.Sub(q.Failing))
		}
		switch {
		case q.Err != nil:
			one.State, one.Error, one.Hint = "failing", q.Err.Error(), hint.Of(q.Err)
		case q.Answered.IsZero():
			one.State = "waiting"
		}
		d.Sources = append(d.Sources, one)
		for _, l := range q.LeftOut {
			d.LeftOut = append(d.LeftOut, resolvedLeftOut{Name: l.Name, Address: l.Addr, Why: l.Why, Source: source})
		}
		if q.Choice != s.Choice {
			continue
		}
		for _, e := range q.Endpoints {
			if seen[e.Addr] { // lists overlap
				continue
			}
			seen[e.Addr] = true
			d.Endpoints = append(d.Endpoints, resolvedEndpoint{
				Address: e.Addr.String(), Name: e.Name, Priority: e.Priority, Weight: e.Weight, Health: e.Health,
				Distance: e.Distance.String(), Source: source, AgeSeconds: *seconds(now.Sub(q.Answered)),
			})
		}
	}
	return d
}

// seconds are d in seconds, to the millisecond.
func seconds(d time.Duration) *float64 {
	s := d.Round(time.Millisecond).Seconds()
	return &s
}

// statusPrinter prints one status after the other.
type statusPrinter struct {
	out         io.Writer
	json, watch bool
}

func (p *statusPrinter) print(s resolver.Status) {
	now := time.Now()
	d := describe(s, now)
	if p.json {
		encoder := json.NewEncoder(p.out)
		encoder.SetEscapeHTML(false)
		_ = encoder.Encode(d) // printing for people and their programs: there is nobody left to tell
		return
	}
	if p.watch {
		fmt.Fprintf(p.out, "# %s\n", now.Format(time.TimeOnly))
	}
	d.write(p.out, p.watch)
}

// write prints d for people. With said, the error is printed too; without, somebody
// else does.
func (d *resolvedJSON) write(out io.Writer, said bool) {
	w := tabwriter.NewWriter(out, 0, 0, 2, ' ', 0)
	for _, e := range d.Endpoints {
		line := []string{
			e.Address, fmt.Sprintf("priority=%d", e.Priority), fmt.Sprintf("weight=%d", e.Weight),
			"age=" + age(e.AgeSeconds), "health=" + cmp.Or(e.Health, "-"), "source=" + e.Source, e.Name,
		}
		fmt.Fprintln(w, strings.TrimRight(strings.Join(line, "\t"), "\t"))
	}
	_ = w.Flush() // to people
	for _, l := range d.LeftOut {
		where := cmp.Or(l.Name, l.Address)
		if l.Name != "" && l.Address != "" {
			where += " (" + l.Address + ")"
		}
		fmt.Fprintf(out, "# left out: %s %s, by %s\n", where, l.Why, l.Source)
	}
	for _, s := range d.Sources {
		for _, note := range s.Notes {
			fmt.Fprintf(out, "# note: %s, by %s\n", note, s.Source)
		}
		switch {
		case s.State == "failing" && s.Endpoints > 0:
			fmt.Fprintf(out, "# failing: %s for %s, its answer is %s old: %s\n", s.Source, since(s.FailingSeconds), since(s.AgeSeconds), s.Error)
		case s.State == "failing" && d.Error == "":
			fmt.Fprintf(out, "# failing: %s: %s\n", s.Source, s.Error)
		case s.Choice != d.Choice && s.Endpoints > 0:
			fmt.Fprintf(out, "# not in use: %s, endpoints: %d\n", s.Source, s.Endpoints)
		}
	}
	if said && d.Error != "" {
		fmt.Fprintf(out, "# %s\n", d.Error)
		if d.Hint != "" {
			fmt.Fprintf(out, "# hint: %s\n", d.Hint)
		}
	}
}

func age(seconds float64) string {
	return time.Duration(seconds * float64(time.Second)).Round(time.Second).String()
}

// since is age of what may not be known.
func since(seconds *float64) string {
	if seconds == nil {
		return "an unknown time"
	}
	return age(*seconds)
}
