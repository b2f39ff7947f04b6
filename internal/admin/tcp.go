package admin

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"net"
	"time"

	"golang.org/x/sys/unix"

	"github.com/ambassadord/ambassadord/internal/hint"
)

const (
	// portPatience is how long a predecessor has to give its port up.
	portPatience = 10 * time.Second
	// portEvery is how often we try.
	portEvery = 100 * time.Millisecond
)

// TCP is the TCP socket, and what its clients have to show: a token, a certificate, or both.
type TCP struct {
	Address   string // IP:PORT
	TokenFile string // "" for no token
	// Cert and Key are files of our certificate, "" for no TLS; ClientCA is the file of the authorities
	// of clients' certificates, "" for none.
	Cert, Key, ClientCA string
}

// listen listens at the address, for which it waits a while where it is taken.
func (t *TCP) listen(ctx context.Context, g *guard) (net.Listener, error) {
	waiting, cancel := context.WithTimeout(ctx, portPatience)
	defer cancel()
	for {
		l, err := new(net.ListenConfig).Listen(ctx, "tcp", t.Address)
		if err == nil {
			if g.certificates != nil {
				l = tls.NewListener(l, &tls.Config{
					MinVersion:         tls.VersionTLS12,
					GetConfigForClient: func(*tls.ClientHelloInfo) (*tls.Config, error) { return g.certificates.load() },
				})
			}
			return l, nil
		}
		if errors.Is(err, unix.EADDRINUSE) {
			select {
			case <-time.After(portEvery):
				continue
			case <-waiting.Done():
			}
			return nil, hint.Wrap(fmt.Errorf("--admin-listen: %w", err), "give another port, or end the process that has it: ss -ltnp")
		}
		return nil, hint.Wrap(fmt.Errorf("--admin-listen: %w", err), "give an address of this host")
	}
}
