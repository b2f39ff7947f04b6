package agent

import (
	"errors"
	"log/slog"

	"github.com/ambassadord/ambassadord/internal/hint"
	"github.com/ambassadord/ambassadord/netrules/anchor"
	"github.com/ambassadord/ambassadord/netrules/iptables"
	"github.com/ambassadord/ambassadord/netrules/netns"
)

// anchored is what is known of the anchor in an attachment's namespace.
type anchored struct {
	never  bool   // this kernel has no means for one
	mark   uint64 // iptables.Generation when it was last found in order
	warned bool
}

// anchor sees to it that connections survive when somebody else takes our rules away. The
// anchor itself goes with the whole ruleset, so it is looked for whenever any rule in there
// may have changed: else one who flushes twice would break all connections the second time.
// A kernel that has no means for it does without, and so does a container that keeps us from
// it: what it declares is served all the same.
func (at *attachment) anchor() {
	if at.anchored.never {
		return
	}
	mark, unknown := iptables.Generation(at.ns) // first, so that what changes meanwhile shows the next time
	if unknown == nil && mark == at.anchored.mark {
		return
	}
	changed, err := anchor.Set(at.ns)
	if err == nil {
		err = unknown
	}
	switch {
	case errors.Is(err, anchor.ErrUnsupported):
		at.anchored.never = true
	case err == nil && !changed:
		at.anchored.mark = mark
	case err != nil && !at.anchored.warned:
		at.anchored.warned = true
		owner := at.desired.Load().Owner
		at.agent.log.Warn("connections of a container break when somebody flushes its rules", "client", owner.Name, "id", owner.ShortID(),
			"error", err, hint.Attr(err))
	}
}

// dropAnchor drops the anchor of ns, if there is one. Where somebody else's table has its name
// that is logged, with args, and no failure: there is nothing of ours to drop.
func dropAnchor(ns *netns.Namespace, log *slog.Logger, args ...any) error {
	err := anchor.Drop(ns)
	switch {
	case errors.Is(err, anchor.ErrUnsupported):
		return nil
	case errors.Is(err, anchor.ErrForeign):
		log.Warn("another process has a table by the name of ours", append(args, "namespace", ns.Path(), "error", err, hint.Attr(err))...)
		return nil
	}
	return err
}

// adrift reports whether the anchor may not be as it was found in order, while the rules of
// the namespace have the generation mark.
func (a *anchored) adrift(mark uint64) bool { return !a.never && a.mark != mark }
