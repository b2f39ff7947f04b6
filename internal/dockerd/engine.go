package dockerd

import (
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"net"
	"net/http"
	"net/url"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"time"

	docker "github.com/fsouza/go-dockerclient"

	"github.com/ambassadord/ambassadord/internal/appear"
	"github.com/ambassadord/ambassadord/internal/hint"
	"github.com/ambassadord/ambassadord/internal/selfconnect"
)

const (
	defaultEndpoint = "unix:///var/run/docker.sock"

	// A healthy engine inspects in a millisecond and lists a thousand containers
	// in a few hundred; one that takes longer than these hangs.
	inspectTimeout = 5 * time.Second
	listTimeout    = 10 * time.Second

	// eventOverlap is how far back the event stream starts. It covers what the
	// engine does between answering the request and subscribing it; an event
	// seen twice is only one more inspect.
	eventOverlap = 2 * time.Second
)

// errNoContainer: the engine has no container of that ID.
var errNoContainer = errors.New("no such container")

// engine asks the Docker API. Its methods may be called from any goroutine.
type engine struct {
	endpoint       string
	base           string // of request URLs
	socket         string // the path of its socket, on this host; "" for TCP
	client         *docker.Client
	transport      *transport
	inspectTimeout time.Duration
	listTimeout    time.Duration
	kinds          networkKinds
	gateways       *gatewayReads
}

// newEngine prepares a client; it connects to nothing.
func newEngine(endpoint string) (*engine, error) {
	endpoint = cmp.Or(endpoint, os.Getenv("DOCKER_HOST"), defaultEndpoint)
	u, err := url.Parse(endpoint)
	if err != nil || u.Scheme == "" {
		return nil, badEndpoint(endpoint)
	}
	e := &engine{endpoint: endpoint, inspectTimeout: inspectTimeout, listTimeout: listTimeout, gateways: newGatewayReads()}
	switch u.Scheme {
	case "unix":
		if u.Path == "" {
			return nil, badEndpoint(endpoint)
		}
		e.socket = u.Path
		e.base = "http://docker" // no name is looked up: every dial goes to the socket
		e.transport = &transport{make: func() (*http.Transport, error) {
			t := newTransport()
			t.Proxy = nil
			t.DialContext = func(ctx context.Context, _, _ string) (net.Conn, error) {
				return (&net.Dialer{}).DialContext(ctx, "unix", u.Path)
			}
			return t, nil
		}}
		e.client, err = docker.NewClient(endpoint)
	case "tcp", "http", "https":
		if u.Hostname() == "" || u.Port() == "" {
			return nil, badEndpoint(endpoint)
		}
		err = e.useTCP(u)
	default:
		return nil, badEndpoint(endpoint)
	}
	if err == nil {
		err = e.transport.renew()
	}
	if err != nil {
		return nil, fmt.Errorf("docker endpoint %q: %w", endpoint, err)
	}
	e.client.HTTPClient.Transport = e.transport
	return e, nil
}

// newTransport is for an engine at any TCP endpoint.
func newTransport() *http.Transport {
	return &http.Transport{
		DialContext: func(ctx context.Context, network, address string) (net.Conn, error) {
			return selfconnect.DialContext(ctx, &net.Dialer{Timeout: listTimeout}, network, address)
		},
		Proxy:               http.ProxyFromEnvironment,
		TLSHandshakeTimeout: listTimeout,
		MaxIdleConnsPerHost: inspectLimit,
		IdleConnTimeout:     time.Minute,
	}
}

func badEndpoint(endpoint string) error {
	return hint.Errorf("write unix:///var/run/docker.sock or tcp://HOST:PORT; unset DOCKER_HOST for the local engine",
		"%q is not a Docker endpoint", endpoint)
}

// useTCP makes a client for a TCP endpoint. As docker itself does, it speaks TLS
// and verifies the engine when DOCKER_TLS_VERIFY is set.
func (e *engine) useTCP(u *url.URL) error {
	if os.Getenv("DOCKER_TLS_VERIFY") == "" {
		e.transport = &transport{make: func() (*http.Transport, error) { return newTransport(), nil }}
		e.base = "http://" + u.Host + strings.TrimSuffix(u.Path, "/")
		if u.Scheme == "https" {
			e.base = "https" + strings.TrimPrefix(e.base, "http")
		}
		var err error
		e.client, err = docker.NewClient(e.endpoint)
		return err
	}
	e.base = "https://" + u.Host + strings.TrimSuffix(u.Path, "/")
	e.transport = &transport{make: func() (*http.Transport, error) {
		client, err := e.readCertificates()
		if err != nil {
			return nil, err
		}
		t := newTransport()
		t.TLSClientConfig = client.TLSConfig
		return t, nil
	}}
	var err error
	e.client, err = e.readCertificates()
	return err
}

