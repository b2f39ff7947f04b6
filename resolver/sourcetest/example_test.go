package sourcetest_test

import (
	"bufio"
	"context"
	"fmt"
	"net/http"
	"net/http/httptest"
	"os"
	"strings"
	"sync"
	"testing"
	"time"

	"go.uber.org/goleak"

	"github.com/ambassadord/ambassadord/internal/hint"
	"github.com/ambassadord/ambassadord/resolver"
	"github.com/ambassadord/ambassadord/resolver/internal/answer"
	"github.com/ambassadord/ambassadord/resolver/sourcetest"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// example begins

// Source answers list://HOST:PORT/PATH with what an HTTP server says there, one
// host:port a line, asked again at every Interval.
type Source struct {
	Client   *http.Client // with a Timeout
	Interval time.Duration
}

// Check does no I/O: it runs for every declaration of every container.
func (s *Source) Check(q resolver.Query) error {
	switch {
	case q.Host == "" || q.Port == 0:
		return hint.Errorf("write list://HOST:PORT/PATH", "a list target names no server")
	case q.Params != "":
		return hint.Errorf("leave out what follows the ?", "a list target takes no parameters")
	}
	return nil
}

// Watch answers until ctx ends, or returns why it cannot. It does not try again.
func (s *Source) Watch(ctx context.Context, q resolver.Query, publish func(resolver.Answer)) error {
	publish = answer.OnChange(publish) // what is the same as before is not worth saying
	tick := time.NewTicker(s.Interval)
	defer tick.Stop()
	for {
		endpoints, err := s.ask(ctx, q)
		switch {
		case ctx.Err() != nil:
			return nil
		case err != nil:
			return err
		case len(endpoints) == 0:
			publish(answer.New(nil, "the list is empty")) // nobody is an answer
		default:
			publish(answer.New(endpoints)) // a thousand at most
		}
		select {
		case <-tick.C:
		case <-ctx.Done():
			return nil
		}
	}
}

func (s *Source) ask(ctx context.Context, q resolver.Query) ([]resolver.Endpoint, error) {
	url := "http://" + q.HostPort() + "/" + q.Path
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, url, http.NoBody)
	if err != nil {
		return nil, err
	}
	resp, err := s.Client.Do(req)
	if err != nil {
		return nil, hint.Wrap(err, "check that the server runs")
	}
	defer resp.Body.Close()
	if resp.StatusCode != http.StatusOK {
		return nil, hint.Errorf("look at the server's log", "%s answers with status %d", url, resp.StatusCode)
	}
	var endpoints []resolver.Endpoint
	lines := bufio.NewScanner(http.MaxBytesReader(nil, resp.Body, 1<<20)) // whatever it sends
	for lines.Scan() {
		found, err := resolver.ParseHostPort(lines.Text())
		if err != nil {
			return nil, fmt.Errorf("%s: %w", url, err)
		}
		e := resolver.Endpoint{Addr: found.AddrPort(), Weight: 1}
		if !e.Addr.IsValid() { // a name: the Resolver looks it up
			e.Host, e.Port = found.Host, found.Port
		}
		endpoints = append(endpoints, e)
	}
	return endpoints, lines.Err()
}

// example ends

func TestExample(t *testing.T) {
	var mu sync.Mutex
	var content string
	status := http.StatusOK
	set := func(code int, endpoints ...string) {
		mu.Lock()
		defer mu.Unlock()
		status, content = code, strings.Join(endpoints, "\n")
	}
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		mu.Lock()
		defer mu.Unlock()
		w.WriteHeader(status)
		fmt.Fprint(w, content)
	}))
	t.Cleanup(server.Close)
	target, err := resolver.Parse(strings.Replace(server.URL, "http:", "list:", 1) + "/redis")
	if err != nil {
		t.Fatal(err)
	}
	set(http.StatusOK, "10.0.0.1:80", "redis.test:80")
	sourcetest.Run(t, sourcetest.Case{
		New: func(testing.TB) (resolver.Source, func()) {
			client := &http.Client{Timeout: 5 * time.Second, Transport: &http.Transport{}}
			return &Source{Client: client, Interval: time.Millisecond}, client.CloseIdleConnections
		},
		Query:       target.Choices[0].Queries[0],
		Want:        []string{"10.0.0.1:80", "redis.test:80"},
		Change:      func(testing.TB) { set(http.StatusOK, "10.0.0.2:80") },
		WantChanged: []string{"10.0.0.2:80"},
		Control: sourcetest.Control{
			Set:   func(_ testing.TB, endpoints ...string) { set(http.StatusOK, endpoints...) },
			Port:  80,
			Break: func(testing.TB) { set(http.StatusServiceUnavailable) },
			Mend:  func(testing.TB) { set(http.StatusOK) },
		},
	})
}

// The documentation shows the source that is tested here.
func TestDocumentationShowsTheExample(t *testing.T) {
	code, err := os.ReadFile("example_test.go")
	if err != nil {
		t.Fatal(err)
	}
	docs, err := os.ReadFile("../../docs/sources.md")
	if err != nil {
		t.Fatal(err)
	}
	_, example, _ := strings.Cut(string(code), "// example begins\n\n")
	example, _, found := strings.Cut(example, "\n// example ends")
	if !found || !strings.Contains(string(docs), "```go\n"+example+"```\n") {
		t.Error("docs/sources.md shows another example than example_test.go between its marks; copy it there")
	}
}
