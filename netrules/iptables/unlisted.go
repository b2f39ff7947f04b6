package iptables

import (
	"cmp"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"os/exec"
	"slices"
	"strings"
	"time"

	"github.com/mdlayher/netlink"
	"golang.org/x/sys/unix"

	"github.com/ambassadord/ambassadord/internal/hint"
	"github.com/ambassadord/ambassadord/netrules"
	"github.com/ambassadord/ambassadord/netrules/nfnetlink"
)

// One rule that iptables has no words for, which nft adds to iptables' own table, and the nft
// variant lists none of that table any more: iptables -S fails, and iptables-save leaves the
// table out and succeeds (findings/iptables-save-says-nothing-and-succeeds.sh). So what an
// iptables program has not listed is not taken for gone: nftables says which chains of ours
// there are, and by which numbers the rules that lead to them go. A single chain iptables
// lists and fills as before.

// ErrUnlisted says that iptables cannot list the nat table of a namespace because of somebody
// else's rule. Ours are read, repaired and removed all the same.
var ErrUnlisted = errors.New("iptables cannot list the nat table")

const (
	// readOurs is how many chains of ours are read where the table cannot be listed, a
	// process for each: there is one, or an old one beside it.
	readOurs = 8
	// maxRules is how many rules are looked through there.
	maxRules = 500_000
)

// unlisted adds what to do about it.
func unlisted(f netrules.Family, cause error) error {
	family := "ip"
	if f == netrules.IPv6 {
		family = "ip6"
	}
	return hint.Wrap(fmt.Errorf("%w: %w", ErrUnlisted, cause),
		"ours are kept in order, and removed, all the same; see which rule it is with nft list table "+family+" nat in that network namespace, and let whoever adds it have a table of its own")
}

// aroundTimeout bounds the reading where the table cannot be listed, and then the deleting.
const aroundTimeout = 10 * time.Second

// listing reports whether what an iptables program complains of is a rule that it has no words
// for. Whatever else keeps it from its work, such as a missing capability, memory or time, is no
// reason to go around it.
func listing(err error) bool {
	const resource = 4 // RESOURCE_PROBLEM of iptables: what the kernel or another program refuses
	exit := new(exec.ExitError)
	if !errors.As(err, &exit) || !exit.Exited() || exit.ExitCode() == resource {
		return false
	}
	// "table `nat' is incompatible, use 'nft' tool"; "Parsing nftables rule failed. Perhaps
	// iptables or your kernel needs to be upgraded".
	for _, words := range []string{"incompatible", "nftables rule"} {
		if strings.Contains(err.Error(), words) {
			return true
		}
	}
	return false
}

// leftOut returns the chains of ours that a listing of the table has left out.
func (t *tool) leftOut(s netrules.State) ([]string, error) {
	if t.variant == Legacy {
		return nil, nil
	}
	there, err := chainsIn(t.variant, t.family)
	if err != nil {
		return nil, err
	}
	listed := map[string]bool{}
	for _, name := range s.Ours() {
		listed[name] = true
	}
	return slices.DeleteFunc(ours(there), func(name string) bool { return listed[name] }), nil
}

// readAround reads what is ours in a table that iptables does not list, because of cause.
func (t *tool) readAround(ctx context.Context, cause error) (netrules.State, error) {
	ctx, cancel := context.WithTimeoutCause(ctx, t.around, fmt.Errorf("to read what is ours without it took more than %s", t.around))
	defer cancel()
	s := netrules.State{Family: t.family, Table: natTable, Exists: true, Unlisted: unlisted(t.family, cause)}
	all, err := nftChains(t.family)
	if err != nil {
		return s, err
	}
	found, err := findLeads(t.family)
	if err != nil {
		return s, err
	}
	read := 0
	for _, c := range all {
		if c.table != natTable {
			continue
		}
		var state netrules.ChainState
		switch {
		case !c.hooked && strings.HasPrefix(c.name, netrules.ChainPrefix):
			state = netrules.ChainState{Name: c.name}
			if read++; read <= readOurs {
				if state, err = t.readChain(ctx, c.name, found.marked[c.name]); err != nil {
					return s, err
				}
			}
		default:
			if state = t.leading(ctx, c, found.leads[c.name]); len(state.Rules) == 0 {
				continue
			}
		}
		if ctx.Err() != nil { // what iptables did not confirm is not known to be otherwise
			return s, fmt.Errorf("%w: %w", cause, context.Cause(ctx))
		}
		s.Chains = append(s.Chains, state)
	}
	return s, nil
}

