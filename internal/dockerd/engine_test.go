package dockerd

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"encoding/pem"
	"fmt"
	"math/big"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/ambassadord/ambassadord/internal/hint"
	"github.com/ambassadord/ambassadord/internal/servertest"
)

func clearEnv(t *testing.T) {
	t.Helper()
	for _, name := range []string{"DOCKER_HOST", "DOCKER_TLS_VERIFY", "DOCKER_CERT_PATH"} {
		t.Setenv(name, "")
	}
}

func TestEndpoint(t *testing.T) {
	clearEnv(t)
	endpoint := func(cfg Config) string {
		w, err := New(cfg)
		if err != nil {
			t.Fatal(err)
		}
		return w.Endpoint()
	}
	if got := endpoint(Config{}); got != "unix:///var/run/docker.sock" {
		t.Errorf("default: %s", got)
	}
	t.Setenv("DOCKER_HOST", "tcp://10.0.0.1:2375")
	if got := endpoint(Config{}); got != "tcp://10.0.0.1:2375" {
		t.Errorf("with DOCKER_HOST: %s", got)
	}
	if got := endpoint(Config{Endpoint: "unix:///run/other.sock"}); got != "unix:///run/other.sock" {
		t.Errorf("configured: %s", got)
	}
}

func TestEndpointRefused(t *testing.T) {
	clearEnv(t)
	for _, endpoint := range []string{"docker.sock", "unix://", "ssh://me@host", "tcp://host", "tcp://:2375", "tcp://host:99999", "%"} {
		_, err := New(Config{Endpoint: endpoint})
		if err == nil {
			t.Errorf("%q was accepted", endpoint)
		} else if !strings.Contains(err.Error(), endpoint) {
			t.Errorf("%q: error %q does not name it", endpoint, err)
		}
	}
}

func TestTLSNeedsAllItsFiles(t *testing.T) {
	clearEnv(t)
	t.Setenv("DOCKER_TLS_VERIFY", "1")
	t.Setenv("DOCKER_CERT_PATH", t.TempDir())
	_, err := New(Config{Endpoint: "tcp://10.0.0.1:2376"})
	if err == nil || hint.Of(err) == "" {
		t.Errorf("New: %v, want an error with a hint", err)
	}
	if _, err := New(Config{Endpoint: "unix:///run/docker.sock"}); err != nil {
		t.Errorf("New for a socket: %v, want TLS settings left aside", err)
	}
}

func TestTLSVerifiesTheEngine(t *testing.T) {
	clearEnv(t)
	server := httptest.NewUnstartedServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.TLS == nil || len(r.TLS.PeerCertificates) == 0 {
			t.Error("no client certificate")
		}
		_, _ = w.Write([]byte(`[{"Id":"a"}]`))
	}))
	server.TLS = &tls.Config{ClientAuth: tls.RequestClientCert, MinVersion: tls.VersionTLS12}
	server.StartTLS()
	defer server.Close()
	other := selfSigned(t)

	// The server's own certificate stands in for the CA, and for the client's.
	dir := t.TempDir()
	write := func(name, kind string, der []byte) {
		text := pem.EncodeToMemory(&pem.Block{Type: kind, Bytes: der})
		if err := os.WriteFile(filepath.Join(dir, name), text, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	write("cert.pem", "CERTIFICATE", other.Certificate[0])
	write("key.pem", "PRIVATE KEY", marshalKey(t, other))
	write("ca.pem", "CERTIFICATE", server.Certificate().Raw)
	t.Setenv("DOCKER_TLS_VERIFY", "1")
	t.Setenv("DOCKER_CERT_PATH", dir)
	endpoint := "tcp://" + server.Listener.Addr().String()
	list := func() ([]listedContainer, error) {
		e, err := newEngine(endpoint)
		if err != nil {
			t.Fatal(err)
		}
		defer e.transport.CloseIdleConnections()
		return e.list(t.Context())
	}
	if ids, err := list(); err != nil || len(ids) != 1 {
		t.Errorf("list: %v, %v, want one container", ids, err)
	}
	write("ca.pem", "CERTIFICATE", other.Certificate[0])
	if _, err := list(); err == nil || !strings.Contains(err.Error(), "certificate") {
		t.Errorf("list from an engine signed by another: %v, want it refused", err)
	}
}

func selfSigned(t *testing.T) tls.Certificate {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	template := &x509.Certificate{SerialNumber: big.NewInt(1), NotAfter: time.Now().Add(time.Hour), IsCA: true, BasicConstraintsValid: true}
	der, err := x509.CreateCertificate(rand.Reader, template, template, key.Public(), key)
	if err != nil {
		t.Fatal(err)
	}
	return tls.Certificate{Certificate: [][]byte{der}, PrivateKey: key}
}

func marshalKey(t *testing.T, c tls.Certificate) []byte {
	t.Helper()
	der, err := x509.MarshalPKCS8PrivateKey(c.PrivateKey)
	if err != nil {
		t.Fatal(err)
	}
	return der
}

// Containers start with the engine, before its first answer.
func TestEngineIsSeenToStart(t *testing.T) {
	f := newFakeEngine(t)
	f.set("a", fakeContainer{Name: "db", Running: true})
	w, err := New(Config{Endpoint: "unix://" + f.path})
	if err != nil {
		t.Fatal(err)
	}
	w.minBackoff = time.Hour
	runWatcher(t, w)
	until(t, "a failure", func() bool { return w.Err() != nil })
	f.start()
	await(t, w, "a runs", running("a"))
}

// TestTasksByTheEngine: a container is a task by the engine's word alone, which is asked for of
// those that have the labels.
func TestTasksByTheEngine(t *testing.T) {
	const label = `{"com.docker.swarm.service.name": "web"}`
	for name, test := range map[string]struct {
		labels, answer string
		status         int
		task, again    bool
	}{
		"a task":                  {label, `[{"Id": "c1"}]`, 200, true, false},
		"only its labels":         {label, `[]`, 200, false, false},
		"no labels":               {`{}`, `[{"Id": "c1"}]`, 200, false, false},
		"a proxy refuses":         {label, `{"message": "forbidden"}`, 403, false, false},
		"the engine fails":        {label, `{"message": "broken"}`, 500, false, true},
		"the answer is another's": {label, `[{"Id": "c2"}]`, 200, false, false},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			e := networksEngine(t, func(w http.ResponseWriter, r *http.Request) {
				if strings.HasSuffix(r.URL.Path, "/c1/json") {
					fmt.Fprintf(w, `{"Id": "c1", "Name": "/web.1", "State": {"Running": true}, "Config": {"Labels": %s}, "HostConfig": {}, "NetworkSettings": {}}`, test.labels)
					return
				}
				if got := r.URL.Query().Get("filters"); got != `{"id":["c1"],"is-task":["true"]}` {
					t.Errorf("asked for %s", got)
				}
				w.WriteHeader(test.status)
				fmt.Fprint(w, test.answer)
			})
			c, err := e.inspect(t.Context(), "c1")
			if (err != nil) != test.again || err == nil && (c.Task != test.task || (c.Service() == "web") != test.task) {
				t.Errorf("%+v, %v; want a task: %t, an error: %t", c, err, test.task, test.again)
			}
		})
	}
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
