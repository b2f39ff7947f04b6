package anchor

import (
	"bytes"
	"encoding/binary"
	"errors"
	"slices"

	"github.com/google/nftables/expr"
	"github.com/mdlayher/netlink"
	"golang.org/x/sys/unix"

	"github.com/ambassadord/ambassadord/netrules/nfnetlink"
)

// fewRules is how many rules of our chain are read. A process with NET_ADMIN in there
// may put any number into it; one that has put so many is left what that makes of it.
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
	tracks := false
	left := nfnetlink.Budget{Messages: 2 * fewRules, Bytes: 1 << 20, Each: nfnetlink.EachAttributes(func(attrs []netlink.Attribute) {
		for name, data := range nfnetlink.EachExpression(nfnetlink.Data(attrs, unix.NFTA_RULE_EXPRESSIONS)) {
			key := nfnetlink.Nested(data, unix.NFTA_CT_KEY)
			tracks = tracks || name == "ct" && bytes.Equal(key, binary.BigEndian.AppendUint32(nil, uint32(expr.CtKeySTATE)))
		}
	})}
	what := slices.Concat(nfnetlink.NameAttribute(unix.NFTA_RULE_TABLE, Table), nfnetlink.NameAttribute(unix.NFTA_RULE_CHAIN, chainName))
	err = left.Dump(unix.NFT_MSG_GETRULE, unix.NFPROTO_INET, what)
	return tracks, err
}

// uses asks for how many rules are in our chain or lead to it; without such a chain there is
// none.
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
