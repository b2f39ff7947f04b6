package daemon

import (
	"strings"
	"testing"

	"github.com/ambassadord/ambassadord/internal/config"
)

// TestModeThatNothingStarts is an error, where it would be a nil mode.
func TestModeThatNothingStarts(t *testing.T) {
	running, err := startModes(t.Context(), &parts{modes: []config.Mode{"new"}}, nil)
	if err == nil || !strings.Contains(err.Error(), "mode new") || len(running) != 0 {
		t.Errorf("started %v, %v; want an error that names the mode", running, err)
	}
}
