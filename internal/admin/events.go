package admin

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"reflect"
	"slices"
	"strings"
	"time"

	"github.com/danielgtaylor/huma/v2"
	"github.com/danielgtaylor/huma/v2/adapters/humago"

	"github.com/ambassadord/ambassadord/internal/status"
)

const (
	// eventsPath is that of events, which take no snapshot, and may be watched for as long as one likes.
	eventsPath = "/v1/events"
	// mostWatchers bounds the requests for events of a socket at once.
	mostWatchers = 16
	// heartbeat is how often a watcher is sent something: so both sides notice that the other has gone.
	heartbeat = 15 * time.Second
	// eventStream is the media type of server-sent events (HTML, 9.2).
	eventStream = "text/event-stream"
)

// Events has the last events; *events.Log is one.
type Events interface {
	// After is the events after the one with that ID, the oldest first, and whether some of them are not
	// kept any more.
	After(id uint64) (events []status.Event, lost bool)
	// Wait is After once there is one, or nothing once ctx has ended.
	Wait(ctx context.Context, id uint64) (events []status.Event, lost bool)
}

// eventFilter says which events are meant; "" and 0 are any.
type eventFilter struct {
	Since   uint64 `query:"since" doc:"those after the event with this ID, or after this time, in microseconds since 1970"`
	Client  string `query:"client" maxLength:"255" doc:"those about the client with this name, beginning of an ID, or service"`
	Target  string `query:"target" maxLength:"4096" doc:"those about this target, as the log writes it"`
	Level   string `query:"level" enum:"debug,info,warn,error" doc:"those of this level and above; of connections there are those that failed"`
	Message string `query:"message" maxLength:"255" doc:"those with this message"`
	Limit   int    `query:"limit" minimum:"1" maximum:"100000" default:"1000" doc:"how many are listed at most, the newest"`
	Follow  bool   `query:"follow" doc:"send events as they happen, as server-sent events. Without since from now on. So does Accept: text/event-stream"`

	LastID uint64 `header:"Last-Event-ID" doc:"since of a client that comes again"`
	Accept string `header:"Accept" hidden:"true"`
}

// EventList is the events that were asked for.
type EventList struct {
	Events []status.Event `json:"events" doc:"the oldest first"`
	Lost   bool           `json:"lost" doc:"there were others after since, which are not kept any more"`
	Now    uint64         `json:"now" doc:"the ID of the last event, whether it was asked for or not: since of a request for those that follow"`
}

func (f *eventFilter) follows() bool { return f.Follow || strings.Contains(f.Accept, eventStream) }

// levels are those of events, the lowest first.
var levels = []string{"debug", "info", "warn", "error"}

func (f *eventFilter) matches(e *status.Event) bool {
	if f.Level != "" && slices.Index(levels, e.Level) < slices.Index(levels, f.Level) || f.Message != "" && f.Message != e.Message {
		return false
	}
	if f.Client == "" && f.Target == "" {
		return true
	}
	var about struct {
		Client, ID, Service, Target string
		Reporter                    string `json:"reported_by"`
		ReporterID                  string `json:"reporter_id"`
	}
	if json.Unmarshal(e.Fields, &about) != nil { // a field is no text
		return false
	}
	named := f.Client == "" || f.Client == about.Client || f.Client == about.Service || f.Client == about.Reporter ||
		len(f.Client) >= leastID && (about.ID != "" && sameID(f.Client, about.ID) || about.ReporterID != "" && sameID(f.Client, about.ReporterID))
	return named && (f.Target == "" || f.Target == about.Target)
}

// chosen is those of events that are meant, without their room.
func (f *eventFilter) chosen(events []status.Event) []status.Event {
	all := []status.Event{}
	for i := range events {
		if f.matches(&events[i]) {
			all = append(all, events[i])
		}
	}
	return all
}

// registerEvents registers the route of events.
func (r *routes) registerEvents(api huma.API) {
	schema := api.OpenAPI().Components.Schemas.Schema
	route(api, eventsPath, "What the daemon has told of lately, or tells of from now on", map[string]*huma.Response{"200": {
		Description: "A list, or a stream of server-sent events whose data is an Event each; one of the type lost says that some are missing",
		Content: map[string]*huma.MediaType{
			"application/json": {Schema: schema(reflect.TypeFor[EventList](), true, "")},
			eventStream:        {Schema: &huma.Schema{Type: huma.TypeString}},
		},
	}}, r.events)
}

func (r *routes) events(_ context.Context, f *eventFilter) (*huma.StreamResponse, error) {
	if r.config.Events == nil {
		return nil, failure(http.StatusNotFound, "this daemon keeps no events", "read its log")
	}
	if f.follows() {
		return &huma.StreamResponse{Body: func(c huma.Context) {
			request, w := humago.Unwrap(c)
			r.stream(request.Context(), w, f)
		}}, nil
	}
	return &huma.StreamResponse{Body: func(c huma.Context) {
		events, lost := r.config.Events.After(max(f.Since, f.LastID))
		all := f.chosen(events)
		lost = lost && f.Since+f.LastID > 0 // or nobody has missed anything
		list := EventList{Events: all[max(0, len(all)-f.Limit):], Lost: lost, Now: max(f.Since, f.LastID)}
		if len(events) > 0 {
			list.Now = events[len(events)-1].ID
		}
		c.SetHeader("Content-Type", "application/json")
		_ = json.NewEncoder(c.BodyWriter()).Encode(list) // who has left needs no answer
	}}, nil
}

// stream sends events as they happen, until the client leaves, or takes none, or the daemon ends.
func (r *routes) stream(ctx context.Context, w http.ResponseWriter, f *eventFilter) {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	if ending := r.config.ending; ending != nil {
		defer context.AfterFunc(ending, cancel)()
	}
	control := http.NewResponseController(w)
	// What bounds other requests would end this one.
	if err := errors.Join(control.SetReadDeadline(time.Time{}), control.SetWriteDeadline(time.Time{})); err != nil {
		refuse(w, http.StatusNotImplemented, err.Error(), "leave follow out")
		return
	}
	w.Header().Set("Content-Type", eventStream)
	w.Header().Set("Cache-Control", "no-store")
	w.WriteHeader(http.StatusOK)
	last := max(f.Since, f.LastID)
	if last == 0 {
		if events, _ := r.config.Events.After(0); len(events) > 0 {
			last = events[len(events)-1].ID
		}
	}
	send := func(text []byte) bool {
		_ = control.SetWriteDeadline(time.Now().Add(writePatience))
		_, err := w.Write(text)
		return err == nil && control.Flush() == nil
	}
	if !send([]byte(": events follow\n\n")) {
		return
	}
	for {
		patience, over := context.WithTimeout(ctx, heartbeat)
		events, lost := r.config.Events.Wait(patience, last)
		over()
		if ctx.Err() != nil {
			return
		}
		var out bytes.Buffer
		if lost {
			out.WriteString("event: lost\ndata: {}\n\n")
		}
		if len(events) > 0 {
			last = events[len(events)-1].ID
		}
		for _, e := range f.chosen(events) {
			data, err := json.Marshal(e)
			if err != nil {
				continue
			}
			fmt.Fprintf(&out, "id: %d\ndata: %s\n\n", e.ID, data)
		}
		if len(events) == 0 {
			out.WriteString(":\n\n")
		}
		if out.Len() > 0 && !send(out.Bytes()) {
			return
		}
	}
}
