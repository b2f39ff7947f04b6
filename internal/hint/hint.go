// Package hint attaches to an error what its reader can do about it.
//
// The error says what failed; the hint says what to do next. They are kept
// apart so that a log line can carry them as two fields and the command line
// can print the hint on a line of its own.
package hint

import (
	"errors"
	"fmt"
	"log/slog"
	"slices"
)

type hinted struct {
	err  error
	hint string
}

func (h *hinted) Error() string { return h.err.Error() }
func (h *hinted) Unwrap() error { return h.err }

// Wrap returns err carrying hint. A nil err stays nil; an empty hint leaves err
// as it is.
func Wrap(err error, hint string) error {
	if err == nil || hint == "" {
		return err
	}
	return &hinted{err: err, hint: hint}
}

// Errorf formats an error as fmt.Errorf does and attaches hint to it.
func Errorf(hint, format string, args ...any) error {
	return Wrap(fmt.Errorf(format, args...), hint)
}

// Join is errors.Join for mistakes that people are to read at once: of several, the
// hint of each stands beside it, for one hint would be about the first alone. nil
// errors are left out.
func Join(errs ...error) error {
	errs = slices.DeleteFunc(slices.Clone(errs), func(err error) bool { return err == nil })
	if len(errs) <= 1 {
		return errors.Join(errs...)
	}
	for i, err := range errs {
		if h := Of(err); h != "" {
			errs[i] = fmt.Errorf("%w (%s)", err, h)
		}
	}
	return Wrap(errors.Join(errs...), fmt.Sprintf("mend each of these %d", len(errs)))
}

// Attr is the attribute of a log's line that has the hint of err. Without one it is a group
// of nothing, which every line leaves out.
func Attr(err error) slog.Attr {
	h := Of(err)
	if h == "" {
		return slog.Attr{Value: slog.GroupValue()}
	}
	return slog.String("hint", h)
}

// Of returns the outermost hint in err's chain, or "" if it carries none.
func Of(err error) string {
	var h *hinted
	if errors.As(err, &h) {
		return h.hint
	}
	return ""
}
