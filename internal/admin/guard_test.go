package admin

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"log/slog"
	"math/big"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/ambassadord/ambassadord/internal/daemontest"
	"github.com/ambassadord/ambassadord/internal/hint"
)

const goodToken = "0123456789abcdef0123456789abcdef"

// byTCP serves at a free port of loopback alone, and returns its HOST:PORT.
func byTCP(t *testing.T, tcp *TCP) (s *Server, address string) {
	t.Helper()
	c := configured(t)
	log := &daemontest.Log{}
	tcp.Address = "127.0.0.1:0"
	c.Path, c.TCP, c.Log = "", tcp, slog.New(slog.NewTextHandler(log, nil))
	s = started(t, c)
	log.Wait(t, "address=")
	return s, regexp.MustCompile(`address=(\S+)`).FindStringSubmatch(log.String())[1]
}

func written(t *testing.T, name, text string, mode os.FileMode) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), name)
	if err := os.WriteFile(path, []byte(text), mode); err != nil {
		t.Fatal(err)
	}
	return path
}

func plainClient(t *testing.T) *http.Client {
	t.Helper()
	transport := &http.Transport{}
	t.Cleanup(transport.CloseIdleConnections)
	return &http.Client{Transport: transport, Timeout: 20 * time.Second}
}

// TestToken: every route wants it, and it is read again when its file is another.
func TestToken(t *testing.T) {
	file := written(t, "token", goodToken+"\n", 0o600)
	_, address := byTCP(t, &TCP{TokenFile: file})
	client := plainClient(t)
	expect := func(what string, want int, header ...string) {
		t.Helper()
		for _, path := range []string{"/healthz", "/readyz", "/v1/status", documentPath, "/nowhere"} {
			want := want
			if path == "/nowhere" && want == http.StatusOK {
				want = http.StatusNotFound
			}
			answer := ask(t, client, http.MethodGet, "http://"+address+path, header...)
			if answer.code != want || want == http.StatusUnauthorized && strings.Contains(answer.body, "version") {
				t.Errorf("%s: %s is answered with %+v; want %d", what, path, answer, want)
			}
		}
	}
	expect("without a token", http.StatusUnauthorized)
	expect("a wrong token", http.StatusUnauthorized, "Authorization", "Bearer "+strings.Repeat("x", len(goodToken)))
	expect("half the token", http.StatusUnauthorized, "Authorization", "Bearer "+goodToken[:16])
	expect("another scheme", http.StatusUnauthorized, "Authorization", "Basic "+goodToken)
	expect("an empty one", http.StatusUnauthorized, "Authorization", "Bearer ")
	expect("the token", http.StatusOK, "Authorization", "bearer "+goodToken)
	next := file + ".next"
	if err := os.WriteFile(next, []byte(strings.Repeat("z", 20)), 0o600); err != nil {
		t.Fatal(err)
	}
	if err := os.Rename(next, file); err != nil {
		t.Fatal(err)
	}
	expect("the old token", http.StatusUnauthorized, "Authorization", "Bearer "+goodToken)
	expect("the new token", http.StatusOK, "Authorization", "Bearer "+strings.Repeat("z", 20))
	if err := os.Chmod(file, 0o604); err != nil {
		t.Fatal(err)
	}
	expect("a token that all may read", http.StatusUnauthorized, "Authorization", "Bearer "+strings.Repeat("z", 20))
	if err := os.Remove(file); err != nil {
		t.Fatal(err)
	}
	expect("a token that has been removed", http.StatusUnauthorized, "Authorization", "Bearer "+strings.Repeat("z", 20))
}

