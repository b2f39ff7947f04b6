package status

import (
	"bytes"
	"encoding/json"
	"errors"
	"flag"
	"net/netip"
	"os"
	"reflect"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/ambassadord/ambassadord/internal/balance"
	"github.com/ambassadord/ambassadord/internal/config"
	"github.com/ambassadord/ambassadord/internal/hint"
	"github.com/ambassadord/ambassadord/internal/option"
	"github.com/ambassadord/ambassadord/proxy"
	"github.com/ambassadord/ambassadord/proxy/limit"
	"github.com/ambassadord/ambassadord/resolver"
)

var update = flag.Bool("update", false, "write the golden file")

// full is a snapshot with a value in each field.
func full(t *testing.T) *Snapshot {
	t.Helper()
	at := func(seconds int) time.Time { return time.Date(2026, 1, 2, 3, 4, seconds, 0, time.UTC) }
	addr := netip.MustParseAddrPort
	target, err := resolver.Parse("redis.example.com:6379 | 10.0.0.9:6379")
	if err != nil {
		t.Fatal(err)
	}
	query := slices.Collect(target.Queries())[0]
	options := option.Default()
	options.Wait = 4 * time.Second
	check := balance.Check{
		Kind: balance.TCPCheck, Port: 81, Path: "/health", Host: "redis", Preface: "PROXY\r\n", Send: "PING\r\n", Expect: "\xff+PONG",
		Interval: time.Second, Timeout: 2 * time.Second, Jitter: 10, Rise: 2, Fall: 3,
	}
	weight := uint16(7)
	endpoint := resolver.Endpoint{
		Addr: addr("10.0.0.2:6379"), Host: "redis.example.com", Port: 6379, Name: "redis-1", Priority: 1, Weight: 2, Health: "passing",
		Distance: resolver.SameDatacenter, Published: true, Holder: "c1",
	}
	return &Snapshot{
		Taken: at(59), Took: 1500 * time.Microsecond,
		Daemon: Daemon{
			Modes: []config.Mode{config.Redirect, config.Host}, Program: "ambassadord v1", Ready: true, Follows: true, HandOver: "none",
			Engine: hint.Wrap(errors.New("the engine is away"), "start it"),
			Config: Configuration{Read: at(3), Refused: hint.Wrap(errors.New("ambassadord.yml:3:12: unknown key \"waite\""), "did you mean wait?")},
		},
		Listeners: []Listener{{Address: "6379", Listens: addr("[::]:6379"), Target: "redis.example.com:6379", Options: options}},
		Containers: []Container{{
			Name: "web", ID: "0123456789ab", Project: "shop", Service: "web", Namespace: "ba9876543210", Mistakes: 2,
			Bindings: []Binding{{
				Port: 6379, Target: "redis.example.com:6379", Meaning: "redis.example.com:6379", Origin: "label connect.6379",
				Problem: "is declared twice", Overruled: "another has the port",
				Denied: []Denied{{Endpoint: "10.0.0.2:6379", FailureView: FailureView{Error: "rule 1 says deny", Hint: "change it"}}},
			}},
			Attached: &Attached{Mode: "redirect", Since: at(9), FailureView: FailureView{Error: "cannot enter", Hint: "run it as root"}},
			Problems: []Problem{{Origin: "label connect.x", Error: "x is no port", Hint: "write 6379"}},
		}},
		Targets: []Target{{Meaning: "redis.example.com:6379", Clients: 1, Status: resolver.Status{
			Target: target, Endpoints: []resolver.Endpoint{endpoint}, Choice: 1, Err: errors.New("no endpoints"),
			Queries: []resolver.QueryStatus{{
				Query: query, Choice: 1, Endpoints: []resolver.Endpoint{endpoint, {Host: "redis.example.com", Port: 6379}},
				LeftOut: []resolver.LeftOut{{Name: "redis-2", Addr: "10.0.0.3:6379", Why: "is not running", Unhealthy: true}},
				Notes:   []string{"a note"}, Answered: at(1), Err: errors.New("no answer"), Failing: at(2), Unwatched: true,
			}},
		}}},
		Pools: []balance.PoolStatus{{
			Target: "redis.example.com:6379", Out: 1, Panic: true,
			Options: balance.Options{
				Policy: balance.RoundRobin, PreferNear: true, SlowStart: time.Second, EjectAfter: 5, EjectFor: 10 * time.Second,
				EjectForMax: 5 * time.Minute, EjectMost: 50, Check: check,
			},
			Members: []balance.MemberStatus{{
				Override: balance.Override{State: balance.Ejected, Until: at(58), Weight: &weight, Since: at(40)},
				Endpoint: balance.Endpoint{
					Addr: addr("10.0.0.2:6379"), Name: "redis-1", Choice: 1, Priority: 1, Weight: 2, Distance: balance.SameDatacenter,
					Published: true, Holder: "c1",
				},
				WeightInEffect: 0.2, Out: true,
				Health: balance.EndpointStatus{
					Addr: addr("10.0.0.2:6379"), Holder: "c1", Open: 3, Opening: 1, Failures: 5, Why: "connection refused", Ejections: 2,
					Ejected: true, EjectedSince: at(3), EjectedUntil: at(4), Probing: true, Recovered: at(5), Pools: 2,
					Checks: []balance.CheckStatus{{Check: check, Verdict: "down", Since: at(6), Last: at(7), Why: "timed out"}},
				},
			}},
		}},
		Connections: []proxy.Carried{{
			Route: &proxy.Route{
				Client: proxy.Client{Name: "web", ID: "0123456789ab", Service: "web"}, Port: 6379, Target: "redis.example.com:6379",
				Preface: []byte("PROXY"), Ended: func() {},
			},
			Source: addr("172.17.0.2:4711"), Endpoint: proxy.Endpoint{Addr: addr("10.0.0.2:6379"), Name: "redis-1"}, Attempts: 2,
			Accepted: at(8), Held: 20 * time.Millisecond, Up: 5, Down: 6,
		}},
		Limits: []limit.Status{{What: "this daemon", Bounds: limit.Bounds{Open: 100, Rate: 50, Queue: 10, Reserve: 5}, Open: 3, Waiting: 1}},
		Failures: []Failure{{
			Client: "web", ID: "0123456789ab", Source: addr("172.17.0.2:4712"), Port: 6379, Target: "redis.example.com:6379", Count: 2, First: at(10),
			Last: at(11), Served: at(12), Reason: proxy.DialFailed, Error: "connection refused", Hint: "start it", Endpoint: addr("10.0.0.2:6379"), Attempts: 3,
			Held: 30 * time.Millisecond, Up: 7, Down: 8,
		}},
	}
}

