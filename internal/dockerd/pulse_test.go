package dockerd

import (
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/ambassadord/ambassadord/internal/servertest"
)

// A stream that was opened at a socket of which another has the name by now tells nothing of
// those that connect to it.
func TestSocketMadeAnew(t *testing.T) {
	t.Parallel()
	f := newFakeEngine(t)
	f.set("a", fakeContainer{Name: "before", Running: true})
	f.start()
	w := f.watch(Config{})
	await(t, w, "a runs", running("a"))
	if err := os.Remove(f.path); err != nil {
		t.Fatal(err)
	}
	until(t, "it is told that the socket is gone", func() bool {
		return w.Err() != nil && strings.Contains(w.Err().Error(), "no such file")
	})
	other := newFakeEngine(t)
	other.path = f.path
	other.set("a", fakeContainer{Name: "after", Running: true})
	other.start()
	await(t, w, "what the engine at the new socket says", func(s *Snapshot) bool { return s.ByName("after") != nil })
}

// An engine that hangs is noticed although nothing is asked of it.
func TestPing(t *testing.T) {
	t.Parallel()
	f := newFakeEngine(t)
	f.set("a", fakeContainer{Name: "db", Running: true})
	f.start()
	w := f.watch(Config{ResyncInterval: time.Hour}, func(e *engine) { e.listTimeout = 200 * time.Millisecond })
	await(t, w, "a runs", running("a"))
	hang := make(chan struct{})
	f.update(func() { f.hang = hang })
	until(t, "it is told that the engine hangs", func() bool {
		return w.Err() != nil && strings.Contains(w.Err().Error(), "pinging: no answer within 200ms")
	})
	close(hang)
	until(t, "the engine is back", func() bool { return w.Err() == nil })
}

// The certificates are those of the files, whatever they were when the daemon began.
func TestCertificatesAreReadAnew(t *testing.T) {
	dir := t.TempDir()
	issue := func(name string) *servertest.Authority {
		t.Helper()
		authority := servertest.NewAuthority(t)
		cert, key := authority.Issue(t, name)
		for from, to := range map[string]string{authority.CAFile: "ca.pem", cert: "cert.pem", key: "key.pem"} {
			text, err := os.ReadFile(from)
			if err == nil {
				err = os.WriteFile(filepath.Join(dir, to), text, 0o600)
			}
			if err != nil {
				t.Fatal(err)
			}
		}
		return authority
	}
	issue("first")
	t.Setenv("DOCKER_TLS_VERIFY", "1")
	t.Setenv("DOCKER_CERT_PATH", dir)
	e, err := newEngine("tcp://127.0.0.1:2376")
	if err != nil {
		t.Fatal(err)
	}
	first := e.transport.current.Load().TLSClientConfig
	issue("second")
	if err := e.transport.renew(); err != nil {
		t.Fatal(err)
	}
	second := e.transport.current.Load().TLSClientConfig
	if string(first.Certificates[0].Certificate[0]) == string(second.Certificates[0].Certificate[0]) || first.RootCAs.Equal(second.RootCAs) {
		t.Error("the certificate or the authority is still that of the files of before")
	}
	if err := os.Remove(filepath.Join(dir, "ca.pem")); err != nil {
		t.Fatal(err)
	}
	if err := e.transport.renew(); err == nil || e.transport.current.Load().TLSClientConfig != second {
		t.Errorf("without a file: %v; want what there was", err)
	}
}