// TestSecretsThatAreRefused: the daemon does not start with them.
func TestSecretsThatAreRefused(t *testing.T) {
	for name, test := range map[string]struct {
		tcp  TCP
		want string
	}{
		"nothing":        {TCP{}, "would tell everybody"},
		"no client CA":   {TCP{Cert: "x", Key: "x"}, ""},
		"readable":       {TCP{TokenFile: written(t, "t", goodToken, 0o644)}, "open to all users"},
		"short":          {TCP{TokenFile: written(t, "t", "secret", 0o600)}, "fewer than"},
		"missing":        {TCP{TokenFile: "/nonexistent/token"}, "--admin-token-file: read /nonexistent/token"},
		"no certificate": {TCP{TokenFile: written(t, "t", goodToken, 0o600), Cert: written(t, "c", "x", 0o600), Key: written(t, "k", "x", 0o600)}, "--admin-cert"},
		"a key for all":  {TCP{TokenFile: written(t, "t", goodToken, 0o600), Cert: written(t, "c", "x", 0o600), Key: written(t, "k", "x", 0o644)}, "--admin-key"},
	} {
		test.tcp.Address = "127.0.0.1:0"
		s, err := New(Config{TCP: &test.tcp})
		if s != nil || err == nil || !strings.Contains(err.Error(), test.want) {
			t.Errorf("%s: %v; want: %s", name, err, test.want)
		}
		if err != nil && name != "no client CA" && hint.Of(err) == "" {
			t.Errorf("%s: %v has no hint", name, err)
		}
	}
}

// TestSecretsThatAreNoFiles: nobody waits for what a pipe does not say, and one that is replaced by a file is
// forgotten.
func TestSecretsThatAreNoFiles(t *testing.T) {
	path := filepath.Join(t.TempDir(), "token")
	token := newAdminToken(path)
	load := func() error {
		t.Helper()
		done := make(chan error, 1)
		go func() {
			_, err := token.load()
			done <- err
		}()
		select {
		case err := <-done:
			return err
		case <-time.After(10 * time.Second):
			t.Fatal("the token is still being read")
			return nil
		}
	}
	for what, place := range map[string]func() error{
		"a pipe":   func() error { return unix.Mkfifo(path, 0o600) },
		"a device": func() error { return os.Symlink("/dev/zero", path) },
		"a folder": func() error { return os.Mkdir(path, 0o700) },
	} {
		if err := place(); err != nil {
			t.Fatal(err)
		}
		if err := load(); err == nil || !strings.Contains(err.Error(), "no regular file") || hint.Of(err) == "" {
			t.Errorf("%s in the place of the token: %v", what, err)
		}
		if err := os.Remove(path); err != nil {
			t.Fatal(err)
		}
	}
	if err := os.WriteFile(path, []byte(goodToken), 0o600); err != nil {
		t.Fatal(err)
	}
	if err := load(); err != nil {
		t.Error(err)
	}
}

// TestPagesAreRefused: of another origin, and for a name that was made to lead here, at both sockets.
func TestPagesAreRefused(t *testing.T) {
	_, address := byTCP(t, &TCP{TokenFile: written(t, "token", goodToken, 0o600)})
	local := configured(t)
	started(t, local)
	own, err := os.Hostname()
	if err != nil {
		t.Fatal(err)
	}
	for url, client := range map[string]*http.Client{"http://" + address: plainClient(t), "http://localhost": over(t, local.Path)} {
		for _, test := range []struct {
			header []string
			want   int
		}{
			{[]string{"Origin", "https://attacker.example"}, http.StatusForbidden},
			{[]string{"Origin", "null"}, http.StatusForbidden},
			{[]string{"Origin", url}, http.StatusForbidden},
			{[]string{"Sec-Fetch-Site", "cross-site"}, http.StatusForbidden},
			{[]string{"Host", "attacker.example"}, http.StatusMisdirectedRequest},
			{[]string{"Host", "attacker.example:80"}, http.StatusMisdirectedRequest},
			{[]string{"Host", "localhost.attacker.example"}, http.StatusMisdirectedRequest},
			{[]string{"Host", "127.0.0.1.attacker.example"}, http.StatusMisdirectedRequest},
			{[]string{"Host", "LOCALHOST:1"}, http.StatusOK},
			{[]string{"Host", "[::1]:1"}, http.StatusOK},
			{[]string{"Host", own}, http.StatusOK},
		} {
			header := append(test.header, "Authorization", "Bearer "+goodToken)
			if answer := ask(t, client, http.MethodGet, url+"/v1/status", header...); answer.code != test.want {
				t.Errorf("%v is answered with %d %.200s; want %d", test.header, answer.code, answer.body, test.want)
			}
		}
	}
}

