package dockerd

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net/http"
	"strings"
	"testing"
)

func TestLongEventsAreReadByTheirHeads(t *testing.T) {
	huge := `"Attributes":{"connect.1":"` + strings.Repeat("x", 8<<20) + `","name":"web"}}`
	for _, test := range []struct{ event, subject string }{
		{`{"status":"start","id":"a","from":"i","Type":"container","Action":"start","Actor":{"ID":"a",` + huge + `}`, "a"},
		{`{"Type":"container","Action":"create","Actor":{"ID":"b",` + huge + `}`, "b"},
		{`{"status":"start","id":"c","x":"` + strings.Repeat("x", maxEvent) + `"}`, "c"},
		{`{"x":["` + strings.Repeat("x", maxEvent) + `"],"Type":"container","Actor":{"ID":"d"}}`, ""},
		{strings.Repeat("x", maxEvent+1), ""},
	} {
		r := newEventReader(strings.NewReader(test.event + "\n\r\n" + `{"Type":"container","Action":"die","Actor":{"ID":"next"}}`))
		event, err := r.next()
		if err != nil || subject(event) != test.subject || announced(event) != nil {
			t.Errorf("%.90s…: subject %q, announced %v, %v; want subject %q", test.event, subject(event), announced(event), err, test.subject)
		}
		if cap(r.line) > 2*maxEvent {
			t.Errorf("%.90s…: %d bytes of it are held", test.event, cap(r.line))
		}
		if event, err = r.next(); err != nil || subject(event) != "next" {
			t.Errorf("%.90s…: the event behind it is %+v, %v", test.event, event, err)
		}
		if _, err := r.next(); !errors.Is(err, io.EOF) {
			t.Errorf("%.90s…: it ends with %v", test.event, err)
		}
	}
}

// TestEventsOfUsualKindsAreReadByTheirHeads: what comes behind is of no use, and may be long.
func TestEventsOfUsualKindsAreReadByTheirHeads(t *testing.T) {
	for event, labels := range map[string]int{
		`{"Type":"container","Action":"start","Actor":{"ID":"a","Attributes":{"l":"x"}},"time":1}`:     0,
		`{"Type":"container","Action":"start","Actor":{"ID":"a"},"time":1}`:                            0,
		`{"Type":"container","Action":"create","Actor":{"ID":"a","Attributes":{"l":"x"}}}`:             1,
		`{"Type":"container","Action":"kill","Actor":{"ID":"a","Attributes":{"signal":"15"}}}`:         1,
		`{"Type":"network","Action":"connect","Actor":{"ID":"n","Attributes":{"container":"a"}}}`:      1,
		`{"Action":"create","Type":"container","x":{"y":1},"Actor":{"ID":"a","Attributes":{"l":"x"}}}`: 1,
	} {
		e, err := newEventReader(strings.NewReader(event)).next()
		if err != nil || subject(e) != "a" || len(e.Actor.Attributes) != labels {
			t.Errorf("%s: subject %q, %d attributes, %v; want a and %d", event, subject(e), len(e.Actor.Attributes), err, labels)
		}
	}
}

// FuzzEvents: no stream of events does more than end.
func FuzzEvents(f *testing.F) {
	f.Add([]byte(`{"Type":"container","Action":"start","Actor":{"ID":"a"},"time":1}` + "\n"))
	f.Add([]byte(`{"Actor":{"ID":"a"}}{}` + "\n[1,2]\n{\"Actor\":{}}"))
	f.Fuzz(func(t *testing.T, text []byte) {
		r := newEventReader(bytes.NewReader(text))
		for {
			event, err := r.next()
			if err != nil {
				break
			}
			subject(event)
			announced(event)
			killedBy(event)
		}
		if cap(r.line) > 2*maxEvent {
			t.Errorf("%d bytes are held", cap(r.line))
		}
	})
}

// TestLongEventIsAHint: the container is inspected all the same, and the stream goes on.
func TestLongEventIsAHint(t *testing.T) {
	f := newFakeEngine(t)
	f.start()
	w := f.watch(Config{})
	await(t, w, "the first", func(*Snapshot) bool { return true })
	f.set("a", fakeContainer{Name: "hostile", Running: true})
	f.emitRaw(fmt.Sprintf(`{"Type":"container","Action":"create","Actor":{"ID":"a","Attributes":{"l":%q}}}`, strings.Repeat("x", 2*maxEvent)))
	await(t, w, "a is inspected", running("a"))
	f.set("b", fakeContainer{Name: "honest", Running: true})
	f.emit("start", "b")
	await(t, w, "b is inspected", running("b"))
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

func TestTheLargestLabelsAreLeftOut(t *testing.T) {
	huge := strings.Repeat("x", 400_000)
	c := &Container{
		Labels: map[string]string{"connect.1": "a:1", "one": huge, "two": huge + "x"},
		Env:    []string{"A=1", "THREE=" + huge, "B=2"},
	}
	c.keepDeclared()
	if c.LeftOut != 1 || len(c.Labels) != 3 || len(c.Env) != 2 {
		t.Errorf("%d left out, %d labels, %d variables; want THREE, the largest, to be left out alone", c.LeftOut, len(c.Labels), len(c.Env))
	}
	if c.Env[0] != "A=1" || c.Env[1] != "B=2" || c.Labels["connect.1"] != "a:1" {
		t.Errorf("environment %.40q, labels %.40q", c.Env, c.Labels["connect.1"])
	}
	small := &Container{Labels: map[string]string{"a": "b"}, Env: []string{"A=1"}}
	if small.keepDeclared(); small.LeftOut != 0 || len(small.Labels) != 1 || len(small.Env) != 1 {
		t.Errorf("of a small one is kept %+v", small)
	}
}
