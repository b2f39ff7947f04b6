package admin

import (
	"context"
	"errors"
	"log/slog"
	"net"
	"net/http"
	"os"
	"slices"
	"strings"
	"time"

	"github.com/danielgtaylor/huma/v2"
	"golang.org/x/sys/unix"

	"github.com/ambassadord/ambassadord/internal/hint"
	"github.com/ambassadord/ambassadord/internal/status"
)

// Actions change something. They are taken by POST, from processes of root or of the daemon's own user by the
// Unix socket alone: a group, or who has a token, may look.
type Actions struct {
	// Decided is what holds of endpoints by an operator's word; Decide does what an order says, and returns what
	// holds then of those that it is about.
	Decided func() []DecidedEndpoint
	Decide  func(EndpointOrder) ([]DecidedEndpoint, error)
	// Close resets the connections that match, and returns how many.
	Close func(match func(*status.ConnectionView) bool) int
	// LogLevel sets the level of the log until it is set again, by a reload as well.
	LogLevel func(slog.Level)
	// Stop ends the daemon as SIGTERM does.
	Stop func()
}

// actionPaths are those of actions.
var actionPaths = map[string]bool{"/v1/endpoints": true, "/v1/connections/close": true, "/v1/loglevel": true, "/v1/drain": true}

// registerActions registers the routes of actions.
func (r *routes) registerActions(api huma.API) {
	route(api, "/v1/endpoints", "What an operator has decided of endpoints", nil, r.decided)
	action(api, "/v1/endpoints", "Drain, eject, weigh or restore endpoints", r.decide)
	action(api, "/v1/connections/close", "Close connections", r.closeConnections)
	action(api, "/v1/loglevel", "Set the level of the log", r.logLevel)
	action(api, "/v1/drain", "Stop the daemon: it accepts nothing more, and carries its connections to their end", r.drain)
}

// action is a route that is asked by POST.
func action[In, Out any](api huma.API, path, summary string, handler func(context.Context, *In) (*Out, error)) {
	huma.Register(api, huma.Operation{
		OperationID: "post-" + strings.Trim(strings.ReplaceAll(path, "/", "-"), "-"), Method: http.MethodPost, Path: path, Summary: summary,
		Responses: map[string]*huma.Response{"default": failureResponse(api)},
	}, handler)
}

type decidedAnswer struct{ Body Decisions }

// Decisions are what holds of endpoints by an operator's word.
type Decisions struct {
	Endpoints []DecidedEndpoint `json:"endpoints"`
}

// DecidedEndpoint is what holds of one; nothing but its address where all was taken back.
type DecidedEndpoint struct {
	Address string `json:"address"`
	status.DecidedView
}

func decisions(of []DecidedEndpoint) *decidedAnswer {
	return &decidedAnswer{Body: Decisions{Endpoints: append([]DecidedEndpoint{}, of...)}}
}

// EndpointOrder is what an operator asks for.
type EndpointOrder struct {
	Endpoint string // HOST:PORT with an IP address, or a name
	Action   string // drain, eject, weight or restore
	For      time.Duration
	Weight   uint16
	Unknown  bool
}

func (r *routes) decided(context.Context, *nothing) (*decidedAnswer, error) {
	return decisions(r.config.Actions.Decided()), nil
}

// endpointOrder is the body of POST /v1/endpoints.
type endpointOrder struct {
	Body struct {
		Endpoint string `json:"endpoint" minLength:"1" maxLength:"255" doc:"HOST:PORT with an IP address, or the name that its source gives it"`
		Action   string `json:"action" enum:"drain,eject,weight,restore" doc:"drain: no new connection; eject: out for a while; weight: another one; restore: as if nothing had been decided, and an ejection after failures is over"`
		For      string `json:"for,omitempty" maxLength:"32" doc:"how long eject holds, such as 10m; until it is taken back without it"`
		Weight   uint16 `json:"weight,omitempty" doc:"the one of weight"`
		Unknown  bool   `json:"unknown,omitempty" doc:"take an address that no target names yet"`
	}
}

func (r *routes) decide(_ context.Context, o *endpointOrder) (*decidedAnswer, error) {
	order := EndpointOrder{Endpoint: o.Body.Endpoint, Action: o.Body.Action, Weight: o.Body.Weight, Unknown: o.Body.Unknown}
	if o.Body.For != "" {
		d, err := time.ParseDuration(o.Body.For)
		if err != nil || d <= 0 || order.Action != "eject" {
			return nil, failure(http.StatusUnprocessableEntity, "for is of eject alone, and a duration such as 10m", "leave it out, or mend it")
		}
		order.For = d
	}
	done, err := r.config.Actions.Decide(order)
	if err != nil {
		return nil, failure(http.StatusUnprocessableEntity, err.Error(), hint.Of(err))
	}
	r.view.forget()
	return decisions(done), nil
}

