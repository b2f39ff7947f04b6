package main

import (
	"fmt"
	"strings"
	"time"

	"github.com/spf13/pflag"

	"github.com/ambassadord/ambassadord/internal/config"
	"github.com/ambassadord/ambassadord/internal/hint"
	"github.com/ambassadord/ambassadord/netrules/filter"
)

// runFlags are the flags of a command that runs the daemon or looks at what it
// would do.
type runFlags struct {
	environ []string

	modes          []string
	hostAddrs      []string
	trustSources   bool
	listen         string
	port           uint16
	portErr        error
	dockerHost     string
	consulAddrs    []string
	consulDomain   string
	etcdEndpoints  []string
	resolveTimeout time.Duration
	maxStale       time.Duration
	drainTimeout   time.Duration
	repairInterval time.Duration
	keepRules      bool
	rules          string
	logFormat      string
	logLevel       string
	accessLog      config.AccessLog

	metricsSeries    int
	metricsEndpoints bool

	keepConnections bool
	options         optionFlags
	policy          policyFlags
	configFile      string
	takeOver        bool
	runDir          string
	runDirShared    bool
	admin           config.Admin
	handoverTimeout time.Duration
}

func newRunFlags(environ []string) *runFlags {
	f := &runFlags{environ: environ, port: config.DefaultPort, policy: policyFlags{origins: map[string]string{}}}
	if text := f.lookup("PORT"); text != "" {
		f.port, f.portErr = config.ParsePort(text)
	}
	return f
}

// lookup reads the environment that the program was given.
func (f *runFlags) lookup(name string) string {
	for _, item := range f.environ {
		if value, ok := strings.CutPrefix(item, name+"="); ok {
			return value
		}
	}
	return ""
}

func (f *runFlags) register(set *pflag.FlagSet) {
	d := config.Default()
	f.registerMode(set)
	f.registerHost(set)
	set.StringVar(&f.listen, "listen", "", "where to listen for the one TARGET that is given: PORT, :PORT or IP:PORT")
	f.registerSources(set)
	f.registerMaxStale(set)
	f.options.register(set)
	f.policy.register(set)
	f.registerDrain(set)
	f.registerRules(set)
	set.DurationVar(&f.repairInterval, "repair-interval", d.RepairInterval, "how often the rules are looked after, and repaired, where the kernel does not tell of changes (legacy iptables)")
	set.BoolVar(&f.keepRules, "keep-rules", false, "leave the rules in place at exit")
	set.BoolVar(&f.keepConnections, "keep-connections", true, "let a second process carry live connections on when the daemon is killed")
	set.BoolVar(&f.takeOver, "takeover", false, "take over from the daemon that runs, if one does: its sockets and rules, while it finishes its connections")
	set.DurationVar(&f.handoverTimeout, "handover-timeout", d.HandoverTimeout, "how long live connections may go on after another daemon has taken over (0: as long as they take)")
	registerRunDir(set, &f.runDir)
	set.BoolVar(&f.runDirShared, "run-dir-shared", false, "let processes of other mount namespaces that have --run-dir, such as containers it is mounted into, reload the daemon and take over from it")
	f.registerAdmin(set)
	f.registerLogging(set)
	set.IntVar(&f.metricsSeries, "metrics-series", d.MetricsSeries, "how many pairs of client and target the metrics tell apart; others are summed up as _other")
	set.BoolVar(&f.metricsEndpoints, "metrics-endpoints", false, "have the metrics tell the endpoints of a target apart, too")
}

// registerAdmin registers where the admin interface is served, and who may ask it.
func (f *runFlags) registerAdmin(set *pflag.FlagSet) {
	registerAdminPath(set, &f.admin.Path)
	set.StringVar(&f.admin.Group, "admin-group", "", "the group, by name or number, that may dial --admin beside the daemon's user (default the daemon's own)")
	set.StringVar(&f.admin.Listen, "admin-listen", "", "serve the admin interface by TCP, too: PORT, which is loopback's, or IP:PORT; with --admin-token-file or --admin-client-ca")
	set.StringVar(&f.admin.TokenFile, "admin-token-file", "", "a file with the bearer token that clients of --admin-listen show; read again when it is replaced")
	set.StringVar(&f.admin.Cert, "admin-cert", "", "the certificate, in PEM, with which --admin-listen speaks TLS; read again when it is replaced, as its key is")
	set.StringVar(&f.admin.Key, "admin-key", "", "its key, in PEM")
	set.StringVar(&f.admin.ClientCA, "admin-client-ca", "", "the authorities, in PEM, of the certificates that clients of --admin-listen show")
}

