package main

import (
	"fmt"
	"strings"
)

// targetForm is one way to write a TARGET, for the help of run and docs/reference.md.
type targetForm struct {
	// scheme is the source that answers it; "" for a chain, which is made of others.
	scheme string
	// forms are how it is written, in the reference; help shows the first two at most.
	forms []string
	// means is what its endpoints are, in a few words.
	means string
	// more is what the reference says beside that, in Markdown; "" for nothing.
	more string
	// example parses to a query of scheme.
	example string
}

// targetForms are all of them. A source has its row here.
var targetForms = []targetForm{
	{"static", []string{"192.168.1.100:8080", "[2001:db8::7]:8080"}, "an address", "",
		"192.168.1.100:8080"},
	{"dns", []string{"redis.example.com:6379"}, "every A and AAAA record of a name", "asked again at their TTL; `/etc/hosts` comes first",
		"redis.example.com:6379"},
	{"static", []string{"a:6379,b:6379 3"}, "a list of these, with a weight where wanted", "all of the list are endpoints; without a weight an item has 1",
		"192.0.2.1:6379,192.0.2.2:6379 3"},
	{"srv", []string{"redis.service.consul"}, "SRV records", "targets, ports, priorities and weights",
		"redis.service.consul"},
	{"dns", []string{"dns://SERVER/NAME:PORT"}, "the addresses that this DNS server says", "SERVER is `IP`, `NAME`, or either with a port; without a port at the end of NAME its SRV records are meant",
		"dns://192.0.2.53/redis.example.com:6379"},
	{"srv", []string{"srv://SERVER/NAME", "srv://NAME"}, "the SRV records that this DNS server says, or the system's", "",
		"srv://192.0.2.53:8600/redis.service.consul"},
	{"docker", []string{"docker://NAME:PORT"}, "a container, or a service of Compose or Swarm, on this host", "[of the client's own project](targets.md#what-a-name-means) first, then on its networks, then on this host",
		"docker://redis:6379"},
	{"docker", []string{"docker://?label=K=V&port=P"}, "the containers with that label", "`label` may repeat: all must match",
		"docker://?label=app=redis&port=6379"},
	{"swarm", []string{"swarm://SERVICE:PORT"}, "the tasks of a Swarm service on this host", "",
		"swarm://shop_redis:6379"},
	{"consul-service", []string{"consul-service://NAME?tag=T&dc=D"}, "a Consul service's passing instances", "by blocking query; [more parameters](targets.md#consul-and-etcd)",
		"consul-service://redis?tag=primary&dc=dc2&near=_agent"},
	{"consul-query", []string{"consul-query://NAME?dc=D"}, "what a prepared query of Consul's finds", "asked every 5 s; [more parameters](targets.md#consul-and-etcd)",
		"consul-query://redis"},
	{"consul", []string{"consul://HOST:PORT/PATH"}, "a path in Consul's KV store", "the values below the path, else its own value, each a list `host:port [weight],…`; watched",
		"consul://127.0.0.1:8500/redis"},
	{"etcd", []string{"etcd://HOST:PORT/PATH"}, "a path in etcd", "the same in etcd v3, for keys with a leading slash and without; watched",
		"etcd://127.0.0.1:2379/redis"},
	{"file", []string{"file:///PATH"}, "the lines of a file, host:port [weight] each", "`#` begins a comment; watched",
		"file:///etc/ambassadord/redis.list"},
	{"", []string{"T1 | T2"}, "the first of them that has endpoints", "a [fallback chain](targets.md#fallback-chains) of any of these",
		"docker://redis:6379 | redis.service.consul"},
}

// targetFormsHelp are the forms as lines of a help text.
func targetFormsHelp() string {
	var b strings.Builder
	for _, f := range targetForms {
		fmt.Fprintf(&b, "  %-44s  %s\n", strings.Join(f.forms, ", "), f.means)
	}
	return b.String()
}

// environmentVariable is one of the daemon's own environment, for docs/reference.md. What containers
// declare in theirs is docs/options.md's.
type environmentVariable struct {
	name, means string
}

// environment is every variable that the program, or a library of it, reads on its behalf.
var environment = []environmentVariable{
	{"PORT", "where the command lines of the first ambassadord listen, and the port that mode link and its rules use: 10000 without it"},
	{"DOCKER_HOST", "the engine, where `--docker-host` does not say: `unix:///PATH`, `tcp://HOST:PORT`"},
	{"DOCKER_TLS_VERIFY", "not empty: speak TLS to the engine, with the certificates of `DOCKER_CERT_PATH`"},
	{"DOCKER_CERT_PATH", "the folder of `ca.pem`, `cert.pem` and `key.pem` for that: `~/.docker` without it"},
	{"CONSUL_HTTP_ADDR", "the Consul agent, where `--consul-addr` does not say"},
	{"CONSUL_HTTP_TOKEN", "the token that the configured agents, and they alone, are asked with"},
	{"CONSUL_HTTP_TOKEN_FILE", "a file with that token, read again when it changes"},
	{"CONSUL_HTTP_AUTH", "`USER:PASSWORD` for HTTP's basic authentication at the configured agents"},
	{"CONSUL_HTTP_SSL", "`true`: speak TLS to the agent, as `https://` in its address does"},
	{"CONSUL_HTTP_SSL_VERIFY", "`false`: take any certificate of the agent's"},
	{"CONSUL_CACERT", "a file of the authorities that an agent's certificate is checked with"},
	{"CONSUL_CAPATH", "a folder of such files"},
	{"CONSUL_CLIENT_CERT", "our certificate for the configured agents"},
	{"CONSUL_CLIENT_KEY", "its key"},
	{"CONSUL_TLS_SERVER_NAME", "the name that an agent's certificate is for, where that is not its address"},
	{"CONSUL_NAMESPACE", "the namespace that is asked where a target names none (Consul Enterprise)"},
	{"CONSUL_PARTITION", "the partition, likewise"},
	{"ETCDCTL_ENDPOINTS", "the etcd servers of `etcd:///PATH`, where `--etcd-endpoints` does not say"},
	{"ETCDCTL_USER", "`USER` or `USER:PASSWORD` for the configured servers, and them alone"},
	{"ETCDCTL_PASSWORD", "the password, where `ETCDCTL_USER` has none"},
	{"ETCDCTL_CACERT", "a file of the authorities that a server's certificate is checked with"},
	{"ETCDCTL_CERT", "our certificate for the configured servers"},
	{"ETCDCTL_KEY", "its key"},
	{"ETCDCTL_INSECURE_SKIP_TLS_VERIFY", "`true`: take any certificate of the servers'"},
	{"XDG_RUNTIME_DIR", "for others than root, the parent of the daemon's folder: see `--run-dir`"},
	{"NO_COLOR", "not empty: `status`, `connections` and `explain` show no colours on a terminal either"},
	{"TERM", "`dumb`: likewise"},
	{"COLUMNS", "how wide their lines may be, where that is not to be the terminal's width"},
	{"NOTIFY_SOCKET", "the service manager's socket, which is told when the daemon is ready and what it stores: sd_notify(3)"},
	{"LISTEN_FDS", "with `LISTEN_PID` and `LISTEN_FDNAMES`: the sockets that the service manager hands over, sd_listen_fds(3)"},
	{"HTTP_PROXY", "with `HTTPS_PROXY` and `NO_PROXY`: the proxy that the configured Consul agents, and they alone, are asked through"},
	{"GOGC", "how much garbage the Go runtime lets gather, in percent; the process that keeps connections sets its own where this is not set"},
}
