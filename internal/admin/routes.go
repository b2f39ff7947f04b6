package admin

import (
	"context"
	"net"
	"net/http"
	"net/netip"
	"slices"
	"strings"
	"time"

	"github.com/danielgtaylor/huma/v2"
	"github.com/danielgtaylor/huma/v2/adapters/humago"
	"golang.org/x/time/rate"

	"github.com/ambassadord/ambassadord/internal/status"
)

const (
	// heavyPatience is how long a request waits for its turn to be answered from a snapshot.
	heavyPatience = 2 * time.Second
	// heavyPerSecond and heavyAtOnce bound how many there are: with thousands of connections an answer
	// takes milliseconds of a processor, which those connections want, too.
	heavyPerSecond = 20
	heavyAtOnce    = 10
)

// metricsPath is where Prometheus asks. What it gets is not of the API, so the document does not have it.
const metricsPath = "/metrics"

// routes answers requests.
type routes struct {
	config Config
	view   *sharedView
}

// newRoutes makes the handler of all routes, and the API that it serves.
func newRoutes(c Config) (http.Handler, huma.API) {
	r := &routes{config: c, view: &sharedView{take: c.View}}
	mux := http.NewServeMux()
	api := humago.New(mux, schemaConfig(c.Program))
	route(api, "/healthz", "The process answers", nil, r.health)
	route(api, "/readyz", "Whether all is served that can be, and else what it waits for", readyResponses(api), r.ready)
	route(api, "/v1/status", "All that the daemon knows", nil, r.status)
	route(api, "/v1/containers", "Containers, what they declare and what is wrong with that", nil, r.containers)
	route(api, "/v1/bindings", "What each container gets at which port", nil, r.bindings)
	route(api, "/v1/targets", "Targets with what their sources say, and pools with the health of their endpoints", nil, r.targets)
	route(api, "/v1/connections", "Connections that go on, the oldest first", nil, r.connections)
	r.registerEvents(api)
	if c.Actions != nil {
		r.registerActions(api)
	}
	document := documentOf(api)
	mux.HandleFunc("GET "+documentPath, func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set("Content-Type", "application/json")
		_, _ = w.Write(document) // who has left needs no answer
	})
	if c.Metrics != nil {
		mux.Handle("GET "+metricsPath, c.Metrics)
	}
	mux.HandleFunc("/", func(w http.ResponseWriter, _ *http.Request) {
		refuse(w, http.StatusNotFound, "the admin interface has no such route", "the routes are listed by "+documentPath)
	})
	return mux, api
}

// route is a route of the document and of the server.
func route[In, Out any](api huma.API, path, summary string, responses map[string]*huma.Response, handler func(context.Context, *In) (*Out, error)) {
	op := huma.Operation{
		OperationID: strings.Trim(strings.ReplaceAll(path, "/", "-"), "-"), Method: http.MethodGet, Path: path, Summary: summary,
		Responses: map[string]*huma.Response{"default": failureResponse(api)},
	}
	for code, response := range responses {
		op.Responses[code] = response
	}
	huma.Register(api, op, handler)
}

// turns are those of a socket's requests that are answered from a snapshot. Each socket has its own: who
// has a token takes none of who may dial the Unix socket.
type turns struct {
	taken      chan struct{}
	pace       *rate.Limiter
	watchers   chan struct{} // of events
	eventsPace *rate.Limiter
}

func newTurns() *turns {
	return &turns{
		taken: make(chan struct{}, mostHeavy), pace: rate.NewLimiter(heavyPerSecond, heavyAtOnce),
		watchers: make(chan struct{}, mostWatchers), eventsPace: rate.NewLimiter(heavyPerSecond, heavyAtOnce),
	}
}

// fairTurns has turns of their own for who may act (root, the daemon's user), and others for whoever else may dial
// the socket: a member of its group that asks without an end keeps no operator's order waiting, nor all watchers.
func fairTurns(next http.Handler) http.Handler {
	operators, others := newTurns().of(next), newTurns().of(next)
	return http.HandlerFunc(func(w http.ResponseWriter, request *http.Request) {
		if mayAct(request) == nil {
			operators.ServeHTTP(w, request)
			return
		}
		others.ServeHTTP(w, request)
	})
}