// readChain reads one chain of ours. A rule that cannot be listed differs from whatever is
// wanted; only the mark is kept, which says whose the table is.
func (t *tool) readChain(ctx context.Context, name string, marked bool) (netrules.ChainState, error) {
	out, err := run(ctx, "", t.path, "-t", natTable, "-S", name, "-w", t.wait)
	if err == nil {
		var s netrules.State
		if s, err = netrules.ParseState(t.family, natTable, out); err == nil {
			if c, ok := s.Chain(name); ok {
				return c, nil
			}
		}
	}
	if ctx.Err() != nil {
		return netrules.ChainState{}, fmt.Errorf("%w: %w", err, context.Cause(ctx))
	}
	c := netrules.ChainState{Name: name, Rules: [][]string{netrules.Rule{Comment: "iptables cannot print what is in here"}.Args()}}
	if marked {
		c.Rules = append(c.Rules, netrules.Rule{Comment: netrules.TableMarker}.Args())
	}
	return c, nil
}

// leading is a chain of somebody else's as far as it leads to ours. iptables confirms that a
// single rule is the one which we write; all others are known by their numbers alone.
func (t *tool) leading(ctx context.Context, c nftChain, leads []lead) netrules.ChainState {
	state := netrules.ChainState{Name: c.name}
	if c.hooked {
		state.Policy = "ACCEPT"
	}
	// Our jumps stand in two chains. In others there may be any number of leads, and each would
	// take a process.
	_, known := hooks[c.name]
	times := map[string]int{}
	for _, l := range leads {
		times[l.to]++
	}
	for _, l := range leads {
		args := []string{"-j", l.to}
		if ours := (netrules.Chain{Name: l.to}).Jump().Args(); known && c.hooked && times[l.to] == 1 && len(times) <= readOurs {
			check := slices.Concat([]string{"-t", natTable, "-C", c.name}, ours, []string{"-w", t.wait})
			if _, err := run(ctx, "", t.path, check...); err == nil {
				args = ours
			}
		}
		state.Rules = append(state.Rules, args)
		state.Handles = append(state.Handles, l.handle)
	}
	return state
}

// lead is a rule that leads to a chain of ours.
type lead struct {
	handle uint64
	to     string
}

// found is what nftables tells of the rules of the nat table.
type found struct {
	leads  map[string][]lead // by the chain in which they are
	marked map[string]bool   // chains of ours with the mark of the table
	count  int
}

// maxLeads is how many rules that lead to ours are kept: there is one to each.
const maxLeads = 10_000

// findLeads looks through the nat table of the calling thread's namespace.
func findLeads(f netrules.Family) (*found, error) {
	all := &found{leads: map[string][]lead{}, marked: map[string]bool{}}
	left := nfnetlink.Budget{Messages: maxRules, Bytes: maxOutput, Each: nfnetlink.EachAttributes(all.add)}
	if err := left.Dump(unix.NFT_MSG_GETRULE, nfFamily(f), nfnetlink.NameAttribute(unix.NFTA_RULE_TABLE, natTable)); err != nil {
		return nil, err
	}
	if left.Spent() || all.count > maxLeads {
		return nil, tooMuch(fmt.Errorf("table %s has more than %d rules, or %d that lead to ours", natTable, maxRules, maxLeads))
	}
	return all, nil
}

// add takes a rule as the kernel describes it (nf_tables_fill_rule_info).
func (all *found) add(attrs []netlink.Attribute) {
	var chain string
	var l lead
	isMark := false
	for _, a := range attrs {
		switch a.Type &^ unix.NLA_F_NESTED {
		case unix.NFTA_RULE_CHAIN:
			chain = nfnetlink.Text(a.Data)
		case unix.NFTA_RULE_HANDLE:
			if len(a.Data) == 8 {
				l.handle = binary.BigEndian.Uint64(a.Data)
			}
		case unix.NFTA_RULE_EXPRESSIONS:
			l.to, isMark = target(a.Data), marked(a.Data)
		}
	}
	if strings.HasPrefix(chain, netrules.ChainPrefix) && isMark {
		all.marked[chain] = true
	}
	if l.handle != 0 && strings.HasPrefix(l.to, netrules.ChainPrefix) {
		all.leads[chain] = append(all.leads[chain], l)
		all.count++
	}
}

