// Package iptables carries out what package netrules plans, by the iptables
// programs of this machine, in any network namespace.
//
// Which part runs what, and why:
//
//   - `iptables -S` reads a whole table. It is run directly, as is
//     iptables-restore: go-iptables reads chain by chain, a process each, and has
//     no restore at all.
//   - iptables-restore makes all changes of an Apply, or of a Remove, in one
//     transaction.
//   - go-iptables checks the programs and unhooks our chains.
//   - iptables-save reads a table with its counters, for people to look at.
//   - netlink looks for the table of the nft variant, which an iptables program need not list
//     where there is none, and deletes what the variant leaves behind, which iptables cannot.
//   - The kernel's own interfaces, netlink and getsockopt, tell without a process
//     whether rules have changed, and in which of its two packet filters chains
//     are: see [Rules.Fingerprint] and [Choice].
//
// Every program runs inside the namespace through netns.Do, waits for the
// iptables lock for a bounded time, and is killed if it takes too long.
package iptables

import (
	"context"
	"errors"
	"fmt"
	"os/exec"
	"path/filepath"
	"strings"
	"time"

	coreos "github.com/coreos/go-iptables/iptables"

	"github.com/ambassadord/ambassadord/internal/hint"
	"github.com/ambassadord/ambassadord/netrules"
	"github.com/ambassadord/ambassadord/netrules/netns"
)

// execTimeout bounds every program we start. It is longer than the wait for the
// lock, which is part of it.
const execTimeout = 10 * time.Second

// defaultLockWait is how long a program waits for another one to let go of
// /run/xtables.lock. The nft variant has no lock and never waits.
const defaultLockWait = 5 * time.Second

// Variant is which of the kernel's two packet filters an iptables program drives.
// A namespace may hold rules in both; a program sees its own only.
type Variant = netrules.Variant

// The variants.
const (
	NFT    = netrules.IPTablesNFT
	Legacy = netrules.IPTablesLegacy
)

// suffix is what the names of the variant's programs end with; those of no variant
// are the plain ones.
func suffix(v Variant) string {
	switch v {
	case NFT:
		return "-nft"
	case Legacy:
		return "-legacy"
	}
	return ""
}

// Rules reads and changes packet-filter rules. It may be used concurrently on
// different namespaces; calls for the same namespace and family are for the
// caller to keep apart.
type Rules struct {
	v4, v6   *tool // v6 is nil if there is no ip6tables
	settings settings
	choice   Choice
}

// tool is the programs of one family.
type tool struct {
	family  netrules.Family
	variant Variant
	path    string        // iptables
	restore string        // iptables-restore
	wait    string        // seconds to wait for the lock
	around  time.Duration // aroundTimeout
	ipt     *coreos.IPTables
	before  func(program string) error // tests fail here, as if we had been killed; may be nil
}

// Option changes how New sets Rules up.
type Option func(*settings)

type settings struct {
	variant  Variant
	lockWait time.Duration
}

// Prefer uses the programs of one variant (iptables-nft, iptables-legacy), whatever
// Docker uses and the machine's plain names stand for.
func Prefer(v Variant) Option { return func(s *settings) { s.variant = v } }

// New finds the iptables programs and their variant, once for all namespaces: those
// of the variant that Docker uses on this host, if that shows and they are
// installed, else those that the machine's plain names stand for; see [Choice].
// Without ip6tables, what is asked of IPv6 fails with netrules.ErrUnsupported.
func New(ctx context.Context, opts ...Option) (*Rules, error) {
	s := settings{lockWait: defaultLockWait}
	for _, opt := range opts {
		opt(&s)
	}
	docker := dockerVariants()
	find := func(f netrules.Family) (*tool, error) {
		if s.variant != "" || len(docker) != 1 {
			return newTool(ctx, f, s.variant, s)
		}
		return newToolLike(ctx, f, docker[0], s)
	}
	v4, err := find(netrules.IPv4)
	if errors.Is(err, exec.ErrNotFound) {
		err = hint.Wrap(err, "leave --rules away or say --rules nft, which takes no program; or install iptables: apt-get install iptables (apk add iptables on Alpine)")
	}
	if err != nil {
		return nil, err
	}
	v6, err := find(netrules.IPv6)
	if err != nil && !errors.Is(err, exec.ErrNotFound) {
		return nil, err
	}
	return &Rules{v4: v4, v6: v6, settings: s, choice: Choice{Variant: v4.variant, Path: v4.path, Docker: docker}}, nil
}