// TestSnapshotAsJSON compares a snapshot with a value in each field with its golden file.
func TestSnapshotAsJSON(t *testing.T) {
	const golden = "testdata/snapshot.json"
	line, err := json.Marshal(full(t))
	if err != nil {
		t.Fatal(err)
	}
	var got bytes.Buffer
	if err := json.Indent(&got, line, "", "  "); err != nil {
		t.Fatal(err)
	}
	got.WriteByte('\n')
	if *update {
		if err := os.WriteFile(golden, got.Bytes(), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	want, err := os.ReadFile(golden)
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(string(want), got.String()); diff != "" {
		t.Errorf("(-want +got); to write it: go test ./internal/status -update\n%s", diff)
	}
}

// TestAnEmptySnapshotHasEmptyLists: a program that reads one needs no case for null.
func TestAnEmptySnapshotHasEmptyLists(t *testing.T) {
	line, err := json.Marshal(&Snapshot{
		Containers: make([]Container, 1), Targets: []Target{{Status: resolver.Status{Queries: make([]resolver.QueryStatus, 1)}}},
		Pools: []balance.PoolStatus{{Members: make([]balance.MemberStatus, 1)}}, Connections: make([]proxy.Carried, 1),
	})
	if err != nil || bytes.Contains(line, []byte("null")) {
		t.Errorf("%v: %s", err, line)
	}
}

// notInJSON are fields that have no place there: functions, what leads into a part, what is said elsewhere.
var notInJSON = []string{
	"Targets.Status.Target",                                          // Meaning is its text
	"Targets.Status.Endpoints.Host", "Targets.Status.Endpoints.Port", // there is an address
	"Targets.Status.Queries.Endpoints.Host", "Targets.Status.Queries.Endpoints.Port",
	"Connections.Route.Preface", "Connections.Route.Ended",
}

// TestEveryFieldIsInTheJSON: a field of full that becomes zero changes the text, or is listed.
func TestEveryFieldIsInTheJSON(t *testing.T) {
	s := full(t)
	before, err := json.Marshal(s)
	if err != nil {
		t.Fatal(err)
	}
	whole := []reflect.Type{
		reflect.TypeFor[time.Time](), reflect.TypeFor[netip.AddrPort](), reflect.TypeFor[resolver.Target](), reflect.TypeFor[resolver.Query](),
		reflect.TypeFor[option.Set](),
	}
	seen := map[string]bool{}
	var visit func(v reflect.Value, path string)
	visit = func(v reflect.Value, path string) {
		switch {
		case v.Kind() == reflect.Pointer && !v.IsNil():
			visit(v.Elem(), path)
		case v.Kind() == reflect.Slice && v.Len() > 0 && v.Type().Elem().Kind() == reflect.Struct:
			visit(v.Index(0), path)
		case v.Kind() == reflect.Struct && !slices.Contains(whole, v.Type()):
			for i := range v.NumField() {
				if f := v.Type().Field(i); f.IsExported() {
					visit(v.Field(i), path+"."+f.Name)
				}
			}
		default:
			path = path[1:]
			seen[path] = true
			was := reflect.ValueOf(v.Interface())
			if v.IsZero() {
				if !strings.HasPrefix(path, "Connections.Route.") { // most of a route is how the proxy serves it
					t.Errorf("the test's snapshot has no %s", path)
				}
				return
			}
			v.SetZero()
			after, err := json.Marshal(s)
			v.Set(was)
			if changed := err != nil || !bytes.Equal(before, after); changed == slices.Contains(notInJSON, path) {
				t.Errorf("%s changes the text: %t (%v)", path, changed, err)
			}
		}
	}
	visit(reflect.ValueOf(s).Elem(), "")
	for _, path := range notInJSON {
		if !seen[path] {
			t.Errorf("there is no %s", path)
		}
	}
}
