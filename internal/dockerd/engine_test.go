package dockerd

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"encoding/pem"
	"math/big"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/ambassadord/ambassadord/internal/hint"
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
