// Package oneshot has the commands that need no daemon, or speak to a running one, and the processes
// that a daemon starts beside itself: what a target resolves to (Resolve), what --links listens for
// (LinkListeners), asking a daemon to reload (Reload), carrying the connections of a daemon that
// died (Keep), and preparing new network namespaces (GoAhead).
package oneshot

import (
	"cmp"
	"context"
	"log/slog"
	"sync"
	"time"

	"github.com/ambassadord/ambassadord/internal/config"
	"github.com/ambassadord/ambassadord/internal/containerproc"
	"github.com/ambassadord/ambassadord/internal/hint"
	"github.com/ambassadord/ambassadord/internal/shorten"
	"github.com/ambassadord/ambassadord/internal/sources"
	"github.com/ambassadord/ambassadord/resolver"
)

// NewParser returns a function that parses targets as Run would, and does
// nothing else.
func NewParser(cfg config.Config, log *slog.Logger) (func(string) (resolver.Target, error), error) {
	built, err := sources.Build(cfg, "", nil, log)
	if err != nil {
		return nil, err
	}
	built.Close()
	return built.Resolver.Parse, nil
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
	self, _ := containerproc.Self(ctx)
	built, err := sources.Build(cfg, self, nil, log)
	if err != nil {
		return err
	}
	defer built.Close()
	t, err := built.Resolver.Parse(question.Target)
	if err != nil {
		return err
	}
	background, cancel := context.WithCancel(ctx)
	var running sync.WaitGroup
	defer func() { cancel(); running.Wait() }()
	running.Go(func() { _ = built.Resolver.Run(background) })
	if sources.AskEngine(t) {
		running.Go(func() { _ = built.Docker.Run(background) })
	}
	if question.As == "" || !t.ByClient() {
		return resolveNow(ctx, built, t, question.Watch, report)
	}
	return resolveAs(ctx, built, t, question, cfg.ResolveTimeout, report)
}

func resolveNow(ctx context.Context, built *sources.Sources, t resolver.Target, watch bool, report func(resolver.Status)) error {
	if watch {
		return built.Resolver.Watch(ctx, t, report)
	}
	status, err := built.Resolver.Status(ctx, t)
	if err != nil {
		return err
	}
	report(status)
	return status.Err
}

// resolveAs is resolveNow for a container, whose project and networks the engine knows. A
// watch follows these, too.
func resolveAs(ctx context.Context, built *sources.Sources, t resolver.Target, question Question, patience time.Duration, report func(resolver.Status)) error {
	first, cancel := context.WithTimeout(ctx, patience)
	defer cancel()
	snapshot, err := built.Docker.Wait(first, nil)
	if err != nil {
		return cmp.Or(built.Docker.Err(), err)
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
					next, err := built.Docker.Wait(asking, snapshot)
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
		err := resolveNow(asking, built, t.For(scope), question.Watch, report)
		ended := asking.Err() != nil
		stop()
		following.Wait()
		if !question.Watch || !ended {
			return err
		}
	}
	return nil
}
