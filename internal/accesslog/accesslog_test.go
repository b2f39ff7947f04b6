package accesslog

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"io"
	"log/slog"
	"net/netip"
	"os"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/ambassadord/ambassadord/internal/hint"
	"github.com/ambassadord/ambassadord/proxy"
)

// plainly writes the line as anybody would.
func plainly(log *slog.Logger, r proxy.Record) {
	level := slog.LevelInfo
	attrs := []slog.Attr{slog.String("client", r.Route.Client.Name)}
	add := func(key, value string) {
		if value != "" {
			attrs = append(attrs, slog.String(key, value))
		}
	}
	add("id", r.Route.Client.ID)
	add("service", r.Route.Client.Service)
	if r.Route.Client.Name == "" {
		add("source", r.Source.String())
	}
	attrs = append(attrs, slog.Int("port", int(r.Route.Port)))
	add("target", r.Route.Target)
	if r.Endpoint.Addr.IsValid() {
		add("endpoint", r.Endpoint.Addr.String())
		add("endpoint_name", r.Endpoint.Name)
	}
	if r.Attempts > 1 {
		attrs = append(attrs, slog.Int("attempts", r.Attempts))
	}
	if r.Held >= heldLong {
		add("held", r.Held.Round(time.Millisecond).String())
	}
	attrs = append(attrs, slog.Int64("bytes_up", r.Up), slog.Int64("bytes_down", r.Down),
		slog.String("duration", r.Duration.Round(10*time.Microsecond).String()))
	if r.Err != nil {
		level = slog.LevelWarn
		add("reason", string(proxy.ReasonOf(r.Err)))
		add("error", causeOf(r.Err).Error())
		add("hint", hint.Of(r.Err))
	}
	log.LogAttrs(context.Background(), level, "connection", attrs...)
}

// records are connections of all kinds, with what has to be quoted.
func records() []proxy.Record {
	texts := []string{"", "web-1", "a b", `say "hi"`, "tab\tnewline\n", "=", "h\u00e9llo\u2028", "\xff\xfe", "<&>", "\x1b[31m"}
	var all []proxy.Record
	for i, text := range texts {
		next := texts[(i+1)%len(texts)]
		for j, d := range []time.Duration{0, 4 * time.Microsecond, 5 * time.Microsecond, 1234567, 10*time.Millisecond - 1, 10235 * time.Microsecond, time.Hour + 1, -1} {
			r := proxy.Record{
				Route:    proxy.Route{Client: proxy.Client{Name: text, ID: next, Service: text}, Port: uint16(i * 1000), Target: next},
				Source:   netip.MustParseAddrPort("[fe80::1%eth0]:80"),
				Attempts: j % 3, Held: d * 100, Up: int64(i), Down: int64(d), Duration: d,
			}
			if j%2 == 0 {
				r.Endpoint = proxy.Endpoint{Addr: netip.AddrPortFrom(netip.AddrFrom4([4]byte{10, 0, byte(i), byte(j)}), uint16(j)), Name: text}
			}
			switch j % 4 {
			case 1:
				r.Err = proxy.Fail(proxy.DialFailed, hint.Wrap(errors.New(text), next))
			case 3:
				r.Err = errors.New(text)
			}
			all = append(all, r)
		}
	}
	return all
}

// TestAConnectionsLineIsAsPlainSlogHasIt compares byte for byte, but for the time, in
// both formats, and from several goroutines.
func TestAConnectionsLineIsAsPlainSlogHasIt(t *testing.T) {
	withoutTime := &slog.HandlerOptions{ReplaceAttr: func(groups []string, a slog.Attr) slog.Attr {
		if a.Key == slog.TimeKey && len(groups) == 0 {
			return slog.Attr{}
		}
		return a
	}}
	for name, handler := range map[string]func(io.Writer) slog.Handler{
		"text": func(w io.Writer) slog.Handler { return slog.NewTextHandler(w, withoutTime) },
		"json": func(w io.Writer) slog.Handler { return slog.NewJSONHandler(w, withoutTime) },
	} {
		t.Run(name, func(t *testing.T) {
			var want, got bytes.Buffer
			ours := New(slog.New(handler(&got)), nil)
			for range 2 { // the second time texts are known
				for _, r := range records() {
					want.Reset()
					got.Reset()
					plainly(slog.New(handler(&want)), r)
					ours.Done(r)
					if got.String() != want.String() {
						t.Fatalf("%s\nwant\n%s", &got, &want)
					}
				}
			}
			var together sync.WaitGroup
			got.Reset()
			for range 4 {
				together.Go(func() {
					for _, r := range records() {
						ours.Done(r)
					}
				})
			}
			together.Wait()
			seen := map[string]int{}
			for line := range strings.Lines(got.String()) {
				seen[line]++
			}
			for line, n := range seen {
				if n%4 != 0 {
					t.Errorf("%d times: %s", n, line)
				}
			}
		})
	}
}

// counted is a handler that counts what it is asked to format.
type counted struct {
	slog.Handler
	level slog.Level
	n     int
}

func (c *counted) Enabled(_ context.Context, level slog.Level) bool { return level >= c.level }

