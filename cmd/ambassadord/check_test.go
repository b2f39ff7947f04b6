package main

import (
	"bytes"
	"context"
	"errors"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/ambassadord/ambassadord/internal/lint"
)

// TestBrokenConfigurations: check refuses each file with its message, which stands beside it. Those of a file by itself are tested in internal/config; here it is read with the flags that it
// sets, and its targets are parsed. go test ./cmd/ambassadord -update writes the messages.
func TestBrokenConfigurations(t *testing.T) {
	t.Chdir("testdata/broken")
	paths, err := filepath.Glob("*.yml")
	if err != nil || len(paths) < 40 {
		t.Fatalf("%d broken files, %v; want 40", len(paths), err)
	}
	for _, path := range paths {
		var stdout, stderr bytes.Buffer
		if code := run(t.Context(), []string{"check", "--config", path}, nil, &stdout, &stderr); code != exitUsage || stdout.Len() > 0 {
			t.Errorf("%s ends with %d, and says %s", path, code, &stdout)
		}
		got := stderr.String()
		if *update {
			if err := os.WriteFile(path+".want", []byte(got), 0o644); err != nil {
				t.Fatal(err)
			}
			continue
		}
		want, err := os.ReadFile(path + ".want")
		if err != nil {
			t.Fatal(err)
		}
		if diff := cmp.Diff(string(want), got); diff != "" {
			t.Errorf("%s (-want +got):\n%s", path, diff)
		}
	}
}

// TestFlagsOfFilesThatBelongTogether: what is wrong alone is right with others, of the file or of the
// command line.
func TestFlagsOfFilesThatBelongTogether(t *testing.T) {
	path := filepath.Join(t.TempDir(), "c.yml")
	for _, test := range []struct {
		content string
		flags   []string
	}{
		{"admin-listen: 9000\nadmin-token-file: /token\n", nil},
		{"admin-token-file: /token\n", []string{"--admin-listen", "9000"}},
		{"admin-listen: 9000\nadmin-cert: /c\nadmin-key: /k\nadmin-client-ca: /a\n", nil},
	} {
		if err := os.WriteFile(path, []byte(test.content), 0o600); err != nil {
			t.Fatal(err)
		}
		var stdout, stderr bytes.Buffer
		if code := run(context.Background(), append([]string{"check", "--config", path}, test.flags...), nil, &stdout, &stderr); code != exitOK {
			t.Errorf("%q with %q ends with %d: %s", test.content, test.flags, code, &stderr)
		}
	}
}

// A signal ends lint of a pipe to which nobody writes.
func TestLintOfAPipeCanBeEnded(t *testing.T) {
	pipe := filepath.Join(t.TempDir(), "compose.yaml")
	if err := syscall.Mkfifo(pipe, 0o600); err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	ended := make(chan error, 1)
	go func() {
		_, err := lintFile(ctx, pipe, strings.NewReader(""), lint.Options{Kind: lint.Compose})
		ended <- err
	}()
	select {
	case err := <-ended:
		if !errors.Is(err, context.Canceled) {
			t.Errorf("it ended with %v", err)
		}
	case <-time.After(5 * time.Second):
		t.Error("it goes on")
	}
	w, err := os.OpenFile(pipe, os.O_RDWR, 0) // so that what opens it ends
	if err != nil {
		t.Fatal(err)
	}
	w.Close()
}
