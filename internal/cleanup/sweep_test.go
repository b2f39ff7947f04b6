package cleanup

import (
	"log/slog"
	"slices"
	"testing"

	"github.com/ambassadord/ambassadord/internal/claim"
	"github.com/ambassadord/ambassadord/netrules"
	"github.com/ambassadord/ambassadord/netrules/netns"
)

func TestWhatIsNeededNoMore(t *testing.T) {
	own, err := netns.IDOrOwn(nil)
	if err != nil {
		t.Fatal(err)
	}
	first, second := netns.ID{Dev: 4, Inode: 1}, netns.ID{Dev: 4, Inode: 2}
	four := func(id netns.ID) claim.Need { return claim.Need{Namespace: id, Family: netrules.IPv4} }
	both := claim.Carrier{Needs: claim.Needs{four(first): 1, four(second): 2}}
	one := claim.Carrier{Needs: claim.Needs{four(second): 1}}
	all := claim.Carrier{Everything: true}
	for _, c := range []struct {
		what        string
		before, now claim.Carrier
		want        []netns.ID
	}{
		{"less", both, one, []netns.ID{first}},
		{"the end", one, claim.Carrier{}, []netns.ID{second}},
		{"more than can be said", both, all, nil},
		{"still more than can be said", all, all, nil},
		{"the end of more than could be said", all, claim.Carrier{}, []netns.ID{own}},
	} {
		got := noMore(t.Context(), c.before, c.now, slog.New(slog.DiscardHandler))
		if c.before.Everything && len(got) > 0 {
			if !slices.Contains(got, own) {
				t.Errorf("%s: %v; want our own namespace among them", c.what, got)
			}
			continue
		}
		if !slices.Equal(got, c.want) {
			t.Errorf("%s: %v; want %v", c.what, got, c.want)
		}
	}
}