// registerAdminPath registers the socket that the daemon and the commands that ask it have in common.
func registerAdminPath(set *pflag.FlagSet, path *string) {
	set.StringVar(path, "admin", config.AdminAuto, "the Unix socket of the admin interface; nothing for none; auto is /run/ambassadord.sock, for others than root $XDG_RUNTIME_DIR/ambassadord.sock")
}

// registerRunDir registers the folder that the daemon and the commands that look for it
// have in common.
func registerRunDir(set *pflag.FlagSet, folder *string) {
	set.StringVar(folder, "run-dir", "", "the folder of the daemon's lock and control sockets (default /run/ambassadord, for others than root $XDG_RUNTIME_DIR/ambassadord)")
}

func (f *runFlags) registerDrain(set *pflag.FlagSet) {
	set.DurationVar(&f.drainTimeout, "drain-timeout", config.Default().DrainTimeout, "how long live connections may go on after SIGTERM; a second one cuts that short")
}

func (f *runFlags) registerLogging(set *pflag.FlagSet) {
	set.StringVar(&f.logFormat, "log-format", config.Default().LogFormat, "text or json")
	set.StringVar(&f.logLevel, "log-level", "info", "debug, info, warn or error")
	d := config.Default().AccessLog
	set.StringVar(&f.accessLog.To, "access-log", d.To, "where the line of each connection goes: log, which is the daemon's own, off, or the PATH of a file that is appended to; SIGUSR1 opens it again")
	set.StringVar(&f.accessLog.Format, "access-log-format", d.Format, "of a file of --access-log: text or json (default that of --log-format)")
	set.IntVar(&f.accessLog.Sample, "access-log-sample", d.Sample, "one line for so many connections that ended well, chosen at random (0: none); each that failed has its line")
}

// logging reads what registerLogging has registered.
func (f *runFlags) logging(c *config.Config) error {
	c.LogFormat, c.AccessLog = f.logFormat, f.accessLog
	if err := c.LogLevel.UnmarshalText([]byte(f.logLevel)); err != nil {
		return usage(hint.Errorf("give one of debug, info, warn, error", "--log-level does not know %q", f.logLevel))
	}
	return nil
}

// registerHost registers what modes host and link add.
func (f *runFlags) registerHost(set *pflag.FlagSet) {
	for _, a := range config.Default().HostAddrs {
		f.hostAddrs = append(f.hostAddrs, a.String())
	}
	set.StringSliceVar(&f.hostAddrs, "host-addr", f.hostAddrs, "mode host: the address that containers dial; give it once for each address family")
	set.BoolVar(&f.trustSources, "trust-source-addresses", false, "modes host and link: believe source addresses that containers could have forged")
}

func (f *runFlags) registerMode(set *pflag.FlagSet) {
	set.StringSliceVar(&f.modes, "mode", []string{string(config.Auto)},
		"how containers reach the daemon: redirect, listen, host, link, or auto to choose")
}

// registerRules registers how rules get into the kernel.
func (f *runFlags) registerRules(set *pflag.FlagSet) {
	set.StringVar(&f.rules, "rules", string(filter.Auto),
		"how rules get into the kernel: iptables, nft (by netlink, without any program), or auto: nft where the engine uses nftables or there is no iptables")
}

// registerSources registers the flags that say where sources are asked.
func (f *runFlags) registerSources(set *pflag.FlagSet) {
	f.registerEndpoints(set)
	set.StringVar(&f.consulDomain, "consul-domain", config.Default().ConsulDomain, "Consul's DNS domain: with an agent configured, its names are asked of that")
	set.DurationVar(&f.resolveTimeout, "resolve-timeout", config.Default().ResolveTimeout, "how long to wait for a target's first answer")
}

// registerMaxStale registers what only those need who watch for long.
func (f *runFlags) registerMaxStale(set *pflag.FlagSet) {
	set.DurationVar(&f.maxStale, "max-stale", config.Default().MaxStale,
		"how long a target's last answer counts while its source fails (0: for ever)")
}

