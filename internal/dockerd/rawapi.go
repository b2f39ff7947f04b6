package dockerd

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/url"
	"slices"
	"strconv"
	"strings"
	"sync/atomic"
	"time"

	docker "github.com/fsouza/go-dockerclient"

	"github.com/ambassadord/ambassadord/internal/selfconnect"
)

// This file has all that goes around go-dockerclient: the transport, and each request that no
// method of the library makes, with the type of its answer. The reasons, from the source of
// v1.13.3:
//
//   - The transport. The library's keeps no connection open for a next request, though hundreds
//     follow a first list, and dials a Unix socket without the request's context. A dial over TCP
//     must not be answered by its own socket (internal/selfconnect). And the transport is made anew
//     at each reconnect, see below.
//   - GET /events, the stream. The library's way is its event monitor. The goroutine and the
//     connection of a removed listener live on until the engine happens to send something; a read
//     error other than EOF that meets a monitor already stopped is sent on a closed channel, which
//     ends the process; neither connecting nor reading can be cancelled. It decodes each event
//     whole, however long the labels in it are, and drops those that the listener has no room for.
//   - GET /events?stream=false. EventsOptions has no field for that.
//   - GET /containers/json, the list. ListContainers decodes all that it says, into one slice, which
//     leaves seven times the garbage of what an idle daemon does most.
//   - GET /containers/json, for a network mode. APIContainers has no field for that.
//   - GET /containers/ID/json. InspectContainerWithOptions reads an answer of any length, and the
//     container's maker chose what is in it. docker.Container has no fields for the links on a
//     network and for Podman's OCIRuntime.
//   - GET /images/ID/json. InspectImage takes no context, so an engine that hangs would hold it
//     for ever, and reads an answer of any length.
//   - GET /networks/ID. NetworkInfo takes no context.
//   - GET /info. Info takes no context. DockerInfo has no field for the firewall's backend, and
//     Runtime none for the type of a shim.
//   - GET /version. VersionWithContext returns texts, of which the components, which tell Podman
//     from Docker, are JSON once more. And where a connection is refused, each method of the library
//     returns an error that says neither where nor why (ErrConnectionRefused): doctor asks this
//     first, and prints the error.
//   - GET /tasks. The library has nothing of Swarm's services.

const (
	// eventOverlap is how far back the event stream starts. It covers what the
	// engine does between answering the request and subscribing it; an event
	// seen twice is only one more inspect.
	eventOverlap = 2 * time.Second

	// maxDescription is how many bytes the engine may have to say of one container. A
	// usual one takes 10,000.
	maxDescription = 4 << 20
	// maxImage bounds what the engine says of one image, in bytes.
	maxImage = 4 << 20
)

// errTooLarge: the engine has more to say of a container than maxDescription.
var errTooLarge = fmt.Errorf("its description has more than %d bytes; give it fewer or shorter labels and variables", maxDescription)

// transport carries requests over an http.Transport that is made anew at each reconnect: an
// idle connection may lead to an engine that listens at the endpoint no more, and the files of the
// certificates may have other contents by then.
type transport struct {
	current atomic.Pointer[http.Transport]
	make    func() (*http.Transport, error)
}

// RoundTrip is http.RoundTripper's.
func (t *transport) RoundTrip(r *http.Request) (*http.Response, error) {
	return t.current.Load().RoundTrip(r)
}

// CloseIdleConnections closes those that no request uses.
func (t *transport) CloseIdleConnections() { t.current.Load().CloseIdleConnections() }

