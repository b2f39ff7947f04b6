package dockerd

import (
	"bytes"
	"errors"
	"fmt"
	"io"
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
