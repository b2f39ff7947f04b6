package nft

import (
	"fmt"

	"github.com/google/nftables"
	"github.com/google/nftables/expr"
	"golang.org/x/sys/unix"

	"github.com/ambassadord/ambassadord/netrules/netns"
	"github.com/ambassadord/ambassadord/netrules/owned"
)

// PinTable is the name of the table that Pin makes, of the family inet.
const PinTable = "ambassadord-pin"

// Pin has the kernel track and translate a namespace's connections, whatever becomes of the
// rules in there, until the table is closed: one that came by our rules goes on when somebody
// flushes them. Nobody else can flush the table, which goes with our process (netrules/owned).
// A kernel before 5.12 has no means for it, which is netrules.ErrUnsupported.
func Pin(ns *netns.Namespace) (*owned.Table, error) {
	t, err := owned.Make(ns, nftables.TableFamilyINet, PinTable, 0)
	if err == nil {
		// An empty chain at one hook is what it takes to translate at all of them, for both
		// families; and a rule that loads the state of a connection, in a chain without a hook,
		// to track.
		t.Conn.AddChain(&nftables.Chain{
			Name: "keep-translating", Table: t.Table, Type: nftables.ChainTypeNAT,
			Hooknum: nftables.ChainHookOutput, Priority: nftables.ChainPriorityNATDest,
		})
		t.Conn.AddRule(&nftables.Rule{
			Table: t.Table, Chain: t.Conn.AddChain(&nftables.Chain{Name: "keep-tracking", Table: t.Table}),
			Exprs: []expr.Any{&expr.Ct{Key: expr.CtKeySTATE, Register: unix.NFT_REG_1}},
		})
		if err = t.Flush(); err != nil {
			_ = t.Close()
		}
	}
	if err != nil {
		return nil, fmt.Errorf("keep connections tracked in %s: %w", ns.Name(), explain(err))
	}
	return t, nil
}
