// Package etcdtest runs a real etcd for tests: one member, or a cluster, each on
// loopback ports and in a folder of its own.
package etcdtest

import (
	"context"
	"fmt"
	"io"
	"net"
	"net/http"
	"strings"
	"testing"

	"github.com/ambassadord/ambassadord/internal/servertest"
)

// Server is a member of an etcd cluster. Restart brings it back with its data.
type Server struct {
	// Addr is where clients reach it, host:port.
	Addr string

	*servertest.Process
	healthAddr string
}

// memberPorts is how many ports a member takes.
const memberPorts = 3

// Start runs a cluster of one and waits until it is healthy. extra are more
// arguments of etcd. The binary is $AMBASSADORD_ETCD, else etcd in PATH.
func Start(t testing.TB, extra ...string) *Server {
	t.Helper()
	return start(t, "http", extra...)
}

// StartTLS is Start for a server that speaks TLS, for which it asks clients for a
// certificate of authority's.
func StartTLS(t testing.TB, authority *servertest.Authority, extra ...string) *Server {
	t.Helper()
	cert, key := authority.Issue(t, "etcd")
	return start(t, "https", append([]string{
		"--client-cert-auth", "--trusted-ca-file=" + authority.CAFile, "--cert-file=" + cert, "--key-file=" + key,
	}, extra...)...)
}

func start(t testing.TB, scheme string, extra ...string) *Server {
	t.Helper()
	s := newServer(t, "etcd")
	s.Choose(t, memberPorts, func(ports []string) []string {
		return append(s.use("one", scheme, ports, []string{"one=http://127.0.0.1:" + ports[1]}), extra...)
	})
	return s
}

// StartCluster runs n members and waits until each is healthy.
func StartCluster(t testing.TB, n int) []*Server {
	t.Helper()
	var (
		servers = make([]*Server, n)
		ports   = servertest.FreePorts(t, n*memberPorts)
		members []string
	)
	for i := range n {
		members = append(members, fmt.Sprintf("m%d=http://127.0.0.1:%s", i, ports[i*memberPorts+1]))
	}
	for i := range n {
		s := newServer(t, fmt.Sprintf("etcd member %d", i))
		s.Process.Start(t, s.use(fmt.Sprintf("m%d", i), "http", ports[i*memberPorts:(i+1)*memberPorts], members)...)
		servers[i] = s
	}
	for _, s := range servers {
		s.Await(t)
	}
	return servers
}

func newServer(t testing.TB, name string) *Server {
	t.Helper()
	s := &Server{Process: servertest.New(t, name, "etcd", "AMBASSADORD_ETCD", "etcd")}
	s.Ready = s.healthy
	return s
}

// use makes the arguments of the member called name. What it says of its health it
// says without TLS, on a port of its own. Elections are quick, so that a test of one
// is.
func (s *Server) use(name, scheme string, ports, members []string) []string {
	s.Addr = net.JoinHostPort("127.0.0.1", ports[0])
	s.healthAddr = net.JoinHostPort("127.0.0.1", ports[2])
	peer := "http://127.0.0.1:" + ports[1]
	return []string{
		"--name=" + name, "--data-dir=" + s.Dir() + "/data", "--logger=zap", "--log-level=warn",
		"--listen-client-urls=" + scheme + "://" + s.Addr, "--advertise-client-urls=" + scheme + "://" + s.Addr,
		"--listen-peer-urls=" + peer, "--initial-advertise-peer-urls=" + peer,
		"--initial-cluster=" + strings.Join(members, ","), "--initial-cluster-token=" + strings.Join(members, ","),
		"--listen-metrics-urls=http://" + s.healthAddr,
		"--heartbeat-interval=20", "--election-timeout=200", "--unsafe-no-fsync",
	}
}

func (s *Server) healthy(ctx context.Context) error {
	request, err := http.NewRequestWithContext(ctx, http.MethodGet, "http://"+s.healthAddr+"/health", nil)
	if err != nil {
		return err
	}
	client := http.Client{Transport: &http.Transport{DisableKeepAlives: true}} // nothing outlives the question
	response, err := client.Do(request)
	if err != nil {
		return err
	}
	defer response.Body.Close()
	if body, err := io.ReadAll(response.Body); err != nil || response.StatusCode != http.StatusOK {
		return fmt.Errorf("%s: %s (%w)", response.Status, body, err)
	}
	return nil
}
