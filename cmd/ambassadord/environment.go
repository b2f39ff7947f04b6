package main

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
	{"NOTIFY_SOCKET", "the service manager's socket, which is told when the daemon is ready and what it stores: sd_notify(3)"},
	{"LISTEN_FDS", "with `LISTEN_PID` and `LISTEN_FDNAMES`: the sockets that the service manager hands over, sd_listen_fds(3)"},
	{"HTTP_PROXY", "with `HTTPS_PROXY` and `NO_PROXY`: the proxy that the configured Consul agents, and they alone, are asked through"},
	{"GOGC", "how much garbage the Go runtime lets gather, in percent; the process that keeps connections sets its own where this is not set"},
}
