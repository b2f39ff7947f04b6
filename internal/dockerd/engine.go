package dockerd

import (
	"cmp"
	"context"
	"errors"
	"fmt"
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
	"golang.org/x/sys/unix"

	"github.com/ambassadord/ambassadord/internal/appear"
	"github.com/ambassadord/ambassadord/internal/hint"
)

const (
	defaultEndpoint = "unix:///var/run/docker.sock"

	// A healthy engine inspects in a millisecond and lists a thousand containers
	// in a few hundred; one that takes longer than these hangs.
	inspectTimeout = 5 * time.Second
	listTimeout    = 10 * time.Second
)

// errNoContainer: the engine has no container of that ID.
var errNoContainer = errors.New("no such container")

// engine asks the Docker API, by go-dockerclient where rawapi.go has no reason against that. Its
// methods may be called from any goroutine.
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
		e.transport = &transport{make: func() (*http.Transport, error) { return newUnixTransport(u.Path), nil }}
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

func badEndpoint(endpoint string) error {
	return hint.Errorf("write unix:///var/run/docker.sock or tcp://HOST:PORT; unset DOCKER_HOST for the local engine",
		"%q is not a Docker endpoint", endpoint)
}

// EnginePort is the TCP port of an engine at endpoint on this host, 0 if it has none.
func EnginePort(endpoint string) uint16 {
	u, err := url.Parse(endpoint)
	if err != nil || strings.EqualFold(u.Scheme, "unix") {
		return 0
	}
	port, err := strconv.ParseUint(u.Port(), 10, 16)
	if err != nil {
		return 0
	}
	return uint16(port)
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
	in, err := e.describe(ctx, id)
	if err != nil {
		return nil, err
	}
	c := in.container()
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

// isTask reports whether the engine itself has made the container id for a service of Swarm: as an
// executor of tasks, on a worker as on a manager, and not for a client of its API. Those cannot
// set what this filter is about (docker ps(1), is-task), whatever labels they give a container.
// Where the engine, or a proxy before its socket, refuses to tell, it is none. An error is worth
// another try.
func (e *engine) isTask(ctx context.Context, id string) (bool, error) {
	ctx, cancel := withTimeout(ctx, e.inspectTimeout)
	defer cancel()
	found, err := e.client.ListContainers(docker.ListContainersOptions{
		All: true, Filters: map[string][]string{"id": {id}, "is-task": {"true"}}, Context: ctx,
	})
	switch {
	case isRefusal(statusOf(err)):
		return false, nil
	case err != nil:
		return false, e.explain(ctx, "asking whether a container is a task", err)
	}
	return len(found) == 1 && found[0].ID == id, nil
}

// statusOf is the HTTP status by which the engine refused an answer; 0 if err is of another kind.
func statusOf(err error) int {
	var refused *docker.Error
	if errors.As(err, &refused) {
		return refused.Status
	}
	return 0
}

// isRefusal reports whether an HTTP status says no for good: the question is at fault, not the time.
func isRefusal(status int) bool {
	return status >= http.StatusBadRequest && status < http.StatusInternalServerError &&
		status != http.StatusRequestTimeout && status != http.StatusTooManyRequests
}

// engineIdentity is what an engine says of itself that tells it from any other.
type engineIdentity struct {
	// id is the engine's own for as long as it has its folder; "" where none is known: the
	// engine, or a proxy before its socket, does not tell, or tells another one each time, as
	// Podman does.
	id string
	// root is the folder in which the engine keeps its files, "" where it does not say.
	root string
}

// identify asks the engine which one it is. before is the ID of the engine that was connected to last.
func (e *engine) identify(ctx context.Context, before string) engineIdentity {
	now := e.askIdentity(ctx)
	if before != "" && now.id != "" && now.id != before && e.askIdentity(ctx).id != now.id {
		now.id = ""
	}
	return now
}

func (e *engine) askIdentity(ctx context.Context) engineIdentity {
	var answer identityAnswer
	if e.info(ctx, "asking who it is", &answer) != nil {
		return engineIdentity{}
	}
	return engineIdentity{answer.ID, answer.DockerRootDir}
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

// await waits before the engine is tried again. While no process listens at its socket, that it
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

// listensAt reports whether any process listens at a socket.
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
	return statusOf(err) != 0 || errors.Is(err, errNoContainer) || errors.Is(err, errTooLarge)
}

// socketFile is the file of a Unix socket: its device, its inode, and when that was made
// (statx(2)), since an inode's number is given to another file afterwards.
type socketFile struct {
	major, minor uint32
	inode        uint64
	made         unix.StatxTimestamp
}

// socketAt returns the socket at path.
func socketAt(path string) (socketFile, error) {
	var s unix.Statx_t
	if err := unix.Statx(unix.AT_FDCWD, path, 0, unix.STATX_INO|unix.STATX_BTIME, &s); err != nil {
		return socketFile{}, &fs.PathError{Op: "statx", Path: path, Err: err}
	}
	return socketFile{s.Dev_major, s.Dev_minor, s.Ino, s.Btime}, nil
}

// listensStill returns an error if the engine's socket is not the one that was seen before it was
// connected to: what connects to it now reaches another engine, or none. Where there is no
// socket, or it is out of our sight, nothing can be said.
func (e *engine) listensStill(ctx context.Context, before socketFile) error {
	if e.socket == "" || before == (socketFile{}) {
		return nil
	}
	now, err := socketAt(e.socket)
	switch {
	case errors.Is(err, fs.ErrNotExist):
		return e.explain(ctx, "looking at its socket", err)
	case err == nil && now != before:
		return e.explain(ctx, "looking at its socket", errors.New("it was removed and made anew since it was connected to"))
	}
	return nil
}