// of has few requests that need a snapshot answered at once. One whose turn does not come is told
// to come again.
func (t *turns) of(next http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, request *http.Request) {
		path := request.URL.Path
		if path != metricsPath && !strings.HasPrefix(path, "/v1/") || path == documentPath {
			next.ServeHTTP(w, request)
			return
		}
		if path == eventsPath {
			t.watch(next, w, request)
			return
		}
		patience, cancel := context.WithTimeout(request.Context(), heavyPatience)
		defer cancel()
		if t.pace.Wait(patience) == nil {
			select {
			case t.taken <- struct{}{}:
				defer func() { <-t.taken }()
				next.ServeHTTP(w, request)
				return
			case <-patience.Done():
			}
		}
		busy(w)
	})
}

// watch is of for requests of events, which take no snapshot and may last. A list may be of a megabyte, and the
// log waits while it is copied, so they are paced, too.
func (t *turns) watch(next http.Handler, w http.ResponseWriter, request *http.Request) {
	patience, cancel := context.WithTimeout(request.Context(), heavyPatience)
	err := t.eventsPace.Wait(patience)
	cancel()
	if err != nil {
		busy(w)
		return
	}
	select {
	case t.watchers <- struct{}{}:
		defer func() { <-t.watchers }()
		next.ServeHTTP(w, request)
	default:
		busy(w)
	}
}

func busy(w http.ResponseWriter) {
	w.Header().Set("Retry-After", "1")
	refuse(w, http.StatusServiceUnavailable, "too many requests are being answered", "ask again in a moment, and read answers at once")
}

// nothing is the input of a route without parameters.
type nothing struct{}

type healthAnswer struct{ Body Health }

// Health says that the process answers.
type Health struct {
	Version string `json:"version" doc:"the daemon's version"`
}

func (r *routes) health(context.Context, *nothing) (*healthAnswer, error) {
	return &healthAnswer{Body: Health{Version: r.config.Program}}, nil
}

type readinessAnswer struct {
	Status int
	Body   Readiness
}

// Readiness says whether all is served that can be.
type Readiness struct {
	Ready    bool      `json:"ready"`
	NotReady []Unready `json:"not_ready" doc:"what the daemon waits for; empty when it is ready"`
}

func (r *routes) ready(context.Context, *nothing) (*readinessAnswer, error) {
	missing := r.config.NotReady()
	if len(missing) == 0 {
		return &readinessAnswer{Status: http.StatusOK, Body: Readiness{Ready: true, NotReady: []Unready{}}}, nil
	}
	return &readinessAnswer{Status: http.StatusServiceUnavailable, Body: Readiness{NotReady: missing}}, nil
}

type statusAnswer struct{ Body *status.View }

func (r *routes) status(context.Context, *nothing) (*statusAnswer, error) {
	return &statusAnswer{Body: r.view.load()}, nil
}

type containersAnswer struct{ Body Containers }

// Containers are those that the daemon knows, in the order of their names.
type Containers struct {
	Taken      time.Time          `json:"taken" doc:"when the daemon was looked at"`
	Containers []status.Container `json:"containers"`
}

func (r *routes) containers(context.Context, *nothing) (*containersAnswer, error) {
	v := r.view.load()
	return &containersAnswer{Body: Containers{Taken: v.Taken, Containers: v.Containers}}, nil
}

type bindingsAnswer struct{ Body Bindings }

// Bindings are those of all containers.
type Bindings struct {
	Taken    time.Time `json:"taken" doc:"when the daemon was looked at"`
	Bindings []Bound   `json:"bindings"`
}

// Bound is what a container gets at a port.
type Bound struct {
	Client  string `json:"client" doc:"the container's name"`
	ID      string `json:"id" doc:"its short ID"`
	Project string `json:"project,omitempty"`
	Service string `json:"service,omitempty"`
	status.Binding
}

