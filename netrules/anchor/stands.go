package anchor

import (
	"errors"
	"slices"

	"github.com/google/nftables"
	"github.com/google/nftables/expr"
	"golang.org/x/sys/unix"

	"github.com/ambassadord/ambassadord/netrules/nfnetlink"
)

// fewRules is how many rules of our chain are read. Whoever has NET_ADMIN in there may
// put any number into it; one who has put so many is left what that makes of it.
const fewRules = 16

// stands reports whether the anchor is in the calling thread's namespace.
func stands() (bool, error) {
	uses, err := uses()
	if err != nil || uses == 0 {
		return false, err
	}
	if uses > fewRules {
		return true, nil
	}
	conn, err := nftables.New()
	if err != nil {
		return false, err
	}
	table := &nftables.Table{Name: Table, Family: nftables.TableFamilyINet}
	rules, err := conn.GetRules(table, &nftables.Chain{Name: chainName, Table: table})
	if err != nil {
		return false, err
	}
	return slices.ContainsFunc(rules, func(r *nftables.Rule) bool {
		return slices.ContainsFunc(r.Exprs, func(e expr.Any) bool { ct, ok := e.(*expr.Ct); return ok && ct.Key == expr.CtKeySTATE })
	}), nil
}

// uses asks for how many rules are in our chain or lead to it; without such a chain there is
// none. google/nftables does not tell.
func uses() (uint32, error) {
	attrs, err := nfnetlink.Ask(unix.NFT_MSG_GETCHAIN, unix.NFPROTO_INET,
		nfnetlink.Name(unix.NFTA_CHAIN_TABLE, Table), nfnetlink.Name(unix.NFTA_CHAIN_NAME, chainName))
	if errors.Is(err, unix.ENOENT) {
		return 0, nil
	}
	if err == nil && nfnetlink.Data(attrs, unix.NFTA_CHAIN_USE) == nil {
		err = errors.New("nftables did not say how many rules a chain has")
	}
	return nfnetlink.Uint32(attrs, unix.NFTA_CHAIN_USE), err
}