// readCertificates returns a client with the certificates in DOCKER_CERT_PATH, by default
// ~/.docker, as they are now. All three must be there: the library would take a missing CA to
// mean that nothing is to be verified.
func (e *engine) readCertificates() (*docker.Client, error) {
	dir := os.Getenv("DOCKER_CERT_PATH")
	if dir == "" {
		home, err := os.UserHomeDir()
		if err != nil {
			return nil, fmt.Errorf("finding the TLS certificates: %w", err)
		}
		dir = filepath.Join(home, ".docker")
	}
	var pem [3][]byte
	for i, name := range []string{"cert.pem", "key.pem", "ca.pem"} {
		var err error
		if pem[i], err = os.ReadFile(filepath.Join(dir, name)); err != nil {
			return nil, hint.Wrap(fmt.Errorf("reading the TLS certificates: %w", err),
				"DOCKER_TLS_VERIFY is set, so DOCKER_CERT_PATH must hold cert.pem, key.pem and ca.pem")
		}
	}
	return docker.NewTLSClientFromBytes(e.endpoint, pem[0], pem[1], pem[2])
}

// list returns all containers, running or not.
func (e *engine) list(ctx context.Context) ([]listedContainer, error) {
	ctx, cancel := withTimeout(ctx, e.listTimeout)
	defer cancel()
	body, err := e.get(ctx, "/containers/json?all=1")
	if err != nil {
		return nil, e.explain(ctx, "listing containers", err)
	}
	defer body.Close()
	entries, err := readList(body)
	if err != nil {
		return nil, e.explain(ctx, "listing containers", err)
	}
	return entries, nil
}

// ping asks whether the engine answers at all.
func (e *engine) ping(ctx context.Context) error {
	ctx, cancel := withTimeout(ctx, e.listTimeout)
	defer cancel()
	if err := e.client.PingWithContext(ctx); err != nil {
		return e.explain(ctx, "pinging", err)
	}
	return nil
}

// inspect returns one container; the error is errNoContainer when it is gone.
func (e *engine) inspect(ctx context.Context, id string) (*Container, error) {
	c, err := e.describe(ctx, id)
	if err != nil {
		return nil, err
	}
	// Each further question has a time of its own, lest an engine that answers slowly be given
	// up for their sum.
	if err := e.fillNetworks(ctx, c); err != nil {
		return nil, err
	}
	if c.Labels[LabelSwarmService] != "" {
		if c.Task, err = e.isTask(ctx, c.ID); err != nil {
			return nil, err
		}
	}
	if e.socket != "" {
		c.seeProcess()
	}
	return c, nil
}

// describe returns what the engine says of one container by one question.
func (e *engine) describe(ctx context.Context, id string) (*Container, error) {
	ctx, cancel := withTimeout(ctx, e.inspectTimeout)
	defer cancel()
	body, err := e.get(ctx, "/containers/"+url.PathEscape(id)+"/json")
	if err != nil {
		var status *docker.Error
		if errors.As(err, &status) && status.Status == http.StatusNotFound {
			return nil, errNoContainer
		}
		return nil, e.explain(ctx, "inspecting", err)
	}
	defer body.Close()
	var in inspection
	if err := decodeDescription(body, &in); err != nil {
		return nil, e.explain(ctx, "inspecting", err)
	}
	return in.container(), nil
}

// events opens the stream of what happens to containers and their networks. It
// ends with ctx. The kinds are asked for by name because every health check
// makes three exec events, which say nothing that a snapshot holds. Podman filters
// by names of its own for two of them: died, though it reports die, and remove.
func (e *engine) events(ctx context.Context) (io.ReadCloser, error) {
	filters, err := json.Marshal(map[string][]string{
		"type": {"container", "network"},
		"event": {
			"create", "start", "kill", "die", "destroy", "rename", "pause", "unpause", "update", "health_status",
			"connect", "disconnect",
			"died", "remove",
		},
	})
	if err != nil {
		return nil, fmt.Errorf("encoding event filters: %w", err)
	}
	query := url.Values{
		"filters": {string(filters)},
		"since":   {strconv.FormatInt(time.Now().Add(-eventOverlap).Unix(), 10)},
	}
	// The deadline is for the header alone; the stream itself has none.
	ctx, cancel := context.WithCancelCause(ctx)
	timer := time.AfterFunc(e.listTimeout, func() { cancel(noAnswer(e.listTimeout)) })
	body, err := e.get(ctx, "/events?"+query.Encode())
	if !timer.Stop() && err == nil {
		_ = body.Close()
		err = context.Cause(ctx)
	}
	if err != nil {
		err = e.explain(ctx, "opening the event stream", err)
		cancel(nil)
		return nil, err
	}
	return &eventStream{ReadCloser: body, cancel: func() { cancel(nil) }}, nil
}

