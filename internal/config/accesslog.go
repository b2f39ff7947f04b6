package config

import (
	"path/filepath"
	"strings"

	"github.com/ambassadord/ambassadord/internal/hint"
)

// What --access-log takes beside a path.
const (
	AccessToLog = "log" // the lines of connections are in the daemon's log
	AccessOff   = "off" // there are none
)

// mostSample is one line for a million connections: with less there would be none in a day.
const mostSample = 1_000_000

// AccessLog is where the line of each connection goes.
type AccessLog struct {
	// To is AccessToLog, AccessOff, or the absolute path of a file.
	To string
	// Format is that of a file, "text" or "json"; "" is that of the log.
	Format string
	// Sample is of how many connections that ended well one has a line; 0 is none. Those that failed have theirs.
	Sample int
}

// IsFile says whether To is a path.
func (a *AccessLog) IsFile() bool { return a.To != AccessToLog && a.To != AccessOff }

func (a *AccessLog) validate() error {
	switch {
	case a.IsFile() && !filepath.IsAbs(a.To):
		return hint.Errorf("give log, off, or the whole path of a file, such as /var/log/ambassadord/access.log", "--access-log does not know %q", a.To)
	case a.IsFile() && (strings.HasSuffix(a.To, "/") || filepath.Clean(a.To) == "/"):
		return hint.Errorf("give the path of a file, such as /var/log/ambassadord/access.log", "--access-log %q is a folder", a.To)
	case a.Format != "" && !a.IsFile():
		return hint.Errorf("leave it out, or give --access-log a file", "--access-log-format is that of a file, and --access-log is %s", a.To)
	case a.Format != "" && a.Format != "text" && a.Format != "json":
		return choice("--access-log-format", a.Format, "text", "json")
	case a.Sample < 0 || a.Sample > mostSample:
		return hint.Errorf("give 1 for a line of each connection, 100 for one of a hundred, 0 for failures alone", "--access-log-sample must be from 0 to %d", mostSample)
	}
	return nil
}
