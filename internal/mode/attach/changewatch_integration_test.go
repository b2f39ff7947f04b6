//go:build integration

package attach

import (
	"strings"
	"testing"

	"github.com/ambassadord/ambassadord/internal/config"
	"github.com/ambassadord/ambassadord/internal/dockerd"
	"github.com/ambassadord/ambassadord/internal/identity"
	"github.com/ambassadord/ambassadord/netrules"
	"github.com/ambassadord/ambassadord/netrules/filter"
	"github.com/ambassadord/ambassadord/netrules/filter/filtertest"
)

func TestUntouched(t *testing.T) {
	h := newEarlyLab(t)
	h.mount()
	table := identity.Build(dockerd.NewSnapshot(h.declaring(true)), nil, "", nil, h.targets.Parse)
	attach := func(mode config.Mode) *attachment {
		c := *h.mode.Config
		c.Name = mode
		at := newAttachment(newMode(&c), table.Namespaces()[0])
		t.Cleanup(func() {
			at.watch.close()
			at.end(true)
			at.detach()
			at.release()
		})
		return at
	}
	look := func(at *attachment) {
		t.Helper()
		for range 2 { // what the first did shows at the second
			if err := at.apply(h.ctx); err != nil {
				t.Fatal(err)
			}
		}
	}

	at := attach(config.Redirect)
	if at.untouched(h.ctx) {
		t.Error("rules that were never looked at count as untouched")
	}
	look(at)
	if !at.untouched(h.ctx) {
		t.Error("rules that were found in order, and let be, count as touched")
	}
	for _, f := range netrules.Families() {
		filtertest.Flush(t, h.lab.NS(), f)
		if at.untouched(h.ctx) {
			t.Errorf("the chains of %s are emptied, and the rules count as untouched", f)
		}
		look(at)
		if !at.untouched(h.ctx) {
			t.Error("rules that were repaired count as touched")
		}
	}

	harms := []string{"delete table inet ambassadord", "flush ruleset"}
	if labKind == filter.NFT {
		harms = []string{"delete table ip ambassadord", "flush ruleset", "add table ip6 ambassadord { flags dormant; }"}
	}
	for _, harm := range harms {
		h.lab.Run(t, "", "nft", harm)
		if at.untouched(h.ctx) {
			t.Errorf("after %q the rules count as untouched", harm)
		}
		look(at)
		if text := h.lab.Run(t, "", "nft", "--debug=netlink", "list", "ruleset"); strings.Count(text, "ct load state") != 1 || strings.Count(text, "jump AMBASSADORD") != 2 {
			t.Errorf("after %q and a look there is:\n%s", harm, text)
		}
		if !at.untouched(h.ctx) {
			t.Errorf("after %q and a look the rules count as touched", harm)
		}
	}

	if direct := attach(config.Listen); direct.untouched(h.ctx) {
		t.Error("mode listen has no rules, and is to be looked at")
	}
}
