package admin

import (
	"bufio"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"log/slog"
	"net/http"
	"strings"
	"testing"
	"time"

	"github.com/ambassadord/ambassadord/internal/events"
)

// withEvents is configured with events, and a logger that makes some.
func withEvents(t *testing.T) (Config, *slog.Logger) {
	c := configured(t)
	log := new(events.Log)
	c.Events = log
	return c, slog.New(log.Handler(slog.NewTextHandler(io.Discard, nil), "connection"))
}

// listed asks for events, and returns their messages.
func listed(t *testing.T, client *http.Client, query string) (list EventList, messages string) {
	t.Helper()
	answer := ask(t, client, http.MethodGet, "http://localhost/v1/events?"+query)
	if answer.code != http.StatusOK {
		t.Fatalf("%s: %d %s", query, answer.code, answer.body)
	}
	if err := json.Unmarshal([]byte(answer.body), &list); err != nil {
		t.Fatalf("%s: %v: %s", query, err, answer.body)
	}
	var all []string
	for _, e := range list.Events {
		all = append(all, e.Message)
	}
	return list, strings.Join(all, " ")
}

func TestEventsAreChosen(t *testing.T) {
	c, log := withEvents(t)
	started(t, c)
	client := over(t, c.Path)
	if list, _ := listed(t, client, ""); list.Events == nil || list.Now != 0 {
		t.Errorf("without events: %+v; want an empty list", list)
	}
	log.Info("attached", "client", "web", "id", "0123456789ab", "service", "front")
	log.Warn("ejected", "target", "db:5432", "reported_by", "web", "reporter_id", "0123456789ab")
	log.Error("odd", "client", 5)
	log.Info("read")
	for query, want := range map[string]string{
		"": "attached ejected odd read", "client=web": "attached ejected", "client=0123": "attached ejected", "client=012": "", "client=front": "attached",
		"target=db:5432": "ejected", "level=warn": "ejected odd", "level=debug": "attached ejected odd read", "message=read": "read",
		"client=web&level=error": "", "limit=1": "read", "limit=2&level=warn": "ejected odd",
	} {
		if _, got := listed(t, client, query); got != want {
			t.Errorf("%q lists %q; want %q", query, got, want)
		}
	}
	all, _ := listed(t, client, "")
	if list, got := listed(t, client, fmt.Sprintf("since=%d", all.Events[1].ID)); got != "odd read" || list.Now != all.Events[3].ID || list.Lost {
		t.Errorf("after the second there are %q, %+v; want the last two", got, list)
	}
	for _, query := range []string{"level=loud", "since=-1", "limit=0", "since=x", "from=1"} {
		if answer := ask(t, client, http.MethodGet, "http://localhost/v1/events?"+query); answer.code != http.StatusUnprocessableEntity && answer.code != http.StatusBadRequest {
			t.Errorf("%s is answered with %d %s", query, answer.code, answer.body)
		}
	}
}

func TestADaemonWithoutEvents(t *testing.T) {
	c := configured(t)
	c.Events = nil
	started(t, c)
	if answer := ask(t, over(t, c.Path), http.MethodGet, "http://localhost/v1/events?follow=true"); answer.code != http.StatusNotFound || !strings.Contains(answer.body, "read its log") {
		t.Errorf("answered with %d %s", answer.code, answer.body)
	}
}

// watched is a stream of events.
type watched struct {
	t      *testing.T
	lines  *bufio.Scanner
	cancel context.CancelFunc
}

func watch(t *testing.T, client *http.Client, query string, header ...string) *watched {
	t.Helper()
	ctx, cancel := context.WithCancel(t.Context())
	t.Cleanup(cancel)
	r, err := http.NewRequestWithContext(ctx, http.MethodGet, "http://localhost/v1/events?"+query, nil)
	if err != nil {
		t.Fatal(err)
	}
	for i := 0; i+1 < len(header); i += 2 {
		r.Header.Set(header[i], header[i+1])
	}
	answer, err := client.Do(r)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { answer.Body.Close() })
	if answer.StatusCode != http.StatusOK || answer.Header.Get("Content-Type") != eventStream {
		t.Fatalf("%s is answered with %s, %s", query, answer.Status, answer.Header.Get("Content-Type"))
	}
	w := &watched{t, bufio.NewScanner(answer.Body), cancel}
	w.next(":") // from here on nothing is missed
	return w
}

