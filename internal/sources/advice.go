package sources

import (
	"context"

	"github.com/ambassadord/ambassadord/internal/hint"
	"github.com/ambassadord/ambassadord/resolver"
)

// advisedSource is a source that finds nobody under a name which another source knows: its hint says
// how that one is asked.
type advisedSource struct {
	resolver.Source
	advise func(context.Context, resolver.Query) string // "" if it knows nothing better
}

// Watch is the source's, with advice on answers without endpoints and on failures.
func (s advisedSource) Watch(ctx context.Context, q resolver.Query, publish func(resolver.Answer)) error {
	err := s.Source.Watch(ctx, q, func(a resolver.Answer) {
		if len(a.Endpoints) == 0 {
			if advice := s.advise(ctx, q); advice != "" {
				a.Hint, a.Err = advice, hint.Wrap(a.Err, advice)
			}
		}
		publish(a)
	})
	if err == nil {
		return nil
	}
	return hint.Wrap(err, s.advise(ctx, q))
}
