package consul

import (
	"os"
	"strings"
	"sync"
	"time"

	"github.com/ambassadord/ambassadord/internal/hint"
)

// tokenFile is a token that somebody else replaces from time to time: Vault's
// agent, an orchestrator.
type tokenFile struct {
	path string

	mu      sync.Mutex
	changed time.Time // the file's, when it was read
	size    int64
	token   string
}

// read returns the token as it is now; while the file is being replaced, and is
// missing or empty, as it was.
func (f *tokenFile) read() (string, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	info, err := os.Stat(f.path)
	if err == nil && f.token != "" && info.ModTime().Equal(f.changed) && info.Size() == f.size {
		return f.token, nil
	}
	var text []byte
	if err == nil {
		text, err = os.ReadFile(f.path)
	}
	if token := strings.TrimSpace(string(text)); err == nil && token != "" {
		f.token, f.changed, f.size = token, info.ModTime(), info.Size()
	}
	const fix = "check CONSUL_HTTP_TOKEN_FILE"
	switch {
	case f.token != "":
		return f.token, nil
	case err != nil:
		return "", hint.Errorf(fix, "the ACL token's file: %w", err)
	}
	return "", hint.Errorf(fix, "the ACL token's file %s is empty", f.path)
}
