// Package file answers file:// targets with the lines of a file:
//
//	# the cache servers
//	10.0.0.1:6379
//	10.0.0.2:6379 3          # three times the share
//	redis.example.com:6379   every A and AAAA record
//
// A line is host:port and, after a space, a weight from 0 to 65535, by default 1;
// what follows a # is a comment. The file is watched: a change counts at once,
// whether it is written in place, renamed over or reached by a link that is
// swapped. A file with a mistake counts for nothing: the answer before it stays,
// and the error names the line and the column. A file without a line is an answer,
// that there is nobody.
package file

import (
	"context"

	"github.com/ambassadord/ambassadord/internal/filewatch"
	"github.com/ambassadord/ambassadord/internal/hint"
	"github.com/ambassadord/ambassadord/resolver"
	"github.com/ambassadord/ambassadord/resolver/internal/answer"
)

// Scheme is the scheme of the targets that this package answers.
const Scheme = "file"

// maxBytes bounds a file; a thousand endpoints need a tenth of it.
const maxBytes = 1 << 20

// Source answers queries of the scheme "file". Its zero value is ready to use.
type Source struct{}

var _ resolver.Source = Source{}

// Check reports what is wrong with q, with a hint.
func (Source) Check(q resolver.Query) error {
	const fix = "write file:///PATH, for example file:///etc/ambassadord/redis.list"
	switch {
	case q.Host != "" || q.Port != 0:
		return hint.Errorf(fix, "a file target names the host %q; three slashes precede the path", q.HostPort())
	case q.Path == "":
		return hint.Errorf(fix, "a file target has no path")
	case q.Params != "":
		return hint.Errorf(fix, "a file target takes no parameters")
	}
	return nil
}

// Watch publishes what the file says, again at every change. It fails if q is
// wrong, and otherwise never: a file that cannot be read or has a mistake is an
// answer's Err, and looked at again when it changes.
func (s Source) Watch(ctx context.Context, q resolver.Query, publish func(resolver.Answer)) error {
	if err := s.Check(q); err != nil {
		return err
	}
	path := "/" + q.Path
	publish = answer.OnChange(publish)
	allowance := resolver.AllowanceOf(ctx)
	filewatch.Follow(ctx, path, maxBytes, func(content []byte, err error) {
		var endpoints []resolver.Endpoint
		if err == nil {
			_ = allowance.Spend(ctx, len(content)) // a failure is ctx's end
			endpoints, err = parse(path, string(content))
		}
		switch {
		case err != nil:
			publish(resolver.Answer{Err: err})
		case len(endpoints) == 0:
			publish(answer.New(nil, path+" names nobody"))
		default:
			publish(answer.New(endpoints))
		}
	})
	return nil
}
