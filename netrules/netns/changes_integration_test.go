//go:build integration

package netns_test

import (
	"context"
	"testing"
	"time"

	"github.com/ambassadord/ambassadord/internal/netlab"
	"github.com/ambassadord/ambassadord/netrules/netns"
)

func TestChangesOfANamespace(t *testing.T) {
	lab, other := netlab.New(t), netlab.New(t)
	elsewhere, endOther, err := other.NS().Changes(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	for _, test := range []struct {
		what    string
		command []string
	}{
		{"rules", []string{"nft", "add", "table", "ip", "x"}},
		{"rules that go", []string{"nft", "flush", "ruleset"}},
		{"links", []string{"ip", "link", "add", "bridge7", "type", "bridge"}},
		{"IPv4", []string{"ip", "addr", "add", "127.7.7.7/8", "dev", "lo"}},
		{"IPv6", []string{"ip", "addr", "add", "fd77::7/64", "dev", "lo"}},
	} {
		changed, end, err := lab.NS().Changes(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		lab.Run(t, "", test.command[0], test.command[1:]...)
		select {
		case <-changed:
		case <-time.After(10 * time.Second):
			t.Errorf("%s: the kernel told of no change", test.what)
		}
		end()
	}
	endOther() // all that was told has been read
	select {
	case <-elsewhere:
		t.Error("another namespace's changes were told")
	default:
	}
}

func TestChangesEndWithTheirContext(t *testing.T) {
	ctx, cancel := context.WithCancel(t.Context())
	_, end, err := (*netns.Namespace)(nil).Changes(ctx)
	if err != nil {
		t.Fatal(err)
	}
	cancel()
	end()
}
