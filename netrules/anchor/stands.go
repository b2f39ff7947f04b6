package anchor

import (
	"encoding/binary"
	"errors"
	"slices"
	"time"

	"github.com/google/nftables"
	"github.com/google/nftables/expr"
	"github.com/mdlayher/netlink"
	"golang.org/x/sys/unix"
)

const (
	// answerTimeout bounds the question to the kernel, which answers at once.
	answerTimeout = 10 * time.Second
	// fewRules is how many rules of our chain are read. Whoever has NET_ADMIN in there may
	// put any number into it; one who has put so many is left what that makes of it.
	fewRules = 16
)

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
// none. google/nftables does not tell, hence this message of our own.
func uses() (uint32, error) {
	conn, err := netlink.Dial(unix.NETLINK_NETFILTER, nil)
	if err != nil {
		return 0, err
	}
	defer func() { _ = conn.Close() }()
	if err := conn.SetDeadline(time.Now().Add(answerTimeout)); err != nil {
		return 0, err
	}
	name, err := netlink.MarshalAttributes([]netlink.Attribute{
		{Type: unix.NFTA_CHAIN_TABLE, Data: []byte(Table + "\x00")},
		{Type: unix.NFTA_CHAIN_NAME, Data: []byte(chainName + "\x00")},
	})
	if err != nil {
		return 0, err
	}
	const header = 4 // struct nfgenmsg
	answers, err := conn.Execute(netlink.Message{
		Header: netlink.Header{Type: unix.NFNL_SUBSYS_NFTABLES<<8 | unix.NFT_MSG_GETCHAIN, Flags: netlink.Request},
		Data:   append([]byte{unix.NFPROTO_INET, unix.NFNETLINK_V0, 0, 0}, name...),
	})
	if errors.Is(err, unix.ENOENT) {
		return 0, nil
	}
	if err != nil {
		return 0, err
	}
	for _, answer := range answers {
		if len(answer.Data) < header {
			continue
		}
		attrs, err := netlink.UnmarshalAttributes(answer.Data[header:])
		if err != nil {
			return 0, err
		}
		for _, attr := range attrs {
			if attr.Type == unix.NFTA_CHAIN_USE && len(attr.Data) == 4 {
				return binary.BigEndian.Uint32(attr.Data), nil
			}
		}
	}
	return 0, errors.New("nftables did not say how many rules a chain has")
}
