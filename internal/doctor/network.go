package doctor

import (
	"cmp"
	"context"
	"fmt"
	"slices"
	"strings"

	"github.com/ambassadord/ambassadord/internal/binding"
	"github.com/ambassadord/ambassadord/internal/dockerd"
	"github.com/ambassadord/ambassadord/internal/hint"
	"github.com/ambassadord/ambassadord/internal/shorten"
	"github.com/ambassadord/ambassadord/resolver"
	"github.com/ambassadord/ambassadord/resolver/consul"
	"github.com/ambassadord/ambassadord/resolver/dns"
	"github.com/ambassadord/ambassadord/resolver/etcd"
)

func checkDNS(ctx context.Context, h *environment) Result {
	servers, err := dns.New(dns.Config{}).Probe(ctx)
	if err != nil {
		return undone(err)
	}
	used := ""
	if slices.ContainsFunc(servers, func(s dns.ServerStatus) bool { return s.Err != nil }) {
		if snapshot, err := h.snapshot(ctx); err == nil { // the check of the engine says why not
			used = asksDNS(snapshot.Containers())
		}
	}
	return judgeDNS(servers, used)
}

// asksDNS is a running container that declares a target whose name the servers of resolv.conf are asked
// for, "" if none does.
func asksDNS(containers []*dockerd.Container) string {
	for _, c := range containers {
		asks := false
		parse := func(text string) (resolver.Target, error) {
			target, err := resolver.Parse(text)
			for q := range target.Queries() {
				asks = asks || q.Server == "" && (q.Scheme == resolver.SchemeDNS || q.Scheme == resolver.SchemeSRV)
			}
			return target, err
		}
		if c.Running {
			binding.Read(binding.Declarer{Name: c.Name, Labels: c.Labels, Env: c.Env}, nil, parse)
		}
		if asks {
			return c.Name
		}
	}
	return ""
}

// judgeDNS takes who declares a target that needs the servers, "" if no container does.
func judgeDNS(servers []dns.ServerStatus, used string) Result {
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
	case len(answer) == 0 && used == "":
		return warn(fix, "no server answers, and no running container declares a target that needs one: %s", strings.Join(silent, "; "))
	case len(answer) == 0:
		return fail(fix, "no server answers, which a target of %s needs: %s", shorten.Text(used, maxName), strings.Join(silent, "; "))
	case len(silent) > 0:
		return warn(fix, "only %s answers; %s", strings.Join(answer, ", "), strings.Join(silent, "; "))
	}
	return ok("%s: an answer within 2 s", strings.Join(answer, ", "))
}

func checkConsul(ctx context.Context, h *environment) Result {
	client := consul.New(consul.Config{Address: h.ConsulAddr})
	defer func() { _ = client.Close() }() // it only drops idle connections
	leader, err := client.Leader(ctx)
	var denied error
	if err == nil && leader != "" {
		denied = client.CheckToken(ctx)
	}
	return judgeConsul(h.ConsulAddr != "", client.Address(), leader, err, denied)
}

// judgeConsul takes why there is no leader, and why the token is of no use.
func judgeConsul(configured bool, address, leader string, err, denied error) Result {
	switch {
	case denied != nil && configured:
		return broken(denied)
	case denied != nil:
		return warn(hint.Of(denied), "not configured; %v", denied)
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

// maxName is how many bytes of a container's name a result shows.
const maxName = 64
