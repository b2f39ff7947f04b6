package operate

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"strconv"
	"strings"
	"time"

	"github.com/ambassadord/ambassadord/internal/admin"
	"github.com/ambassadord/ambassadord/internal/printable"
	"github.com/ambassadord/ambassadord/internal/status"
)

const (
	// mostEvent bounds a line of a stream, in bytes: one event.
	mostEvent = 1 << 20
	// silence is for how long a daemon says nothing before it is taken for one that hangs; it sends
	// something every 15 s.
	silence = 45 * time.Second
	// comeAgain is how long after the end of a stream another is asked for: a daemon that is taken over from
	// ends it, and one that restarts takes a moment.
	comeAgain = time.Second
)

// EventsWanted says which events are meant; "" and 0 are any.
type EventsWanted struct {
	Since                          uint64 // ID, or microseconds since 1970
	Client, Target, Level, Message string
	Limit                          int
}

func (w *EventsWanted) query() url.Values {
	query := url.Values{}
	for name, value := range map[string]string{"client": w.Client, "target": w.Target, "level": w.Level, "message": w.Message} {
		if value != "" {
			query.Set(name, value)
		}
	}
	if w.Since != 0 {
		query.Set("since", strconv.FormatUint(w.Since, 10))
	}
	if w.Limit != 0 {
		query.Set("limit", strconv.Itoa(w.Limit))
	}
	return query
}

// Events are the last that the daemon has told of, the oldest first, and the same in JSON, as it came.
func (d *Daemon) Events(ctx context.Context, w EventsWanted) (admin.EventList, []byte, error) {
	var list admin.EventList
	text, err := d.get(ctx, "/v1/events", w.query(), &list)
	return list, text, err
}

// Watcher is told of events as they happen.
type Watcher struct {
	Event func(e status.Event, text []byte) // text is the same in JSON, as it came
	Lost  func()                            // some are missing: the daemon does not keep them any more
	Away  func(error)                       // the daemon is; it is called once, until it answers again
}

// Follow tells to of events after w.Since, until ctx ends. Where the daemon ends, or another takes over, it goes on
// with the next.
func (d *Daemon) Follow(ctx context.Context, w EventsWanted, to Watcher) error {
	away := false
	for {
		err := d.follow(ctx, &w, to, func() { away = false })
		switch {
		case ctx.Err() != nil:
			return nil
		case errors.As(err, new(*finalAnswer)):
			return err
		case err != nil && !away:
			away = true
			to.Away(err)
		}
		select {
		case <-time.After(comeAgain):
		case <-ctx.Done():
			return nil
		}
	}
}

// finalAnswer is one that will be the same when it is asked for again.
type finalAnswer struct{ error }

func (r *finalAnswer) Unwrap() error { return r.error }

// follow is Follow with one daemon. It moves w.Since on.
func (d *Daemon) follow(ctx context.Context, w *EventsWanted, to Watcher, answered func()) error {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	hangs := time.AfterFunc(silence, cancel)
	defer hangs.Stop()
	query := w.query()
	query.Set("follow", "true")
	query.Del("limit")
	request, err := http.NewRequestWithContext(ctx, http.MethodGet, (&url.URL{Scheme: "http", Host: "localhost", Path: "/v1/events", RawQuery: query.Encode()}).String(), nil)
	if err != nil {
		return err
	}
	answer, err := (&http.Client{Transport: d.client.Transport}).Do(request) // without an end
	if err != nil {
		return d.unreachable(err)
	}
	defer answer.Body.Close()
	if answer.StatusCode != http.StatusOK {
		text, _ := io.ReadAll(io.LimitReader(answer.Body, mostEvent))
		err := d.refused(answer.Status, text)
		if answer.StatusCode == http.StatusServiceUnavailable {
			return err
		}
		return &finalAnswer{err}
	}
	answered()
	lines := bufio.NewScanner(answer.Body)
	lines.Buffer(nil, mostEvent)
	lost := false
	for lines.Scan() {
		hangs.Reset(silence)
		name, value, _ := bytes.Cut(lines.Bytes(), []byte(": "))
		switch string(name) {
		case "event":
			lost = string(value) == "lost"
		case "data":
			if lost {
				to.Lost()
				lost = false
				continue
			}
			var e status.Event
			if err := json.Unmarshal(value, &e); err != nil {
				return &finalAnswer{fmt.Errorf("an event of the daemon at %s: %w", d.path, err)}
			}
			w.Since = max(w.Since, e.ID)
			to.Event(e, value)
		}
	}
	return lines.Err() // nil where the daemon has ended
}

// WriteEvent shows an event in a line.
func WriteEvent(w io.Writer, e status.Event, s Style) {
	t := well
	switch e.Level {
	case "warn":
		t = doubtful
	case "error":
		t = wrong
	}
	var b strings.Builder
	b.WriteString(e.Time.Local().Format("2006-01-02 15:04:05.000"))
	b.WriteString(" " + s.paint(fmt.Sprintf("%-5s", strings.ToUpper(cut(printable.Text(e.Level), 5))), t) + " " + s.bold(printable.Text(e.Message)))
	for _, f := range fieldsOf(e.Fields) {
		b.WriteString(" " + printable.Text(f.name) + "=" + printable.Text(f.value))
	}
	fmt.Fprintln(w, b.String())
}

// eventField is one of an event's fields, in words.
type eventField struct{ name, value string }

// fieldsOf are the members of a JSON object in their order.
func fieldsOf(object json.RawMessage) []eventField {
	var all []eventField
	d := json.NewDecoder(bytes.NewReader(object))
	if t, err := d.Token(); err != nil || t != json.Delim('{') {
		return nil
	}
	for d.More() {
		name, err := d.Token()
		if err != nil {
			break
		}
		var value json.RawMessage
		if d.Decode(&value) != nil {
			break
		}
		text := string(value)
		var plain string
		if json.Unmarshal(value, &plain) == nil {
			if text = plain; plain == "" || strings.ContainsAny(plain, " \"=") || printable.Text(plain) != plain {
				text = strconv.Quote(plain)
			}
		}
		all = append(all, eventField{fmt.Sprint(name), text})
	}
	return all
}