// justMade opens what the engine has noted of containers that were made a moment ago, some
// of which are gone again. It ends with what there is by now.
func (e *engine) justMade(ctx context.Context) (io.ReadCloser, error) {
	query := url.Values{
		"filters": {`{"type":["container"],"event":["create","remove","destroy"]}`},
		"since":   {strconv.FormatInt(time.Now().Add(-eventOverlap).Unix(), 10)},
		"stream":  {"false"},
	}
	ctx, cancel := withTimeout(ctx, e.inspectTimeout)
	body, err := e.get(ctx, "/events?"+query.Encode())
	if err != nil {
		cancel()
		return nil, err
	}
	return &eventStream{ReadCloser: body, cancel: cancel}, nil
}

type eventStream struct {
	io.ReadCloser
	cancel func()
}

// Close ends the request behind the stream.
func (s *eventStream) Close() error {
	s.cancel()
	return s.ReadCloser.Close()
}

// get asks for path and returns the body of a good answer.
func (e *engine) get(ctx context.Context, path string) (io.ReadCloser, error) {
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, e.base+path, nil)
	if err != nil {
		return nil, err
	}
	resp, err := e.client.HTTPClient.Do(req)
	if err != nil {
		return nil, err
	}
	if resp.StatusCode != http.StatusOK {
		defer resp.Body.Close()
		var answer struct{ Message string }
		text, _ := io.ReadAll(io.LimitReader(resp.Body, 4096)) // what can be read of the reason is enough
		if json.Unmarshal(text, &answer) != nil {
			answer.Message = strings.TrimSpace(string(text))
		}
		return nil, &docker.Error{Status: resp.StatusCode, Message: answer.Message}
	}
	return resp.Body, nil
}

func noAnswer(d time.Duration) error { return fmt.Errorf("no answer within %v", d) }

func withTimeout(ctx context.Context, d time.Duration) (context.Context, context.CancelFunc) {
	return context.WithTimeoutCause(ctx, d, noAnswer(d))
}

// explain says which engine failed at what, and what can be done about it.
func (e *engine) explain(ctx context.Context, operation string, err error) error {
	if ctx.Err() != nil {
		err = context.Cause(ctx)
	}
	var request *url.Error
	if errors.As(err, &request) { // its text holds an URL that nobody wrote
		err = request.Err
	}
	err = fmt.Errorf("docker engine at %s: %s: %w", e.endpoint, operation, err)
	switch {
	case errors.Is(err, fs.ErrPermission):
		return hint.Wrap(err, "run as root or as a member of the group that owns the socket (usually docker)")
	case errors.Is(err, fs.ErrNotExist):
		return hint.Wrap(err, "is the engine running? In a container, mount its socket: -v /var/run/docker.sock:/var/run/docker.sock")
	case answered(err):
		return err
	default:
		return hint.Wrap(err, "is the engine running? Try: docker -H "+e.endpoint+" version")
	}
}

// await waits before the engine is tried again. While nobody listens at its socket, that it
// is made anew ends the wait: what starts with the engine may start before its first answer.
func (e *engine) await(ctx context.Context, pause time.Duration) {
	listens := func(path string) bool { return listensAt(ctx, path) }
	if e.socket != "" && !listens(e.socket) {
		appear.Wait(ctx, pause, listens, e.socket)
		return
	}
	select {
	case <-ctx.Done():
	case <-time.After(pause):
	}
}

// listensAt reports whether somebody listens at a socket.
func listensAt(ctx context.Context, path string) bool {
	conn, err := (&net.Dialer{Timeout: time.Second}).DialContext(ctx, "unix", path)
	if err != nil {
		return false
	}
	_ = conn.Close()
	return true
}

// answered says that the engine replied, if only to refuse.
func answered(err error) bool {
	var status *docker.Error
	return errors.As(err, &status) || errors.Is(err, errNoContainer) || errors.Is(err, errTooLarge)
}
