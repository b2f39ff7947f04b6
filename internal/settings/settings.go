// Package settings holds what a reload of the configuration may change: one immutable value that
// is replaced whole. Settings.Config is the configuration read last, Layers is what bindings are
// read with, and Policy says who may reach what; Reader makes such a value of a
// config.Config and refuses what cannot be used. A part of the daemon keeps the *Current, loads it
// anew for every decision, and waits for Settings.Replaced where it works by a setting for long.
package settings

import (
	"context"
	"sync/atomic"

	"github.com/ambassadord/ambassadord/internal/binding"
	"github.com/ambassadord/ambassadord/internal/config"
	"github.com/ambassadord/ambassadord/internal/policy"
)

// Settings are what holds between two reloads. They never change: they are replaced.
type Settings struct {
	// Config is the configuration that was read last; of what needs a restart it still
	// has what the daemon was started with.
	Config config.Config
	Layers *binding.Layers
	Policy *policy.Policy // nil in parts of the daemon that run alone

	replaced context.Context // ends when there are newer ones
	replace  context.CancelFunc
}

// New makes settings of their parts, which nobody may change any more.
func New(cfg config.Config, layers *binding.Layers, p *policy.Policy) *Settings {
	s := &Settings{Config: cfg, Layers: layers, Policy: p}
	s.replaced, s.replace = context.WithCancel(context.Background())
	return s
}

// Replaced is closed when there are newer settings.
func (s *Settings) Replaced() <-chan struct{} { return s.replaced.Done() }

// OnReplaced calls f, in a goroutine of its own, when there are newer settings, unless stop is
// called before.
func (s *Settings) OnReplaced(f func()) (stop func() bool) { return context.AfterFunc(s.replaced, f) }

// Current is which settings hold now. Any number of goroutines may load them.
type Current struct{ now atomic.Pointer[Settings] }

// NewCurrent lets s hold.
func NewCurrent(s *Settings) *Current {
	c := new(Current)
	c.now.Store(s)
	return c
}

// Load returns what holds now, without a lock.
func (c *Current) Load() *Settings { return c.now.Load() }

// Replace lets s hold from now on, and tells those who wait for the end of what held before. It
// is called by one goroutine at a time.
func (c *Current) Replace(s *Settings) { c.now.Swap(s).replace() }
