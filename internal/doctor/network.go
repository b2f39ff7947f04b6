package doctor

import (
	"cmp"
	"context"
	"fmt"
	"strings"

	"github.com/ambassadord/ambassadord/internal/hint"
	"github.com/ambassadord/ambassadord/resolver/consul"
	"github.com/ambassadord/ambassadord/resolver/dns"
	"github.com/ambassadord/ambassadord/resolver/etcd"
)

func checkDNS(ctx context.Context, _ *environment) Result {
	servers, err := dns.New(dns.Config{}).Probe(ctx)
	if err != nil {
		return undone(err)
	}
	return judgeDNS(servers)
}

func judgeDNS(servers []dns.ServerStatus) Result {
	const fix = "check /etc/resolv.conf, and that UDP port 53 gets through"
	var answer, silent []string
	for _, s := range servers {
		if s.Err == nil {
			answer = append(answer, s.Server)
		} else {
			silent = append(silent, fmt.Sprintf("%s: %v", s.Server, s.Err))
		}
	}
	switch {
	case len(answer) == 0:
		return fail(fix, "no server answers: %s", strings.Join(silent, "; "))
	case len(silent) > 0:
		return warn(fix, "only %s answers; %s", strings.Join(answer, ", "), strings.Join(silent, "; "))
	}
	return ok("%s: an answer within 2 s", strings.Join(answer, ", "))
}

func checkConsul(ctx context.Context, h *environment) Result {
	client := consul.New(consul.Config{Address: h.ConsulAddr})
	defer func() { _ = client.Close() }() // it only drops idle connections
	leader, err := client.Leader(ctx)
	return judgeConsul(h.ConsulAddr != "", client.Address(), leader, err)
}

func judgeConsul(configured bool, address, leader string, err error) Result {
	switch {
	case err != nil && !configured:
		return ok("not configured, and no agent answers at %s", address)
	case err != nil:
		r := broken(err)
		r.Hint = cmp.Or(hint.Of(err), "check --consul-addr and CONSUL_HTTP_ADDR")
		return r
	case leader == "" && !configured:
		return warn("see: consul operator raft list-peers", "not configured; an agent answers at %s and knows no leader", address)
	case leader == "":
		return fail("see: consul operator raft list-peers", "the agent at %s answers and knows no leader", address)
	}
	return ok("the agent at %s answers, its leader is %s", address, leader)
}

func checkEtcd(ctx context.Context, h *environment) Result {
	client := etcd.New(etcd.Config{Endpoints: h.EtcdEndpoints})
	defer func() { _ = client.Close() }() // its failure is the check's business alone
	return judgeEtcd(len(h.EtcdEndpoints) > 0, client.Address(), client.Health(ctx))
}

func judgeEtcd(configured bool, address string, err error) Result {
	switch {
	case err != nil && !configured:
		return ok("not configured, and no server answers at %s", address)
	case err != nil:
		r := broken(err)
		r.Hint = cmp.Or(hint.Of(err), "check --etcd-endpoints and ETCDCTL_ENDPOINTS")
		return r
	}
	return ok("the servers at %s answer and have a leader", address)
}