// closing is the body of POST /v1/connections/close; "" and 0 are any.
type closing struct {
	Body struct {
		Client   string `json:"client,omitempty" maxLength:"255" doc:"as for /v1/connections"`
		Port     int    `json:"port,omitempty" minimum:"1" maximum:"65535"`
		Target   string `json:"target,omitempty" maxLength:"3000"`
		Endpoint string `json:"endpoint,omitempty" maxLength:"255"`
		Source   string `json:"source,omitempty" maxLength:"64" doc:"the client's address of one connection"`
		All      bool   `json:"all,omitempty" doc:"every connection, where nothing else is said"`
	}
}

type closedAnswer struct{ Body Closed }

// Closed is how many connections were closed.
type Closed struct {
	Closed int `json:"closed"`
}

func (r *routes) closeConnections(_ context.Context, c *closing) (*closedAnswer, error) {
	f := filter{Client: c.Body.Client, Port: c.Body.Port, Target: c.Body.Target, Endpoint: c.Body.Endpoint}
	if (f != filter{} || c.Body.Source != "") == c.Body.All {
		return nil, failure(http.StatusUnprocessableEntity, "which connections are meant is not said, or twice", "give client, port, target, endpoint or source, or all alone")
	}
	// What is a container's name is no ID here: a name may begin with the ID of another's container, or be its beginning.
	named, now := false, r.view.load()
	if f.Client != "" {
		named = slices.ContainsFunc(now.Containers, func(of status.Container) bool { return of.Name == f.Client }) ||
			slices.ContainsFunc(now.Connections, func(of status.ConnectionView) bool { return of.Client == f.Client })
	}
	n := r.config.Actions.Close(func(v *status.ConnectionView) bool {
		return f.matches(v) && (!named || v.Client == f.Client || v.Service == f.Client) && (c.Body.Source == "" || c.Body.Source == v.Source)
	})
	r.view.forget()
	return &closedAnswer{Body: Closed{Closed: n}}, nil
}

// levelOrder is the body of POST /v1/loglevel.
type levelOrder struct {
	Body struct {
		Level string `json:"level" enum:"debug,info,warn,error"`
	}
}

type doneAnswer struct{ Body Done }

// Done says that something was done.
type Done struct {
	Done string `json:"done" doc:"what was"`
}

func (r *routes) logLevel(_ context.Context, o *levelOrder) (*doneAnswer, error) {
	var level slog.Level
	if err := level.UnmarshalText([]byte(o.Body.Level)); err != nil {
		return nil, failure(http.StatusUnprocessableEntity, err.Error(), "debug, info, warn or error")
	}
	r.config.Actions.LogLevel(level)
	return &doneAnswer{Body: Done{"the log is of level " + o.Body.Level + " until it is set again, by a reload as well"}}, nil
}

// emptyOrder is the body of an action that needs no words.
type emptyOrder struct {
	Body struct{}
}

func (r *routes) drain(context.Context, *emptyOrder) (*doneAnswer, error) {
	r.config.Actions.Stop()
	return &doneAnswer{Body: Done{"the daemon stops: it accepts nothing more, and carries its connections to their end for --drain-timeout"}}, nil
}

// mayAct says why a request must not take an action; nil if it may.
func mayAct(r *http.Request) error {
	c, ok := r.Context().Value(countedKey{}).(*counted)
	if !ok {
		return errors.New("it is not known whose the request is")
	}
	conn, ok := c.Conn.(*net.UnixConn)
	if !ok {
		return errors.New("actions are taken by the Unix socket alone")
	}
	raw, err := conn.SyscallConn()
	if err != nil {
		return err
	}
	var peer *unix.Ucred
	if controlErr := raw.Control(func(fd uintptr) { peer, err = unix.GetsockoptUcred(int(fd), unix.SOL_SOCKET, unix.SO_PEERCRED) }); controlErr != nil || err != nil {
		return errors.Join(controlErr, err)
	}
	if peer.Uid != 0 && int(peer.Uid) != os.Geteuid() {
		return errors.New("actions are root's, and the daemon's own user's")
	}
	return nil
}

// act guards a request that is to change something.
func act(w http.ResponseWriter, r *http.Request, next http.Handler) {
	kind, _, _ := strings.Cut(r.Header.Get("Content-Type"), ";")
	if !strings.EqualFold(strings.TrimSpace(kind), "application/json") { // which no form of a page has
		refuse(w, http.StatusUnsupportedMediaType, "an action is taken by a body in JSON", "send Content-Type: application/json")
		return
	}
	if err := mayAct(r); err != nil {
		refuse(w, http.StatusForbidden, err.Error(), "run it by sudo, on the daemon's host")
		return
	}
	next.ServeHTTP(w, r)
}
