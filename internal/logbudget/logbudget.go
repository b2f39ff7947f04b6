// Package logbudget keeps clients from filling the log.
//
// Containers, registries and images choose much of what is logged: names, targets, what
// is wrong with a declaration, and how often a connection fails. A Handler stands before
// the one that writes. It shortens every value, so that no call can forget to; it
// bounds how many lines of one kind a client causes; and when all lines together are
// too many it shares what there is by client, so that the failures of one are never left
// out for the noise of another. Lines that are left out are counted and told of.
//
// The client that caused a line is read from its attributes: id or client, or reporter_id or reported_by,
// else source, else target.
package logbudget

import (
	"context"
	"log/slog"
)

// Handler is a slog.Handler. Make one with New or Shorten.
type Handler struct {
	next   slog.Handler
	budget *budget // nil without one
	base   measure // of the attributes that all of its records have
}

var _ slog.Handler = (*Handler)(nil)

// New returns a Handler that passes on what is to be written to next.
func New(next slog.Handler) *Handler { return &Handler{next: next, budget: newBudget(next)} }

// Shorten returns a Handler that shortens, and leaves nothing out: for a command whose lines
// somebody waits for.
func Shorten(next slog.Handler) *Handler { return &Handler{next: next} }

// Flush tells of what was left out and has not been told yet. Call it at the end.
func (h *Handler) Flush() {
	if h.budget != nil {
		h.budget.tell()
	}
}

// Enabled is next's.
func (h *Handler) Enabled(ctx context.Context, level slog.Level) bool {
	return h.next.Enabled(ctx, level)
}

// Handle passes r on, shortened where it is too long, or counts it. It keeps nothing
// of r, and allocates nothing for a connection that ended well.
func (h *Handler) Handle(ctx context.Context, r slog.Record) error {
	m := h.base
	m.size += overhead + len(r.Message)
	r.Attrs(func(a slog.Attr) bool {
		m.add(&a)
		return true
	})
	long := m.long || m.size > Line || tooLong(r.Message)
	m.size = min(m.size, Line)
	if h.budget != nil && !h.budget.admit(&r, &m) {
		return nil
	}
	if long {
		r = shortened(r, Line-h.base.size)
	}
	return h.next.Handle(ctx, r)
}

// WithAttrs returns a Handler of the same budget whose records have attrs, shortened.
func (h *Handler) WithAttrs(attrs []slog.Attr) slog.Handler {
	base, cut := h.base, make([]slog.Attr, 0, len(attrs))
	for _, a := range attrs {
		a = cutAttr(a, Field)
		base.add(&a)
		base.note(&a)
		cut = append(cut, a)
	}
	base.long = false
	return &Handler{next: h.next.WithAttrs(cut), budget: h.budget, base: base}
}

// WithGroup returns a Handler of the same budget whose attributes are of a group.
func (h *Handler) WithGroup(name string) slog.Handler {
	return &Handler{next: h.next.WithGroup(cut(name, Field)), budget: h.budget, base: h.base}
}