// registerEndpoints registers the addresses of those who are asked.
func (f *runFlags) registerEndpoints(set *pflag.FlagSet) {
	set.StringVar(&f.dockerHost, "docker-host", "", "the engine's endpoint (default $DOCKER_HOST, else unix:///var/run/docker.sock); Podman's, run by root, is unix:///run/podman/podman.sock")
	set.StringSliceVar(&f.consulAddrs, "consul-addr", nil, "the Consul agent, or several in order of preference (default $CONSUL_HTTP_ADDR, else 127.0.0.1:8500)")
	set.StringSliceVar(&f.etcdEndpoints, "etcd-endpoints", nil, "the etcd servers of etcd:///PATH (default $ETCDCTL_ENDPOINTS, else 127.0.0.1:2379)")
}

// config makes the Config of the flags that set holds and of args,
// LISTEN_PORT=TARGET each, or one TARGET with --listen.
func (f *runFlags) config(set *pflag.FlagSet, args []string) (config.Config, error) {
	c := config.Default()
	if f.portErr != nil {
		return c, usage(fmt.Errorf("PORT in the environment: %w", f.portErr))
	}
	c.Port, c.RunDir = f.port, f.runDir
	c.DockerHost, c.ConsulAddr = f.dockerHost, strings.Join(f.consulAddrs, ",")
	c.ResolveTimeout, c.MaxStale = f.resolveTimeout, f.maxStale
	c.ConsulDomain, c.EtcdEndpoints = f.consulDomain, f.etcdEndpoints
	if set.Lookup("mode") != nil {
		c.DrainTimeout = f.drainTimeout
		if err := f.options.apply(set, &c); err != nil {
			return c, usage(err)
		}
		if set.Lookup("allow-loopback") != nil {
			if err := f.policy.apply(&c); err != nil {
				return c, usage(err)
			}
		}
		c.RepairInterval = f.repairInterval
		c.KeepRules = f.keepRules
		c.Rules = f.rules
		c.RunDirShared = f.runDirShared
		c.Admin = f.admin
		var err error
		if c.Admin.Listen, err = config.ParseAdminListen(f.admin.Listen); err != nil {
			return c, usage(err)
		}
		c.TakeOver, c.HandoverTimeout, c.Program = f.takeOver, f.handoverTimeout, versionText()
		if err := f.logging(&c); err != nil {
			return c, err
		}
		if f.keepConnections {
			c.Keeper = f.keeperArgs(c)
		}
		c.Preparer = preparerArgs()
		c.TrustSources = f.trustSources
		if set.Lookup("host-addr") != nil {
			if c.HostAddrs, err = config.ParseHostAddrs(f.hostAddrs); err != nil {
				return c, usage(err)
			}
		}
		modes, err := config.ParseModes(f.modes)
		if err != nil {
			return c, usage(err)
		}
		c.Modes = modes
		if set.Lookup("metrics-series") != nil {
			c.MetricsSeries, c.MetricsEndpoints = f.metricsSeries, f.metricsEndpoints
		}
		c.RulesByOthers = !set.Changed("mode") // what nobody asked for by name need not work
		if len(args) > 0 && !set.Changed("mode") {
			c.Modes = nil
		}
	}
	for _, arg := range args {
		l, err := f.listener(arg, len(args))
		if err != nil {
			return c, usage(err)
		}
		l.AcceptProxyFrom = f.options.proxies
		c.Listeners = append(c.Listeners, l)
	}
	return c, usage(c.Validate())
}

func (f *runFlags) listener(arg string, count int) (config.Listener, error) {
	address, target, ok := config.CutListener(arg)
	switch {
	case ok && f.listen != "":
		return config.Listener{}, hint.Errorf("leave --listen out", "%q says already where to listen", arg)
	case ok:
		return config.Listener{Address: address, Target: target}, nil
	case f.listen == "":
		return config.Listener{}, hint.Errorf("write LISTEN_PORT=TARGET, for example 6379="+arg, "%q does not say where to listen", arg)
	case count > 1:
		return config.Listener{}, hint.Errorf("write LISTEN_PORT=TARGET for each", "--listen goes with one TARGET, not %d", count)
	}
	address, err := config.ParseAddress(f.listen)
	return config.Listener{Address: address, Target: arg}, err
}
