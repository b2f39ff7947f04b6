package sharedwatch

import (
	"bytes"
	"encoding/json"
	"strings"
	"time"

	"github.com/ambassadord/ambassadord/resolver/consul/blocking"
)

const (
	// retry is the pause after a watch's own query has failed.
	retry = time.Second

	// listShare is how many times as long as the reading of a list took the next query waits: a
	// list of thousands of checks, of which one changes all the time, would be read all the time.
	listShare = 20
	// MostListed bounds how many objects of a list are taken in. A list that has more only says
	// that something has changed.
	MostListed = 1 << 18
)

// paths are what a watch's queries ask. Critical and warning checks are few,
// and one that changes to or from passing changes one of these lists.
var paths = []string{servicesPath, "/v1/health/state/critical", "/v1/health/state/warning"}

const servicesPath = "/v1/catalog/services"

// listen hints at every change of what path asks. Its first answer is one, for what
// happened before is not in it; so is a failure, for the subscribers ask the same agent
// and tell what is wrong with it.
func (w *sharedWatch) listen(path string) {
	var index uint64
	var before failingChecks
	for {
		var names answeredList[map[string]blocking.Ignored]
		var checks answeredList[failingChecks]
		var into any = &checks
		if path == servicesPath {
			into = &names
		}
		began := time.Now()
		got, err := w.Source.Query(w.ctx, path, index, into)
		if w.ctx.Err() != nil {
			return
		}
		switch {
		case err != nil:
			if path == servicesPath {
				w.setListed(nil)
			}
		case path == servicesPath:
			w.setListed(names.of)
		default:
			if index != 0 && checks.of != nil && before != nil {
				w.tell(before.changed(checks.of))
			}
			before = checks.of
		}
		if err != nil || index == 0 || got != index {
			select {
			case w.hints <- struct{}{}:
			default:
			}
		}
		rest := listShare * (names.took + checks.took)
		if err == nil {
			index = blocking.NextIndex(index, got)
		} else {
			index = 0
			rest = max(retry, min(time.Since(began), w.Timeout)) // an answer that is too long takes its time, too
		}
		if !blocking.Pause(w.ctx, rest) {
			return
		}
	}
}

// answeredList is what a watch's query answers. What cannot be read, or is too long, is zero: that
// something has changed the index says.
type answeredList[T any] struct {
	of   T
	took time.Duration // to read it
}

// UnmarshalJSON is json.Unmarshaler's. It does not fail.
func (l *answeredList[T]) UnmarshalJSON(text []byte) error {
	began := time.Now()
	var of T
	if bytes.Count(text, []byte("{"))+bytes.Count(text, []byte("[")) <= MostListed && json.Unmarshal(text, &of) == nil {
		l.of = of
	}
	l.took = time.Since(began)
	return nil
}

// setListed takes in which services there are. A subscriber that waits for one that is there now,
// and has seen no instance of it, is told.
func (w *sharedWatch) setListed(names map[string]blocking.Ignored) {
	var now map[string]bool
	if names != nil {
		now = make(map[string]bool, len(names))
	}
	for name := range names {
		now[strings.ToLower(name)] = true
	}
	w.mu.Lock()
	defer w.mu.Unlock()
	before := w.listed
	w.listed = now
	if before == nil {
		return
	}
	for name := range now {
		if before[name] {
			continue
		}
		for s := range w.subscribers[name] {
			s.tell(nil)
		}
	}
}

// failingChecks are the checks of one status.
type failingChecks []failingCheck

type failingCheck struct {
	Node, CheckID, ServiceName string
	ModifyIndex                uint64
}

// changed are the names of the services of which a check is only in one of both, or another
// now. A node's check names none: all services of that node are concerned.
func (f failingChecks) changed(now failingChecks) map[string]bool {
	names := map[string]bool{}
	had := make(map[failingCheck]bool, len(f))
	for _, c := range f {
		had[c] = true
	}
	for _, c := range now {
		if !had[c] {
			names[strings.ToLower(c.ServiceName)] = true
		}
		delete(had, c)
	}
	for c := range had {
		names[strings.ToLower(c.ServiceName)] = true
	}
	delete(names, "")
	return names
}
