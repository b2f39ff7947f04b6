package admin

import (
	"encoding/json"
	"net"
	"net/http"
	"net/netip"
	"os"
	"strings"

	"github.com/danielgtaylor/huma/v2"

	"github.com/ambassadord/ambassadord/internal/hint"
	"github.com/ambassadord/ambassadord/internal/shorten"
)

const (
	// mostBody bounds the body of a request, in bytes. Actions alone have one.
	mostBody = 4 << 10
	// mostShown is how many bytes of what a client has sent a message quotes.
	mostShown = 100
)

// guard looks at the requests that come by TCP.
type guard struct {
	token        *adminToken       // nil for none
	certificates *certificateFiles // nil for none
}

// newGuard checks that what clients have to show can be read.
func newGuard(t *TCP) (*guard, error) {
	g := &guard{}
	if t.TokenFile != "" {
		g.token = newAdminToken(t.TokenFile)
		if _, err := g.token.load(); err != nil {
			return nil, err
		}
	}
	if t.Cert != "" {
		g.certificates = newCertificateFiles(t.Cert, t.Key, t.ClientCA)
		if _, err := g.certificates.load(); err != nil {
			return nil, err
		}
	}
	if t.TokenFile == "" && t.ClientCA == "" {
		return nil, hint.Errorf("add --admin-token-file FILE, or --admin-cert, --admin-key and --admin-client-ca", "--admin-listen without a token or client certificates would tell everybody")
	}
	return g, nil
}

// remote guards requests that come by TCP: each needs the token, where there is one. That a
// certificate is a client's TLS has seen to.
func (g *guard) remote(next http.Handler) http.Handler {
	return g.fromOurs(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if g.token != nil {
			digest, err := g.token.load()
			scheme, text, _ := strings.Cut(r.Header.Get("Authorization"), " ")
			if err != nil || !strings.EqualFold(scheme, "Bearer") || !is(digest, text) {
				w.Header().Set("WWW-Authenticate", "Bearer") // RFC 6750, section 3
				refuse(w, http.StatusUnauthorized, "the request has not the token of the admin interface", "send Authorization: Bearer TOKEN, with the token of the daemon's --admin-token-file")
				return
			}
		}
		next.ServeHTTP(w, r)
	}))
}

// local guards requests that come by the Unix socket, whose mode says which users may dial it.
func local(next http.Handler) http.Handler { return new(guard).fromOurs(next) }

// fromOurs refuses what a page in somebody's browser could send: requests with an Origin, and those for
// a host that is not ours, such as a name of another's that was made to lead here (DNS rebinding).
func (g *guard) fromOurs(next http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		switch {
		case r.Header.Get("Origin") != "" || strings.EqualFold(r.Header.Get("Sec-Fetch-Site"), "cross-site"):
			refuse(w, http.StatusForbidden, "pages in browsers may not ask the admin interface", "ask by a program that sends no Origin, such as curl")
		case !g.ours(r.Host):
			refuse(w, http.StatusMisdirectedRequest, "the host "+shorten.Text(r.Host, mostShown)+" is not this one", "ask for localhost, an IP address, or this host's name")
		case r.Method == http.MethodPost && actionPaths[r.URL.Path] && r.ContentLength <= mostBody:
			r.Body = http.MaxBytesReader(w, r.Body, mostBody)
			act(w, r, next)
		case r.Method != http.MethodGet && r.Method != http.MethodHead:
			w.Header().Set("Allow", "GET, HEAD")
			refuse(w, http.StatusMethodNotAllowed, "the admin interface takes no "+shorten.Text(r.Method, mostShown), "send GET")
		case r.ContentLength > mostBody:
			w.Header().Set("Connection", "close")
			refuse(w, http.StatusRequestEntityTooLarge, "the request has a body, which nothing reads", "leave it out")
		default:
			r.Body = http.MaxBytesReader(w, r.Body, mostBody)
			next.ServeHTTP(w, r)
		}
	})
}

// ours reports whether a request's Host (RFC 9110, section 7.2) may be ours. Every IP address may: a
// page's host is one only if it was loaded from there, so its requests are of the same origin.
func (g *guard) ours(host string) bool {
	if name, _, err := net.SplitHostPort(host); err == nil {
		host = name
	}
	host = strings.TrimSuffix(strings.ToLower(host), ".")
	if _, err := netip.ParseAddr(strings.Trim(host, "[]")); err == nil || host == "localhost" {
		return true
	}
	if name, err := os.Hostname(); err == nil && strings.EqualFold(host, name) {
		return true
	}
	if g.certificates != nil {
		if c, err := g.certificates.load(); err == nil && c.Certificates[0].Leaf != nil {
			return c.Certificates[0].Leaf.VerifyHostname(host) == nil
		}
	}
	return false
}

// Failure is why a request is not answered (RFC 9457), and what to do.
type Failure struct {
	huma.ErrorModel
	Hint string `json:"hint,omitempty" doc:"what to do about it"`
}

// refuse answers with a Failure.
func refuse(w http.ResponseWriter, code int, why, fix string) {
	w.Header().Set("Content-Type", "application/problem+json")
	w.WriteHeader(code)
	_ = json.NewEncoder(w).Encode(failure(code, why, fix)) // who has left needs no answer
}

func failure(code int, why, fix string) *Failure {
	return &Failure{ErrorModel: huma.ErrorModel{Title: http.StatusText(code), Status: code, Detail: why}, Hint: fix}
}
