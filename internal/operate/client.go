// Package operate is what the commands that ask a running daemon have in common: they reach its
// admin interface (client.go), and show what it says to people: status.go, connections.go, as
// tables that fit the terminal (grid.go).
//
// Names, targets and messages may be of anybody's choosing. So nothing is shown that acts on a
// terminal, each table is bounded, and a line says what was left out.
package operate

import (
	"bytes"
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
	"os/user"
	"strconv"
	"syscall"
	"time"

	"github.com/ambassadord/ambassadord/internal/admin"
	"github.com/ambassadord/ambassadord/internal/hint"
	"github.com/ambassadord/ambassadord/internal/printable"
	"github.com/ambassadord/ambassadord/internal/status"
)

const (
	// answerPatience bounds a request and its answer.
	answerPatience = 20 * time.Second
	// mostAnswer bounds an answer, in bytes: a hundred thousand connections have fewer.
	mostAnswer = 256 << 20
)

// Daemon is the admin interface of a running daemon.
type Daemon struct {
	path   string
	client *http.Client
}

// At is the daemon whose Unix socket has that path; "auto" is the usual one.
func At(path string) *Daemon {
	if path == "auto" {
		path = admin.DefaultPath()
	}
	return &Daemon{path: path, client: &http.Client{
		Timeout: answerPatience,
		Transport: &http.Transport{DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) {
			return new(net.Dialer).DialContext(ctx, "unix", path)
		}},
	}}
}

// Close lets go of its connections.
func (d *Daemon) Close() { d.client.CloseIdleConnections() }

// Status is all that the daemon knows, and the same in JSON, as it came.
func (d *Daemon) Status(ctx context.Context) (status.View, []byte, error) {
	var v status.View
	text, err := d.get(ctx, "/v1/status", nil, &v)
	return v, text, err
}

// Ready is what the daemon waits for.
func (d *Daemon) Ready(ctx context.Context) (admin.Readiness, error) {
	var r admin.Readiness
	_, err := d.get(ctx, "/readyz", nil, &r)
	return r, err
}

// Wanted says which connections are meant; "" and 0 are any.
type Wanted struct {
	Client   string
	Port     uint16
	Target   string
	Endpoint string
	Limit    int // how many are listed at most; 0 leaves it to the daemon
}

// Connections are those that go on, the oldest first, and the same in JSON, as it came.
func (d *Daemon) Connections(ctx context.Context, w Wanted) (admin.Connections, []byte, error) {
	query := url.Values{}
	for name, value := range map[string]string{"client": w.Client, "target": w.Target, "endpoint": w.Endpoint} {
		if value != "" {
			query.Set(name, value)
		}
	}
	for name, n := range map[string]int{"port": int(w.Port), "limit": w.Limit} {
		if n != 0 {
			query.Set(name, strconv.Itoa(n))
		}
	}
	var c admin.Connections
	text, err := d.get(ctx, "/v1/connections", query, &c)
	return c, text, err
}

// get decodes the answer of a route into value.
func (d *Daemon) get(ctx context.Context, route string, query url.Values, value any) ([]byte, error) {
	u := url.URL{Scheme: "http", Host: "localhost", Path: route, RawQuery: query.Encode()}
	request, err := http.NewRequestWithContext(ctx, http.MethodGet, u.String(), nil)
	if err != nil {
		return nil, err
	}
	return d.do(request, value)
}

// post has the daemon take an action, and decodes its answer into value.
func (d *Daemon) post(ctx context.Context, route string, order, value any) ([]byte, error) {
	body, err := json.Marshal(order)
	if err != nil {
		return nil, err
	}
	request, err := http.NewRequestWithContext(ctx, http.MethodPost, (&url.URL{Scheme: "http", Host: "localhost", Path: route}).String(), bytes.NewReader(body))
	if err != nil {
		return nil, err
	}
	request.Header.Set("Content-Type", "application/json")
	return d.do(request, value)
}