// renew makes the http.Transport of later requests. The connections of the one before are closed
// as soon as no request uses them. If it fails, that one stays.
func (t *transport) renew() error {
	next, err := t.make()
	if err != nil {
		return err
	}
	if before := t.current.Swap(next); before != nil {
		before.CloseIdleConnections()
	}
	return nil
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

// newUnixTransport is for an engine at the socket of that path.
func newUnixTransport(path string) *http.Transport {
	t := newTransport()
	t.Proxy = nil
	t.DialContext = func(ctx context.Context, _, _ string) (net.Conn, error) {
		return (&net.Dialer{}).DialContext(ctx, "unix", path)
	}
	return t
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

// ask has read take the answer to a GET of path, all of it within a timeout.
func (e *engine) ask(ctx context.Context, timeout time.Duration, operation, path string, read func(io.Reader) error) error {
	ctx, cancel := withTimeout(ctx, timeout)
	defer cancel()
	body, err := e.get(ctx, path)
	if err != nil {
		return e.explain(ctx, operation, err)
	}
	defer body.Close()
	if err := read(body); err != nil {
		return e.explain(ctx, operation, err)
	}
	return nil
}

// decode decodes the answer to a GET of path into value.
func (e *engine) decode(ctx context.Context, operation, path string, value any) error {
	return e.ask(ctx, e.inspectTimeout, operation, path, func(r io.Reader) error { return json.NewDecoder(r).Decode(value) })
}

// decodeDescription decodes what describes one container, and reads no more of it than a
// container may have.
func decodeDescription(r io.Reader, value any) error {
	limited := &io.LimitedReader{R: r, N: maxDescription + 1}
	err := json.NewDecoder(limited).Decode(value)
	if limited.N <= 0 {
		return errTooLarge
	}
	return err
}

// filtered is path with a query for what these filters let through.
func filtered(path string, filters map[string][]string, query url.Values) (string, error) {
	text, err := json.Marshal(filters)
	if err != nil {
		return "", fmt.Errorf("encoding filters: %w", err)
	}
	query.Set("filters", string(text))
	return path + "?" + query.Encode(), nil
}

// listed is what an entry of the list says that may change. The rest, which the library's type
// would hold as well, is most of it: ports, labels, mounts.
type listed struct {
	ID              string `json:"Id"`
	Names           []string
	State, Status   string
	NetworkSettings struct {
		Networks map[string]listedNetwork
	}
}

type listedNetwork struct{ NetworkID, IPAddress, GlobalIPv6Address string }

// reset empties l, but for the memory that it holds.
func (l *listed) reset() {
	names, networks := l.Names[:0], l.NetworkSettings.Networks
	clear(networks)
	*l = listed{Names: names}
	l.NetworkSettings.Networks = networks
}

// list returns all containers, running or not.
func (e *engine) list(ctx context.Context) ([]listedContainer, error) {
	var entries []listedContainer
	err := e.ask(ctx, e.listTimeout, "listing containers", "/containers/json?all=1", func(r io.Reader) (err error) {
		entries, err = readList(r)
		return err
	})
	return entries, err
}

// readList reads the engine's list, one container at a time.
func readList(r io.Reader) ([]listedContainer, error) {
	decoder := json.NewDecoder(r)
	switch opening, err := decoder.Token(); {
	case err != nil:
		return nil, err
	case opening == nil: // null is a list without anything
		return nil, nil
	case opening != json.Delim('['):
		return nil, fmt.Errorf("the list begins with %v", opening)
	}
	var entries []listedContainer
	var l listed
	for decoder.More() {
		l.reset()
		if err := decoder.Decode(&l); err != nil {
			return nil, err
		}
		entries = append(entries, l.entry())
	}
	_, err := decoder.Token() // what was cut off is no list
	return entries, err
}

// networkMode returns the network mode of one container, "" if the engine has no such or
// does not say.
func (e *engine) networkMode(ctx context.Context, id string) (string, error) {
	path, err := filtered("/containers/json", map[string][]string{"id": {id}}, url.Values{"all": {"1"}})
	if err != nil {
		return "", err
	}
	var all []struct {
		ID         string `json:"Id"`
		HostConfig struct{ NetworkMode string }
	}
	err = e.ask(ctx, e.inspectTimeout, "asking for a network mode", path, func(r io.Reader) error { return decodeDescription(r, &all) })
	if err != nil {
		return "", err
	}
	for _, c := range all {
		if c.ID == id {
			return c.HostConfig.NetworkMode, nil
		}
	}
	return "", nil
}

// inspection is the answer to an inspect: the library's type, with what that lacks.
type inspection struct {
	docker.Container

	OCIRuntime string // Podman's, whose HostConfig.Runtime is always "oci"

	// NetworkSettings is at a shallower depth than the embedded field of that
	// name, so encoding/json fills this one.
	NetworkSettings struct {
		SandboxKey        string
		NetworkID         string
		IPAddress         string
		GlobalIPv6Address string
		Networks          map[string]endpointSettings
		Ports             map[docker.Port][]docker.PortBinding
	}
}

type endpointSettings struct {
	docker.ContainerNetwork

	Links []string
}

// describe returns what the engine says of one container by one request; the error is
// errNoContainer when it is gone.
func (e *engine) describe(ctx context.Context, id string) (*inspection, error) {
	in := new(inspection)
	err := e.ask(ctx, e.inspectTimeout, "inspecting", "/containers/"+url.PathEscape(id)+"/json",
		func(r io.Reader) error { return decodeDescription(r, in) })
	if statusOf(err) == http.StatusNotFound {
		return nil, errNoContainer
	}
	return in, err
}

// image asks for one image.
func (e *engine) image(ctx context.Context, id string) (*Image, error) {
	var answer struct{ Config *Image }
	err := e.ask(ctx, e.inspectTimeout, "inspecting an image", "/images/"+url.PathEscape(id)+"/json",
		func(r io.Reader) error { return json.NewDecoder(io.LimitReader(r, maxImage)).Decode(&answer) })
	switch {
	case err != nil:
		return nil, err
	case answer.Config == nil:
		return &Image{}, nil
	}
	return answer.Config, nil
}

// networkDetails are a network in the engine's answer.
type networkDetails struct {
	Name, ID, Driver, Scope string
	Containers              map[string]struct{ Name, IPv4Address, IPv6Address string }
}

// network asks for one network. One that the engine does not have, or of which it, or a proxy
// before its socket, refuses to tell, is the zero value: whatever it is refused with, it would be
// the next time, and the container is there all the same.
func (e *engine) network(ctx context.Context, ref string) (networkDetails, error) {
	var details networkDetails
	err := e.decode(ctx, "asking for a network", "/networks/"+url.PathEscape(ref), &details)
	if isRefusal(statusOf(err)) {
		return networkDetails{}, nil
	}
	return details, err
}

// info decodes of the answer to /info what into has fields for: identityAnswer, settingsAnswer or
// runtimesAnswer.
func (e *engine) info(ctx context.Context, operation string, into any) error {
	return e.decode(ctx, operation, "/info", into)
}

type identityAnswer struct{ ID, DockerRootDir string }

type settingsAnswer struct {
	LiveRestoreEnabled bool
	ContainersRunning  int
	FirewallBackend    struct{ Driver string }
}

type runtimesAnswer struct {
	Runtimes map[string]struct {
		Path string   `json:"path"`
		Type string   `json:"runtimeType"`
		Args []string `json:"runtimeArgs"`
	}
}

// versionAnswer is the answer to /version.
type versionAnswer struct {
	Version    string
	APIVersion string `json:"ApiVersion"`
	Components []struct{ Name string }
}

func (e *engine) version(ctx context.Context) (*versionAnswer, error) {
	v := new(versionAnswer)
	return v, e.decode(ctx, "asking for its version", "/version", v)
}

func (v *versionAnswer) isPodman() bool {
	return slices.ContainsFunc(v.Components, func(c struct{ Name string }) bool { return c.Name == "Podman Engine" })
}

// swarmTask is one in the answer to /tasks.
type swarmTask struct {
	NodeID string
	Slot   int
	Status struct {
		State           string
		ContainerStatus struct{ ContainerID string }
	}
}

// tasks asks for the tasks of a service that are to run.
func (e *engine) tasks(ctx context.Context, service string) ([]swarmTask, error) {
	path, err := filtered("/tasks", map[string][]string{"service": {service}, "desired-state": {"running"}}, url.Values{})
	if err != nil {
		return nil, err
	}
	var all []swarmTask
	err = e.decode(ctx, "asking for a service's tasks", path, &all)
	return all, err
}

// events opens the stream of what happens to containers and their networks. It
// ends with ctx. The kinds are asked for by name because every health check
// makes three exec events, which say nothing that a snapshot holds. Podman filters
// by names of its own for two of them: died, though it reports die, and remove.
func (e *engine) events(ctx context.Context) (io.ReadCloser, error) {
	path, err := filtered("/events", map[string][]string{
		"type": {"container", "network"},
		"event": {
			"create", "start", "kill", "die", "destroy", "rename", "pause", "unpause", "update", "health_status",
			"connect", "disconnect",
			"died", "remove",
		},
	}, url.Values{"since": {sinceOverlap()}})
	if err != nil {
		return nil, err
	}
	// The deadline is for the header alone; the stream itself has none.
	ctx, cancel := context.WithCancelCause(ctx)
	timer := time.AfterFunc(e.listTimeout, func() { cancel(noAnswer(e.listTimeout)) })
	body, err := e.get(ctx, path)
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
	path, err := filtered("/events", map[string][]string{"type": {"container"}, "event": {"create", "remove", "destroy"}},
		url.Values{"since": {sinceOverlap()}, "stream": {"false"}})
	if err != nil {
		return nil, err
	}
	ctx, cancel := withTimeout(ctx, e.inspectTimeout)
	body, err := e.get(ctx, path)
	if err != nil {
		cancel()
		return nil, err
	}
	return &eventStream{ReadCloser: body, cancel: cancel}, nil
}

func sinceOverlap() string { return strconv.FormatInt(time.Now().Add(-eventOverlap).Unix(), 10) }

type eventStream struct {
	io.ReadCloser
	cancel func()
}

// Close ends the request behind the stream.
func (s *eventStream) Close() error {
	s.cancel()
	return s.ReadCloser.Close()
}