func (c *counted) Handle(context.Context, slog.Record) error { c.n++; return nil }

// TestEveryFieldOfALineIsDocumented: docs/troubleshooting.md lists what a line may hold.
func TestEveryFieldOfALineIsDocumented(t *testing.T) {
	page, err := os.ReadFile("../../docs/troubleshooting.md")
	if err != nil {
		t.Fatal(err)
	}
	var written bytes.Buffer
	line := New(slog.New(slog.NewJSONHandler(&written, nil)), nil)
	line.out.Load().sample = 2 // one in two says so
	for range 20 {
		for _, r := range records() {
			line.Done(r)
		}
	}
	fields := map[string]any{}
	for decoder := json.NewDecoder(&written); ; {
		if err := decoder.Decode(&fields); errors.Is(err, io.EOF) { // which adds those of each line
			break
		} else if err != nil {
			t.Fatal(err)
		}
	}
	for _, common := range []string{slog.TimeKey, slog.LevelKey, slog.MessageKey} {
		delete(fields, common)
	}
	if len(fields) < 10 {
		t.Errorf("only the fields %v were written", fields)
	}
	_, table, _ := strings.Cut(string(page), "\n## The line of a connection\n")
	table, _, _ = strings.Cut(table, "\n## ")
	for field := range fields {
		if !strings.Contains(table, "`"+field+"`") {
			t.Errorf("docs/troubleshooting.md lacks the field %s of a connection's line", field)
		}
	}
}

func TestNothingIsFormattedThatIsNotLogged(t *testing.T) {
	h := &counted{level: slog.LevelWarn}
	l := New(slog.New(h), nil)
	l.Done(proxy.Record{})
	if h.n != 0 {
		t.Error("a connection that went well is formatted at level warn")
	}
	l.Done(proxy.Record{Err: errors.New("it did not go well")})
	if h.n != 1 {
		t.Errorf("%d lines; want that of the failure", h.n)
	}
}

func TestLine(t *testing.T) {
	endpoint := proxy.Endpoint{Addr: netip.MustParseAddrPort("10.0.0.1:6379"), Name: "redis-1"}
	route := proxy.Route{Client: proxy.Client{Name: "web-1", ID: "0123456789ab", Service: "web"}, Port: 6379, Target: "redis:6379"}
	for _, test := range []struct {
		record proxy.Record
		want   map[string]any
	}{
		{
			proxy.Record{Route: route, Endpoint: endpoint, Attempts: 2, Up: 3, Down: 4, Duration: 1500 * time.Microsecond},
			map[string]any{
				"level": "INFO", "msg": "connection", "client": "web-1", "id": "0123456789ab", "service": "web", "port": 6379.0,
				"target": "redis:6379", "endpoint": "10.0.0.1:6379", "endpoint_name": "redis-1", "attempts": 2.0,
				"bytes_up": 3.0, "bytes_down": 4.0, "duration": "1.5ms",
			},
		},
		{
			proxy.Record{Route: route, Err: proxy.Fail(proxy.DialFailed, hint.Wrap(errors.New("refused"), "start it"))},
			map[string]any{
				"level": "WARN", "msg": "connection", "client": "web-1", "id": "0123456789ab", "service": "web", "port": 6379.0,
				"target": "redis:6379", "bytes_up": 0.0, "bytes_down": 0.0, "duration": "0s",
				"reason": "dial_failed", "error": "refused", "hint": "start it",
			},
		},
	} {
		var out bytes.Buffer
		New(slog.New(slog.NewJSONHandler(&out, nil)), nil).Done(test.record)
		var got map[string]any
		if err := json.Unmarshal(out.Bytes(), &got); err != nil {
			t.Fatal(err)
		}
		delete(got, "time")
		if diff := cmp.Diff(test.want, got); diff != "" {
			t.Errorf("(-want +got):\n%s", diff)
		}
	}
}

// ended is what is said of an ordinary connection.
var ended = proxy.Record{
	Route: proxy.Route{
		Client: proxy.Client{Name: "shop-web-1", ID: "0123456789ab", Service: "web"}, Port: 6379, Target: "redis.service.consul",
	},
	Source: netip.MustParseAddrPort("[::ffff:192.0.2.1]:4000"), Endpoint: proxy.Endpoint{Addr: netip.MustParseAddrPort("10.0.0.1:6379"), Name: "redis-1"},
	Attempts: 1, Up: 64, Down: 4096, Duration: 1234 * time.Microsecond,
}

func BenchmarkLine(b *testing.B) {
	for name, handler := range map[string]slog.Handler{
		"text": slog.NewTextHandler(io.Discard, nil), "json": slog.NewJSONHandler(io.Discard, nil), "off": slog.DiscardHandler,
	} {
		b.Run(name, func(b *testing.B) {
			l := New(slog.New(handler), nil)
			b.ReportAllocs()
			for b.Loop() {
				l.Done(ended)
			}
		})
	}
	b.Run("plainly", func(b *testing.B) {
		log := slog.New(slog.NewTextHandler(io.Discard, nil))
		b.ReportAllocs()
		for b.Loop() {
			plainly(log, ended)
		}
	})
}
