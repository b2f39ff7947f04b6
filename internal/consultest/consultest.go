// Package consultest runs real Consul servers for tests: one agent in development
// mode, in memory, or a cluster of servers.
package consultest

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"testing"

	"github.com/ambassadord/ambassadord/internal/servertest"
)

// Server is a Consul agent.
type Server struct {
	// HTTPAddr, HTTPSAddr and DNSAddr are host:port, and stay the same over a
	// Restart. Nobody listens at HTTPSAddr unless StartTLS started the agent.
	HTTPAddr, HTTPSAddr, DNSAddr string

	*servertest.Process
}

// agentPorts is how many ports an agent takes.
const agentPorts = 6

// Start runs an agent and waits until it has a leader. extra are more arguments
// of "consul agent". The binary is $AMBASSADORD_CONSUL, else consul in PATH.
// Restart brings it back empty.
func Start(t testing.TB, extra ...string) *Server {
	t.Helper()
	return start(t, false, extra...)
}

// StartTLS is Start for an agent that speaks HTTPS as well, for which it asks
// clients for a certificate of authority's.
func StartTLS(t testing.TB, authority *servertest.Authority, name string, extra ...string) *Server {
	t.Helper()
	cert, key := authority.Issue(t, name, name)
	return start(t, true, append([]string{fmt.Sprintf(`-hcl=tls { https {
		ca_file = %q cert_file = %q key_file = %q verify_incoming = true
	} }`, authority.CAFile, cert, key)}, extra...)...)
}

func start(t testing.TB, https bool, extra ...string) *Server {
	t.Helper()
	s := newServer(t, "Consul")
	s.Choose(t, agentPorts, func(ports []string) []string {
		args := append(s.use(ports, https), "-dev", "-client=127.0.0.1", "-bind=127.0.0.1")
		return append(args, extra...)
	})
	return s
}

// StartCluster runs n servers that elect a leader among them, and waits until each
// of them knows it.
func StartCluster(t testing.TB, n int, extra ...string) []*Server {
	t.Helper()
	var (
		servers = make([]*Server, n)
		ports   = servertest.FreePorts(t, n*agentPorts)
		join    []string
	)
	for i := range n {
		join = append(join, "-retry-join="+net.JoinHostPort("127.0.0.1", ports[i*agentPorts+3]))
	}
	for i := range n {
		s := newServer(t, fmt.Sprintf("Consul server %d", i+1))
		args := append(s.use(ports[i*agentPorts:(i+1)*agentPorts], false),
			"-server", fmt.Sprintf("-bootstrap-expect=%d", n), fmt.Sprintf("-node=server%d", i+1),
			"-client=127.0.0.1", "-bind=127.0.0.1", "-retry-interval=100ms",
			"-hcl=performance { raft_multiplier = 1 } skip_leave_on_interrupt = true")
		s.Process.Start(t, append(append(args, join...), extra...)...)
		servers[i] = s
	}
	for _, s := range servers {
		s.Await(t)
	}
	return servers
}

func newServer(t testing.TB, name string) *Server {
	t.Helper()
	s := &Server{Process: servertest.New(t, name, "consul", "AMBASSADORD_CONSUL", "consul")}
	s.Ready = s.ready
	return s
}

// use makes the arguments that give an agent its ports and its folder.
func (s *Server) use(ports []string, https bool) []string {
	s.HTTPAddr = net.JoinHostPort("127.0.0.1", ports[0])
	s.DNSAddr = net.JoinHostPort("127.0.0.1", ports[1])
	s.HTTPSAddr = net.JoinHostPort("127.0.0.1", ports[5])
	httpsPort := "-1"
	if https {
		httpsPort = ports[5]
	}
	return []string{
		"agent", "-data-dir=" + s.Dir() + "/data",
		"-http-port=" + ports[0], "-dns-port=" + ports[1], "-server-port=" + ports[2],
		"-serf-lan-port=" + ports[3], "-serf-wan-port=" + ports[4], "-https-port=" + httpsPort,
		"-grpc-port=-1", "-grpc-tls-port=-1",
		"-hcl=disable_update_check = true",
	}
}

// ready asks for a leader and for the agent's own node in the catalog: before the
// latter is there, what a test registers may be rejected.
func (s *Server) ready(ctx context.Context) error {
	for _, path := range []string{"/v1/status/leader", "/v1/catalog/nodes"} {
		body, err := s.get(ctx, path)
		if err != nil {
			return err
		}
		switch string(bytes.TrimSpace(body)) {
		case `""`:
			return errors.New("no leader")
		case `[]`:
			return errors.New("no node")
		}
	}
	return nil
}

// IsLeader tells whether this server leads the cluster.
func (s *Server) IsLeader(t testing.TB) bool {
	t.Helper()
	body, err := s.get(t.Context(), "/v1/agent/self")
	if err != nil {
		t.Fatal(err)
	}
	return bytes.Contains(body, []byte(`"leader":"true"`))
}

func (s *Server) get(ctx context.Context, path string) ([]byte, error) {
	request, err := http.NewRequestWithContext(ctx, http.MethodGet, "http://"+s.HTTPAddr+path, nil)
	if err != nil {
		return nil, err
	}
	client := http.Client{Transport: &http.Transport{DisableKeepAlives: true}} // nothing outlives the question
	response, err := client.Do(request)
	if err != nil {
		return nil, err
	}
	defer response.Body.Close()
	body, err := io.ReadAll(response.Body)
	if response.Header.Get("X-Consul-Default-ACL-Policy") == "deny" { // we may not see the catalog
		return nil, err
	}
	if err == nil && response.StatusCode != http.StatusOK {
		err = fmt.Errorf("%s: %s", path, response.Status)
	}
	return body, err
}
