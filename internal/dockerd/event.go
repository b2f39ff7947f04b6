package dockerd

import (
	"bufio"
	"bytes"
	"encoding/json"
	"errors"
	"io"
	"maps"

	docker "github.com/fsouza/go-dockerclient"
)

// maxEvent is how long an event may be, in bytes, to be decoded whole. The engine writes
// all labels of a container into each event about it, and the container's maker
// chose these. Of a longer event only its head is read: that something has happened to
// that container, which is inspected then.
const maxEvent = 256 << 10

// eventReader reads a stream of events, one a line, as engines write them.
type eventReader struct {
	lines *bufio.Reader
	line  []byte
}

func newEventReader(r io.Reader) *eventReader {
	return &eventReader{lines: bufio.NewReaderSize(r, 32<<10)}
}

// next returns the next event. It never holds more than maxEvent of it.
func (r *eventReader) next() (*docker.APIEvents, error) {
	for {
		whole, err := r.readLine()
		if len(bytes.TrimSpace(r.line)) == 0 {
			if err != nil {
				return nil, err
			}
			continue
		}
		event := new(docker.APIEvents)
		if readHead(r.line, event); !whole || event.Actor.ID != "" && !tellsMore(event) {
			return event, nil
		}
		event = new(docker.APIEvents)
		if decoding := json.Unmarshal(r.line, event); decoding != nil {
			if err != nil { // the stream has ended within it
				return nil, err
			}
			return nil, decoding
		}
		return event, nil
	}
}

// tellsMore reports whether an event of which the head is known has more that matters than
// that: to decode the attributes takes the longer the more labels there are.
func tellsMore(event *docker.APIEvents) bool {
	return event.Type != "container" || event.Action == "create" || event.Action == "kill"
}

// readLine puts the next line into r.line, as much of it as fits into maxEvent, and reports
// whether that is all of it.
func (r *eventReader) readLine() (whole bool, err error) {
	r.line, whole = r.line[:0], true
	for {
		part, err := r.lines.ReadSlice('\n')
		if room := maxEvent - len(r.line); len(part) > room {
			part, whole = part[:room], false
		}
		r.line = append(r.line, part...)
		if !errors.Is(err, bufio.ErrBufferFull) {
			return whole, err
		}
	}
}

// readHead reads what comes before the attributes of an event, which may be cut off.
func readHead(text []byte, event *docker.APIEvents) {
	decoder := json.NewDecoder(bytes.NewReader(text))
	texts := map[string]*string{"Type": &event.Type, "Action": &event.Action, "status": &event.Status, "id": &event.ID}
	if token, err := decoder.Token(); err != nil || token != json.Delim('{') {
		return
	}
	for {
		token, err := decoder.Token()
		key, isKey := token.(string) // or the end of an object
		if err != nil || !isKey {
			return
		}
		value, err := decoder.Token()
		if err != nil {
			return
		}
		switch value := value.(type) {
		case string:
			if into := texts[key]; into != nil {
				*into = value
			}
		case json.Delim:
			if value != '{' || key != "Actor" {
				return
			}
			texts = map[string]*string{"ID": &event.Actor.ID}
		}
	}
}

// subject is the container that an event is about.
func subject(event *docker.APIEvents) string {
	switch event.Type {
	case "container":
		return event.Actor.ID
	case "network":
		if id := event.Actor.Attributes["container"]; id != "" {
			return id
		}
		// Podman's actor is the container; Docker's, which then is not alone, the network.
		if event.Action == "connect" || event.Action == "disconnect" {
			return event.Actor.ID
		}
	case "": // before API 1.22
		return event.ID
	}
	return ""
}

// announced is what an event tells of the container that was made, nil for any
// other event.
func announced(event *docker.APIEvents) *Container {
	if event.Type != "container" || event.Action != "create" || event.Actor.Attributes == nil {
		return nil
	}
	labels := maps.Clone(event.Actor.Attributes) // with the image and the name among them
	delete(labels, "image")
	delete(labels, "name")
	return &Container{
		ID:        event.Actor.ID,
		Name:      event.Actor.Attributes["name"],
		Image:     event.Actor.Attributes["image"],
		Labels:    labels,
		Announced: true,
	}
}
