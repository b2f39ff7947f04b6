package agent

import (
	"cmp"
	"context"
	"log/slog"
	"sync"
	"time"

	"github.com/ambassadord/ambassadord/internal/config"
	"github.com/ambassadord/ambassadord/internal/dockerd"
	"github.com/ambassadord/ambassadord/internal/hint"
	"github.com/ambassadord/ambassadord/internal/shorten"
	"github.com/ambassadord/ambassadord/resolver"
)

// NewParser returns a function that parses targets as Run would, and does
// nothing else.
func NewParser(cfg config.Config, log *slog.Logger) (func(string) (resolver.Target, error), error) {
	parts, err := build(cfg, "", nil, log)
	if err != nil {
		return nil, err
	}
	parts.close()
	return parts.resolver.Parse, nil
}

// Question is what Resolve is asked.
type Question struct {
	Target string
	// As is the container for which it is asked, by its name or ID; "" for the host itself.
	As string
	// Watch asks for every change.
	Watch bool
}

// Resolve reports what is known of a target once, or with Watch after every change
// until ctx ends. The error of a single report is that of its status.
func Resolve(ctx context.Context, cfg config.Config, question Question, log *slog.Logger,
	report func(resolver.Status),
) error {
	self, _ := dockerd.Self(ctx)
	parts, err := build(cfg, self, nil, log)
	if err != nil {
		return err
	}
	defer parts.close()
	t, err := parts.resolver.Parse(question.Target)
	if err != nil {
		return err
	}
	background, cancel := context.WithCancel(ctx)
	var running sync.WaitGroup
	defer func() { cancel(); running.Wait() }()
	running.Go(func() { _ = parts.resolver.Run(background) })
	if asksEngine(t) {
		running.Go(func() { _ = parts.docker.Run(background) })
	}
	if question.As == "" || !t.ByClient() {
		return resolveNow(ctx, parts, t, question.Watch, report)
	}
	return resolveAs(ctx, parts, t, question, cfg.ResolveTimeout, report)
}

func resolveNow(ctx context.Context, parts *parts, t resolver.Target, watch bool, report func(resolver.Status)) error {
	if watch {
		return parts.resolver.Watch(ctx, t, report)
	}
	status, err := parts.resolver.Status(ctx, t)
	if err != nil {
		return err
	}
	report(status)
	return status.Err
}

// resolveAs is resolveNow for a container, whose project and networks the engine knows. A
// watch follows these, too.
func resolveAs(ctx context.Context, parts *parts, t resolver.Target, question Question, patience time.Duration, report func(resolver.Status)) error {
	first, cancel := context.WithTimeout(ctx, patience)
	defer cancel()
	snapshot, err := parts.docker.Wait(first, nil)
	if err != nil {
		return cmp.Or(parts.docker.Err(), err)
	}
	for ctx.Err() == nil {
		client := snapshot.Find(question.As)
		if client == nil {
			return hint.Errorf("docker ps -a lists the containers; leave --as out to ask as the host does",
				"there is no container %s", shorten.Text(question.As, 64))
		}
		scope := snapshot.ScopeOf(client).String()
		asking, stop := context.WithCancel(ctx)
		var following sync.WaitGroup
		if question.Watch {
			following.Go(func() {
				defer stop() // its scope is another
				for {
					next, err := parts.docker.Wait(asking, snapshot)
					if err != nil {
						return
					}
					snapshot = next
					if c := next.Find(question.As); c == nil || next.ScopeOf(c).String() != scope {
						return
					}
				}
			})
		}
		err := resolveNow(asking, parts, t.For(scope), question.Watch, report)
		ended := asking.Err() != nil
		stop()
		following.Wait()
		if !question.Watch || !ended {
			return err
		}
	}
	return nil
}
