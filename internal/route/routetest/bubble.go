package routetest

import (
	"context"
	"sync"
	"testing"
	"testing/synctest"

	"github.com/ambassadord/ambassadord/internal/binding"
	"github.com/ambassadord/ambassadord/internal/option"
	"github.com/ambassadord/ambassadord/resolver"
)

// Bubble is a resolver that runs in a bubble of synctest, and the one source of its targets, told://NAME.
// That says two endpoints at first.
type Bubble struct {
	Context  context.Context // until End
	Source   *Told
	Resolver *resolver.Resolver

	cancel  context.CancelFunc
	running sync.WaitGroup
}

// InBubble runs test in one.
func InBubble(t *testing.T, test func(t *testing.T, b *Bubble)) {
	t.Helper()
	synctest.Test(t, func(t *testing.T) {
		b := &Bubble{Source: &Told{}}
		b.Source.Say(At("10.0.0.1:80", "10.0.0.2:80"))
		b.Resolver = resolver.New(map[string]resolver.Source{"told": b.Source}, resolver.Options{})
		b.Context, b.cancel = context.WithCancel(t.Context())
		b.Run(b.Resolver.Run)
		test(t, b)
		b.End()
	})
}

// Run runs a part until End.
func (b *Bubble) Run(part func(context.Context) error) {
	b.running.Go(func() { _ = part(b.Context) })
}

// Binding is one of port 80 to a target of the source's, with the default options as change leaves
// them; change may be nil.
func (b *Bubble) Binding(t *testing.T, change func(*option.Set)) binding.Binding {
	t.Helper()
	bound := binding.Binding{Port: 80, Text: "told://a", Options: option.Default()}
	if change != nil {
		change(&bound.Options)
	}
	var err error
	if bound.Target, err = b.Resolver.Parse(bound.Text); err != nil {
		t.Fatal(err)
	}
	return bound
}

// End ends what runs, and waits for that.
func (b *Bubble) End() {
	b.cancel()
	b.running.Wait()
}
