package dockerd

import (
	"fmt"
	"io"
	"log/slog"
	"net/http"
	"strings"
	"testing"
)

func TestEntryTellsWhatHasChanged(t *testing.T) {
	base := func() *listed {
		l := &listed{ID: "a", State: "running", Status: "Up 2 hours (healthy)", Names: []string{"/db", "/web/db"}}
		l.NetworkSettings.Networks = map[string]listedNetwork{
			"x": {NetworkID: "1", IPAddress: "10.0.0.2"}, "y": {NetworkID: "2", IPAddress: "10.0.1.2"},
		}
		return l
	}
	was := base().entry()
	for what, test := range map[string]struct {
		change func(*listed)
		same   bool
	}{
		"time":      {func(l *listed) { l.Status = "Up 3 hours (healthy)" }, true},
		"order":     {func(l *listed) { l.Names = []string{"/web/db", "/db"} }, true},
		"health":    {func(l *listed) { l.Status = "Up 2 hours (unhealthy)" }, false},
		"no health": {func(l *listed) { l.Status = "Up 2 hours" }, false},
		"state":     {func(l *listed) { l.State = "exited" }, false},
		"name":      {func(l *listed) { l.Names[0] = "/postgres" }, false},
		"address":   {func(l *listed) { l.NetworkSettings.Networks["x"] = listedNetwork{NetworkID: "1"} }, false},
		"network":   {func(l *listed) { delete(l.NetworkSettings.Networks, "y") }, false},
	} {
		l := base()
		test.change(l)
		if is := l.entry(); (is.mark == was.mark) != test.same || is.young {
			t.Errorf("%s: %+v after %+v, want the same mark: %t", what, is, was, test.same)
		}
	}
	l := base()
	if l.Status = "Up 41 seconds (healthy)"; !l.entry().young {
		t.Error("up for seconds is not young")
	}
}

// Each container is read into what the one before it was read into.
func TestListedContainersAreApart(t *testing.T) {
	const (
		full = `{"Id": "a", "Names": ["/z", "/y"], "State": "running", "Status": "Up 2 seconds (healthy)", "Labels": {"k": "v"},
			"NetworkSettings": {"Networks": {"front": {"NetworkID": "n1", "IPAddress": "172.18.0.2"}, "back": {"NetworkID": "n2"}}}}`
		empty  = `{"Id": "b"}`
		nulls  = `{"Id": "b", "Names": null, "State": null, "Status": null, "NetworkSettings": {"Networks": null}}`
		others = `{"Id": "b", "Names": ["/x"], "NetworkSettings": {"Networks": {"front": {"IPAddress": "172.18.0.3"}}}}`
	)
	for _, second := range []string{empty, nulls, others, full} {
		alone, err := readList(strings.NewReader("[" + second + "]"))
		if err != nil {
			t.Fatal(err)
		}
		both, err := readList(strings.NewReader("[" + full + "," + second + "]"))
		if err != nil {
			t.Fatal(err)
		}
		if len(both) != 2 || len(alone) != 1 || both[1] != alone[0] {
			t.Errorf("after another container %+v, alone %+v", both[1:], alone)
		}
	}
}

func TestReadList(t *testing.T) {
	for text, want := range map[string]int{"[]": 0, "null": 0, `[{"Id":"a"},{"Id":"b"}]`: 2} {
		entries, err := readList(strings.NewReader(text))
		if err != nil || len(entries) != want {
			t.Errorf("%s: %v, %v, want %d entries", text, entries, err, want)
		}
	}
	// Half a list must not pass for a whole one: who is not in it would be dropped.
	for _, text := range []string{"", "{}", `[{"Id":"a"}`, `[{"Id":"a"},`, `[{"Id":"a"},{"Id":`, `[{"Id":1}]`, `["a"]`, `[}`} {
		if entries, err := readList(strings.NewReader(text)); err == nil {
			t.Errorf("%s: %v and no error", text, entries)
		}
	}
}

func BenchmarkReadList(b *testing.B) {
	var list strings.Builder
	for i := range 200 {
		fmt.Fprintf(&list, `,{"Id":"%064d","Names":["/web_%d"],"Image":"web","ImageID":"sha256:%064d","Command":"/web serve","Created":1,
			"Ports":[{"IP":"0.0.0.0","PrivatePort":80,"PublicPort":%d,"Type":"tcp"}],"Labels":{"connect.6379":"redis.service.consul"},
			"State":"running","Status":"Up 2 hours","HostConfig":{"NetworkMode":"bridge"},"NetworkSettings":{"Networks":{"bridge":{
			"IPAMConfig":null,"Links":null,"Aliases":null,"NetworkID":"%064d","EndpointID":"%064d","Gateway":"172.17.0.1","IPAddress":"172.17.1.%d",
			"IPPrefixLen":16,"IPv6Gateway":"","GlobalIPv6Address":"","GlobalIPv6PrefixLen":0,"MacAddress":"02:42:ac:11:00:02","DriverOpts":null}}},
			"Mounts":[]}`, i, i, i, 30000+i, 1, i, i)
	}
	text := "[" + list.String()[1:] + "]"
	b.SetBytes(int64(len(text)))
	b.ReportAllocs()
	for b.Loop() {
		if entries, err := readList(strings.NewReader(text)); err != nil || len(entries) != 200 {
			b.Fatal(len(entries), err)
		}
	}
}

func TestDescriptionIsBounded(t *testing.T) {
	f := newFakeEngine(t)
	f.set("a", fakeContainer{Name: "hostile", Running: true})
	f.set("b", fakeContainer{Name: "honest", Running: true})
	sent := make(chan int64, 100)
	f.onInspect = func(w http.ResponseWriter, id string) bool {
		if id != "a" {
			return true
		}
		n, _ := io.Copy(w, io.MultiReader(strings.NewReader(`{"Id":"`), io.LimitReader(endless{}, 1<<30)))
		sent <- n
		return false
	}
	f.start()
	log := &records{}
	w := f.watch(Config{Log: slog.New(log)})
	await(t, w, "b is there", running("b"))
	if n := <-sent; n > 16*maxDescription {
		t.Errorf("%d bytes of a description were taken", n)
	}
	until(t, "it is said", func() bool { return log.of("cannot be inspected") == 1 })
	if w.Err() != nil {
		t.Errorf("the engine is taken for lost: %v", w.Err())
	}
}

// endless is the letter x without an end.
type endless struct{}

func (endless) Read(p []byte) (int, error) {
	for i := range p {
		p[i] = 'x'
	}
	return len(p), nil
}