// certificate makes one for name, signed by the authority, or an authority where that is nil.
func certificate(t *testing.T, name string, by *tls.Certificate) (pair tls.Certificate, certPEM, keyPEM string) {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	template := &x509.Certificate{
		SerialNumber: big.NewInt(time.Now().UnixNano()), Subject: pkix.Name{CommonName: name}, NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(time.Hour),
		DNSNames: []string{name}, IPAddresses: []net.IP{net.IPv4(127, 0, 0, 1)}, BasicConstraintsValid: true,
		KeyUsage: x509.KeyUsageDigitalSignature | x509.KeyUsageCertSign, ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth, x509.ExtKeyUsageClientAuth},
	}
	parent, signer := template, key
	if by == nil {
		template.IsCA = true
	} else {
		parent, signer = by.Leaf, by.PrivateKey.(*ecdsa.PrivateKey)
	}
	der, err := x509.CreateCertificate(rand.Reader, template, parent, &key.PublicKey, signer)
	if err != nil {
		t.Fatal(err)
	}
	keyDER, err := x509.MarshalPKCS8PrivateKey(key)
	if err != nil {
		t.Fatal(err)
	}
	certPEM = string(pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der}))
	keyPEM = string(pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: keyDER}))
	if pair, err = tls.X509KeyPair([]byte(certPEM), []byte(keyPEM)); err != nil {
		t.Fatal(err)
	}
	return pair, certPEM, keyPEM
}

// TestClientCertificates: one of the authority is answered, another or none is not; the server's own
// name is a host of its own.
func TestClientCertificates(t *testing.T) {
	authority, authorityPEM, _ := certificate(t, "authority", nil)
	_, serverPEM, serverKey := certificate(t, "admin.example.com", &authority)
	friend, _, _ := certificate(t, "friend", &authority)
	others, _, _ := certificate(t, "others", nil)
	stranger, _, _ := certificate(t, "stranger", &others)
	_, address := byTCP(t, &TCP{
		Cert: written(t, "cert", serverPEM, 0o644), Key: written(t, "key", serverKey, 0o600), ClientCA: written(t, "ca", authorityPEM, 0o644),
	})
	roots := x509.NewCertPool()
	roots.AppendCertsFromPEM([]byte(authorityPEM))
	for name, certificates := range map[string][]tls.Certificate{"friend": {friend}, "stranger": {stranger}, "nobody": nil} {
		transport := &http.Transport{TLSClientConfig: &tls.Config{RootCAs: roots, Certificates: certificates}}
		client := &http.Client{Transport: transport, Timeout: 20 * time.Second}
		if name == "friend" {
			if answer := ask(t, client, http.MethodGet, "https://"+address+"/v1/status", "Host", "admin.example.com"); answer.code != http.StatusOK {
				t.Errorf("%s: %+v", name, answer)
			}
		} else if answer, err := client.Get("https://" + address + "/healthz"); err == nil {
			answer.Body.Close()
			t.Errorf("%s is answered with %d", name, answer.StatusCode)
		}
		transport.CloseIdleConnections()
	}
}

// TestPortOfThePredecessor is had as soon as that gives it up.
func TestPortOfThePredecessor(t *testing.T) {
	file := written(t, "token", goodToken, 0o600)
	old, address := byTCP(t, &TCP{TokenFile: file})
	c := configured(t)
	c.Path, c.TCP = "", &TCP{Address: address, TokenFile: file}
	started(t, c)
	old.HandOver()
	client := plainClient(t)
	for deadline := time.Now().Add(portPatience); ; time.Sleep(time.Millisecond) {
		r, err := http.NewRequestWithContext(t.Context(), http.MethodGet, "http://"+address+"/healthz", nil)
		if err != nil {
			t.Fatal(err)
		}
		answer, err := client.Do(r)
		if err == nil {
			answer.Body.Close()
			return
		}
		if time.Now().After(deadline) {
			t.Fatal(err)
		}
	}
}