// newTool finds the programs of a variant, or with "" those of the plain names.
func newTool(ctx context.Context, f netrules.Family, variant Variant, s settings) (*tool, error) {
	name := f.Command() + suffix(variant)
	path, err := exec.LookPath(name)
	if err != nil {
		return nil, fmt.Errorf("find %s: %w", name, err)
	}
	// The two must be of one variant, or one would not see what the other did. So
	// the one beside the other is taken.
	restore, err := exec.LookPath(filepath.Join(filepath.Dir(path), name+"-restore"))
	if err != nil {
		return nil, fmt.Errorf("find %s-restore beside %s: %w", name, path, err)
	}
	if variant, err = variantOf(ctx, path); err != nil {
		return nil, err
	}
	if v, err := variantOf(ctx, restore); err != nil {
		return nil, err
	} else if v != variant {
		return nil, hint.Errorf("set both to the same with update-alternatives --config "+name,
			"%s is of variant %s, but %s of %s", path, variant, restore, v)
	}
	wait := max(1, int(s.lockWait/time.Second))
	proto := coreos.ProtocolIPv4
	if f == netrules.IPv6 {
		proto = coreos.ProtocolIPv6
	}
	ipt, err := coreos.New(coreos.IPFamily(proto), coreos.Path(path), coreos.Timeout(wait))
	if err != nil {
		return nil, fmt.Errorf("set up %s: %w", path, err)
	}
	return &tool{
		family: f, variant: variant, path: path, restore: restore, wait: fmt.Sprint(wait), around: aroundTimeout, ipt: ipt,
	}, nil
}

// variantOf asks a program for its variant. Before version 1.8 there was only the
// legacy one and nothing said so.
func variantOf(ctx context.Context, path string) (Variant, error) {
	out, err := run(ctx, "", path, "--version")
	if err != nil {
		return "", err
	}
	if strings.Contains(out, "("+string(NFT)+")") {
		return NFT, nil
	}
	return Legacy, nil
}

// Variant returns which packet filter the programs drive.
func (r *Rules) Variant() Variant { return r.v4.variant }

// Choice returns which packet filter the programs drive and why.
func (r *Rules) Choice() Choice { return r.choice }

// Told reports whether the kernel tells of every change of the rules of all families that
// this machine has (netns.Namespace.Changes): of the legacy variant's it does not.
func (r *Rules) Told() bool {
	return r.v4.variant == NFT && (r.v6 == nil || r.v6.variant == NFT)
}

func (r *Rules) tool(f netrules.Family) (*tool, error) {
	switch {
	case f == netrules.IPv4:
		return r.v4, nil
	case f == netrules.IPv6 && r.v6 != nil:
		return r.v6, nil
	}
	return nil, hint.Errorf("install ip6tables (part of Debian's package iptables), or turn IPv6 off",
		"%s rules: %w", f, netrules.ErrUnsupported)
}

// Read returns what the nat table of a family holds in a namespace; a nil
// namespace is the process's own. Reading never makes the table.
func (r *Rules) Read(ctx context.Context, ns *netns.Namespace, f netrules.Family) (netrules.State, error) {
	t, err := r.tool(f)
	if err != nil {
		return netrules.State{}, err
	}
	state, err := within(ns, func() (netrules.State, error) { return t.read(ctx) })
	if err != nil {
		return netrules.State{}, fmt.Errorf("read %s rules in %s: %w", f, ns.Name(), err)
	}
	return state, nil
}

// ReadCounters is Read, with how much each rule has matched so far.
func (r *Rules) ReadCounters(ctx context.Context, ns *netns.Namespace, f netrules.Family) (netrules.State, error) {
	t, err := r.tool(f)
	if err != nil {
		return netrules.State{}, err
	}
	// iptables -S -v puts counters amid a rule's arguments, where a comment may say
	// the same; iptables-save puts them before the rule.
	save := t.path + "-save"
	if v, err := variantOf(ctx, save); err != nil {
		return netrules.State{}, err
	} else if v != t.variant {
		return netrules.State{}, hint.Errorf("set both to the same with update-alternatives --config "+filepath.Base(t.path),
			"%s is of variant %s, but %s of %s", t.path, t.variant, save, v)
	}
	state, err := within(ns, func() (netrules.State, error) {
		return t.readBy(ctx, save, "-c", "-t", natTable)
	})
	if err != nil {
		return netrules.State{}, fmt.Errorf("read %s counters in %s: %w", f, ns.Name(), err)
	}
	return state, nil
}

// Plan returns the changes Apply would make now.
func (r *Rules) Plan(ctx context.Context, ns *netns.Namespace, c netrules.Chain) ([]netrules.Change, error) {
	state, err := r.Read(ctx, ns, c.Family)
	if err != nil {
		return nil, err
	}
	return netrules.Plan(c, state), nil
}

// Apply makes a namespace hold the chain and its jump, and returns what it
// changed: nothing, if they were there already. All changes are made at once or,
// on an error, none. Rules that an earlier daemon left in the variant that is
// not used are removed before.
func (r *Rules) Apply(ctx context.Context, ns *netns.Namespace, c netrules.Chain) ([]netrules.Change, error) {
	applied, err := r.Ensure(ctx, ns, c)
	return applied.Changes, err
}