func (r *routes) bindings(context.Context, *nothing) (*bindingsAnswer, error) {
	v := r.view.load()
	all := Bindings{Taken: v.Taken, Bindings: []Bound{}}
	for _, c := range v.Containers {
		for _, b := range c.Bindings {
			all.Bindings = append(all.Bindings, Bound{Client: c.Name, ID: c.ID, Project: c.Project, Service: c.Service, Binding: b})
		}
	}
	return &bindingsAnswer{Body: all}, nil
}

type targetsAnswer struct{ Body Targets }

// Targets are those that containers and listeners declare.
type Targets struct {
	Taken   time.Time           `json:"taken" doc:"when the daemon was looked at"`
	Targets []status.TargetView `json:"targets"`
	Pools   []status.PoolView   `json:"pools"`
}

func (r *routes) targets(context.Context, *nothing) (*targetsAnswer, error) {
	v := r.view.load()
	return &targetsAnswer{Body: Targets{Taken: v.Taken, Targets: v.Targets, Pools: v.Pools}}, nil
}

// filter says which connections are meant; "" and 0 are any.
type filter struct {
	Client   string `query:"client" maxLength:"255" doc:"the client's name, the beginning of its ID, or its service"`
	Port     int    `query:"port" minimum:"1" maximum:"65535" doc:"the port that it dialled"`
	Target   string `query:"target" maxLength:"4096" doc:"the target, as the connection's line in the log has it"`
	Endpoint string `query:"endpoint" maxLength:"255" doc:"the endpoint's HOST:PORT, HOST or name"`
	Limit    int    `query:"limit" minimum:"1" maximum:"100000" default:"1000" doc:"how many are listed at most"`
}

type connectionsAnswer struct{ Body Connections }

// Connections are those that go on and were asked for.
type Connections struct {
	Taken       time.Time               `json:"taken" doc:"when the daemon was looked at"`
	Total       int                     `json:"total" doc:"how many there are of those asked for, also beyond the limit"`
	Connections []status.ConnectionView `json:"connections"`
}

func (r *routes) connections(_ context.Context, f *filter) (*connectionsAnswer, error) {
	v := r.view.load()
	found := Connections{Taken: v.Taken, Connections: []status.ConnectionView{}}
	for i := range v.Connections {
		if f.matches(&v.Connections[i]) {
			found.Connections = append(found.Connections, v.Connections[i])
		}
	}
	slices.SortStableFunc(found.Connections, func(a, b status.ConnectionView) int { return a.Accepted.Compare(b.Accepted) })
	found.Total = len(found.Connections)
	found.Connections = found.Connections[:min(f.Limit, found.Total)]
	return &connectionsAnswer{Body: found}, nil
}

// leastID is how many digits of a container's ID name it at least.
const leastID = 4

func (f *filter) matches(c *status.ConnectionView) bool {
	return (f.Client == "" || f.Client == c.Client || f.Client == c.Service || len(f.Client) >= leastID && c.ID != "" && sameID(f.Client, c.ID)) &&
		(f.Port == 0 || f.Port == int(c.Port)) &&
		(f.Target == "" || f.Target == c.Target) &&
		(f.Endpoint == "" || f.Endpoint == c.Endpoint || f.Endpoint == c.EndpointName || sameHost(f.Endpoint, c.Endpoint))
}

// sameID reports whether given is the beginning of a container's ID, of which short are the first digits.
func sameID(given, short string) bool {
	return strings.HasPrefix(short, given) || strings.HasPrefix(given, short)
}

// sameHost reports whether an address is at that host.
func sameHost(host, address string) bool {
	at, _, err := net.SplitHostPort(address)
	if err != nil {
		return false
	}
	if a, err := netip.ParseAddr(strings.Trim(host, "[]")); err == nil {
		b, err := netip.ParseAddr(at)
		return err == nil && a.Unmap() == b.Unmap()
	}
	return host == at
}
