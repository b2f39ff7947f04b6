package config

import (
	"fmt"
	"net"
	"net/netip"
	"path/filepath"
	"strconv"

	"github.com/ambassadord/ambassadord/internal/hint"
)

// AdminAuto is the Admin.Path of a daemon that chooses it.
const AdminAuto = "auto"

// Admin is where the admin interface is served, and who may ask it.
type Admin struct {
	// Path is that of its Unix socket: AdminAuto for the usual one, "" for none.
	Path string
	// Group is the name or number of the group that may dial it; "" is the daemon's own.
	Group string
	// Listen is IP:PORT of its TCP socket, "" for none.
	Listen string
	// TokenFile is a file with the token that TCP's clients show, "" for none.
	TokenFile string
	// Cert and Key are files of the certificate for TLS, "" for none; ClientCA is the file of the authorities
	// of clients' certificates, "" where clients need none.
	Cert, Key, ClientCA string
}

// ParseAdminListen reads the address of the TCP socket, PORT, :PORT or IP:PORT; "" is none. Without
// an address it is loopback's: who wants another writes it.
func ParseAdminListen(text string) (string, error) {
	if text == "" {
		return "", nil
	}
	const fix = "give PORT or IP:PORT, for example 127.0.0.1:9100"
	host, portText, err := net.SplitHostPort(text)
	if err != nil {
		host, portText = "", text
	}
	port, err := ParsePort(portText)
	if err != nil {
		return "", hint.Errorf(fix, "--admin-listen does not take %q", text)
	}
	if host == "" {
		host = "127.0.0.1"
	}
	if _, err := netip.ParseAddr(host); err != nil {
		return "", hint.Errorf(fix, "--admin-listen: %q in %q is not an IP address", host, text)
	}
	return net.JoinHostPort(host, strconv.Itoa(int(port))), nil
}

// validate says what is wrong with the flags of the admin interface. What its files hold is looked at
// when the daemon starts.
func (a *Admin) validate() error {
	if a.Path != "" && a.Path != AdminAuto && !filepath.IsAbs(a.Path) {
		return hint.Errorf("give the whole path of a socket, such as /run/ambassadord.sock, or nothing for none: --admin=", "--admin does not take %q", a.Path)
	}
	if a.Path == "" && a.Group != "" {
		return hint.Errorf("leave it out, or give --admin the path of a socket", "--admin-group: --admin is empty, so there is no Unix socket to dial")
	}
	if (a.Cert == "") != (a.Key == "") {
		return hint.Errorf("give both, or neither", "--admin-cert and --admin-key belong together")
	}
	if a.ClientCA != "" && a.Cert == "" {
		return hint.Errorf("add --admin-cert and --admin-key", "--admin-client-ca needs TLS")
	}
	if a.Listen != "" && a.TokenFile == "" && a.ClientCA == "" {
		return hint.Errorf("add --admin-token-file FILE, or --admin-cert, --admin-key and --admin-client-ca",
			"--admin-listen %s would tell whoever dials it of every container and connection", a.Listen)
	}
	if a.Listen == "" {
		for flag, value := range map[string]string{"--admin-token-file": a.TokenFile, "--admin-cert": a.Cert} {
			if value != "" {
				return fmt.Errorf("%s: %w", flag, hint.Errorf("add --admin-listen PORT, or leave it out: the Unix socket's group says who may dial that", "there is no TCP socket to protect"))
			}
		}
	}
	return nil
}
