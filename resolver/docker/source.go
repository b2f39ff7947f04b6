package docker

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"time"

	"github.com/ambassadord/ambassadord/internal/dockerd"
	"github.com/ambassadord/ambassadord/internal/hint"
	"github.com/ambassadord/ambassadord/resolver"
)

// firstTimeout is how long Watch waits for the first snapshot. A healthy engine
// gives it in well under a second.
const firstTimeout = 2 * time.Second

// Containers is where snapshots come from; *dockerd.Watcher is one.
type Containers interface {
	// Wait blocks until there is a snapshot other than after.
	Wait(ctx context.Context, after *dockerd.Snapshot) (*dockerd.Snapshot, error)
	// Err is why there may be none, nil while the engine is connected.
	Err() error
	// Endpoint is the engine's address, for people.
	Endpoint() string
}

// Options say where the daemon itself is.
type Options struct {
	// Self is the ID of our own container, "" when we run in none. It never
	// matches a target, and its networks are preferred.
	Self string
}

// Source answers docker:// targets. It is a resolver.Source.
type Source struct {
	containers Containers
	self       string
}

var _ resolver.Source = (*Source)(nil)

// New returns a Source that reads snapshots from containers.
func New(containers Containers, opts Options) *Source {
	return &Source{containers: containers, self: opts.Self}
}

// Check reports what is wrong with q, with a hint.
func (s *Source) Check(q resolver.Query) error {
	_, err := parse(q)
	return err
}

// Watch publishes who serves q, again at every change. It fails if q is wrong,
// and if the engine has shown nothing yet 2 s after the call. An engine lost
// later is no failure: what it said last stays the answer.
func (s *Source) Watch(ctx context.Context, q resolver.Query, publish func(resolver.Answer)) error {
	asked, err := parse(q)
	if err != nil {
		return err
	}
	snapshot, err := s.first(ctx)
	var last resolver.Answer
	for published := false; err == nil; snapshot, err = s.containers.Wait(ctx, snapshot) {
		a := answer(snapshot, asked, s.self)
		if published && a.Note == last.Note && slices.Equal(a.Endpoints, last.Endpoints) {
			continue
		}
		publish(a)
		last, published = a, true
	}
	if ctx.Err() != nil {
		return nil
	}
	return err
}

func (s *Source) first(ctx context.Context) (*dockerd.Snapshot, error) {
	waiting, cancel := context.WithTimeout(ctx, firstTimeout)
	defer cancel()
	snapshot, err := s.containers.Wait(waiting, nil)
	switch {
	case err == nil || !errors.Is(err, context.DeadlineExceeded):
		return snapshot, err
	case s.containers.Err() != nil:
		return nil, fmt.Errorf("no containers known: %w", s.containers.Err())
	default:
		return nil, hint.Errorf("is the engine running? Try: docker -H "+s.containers.Endpoint()+" ps",
			"no containers known: the Docker engine at %s has not answered for %v", s.containers.Endpoint(), firstTimeout)
	}
}
