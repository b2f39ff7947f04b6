package filter

import (
	"log/slog"

	"github.com/ambassadord/ambassadord/internal/hint"
	"github.com/ambassadord/ambassadord/netrules"
)

// Unlisted are the families whose rules iptables could not list in a namespace when they were
// last looked at. The zero value is none.
type Unlisted struct{ ipv4, ipv6 bool }

// Tell says once that err keeps iptables from listing the rules of a family, and again when
// that has been well in between; err is nil where it could list them. Ours are in order all
// the same.
func (u *Unlisted) Tell(log *slog.Logger, f netrules.Family, err error, message string, args ...any) {
	told := &u.ipv4
	if f == netrules.IPv6 {
		told = &u.ipv6
	}
	if err != nil && !*told {
		log.Warn(message, append(args, "family", f.String(), "error", err, hint.Attr(err))...)
	}
	*told = err != nil
}
