package operate

import (
	"cmp"
	"context"
	"fmt"
	"io"
	"strings"
	"time"

	"github.com/ambassadord/ambassadord/internal/admin"
	"github.com/ambassadord/ambassadord/internal/printable"
)

// EndpointOrder is what the daemon is to do with an endpoint, as POST /v1/endpoints takes it.
type EndpointOrder struct {
	Endpoint string `json:"endpoint"`
	Action   string `json:"action"`
	For      string `json:"for,omitempty"`
	Weight   uint16 `json:"weight"`
	Unknown  bool   `json:"unknown,omitempty"`
}

// Endpoints is what an operator has decided of endpoints, and the same in JSON, as it came.
func (d *Daemon) Endpoints(ctx context.Context) (admin.Decisions, []byte, error) {
	var all admin.Decisions
	text, err := d.get(ctx, "/v1/endpoints", nil, &all)
	return all, text, err
}

// Decide has the daemon do what o says, and returns what holds then, and the same in JSON.
func (d *Daemon) Decide(ctx context.Context, o EndpointOrder) (admin.Decisions, []byte, error) {
	var all admin.Decisions
	text, err := d.post(ctx, "/v1/endpoints", o, &all)
	return all, text, err
}

// CloseOrder is which connections are to be closed; "" and 0 are any.
type CloseOrder struct {
	Client   string `json:"client,omitempty"`
	Port     uint16 `json:"port,omitempty"`
	Target   string `json:"target,omitempty"`
	Endpoint string `json:"endpoint,omitempty"`
	Source   string `json:"source,omitempty"`
	All      bool   `json:"all,omitempty"`
}

// CloseConnections has the daemon close connections, and returns how many there were.
func (d *Daemon) CloseConnections(ctx context.Context, o CloseOrder) (admin.Closed, []byte, error) {
	var closed admin.Closed
	text, err := d.post(ctx, "/v1/connections/close", o, &closed)
	return closed, text, err
}

// LogLevel has the daemon log from a level on.
func (d *Daemon) LogLevel(ctx context.Context, level string) (admin.Done, error) {
	var done admin.Done
	_, err := d.post(ctx, "/v1/loglevel", map[string]string{"level": level}, &done)
	return done, err
}

// Drain has the daemon stop.
func (d *Daemon) Drain(ctx context.Context) (admin.Done, error) {
	var done admin.Done
	_, err := d.post(ctx, "/v1/drain", struct{}{}, &done)
	return done, err
}

// WriteDecisions shows what was decided of endpoints at a moment.
func WriteDecisions(w io.Writer, all admin.Decisions, now time.Time, s Style) {
	if len(all.Endpoints) == 0 {
		fmt.Fprintln(w, "nothing is decided of any endpoint")
		return
	}
	s.All = true // an operator has to take each back
	g := grid{columns: []string{"ENDPOINT", "STATE", "ENDS IN", "WEIGHT", "FOR"}}
	for _, e := range all.Endpoints {
		state, ends, weight, since := cmp.Or(e.State, "as it was"), "", "", ""
		if !e.Until.IsZero() {
			ends = span(e.Until.Sub(now))
		}
		if e.Weight != nil {
			weight = fmt.Sprint(*e.Weight)
		}
		if !e.Since.IsZero() {
			since = span(now.Sub(e.Since))
		}
		t := doubtful
		if e.State == "" && e.Weight == nil {
			t = well
		}
		g.add(t, e.Address, state, ends, weight, since)
	}
	g.write(w, s)
}

// Said is what an action has done, in a line.
func Said(done string) string { return printable.Text(strings.TrimSpace(done)) }