// do decodes the answer to a request into value.
func (d *Daemon) do(request *http.Request, value any) ([]byte, error) {
	if d.path == "" {
		return nil, hint.Errorf("give it the path that the daemon has, or leave it out", "--admin is empty: a daemon that has it so serves nothing that could be asked")
	}
	answer, err := d.client.Do(request)
	if err != nil {
		return nil, d.unreachable(err)
	}
	defer answer.Body.Close()
	text, err := io.ReadAll(io.LimitReader(answer.Body, mostAnswer+1))
	switch {
	case err != nil:
		return nil, fmt.Errorf("the answer of the daemon at %s: %w", d.path, err)
	case len(text) > mostAnswer:
		return nil, hint.Errorf("ask for less: ambassadord connections --limit 1000", "the answer of the daemon at %s has more than %d bytes", d.path, mostAnswer)
	case answer.StatusCode != http.StatusOK && answer.Header.Get("Content-Type") != "application/json":
		return nil, d.refused(answer.Status, text)
	}
	if err := json.Unmarshal(text, value); err != nil {
		return nil, hint.Wrap(fmt.Errorf("the answer of the daemon at %s: %w", d.path, err), "update the daemon, or use its own version of this command")
	}
	return text, nil
}

// refused is what the daemon says about a request that it does not answer.
func (d *Daemon) refused(code string, text []byte) error {
	var f admin.Failure
	if json.Unmarshal(text, &f) != nil || f.Detail == "" {
		return hint.Errorf("look whether the daemon has that --admin", "what serves %s answers with %s", d.path, code)
	}
	why, fix := f.Detail, f.Hint
	for _, e := range f.Errors {
		why += ": " + e.Error()
	}
	return hint.Errorf(printable.Text(fix), "the daemon at %s: %s", d.path, printable.Text(why))
}

// unreachable says why nobody answers, and what to do.
func (d *Daemon) unreachable(err error) error {
	const other = "; where it has another --admin, give the same here; where it runs in a container: docker exec CONTAINER ambassadord …"
	switch {
	case errors.Is(err, fs.ErrNotExist):
		return hint.Errorf("start it: ambassadord run"+other, "no daemon serves %s", d.path)
	case errors.Is(err, syscall.ECONNREFUSED) && !isSocket(d.path): // connect(2) says the same of a file
		return hint.Errorf("give --admin the path that the daemon has: its log says \"serving the admin interface\"", "%s is no socket", d.path)
	case errors.Is(err, syscall.ECONNREFUSED):
		return hint.Errorf("start it: ambassadord run"+other, "the daemon that served %s was killed", d.path)
	case errors.Is(err, fs.ErrPermission):
		return hint.Errorf("run it by sudo, "+groupOf(d.path), "this user may not ask the daemon at %s", d.path)
	case errors.Is(err, context.Canceled):
		return err
	}
	var timeout interface{ Timeout() bool }
	if errors.As(err, &timeout) && timeout.Timeout() {
		return hint.Errorf("look at its log, and at what the host is busy with", "the daemon at %s has not answered in %s", d.path, answerPatience)
	}
	return fmt.Errorf("ask the daemon at %s: %w", d.path, err)
}

func isSocket(path string) bool {
	st, err := os.Stat(path)
	return err == nil && st.Mode().Type() == fs.ModeSocket
}

// groupOf says what makes a user one who may dial the socket.
func groupOf(path string) string {
	const group = "or give the daemon --admin-group with a group that this user is in"
	st, err := os.Lstat(path)
	if err != nil {
		return group
	}
	sys, ok := st.Sys().(*syscall.Stat_t)
	if !ok || sys.Gid == 0 {
		return group
	}
	name := strconv.FormatUint(uint64(sys.Gid), 10)
	if g, err := user.LookupGroupId(name); err == nil {
		name = g.Name
	}
	return "or become one of the group " + name
}
