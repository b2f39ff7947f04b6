package agent

import (
	"context"
	"log/slog"
	"sync"

	"github.com/ambassadord/ambassadord/internal/config"
	"github.com/ambassadord/ambassadord/internal/dockerd"
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

// Resolve reports what is known of target once, or with watch after every change
// until ctx ends. The error of a single report is that of its status.
func Resolve(ctx context.Context, cfg config.Config, target string, watch bool, log *slog.Logger,
	report func(resolver.Status),
) error {
	self, _ := dockerd.Self(ctx)
	parts, err := build(cfg, self, nil, log)
	if err != nil {
		return err
	}
	defer parts.close()
	t, err := parts.resolver.Parse(target)
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
