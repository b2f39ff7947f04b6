//go:build integration

package proxy

import (
	"context"
	"fmt"
	"net/netip"
	"os"
	"os/exec"
	"os/user"
	"path/filepath"
	"strconv"
	"testing"

	"github.com/ambassadord/ambassadord/internal/servertest"
)

// TestPostgreSQLSessionsAreNoFailures: a session of PostgreSQL's with TLS ends with the client's
// Terminate and close_notify, and the server closes its socket without having read all of that. Now and
// then the server's reset overtakes the client, which has said all and not closed yet: that one would be
// reset on a direct connection, too, and has the reason for it.
func TestPostgreSQLSessionsAreNoFailures(t *testing.T) {
	const sessions, overtaken = 30, 6
	server := startPostgreSQL(t)
	l := newLab(t, &Server{}, to(Endpoint{Addr: server}))
	for tls, most := range map[string]int{"require": overtaken, "disable": 0} {
		failed := 0
		for range sessions {
			out, err := psql(t.Context(), l.addr, tls, "SELECT 6*7")
			if err != nil || out != "42\n" {
				t.Fatalf("psql: %v, %s", err, out)
			}
			r := l.record()
			if r.Up == 0 || r.Down == 0 {
				t.Errorf("sslmode=%s: %d bytes up, %d down; want some", tls, r.Up, r.Down)
			}
			if r.Err != nil {
				failed++
				t.Logf("sslmode=%s: %v", tls, r.Err)
			}
		}
		if failed > most {
			t.Errorf("sslmode=%s: %d of %d sessions have a reason; want %d at most", tls, failed, sessions, most)
		}
	}
}

// psql has a server do one query. It goes before whatever else runs on the machine, or it would often be
// kept from closing until the server's reset is there.
func psql(ctx context.Context, at netip.AddrPort, tls, query string) (string, error) {
	out, err := exec.CommandContext(ctx, "nice", "-n", "-20", "psql", "-XAtc", query, fmt.Sprintf("host=%s port=%d user=postgres sslmode=%s", at.Addr(), at.Port(), tls)).CombinedOutput()
	return string(out), err
}

// startPostgreSQL starts a server that takes sessions with TLS and without.
func startPostgreSQL(t *testing.T) netip.AddrPort {
	t.Helper()
	programs, _ := filepath.Glob("/usr/lib/postgresql/*/bin")
	u, err := user.Lookup("postgres")
	if err != nil || len(programs) == 0 {
		t.Fatalf("no PostgreSQL to test with: %v; run scripts/setup postgres", err)
	}
	dir, err := os.MkdirTemp("", "postgres") // not the test's own folder, which is for root alone
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = os.RemoveAll(dir) })
	uid, _ := strconv.Atoi(u.Uid)
	gid, _ := strconv.Atoi(u.Gid)
	certificate, key := servertest.NewAuthority(t).Issue(t, "postgres")
	for from, to := range map[string]string{certificate: "server.crt", key: "server.key"} {
		content, err := os.ReadFile(from)
		if err != nil {
			t.Fatal(err)
		}
		to = filepath.Join(dir, to)
		if err := os.WriteFile(to, content, 0o600); err != nil {
			t.Fatal(err)
		}
		if err := os.Chown(to, uid, gid); err != nil {
			t.Fatal(err)
		}
	}
	if err := os.Chown(dir, uid, gid); err != nil {
		t.Fatal(err)
	}
	// The server does not run as root, but may pass folders above its own that are root's alone.
	as := []string{"--reuid", u.Uid, "--regid", u.Gid, "--clear-groups", "--inh-caps=+dac_read_search", "--ambient-caps=+dac_read_search"}
	data := filepath.Join(dir, "data")
	init := exec.Command("setpriv", append(as, filepath.Join(programs[0], "initdb"), "-A", "trust", "-U", "postgres", "--no-sync", data)...)
	init.Dir = dir
	if out, err := init.CombinedOutput(); err != nil {
		t.Fatalf("initdb: %v\n%s", err, out)
	}
	var at netip.AddrPort
	process := servertest.New(t, "PostgreSQL", "setpriv", "", "postgres")
	process.Ready = func(ctx context.Context) error {
		_, err := psql(ctx, at, "require", "SELECT 1")
		return err
	}
	process.Choose(t, 1, func(ports []string) []string {
		at = netip.MustParseAddrPort("127.0.0.1:" + ports[0])
		return append(as, filepath.Join(programs[0], "postgres"), "-D", data, "-p", ports[0], "-h", "127.0.0.1", "-F",
			"-c", "unix_socket_directories=", "-c", "ssl=on",
			"-c", "ssl_cert_file="+filepath.Join(dir, "server.crt"), "-c", "ssl_key_file="+filepath.Join(dir, "server.key"))
	})
	return at
}