// next is what follows prefix in the next line that has it; "" once the stream has ended.
func (w *watched) next(prefix string) string {
	for w.lines.Scan() {
		if rest, ok := strings.CutPrefix(w.lines.Text(), prefix); ok {
			return rest
		}
	}
	return ""
}

func TestEventsAreFollowed(t *testing.T) {
	c, log := withEvents(t)
	s := started(t, c)
	client := over(t, c.Path)
	log.Info("first")
	log.Info("second")
	from, _ := listed(t, client, "")
	now := watch(t, client, "follow=true&level=warn")
	again := watch(t, client, "", "Accept", eventStream, "Last-Event-ID", fmt.Sprint(from.Events[0].ID))
	log.Info("third")
	log.Warn("fourth", "text", "a\n\ndata: b")
	if data := now.next("data: "); !strings.Contains(data, `"message":"fourth","fields":{"text":"a\n\ndata: b"}`) {
		t.Errorf("from now on there is %s; want the warning", data)
	}
	for _, want := range []string{"second", "third", "fourth"} {
		id := again.next("id: ")
		if data := again.next("data: "); !strings.Contains(data, want) || !strings.Contains(data, `"id":`+id) {
			t.Errorf("after the first there is %q, %s; want the %s", id, data, want)
		}
	}
	s.Close()
	if more := again.next("data"); more != "" {
		t.Errorf("after the end there is %q", more)
	}
}

// TestAStreamOutlivesTheBoundsOfOtherRequests waits for longer than one of those may take, for something that
// is sent by itself.
func TestAStreamOutlivesTheBoundsOfOtherRequests(t *testing.T) {
	if testing.Short() {
		t.Skip("it takes longer than a request may")
	}
	t.Parallel()
	c, log := withEvents(t)
	started(t, c)
	client := over(t, c.Path)
	client.Timeout = 0
	w := watch(t, client, "follow=true")
	began := time.Now()
	w.next(":") // a heartbeat
	if took := time.Since(began); took < heartbeat-time.Second || took < readPatience {
		t.Errorf("a heartbeat came after %s", took)
	}
	log.Info("later")
	if data := w.next("data: "); !strings.Contains(data, "later") {
		t.Errorf("after %s there is %q", time.Since(began), data)
	}
}

func TestWatchersAreFew(t *testing.T) {
	c, log := withEvents(t)
	started(t, c)
	client := over(t, c.Path)
	var first *watched
	for i := range mostWatchers {
		w := watch(t, client, "follow=true")
		if i == 0 {
			first = w
		}
	}
	if answer := ask(t, client, http.MethodGet, "http://localhost/v1/events"); answer.code != http.StatusServiceUnavailable {
		t.Errorf("one more is answered with %d", answer.code)
	}
	if answer := ask(t, client, http.MethodGet, "http://localhost/v1/status"); answer.code != http.StatusOK {
		t.Errorf("beside them the status is answered with %d", answer.code)
	}
	first.cancel()
	deadline := time.Now().Add(20 * time.Second)
	for {
		log.Info("noticed when it is written to")
		answer := ask(t, client, http.MethodGet, "http://localhost/v1/events?limit=1")
		if answer.code == http.StatusOK {
			break
		}
		if time.Now().After(deadline) {
			t.Fatalf("after one has left, another is answered with %d", answer.code)
		}
	}
}

// TestAWatcherThatIsTooSlowIsTold by a log that has dropped what it lacks.
func TestAWatcherThatIsTooSlowIsTold(t *testing.T) {
	c, log := withEvents(t)
	started(t, c)
	for i := range 3000 {
		log.Info("many", "i", i)
	}
	client := over(t, c.Path)
	list, _ := listed(t, client, "since=1&limit=5")
	if !list.Lost || len(list.Events) != 5 {
		t.Errorf("%d events, lost: %t; want 5, and that others are missing", len(list.Events), list.Lost)
	}
	if list, _ := listed(t, client, "limit=5"); list.Lost {
		t.Error("events are said to be missing to one who has asked for none before")
	}
	follow := watch(t, client, "follow=true&since=1")
	if kind := follow.next("event: "); kind != "lost" {
		t.Errorf("the first event is of type %q; want lost", kind)
	}
	if data := follow.next("data: {\"id"); data == "" {
		t.Error("nothing follows")
	}
}
