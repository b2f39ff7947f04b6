// Package rulescmd has the commands that look after rules without a daemon, which cmd/ambassadord
// calls: Plan says what would be changed and Apply does it (plan.go). Show reads every rule
// of ours from the kernel, in every network namespace of this host, and says whose it is and why
// it is there: the comments in the kernel tell, so that neither a daemon nor the engine is needed.
package rulescmd

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"slices"
	"strings"

	"github.com/ambassadord/ambassadord/internal/claim"
	"github.com/ambassadord/ambassadord/internal/cleanup"
	"github.com/ambassadord/ambassadord/internal/hint"
	"github.com/ambassadord/ambassadord/internal/identity"
	"github.com/ambassadord/ambassadord/internal/rundir"
	"github.com/ambassadord/ambassadord/netrules"
	"github.com/ambassadord/ambassadord/netrules/filter"
	"github.com/ambassadord/ambassadord/netrules/netns"
)

// Shown is what there is of ours in one network namespace for one family.
type Shown struct {
	Namespace string // the path it was found at
	Family    netrules.Family
	Variant   netrules.Variant
	Rules     []ShownRule
	Orphans   []Orphan
	// Carried says which processes carry connections on that came by these rules, and how many;
	// "" if none does. The rules stay for those, and are no orphans.
	Carried string
	// Unlisted is nil, or says why iptables cannot list the table: then there is no more here
	// than ours, without counters. It carries a hint.
	Unlisted error
}

// ShownRule is a rule in a chain of ours, or one that leads to such a chain. Whose
// it is comes from the comments in the kernel.
type ShownRule struct {
	Chain    string
	Text     string // as iptables-save, or nft, prints it
	Counters netrules.Counters
	netrules.Explanation
	Client   string // the name of the container that declared it, "" if no container did
	ID       string // its short ID
	Declared string // where: "label connect.6379"
}

// Orphan is a chain of ours, or an address of mode host, that no process serves.
type Orphan struct {
	Chain  string
	Reason string
}

// Show reports every rule of ours in every network namespace of this host, by whichever
// way it got there, jumps first, and the chains that a dead daemon left. It goes on after an
// error and returns them all; namespaces that cannot be looked into are logged. folder is
// config.Config.RunDir.
func Show(ctx context.Context, folder string, log *slog.Logger, report func(Shown)) error {
	var carriers claim.Carriers
	if dir, err := rundir.Find(folder); err == nil { // without the folder no process carries any
		if carriers, err = cleanup.FindCarriers(dir, log); err != nil {
			log.Warn("who carries connections on is not known", "error", err, hint.Attr(err))
		}
	}
	ways, err := filter.All(ctx)
	if err != nil {
		return err
	}
	return cleanup.EachNamespace(ctx, log, func(ns *netns.Namespace) error {
		leases, err := ns.Leases()
		errs := []error{err}
		for _, f := range netrules.Families() {
			all, err := showRulesIn(ctx, ways, ns, f)
			if err != nil {
				errs = append(errs, fmt.Errorf("%s, %s: %w", ns.Path(), f, err))
			}
			for i := range all {
				if i == 0 {
					showLeases(&all[i], leases, all)
				}
				if others := carriers.In(ns.ID()); !others.None() && !hooked(all[i].Rules) {
					all[i].Carried, all[i].Orphans = others.String(), nil
				}
				if len(all[i].Rules) > 0 || len(all[i].Orphans) > 0 {
					report(all[i])
				}
			}
		}
		return errors.Join(append(errs, showGuards(ns, report))...)
	})
}

// ShowIn reports the rules of ours in one network namespace, of both families and by whichever way
// they got there.
func ShowIn(ctx context.Context, ns *netns.Namespace) ([]Shown, error) {
	ways, err := filter.All(ctx)
	if err != nil {
		return nil, err
	}
	var found []Shown
	var errs []error
	for _, f := range netrules.Families() {
		all, err := showRulesIn(ctx, ways, ns, f)
		if err != nil && !errors.Is(err, netrules.ErrUnsupported) {
			errs = append(errs, err)
		}
		for _, one := range all {
			if len(one.Rules) > 0 {
				found = append(found, one)
			}
		}
	}
	return found, errors.Join(errs...)
}

// hooked reports whether rules lead to a chain of ours from another. An address is in none.
func hooked(rules []ShownRule) bool {
	return slices.ContainsFunc(rules, func(r ShownRule) bool { return r.Chain != "" && !strings.HasPrefix(r.Chain, netrules.ChainPrefix) })
}