// Applied is what an Ensure found and did.
type Applied struct {
	Changes []netrules.Change
	// Unlisted is nil, or wraps ErrUnlisted: somebody's rule keeps iptables from listing
	// the table. The chain is as wanted all the same. It carries a hint.
	Unlisted error
}

// Ensure is Apply, and says besides what could not be read.
func (r *Rules) Ensure(ctx context.Context, ns *netns.Namespace, c netrules.Chain) (Applied, error) {
	t, err := r.tool(c.Family)
	if err != nil {
		return Applied{}, err
	}
	applied, err := within(ns, func() (Applied, error) {
		if _, err := r.clearOther(ctx, t); err != nil {
			return Applied{}, err
		}
		state, err := t.read(ctx)
		if err != nil {
			return Applied{}, err
		}
		applied := Applied{Changes: netrules.Plan(c, state), Unlisted: state.Unlisted}
		if len(applied.Changes) == 0 {
			return applied, nil
		}
		return applied, t.restoreAll(ctx, applied.Changes)
	})
	if err != nil {
		return Applied{}, fmt.Errorf("apply chain %s (%s) in %s: %w", c.Name, c.Family, ns.Name(), err)
	}
	return applied, nil
}

// restoreAll makes changes in one transaction, in the calling thread's namespace; those that
// iptables has no words for come before, in one of their own.
func (t *tool) restoreAll(ctx context.Context, changes []netrules.Change) error {
	byNumber, others := numbered(changes)
	if len(byNumber) > 0 {
		if err := t.byNetlink().deleteNumbered(ctx, byNumber); err != nil {
			return err
		}
	}
	if len(others) == 0 {
		return nil
	}
	if err := t.step(t.restore); err != nil {
		return err
	}
	made := false
	if t.variant == NFT {
		var err error
		if made, err = t.byNetlink().makeMissing(others); err != nil {
			return err
		}
	}
	_, err := run(ctx, netrules.RestoreScript(natTable, others), t.restore, "--noflush", "-w", t.wait)
	if err != nil && made {
		err = errors.Join(err, t.byNetlink().undoMade())
	}
	return err
}

// step comes before each program that changes something.
func (t *tool) step(program string) error {
	if t.before == nil {
		return nil
	}
	return t.before(program)
}

// byNetlink is the table of t, if t is of the variant nft.
func (t *tool) byNetlink() netlinkNAT {
	return netlinkNAT{family: t.family, around: t.around, before: t.before}
}

// read runs in the namespace.
func (t *tool) read(ctx context.Context) (netrules.State, error) {
	return t.readBy(ctx, t.path, "-t", natTable, "-S", "-w", t.wait)
}

// readBy reads the nat table by a program that prints it.
func (t *tool) readBy(ctx context.Context, path string, args ...string) (netrules.State, error) {
	// The legacy variant makes a table by looking at it, so it must not look at one that is
	// not there. Of the other a process, which is half of what it costs to attach, would say
	// that there is nothing; where the kernel does not answer us, that says what is wrong.
	exists, err := t.exists()
	switch {
	case err == nil && !exists:
		return netrules.State{Family: t.family, Table: natTable}, nil
	case err != nil && t.variant == Legacy:
		return netrules.State{}, err
	}
	out, err := run(ctx, "", path, args...)
	if err != nil {
		if t.variant == Legacy || !listing(err) {
			return netrules.State{}, err
		}
		return t.readAround(ctx, err)
	}
	state, err := netrules.ParseState(t.family, natTable, out)
	if t.variant == Legacy && err != nil {
		return netrules.State{}, err
	}
	if err != nil {
		return t.readAround(ctx, err)
	}
	// Some versions leave out what they cannot print, and succeed.
	missing, err := t.leftOut(state)
	if err != nil {
		return netrules.State{}, err
	}
	if len(missing) > 0 {
		return t.readAround(ctx, fmt.Errorf("%s left out %s", filepath.Base(path), strings.Join(missing, ", ")))
	}
	if state.Exists = state.Exists || exists; !state.Exists {
		state.Exists, err = nftTable(t.family)
	}
	return state, err
}

// exists reports whether there is a nat table in the calling thread's namespace.
func (t *tool) exists() (bool, error) {
	if t.variant == Legacy {
		return legacyTable(t.family)
	}
	return nftTable(t.family)
}

// within runs fn inside ns, or right here if ns is nil.
func within[T any](ns *netns.Namespace, fn func() (T, error)) (result T, err error) {
	err = ns.Do(func() (err error) {
		result, err = fn()
		return err
	})
	return result, err
}
