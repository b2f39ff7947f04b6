package main

import (
	"context"
	"syscall"
	"time"
)

// proxyKind is what is between a client and its backend.
type proxyKind string

const (
	direct  proxyKind = "direct"
	through proxyKind = "ambassadord"
	haproxy proxyKind = "HAProxy"
)

// event is something that happens while a client's connections are idle.
type event struct {
	name    string
	what    string
	paths   []proxyKind
	options string // of the daemon's listener
	happen  func(ctx context.Context, w *world) error
}

// checkedEvery is the interval of checks, of which three fail before a backend is out.
const checkedEvery = 200 * time.Millisecond

var events = []event{
	{
		name: "killed", what: "the backend is killed and started anew at the same address", paths: []proxyKind{direct, through},
		happen: func(ctx context.Context, w *world) error {
			w.backends[0].signal(syscall.SIGKILL)
			return w.backends[0].restart(ctx)
		},
	},
	{
		name: "frozen", what: "the backend is stopped by SIGSTOP, another is there, and checks find out", paths: []proxyKind{haproxy, through},
		options: "check",
		happen: func(ctx context.Context, w *world) error {
			w.backends[0].signal(syscall.SIGSTOP)
			return w.marked(ctx)
		},
	},
	{
		name: "removed, keep", what: "the target's list names another backend, the old one goes on", paths: []proxyKind{through},
		happen: func(ctx context.Context, w *world) error { return w.move(ctx) },
	},
	{
		name: "removed, drain", what: "the same with on-removal=drain, and drain-after is over", paths: []proxyKind{through},
		options: "drain",
		happen: func(ctx context.Context, w *world) error {
			if err := w.move(ctx); err != nil {
				return err
			}
			return w.said(ctx, "endpoint_removed", connections)
		},
	},
	{
		name: "takeover", what: "another daemon takes over (--takeover)", paths: []proxyKind{through},
		happen: func(ctx context.Context, w *world) error { return w.takeOver(ctx) },
	},
	{
		name: "SIGTERM", what: "the daemon is stopped, its drain time is over, and it is started anew; directly, the backend", paths: []proxyKind{direct, through},
		happen: func(ctx context.Context, w *world) error { return w.restart(ctx) },
	},
}