// target is the chain that a rule's expressions jump or go to, "" if there is none.
func target(expressions []byte) string {
	for name, data := range nfnetlink.EachExpression(expressions) {
		if name != "immediate" {
			continue
		}
		verdict := nfnetlink.Nested(nfnetlink.Nested(nfnetlink.Nested(data, unix.NFTA_IMMEDIATE_DATA), unix.NFTA_DATA_VERDICT), unix.NFTA_VERDICT_CHAIN)
		if len(verdict) > 0 {
			return nfnetlink.Text(verdict)
		}
	}
	return ""
}

// deleteNumbered deletes the rules that changes name by their number. A number says which rule
// it is until its table is made anew, and then it may be somebody else's. So each is looked
// for once more, and what leads to ours still is deleted if nothing has changed since that look.
func (n netlinkNAT) deleteNumbered(ctx context.Context, changes []netrules.Change) error {
	ctx, cancel := context.WithTimeoutCause(ctx, cmp.Or(n.around, aroundTimeout), errors.New("others changed rules all that time"))
	defer cancel()
	const (
		some  = 50 // the kernel answers each, and twice, before we read
		looks = 50 // others may go on changing rules
	)
	for range looks {
		if ctx.Err() != nil {
			return fmt.Errorf("delete rules that lead to ours: %w", context.Cause(ctx))
		}
		generation, err := nfnetlink.Generation()
		if err != nil {
			return err
		}
		there, err := findLeads(n.family)
		if err != nil {
			return err
		}
		found := n.still(changes, there)
		for chunk := range slices.Chunk(found, some) {
			if n.before != nil {
				if err := n.before("nftables"); err != nil {
					return err
				}
			}
			if err = nfnetlink.TransactAt(uint32(generation), chunk); err != nil {
				break
			}
			if generation++; uint32(generation) == 0 { // which the kernel leaves out
				generation++
			}
		}
		switch {
		case err == nil:
			return nil
		case !errors.Is(err, unix.ERESTART) && !errors.Is(err, unix.ENOENT):
			return fmt.Errorf("delete rules that lead to ours: %w", err)
		}
	}
	return hint.Errorf("see who does it: nft monitor in that network namespace",
		"delete rules that lead to ours: somebody changes rules all the time, and did at each of %d looks", looks)
}

// still are the messages that delete those of changes that are there and lead to ours.
func (n netlinkNAT) still(changes []netrules.Change, there *found) []netlink.Message {
	leads := map[lead]string{} // the chain in which it is
	for chain, all := range there.leads {
		for _, l := range all {
			leads[l] = chain
		}
	}
	var messages []netlink.Message
	for _, c := range changes {
		if chain, ok := leads[lead{c.Handle, netrules.Target(c.Args)}]; !ok || chain != c.Chain {
			continue
		}
		m, err := n.message(unix.NFT_MSG_DELRULE, 0,
			netlink.Attribute{Type: unix.NFTA_RULE_TABLE, Data: []byte(natTable + "\x00")},
			netlink.Attribute{Type: unix.NFTA_RULE_CHAIN, Data: []byte(c.Chain + "\x00")},
			netlink.Attribute{Type: unix.NFTA_RULE_HANDLE, Data: binary.BigEndian.AppendUint64(nil, c.Handle)})
		if err == nil { // it can only be too long a name, which the kernel has none of
			messages = append(messages, m)
		}
	}
	return messages
}

// numbered parts the changes that nftables has to make from those for iptables.
func numbered(changes []netrules.Change) (byNumber, others []netrules.Change) {
	for _, c := range changes {
		if c.Handle != 0 {
			byNumber = append(byNumber, c)
		} else {
			others = append(others, c)
		}
	}
	return byNumber, others
}