// showRulesIn is what each way has in ns; what none can read are orphans of the first, which is
// this host's.
func showRulesIn(ctx context.Context, ways []filter.Rules, ns *netns.Namespace, f netrules.Family) ([]Shown, error) {
	unread, err := ways[0].Elsewhere(ns, f)
	if err != nil && !errors.Is(err, netrules.ErrUnsupported) { // by another way there may be some
		return nil, err
	}
	all := make([]Shown, len(ways))
	for i, way := range ways {
		all[i] = Shown{Namespace: ns.Path(), Family: f, Variant: way.Variant()}
		here, err := way.Chains(ns, f)
		if err != nil || len(here) == 0 {
			if i == 0 && err != nil && !errors.Is(err, netrules.ErrUnsupported) {
				return all, err
			}
			continue // most namespaces of a host: no process was needed to know
		}
		if err := showWay(ctx, way, ns, &all[i]); err != nil {
			return all, err
		}
		if i > 0 {
			for _, name := range here {
				if at := slices.Index(unread, name); at >= 0 {
					unread = slices.Delete(unread, at, at+1)
				}
			}
		}
	}
	for _, name := range unread {
		all[0].Orphans = append(all[0].Orphans, Orphan{Chain: name,
			Reason: fmt.Sprintf("it is in another packet filter, or table; this host uses %s", all[0].Variant)})
	}
	return all, nil
}

// showWay adds what one way has.
func showWay(ctx context.Context, way filter.Rules, ns *netns.Namespace, shown *Shown) error {
	state, err := way.ReadCounters(ctx, ns, shown.Family)
	if err != nil {
		return err
	}
	listening, err := ns.ListeningPorts()
	if err != nil {
		return err
	}
	shown.Rules, shown.Unlisted = explainRules(state), state.Unlisted
	shown.Orphans = append(shown.Orphans, orphans(state, listening)...)
	return nil
}

// explainRules lists the rules of ours in state: to each chain the jumps, then
// what it holds.
func explainRules(state netrules.State) []ShownRule {
	var all []ShownRule
	ours := state.Ours()
	for _, name := range ours {
		var jumps, rules []ShownRule
		for _, c := range state.Chains {
			for i, args := range c.Rules {
				switch {
				case c.Name == name:
					rules = append(rules, explainRule(state, c, i))
				case netrules.Target(args) == name && !slices.Contains(ours, c.Name):
					jumps = append(jumps, explainRule(state, c, i))
				}
			}
		}
		all = append(all, ownedBy(append(jumps, rules...))...)
	}
	return all
}

func explainRule(state netrules.State, c netrules.ChainState, i int) ShownRule {
	args := c.Rules[i]
	r := ShownRule{Chain: c.Name, Text: state.RuleText(c.Name, args), Explanation: netrules.Explain(c.Name, args)}
	if i < len(c.Counters) {
		r.Counters = c.Counters[i]
	}
	if r.Kind == netrules.KindRedirect {
		r.Client, r.ID, r.Declared = identity.ParseOwner(r.Owner)
	}
	return r
}

// ownedBy gives the rules that no container declared to the client whose the chain is,
// if it is one client's.
func ownedBy(rules []ShownRule) []ShownRule {
	var client, id string
	for _, r := range rules {
		switch {
		case r.Kind != netrules.KindRedirect || r.ID == id:
		case id == "":
			client, id = r.Client, r.ID
		default:
			return rules
		}
	}
	for i := range rules {
		if rules[i].Kind != netrules.KindRedirect {
			rules[i].Client, rules[i].ID = client, id
		}
	}
	return rules
}

// orphans lists the chains of ours that lead to a port at which no process listens, or
// to which nothing leads.
func orphans(state netrules.State, listening map[uint16]bool) []Orphan {
	var found []Orphan
	for _, name := range state.Ours() {
		chain, _ := state.Chain(name)
		reason := ""
		if len(state.Jumps(name)) == 0 {
			reason = "nothing leads to it"
		}
		for i := range chain.Rules {
			if port := explainRule(state, chain, i).Listen; port != 0 && !listening[port] {
				reason = fmt.Sprintf("it leads to port %d, where nobody listens", port)
			}
		}
		if reason != "" {
			found = append(found, Orphan{Chain: name, Reason: reason})
		}
	}
	return found
}
