// Package config turns what a user wrote, flags, environment and a file, into one
// validated Config. Everything behind it may take the values as they are. Default makes one,
// ReadFile reads the file (file.go, its nodes node.go), Config.Validate checks it, and Config.Values lists
// it for people.
package config

import (
	"fmt"
	"log/slog"
	"net"
	"net/netip"
	"net/url"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/ambassadord/ambassadord/internal/binding"
	"github.com/ambassadord/ambassadord/internal/hint"
	"github.com/ambassadord/ambassadord/internal/option"
	"github.com/ambassadord/ambassadord/internal/suggest"
)

// Mode is a way in which containers' connections get to the daemon.
type Mode string

// The modes. Auto is Redirect on a host, and Link (with Redirect beside it where
// the privileges allow) in a container of its own.
const (
	Auto     Mode = "auto"
	Redirect Mode = "redirect"
	Listen   Mode = "listen"
	Host     Mode = "host"
	Link     Mode = "link"
)

// Modes lists every mode that --mode takes.
func Modes() []Mode { return []Mode{Auto, Redirect, Listen, Host, Link} }

func names(modes []Mode) []string {
	out := make([]string, len(modes))
	for i, m := range modes {
		out[i] = string(m)
	}
	return out
}

// DefaultPort is where the daemon listens when nothing says otherwise.
const DefaultPort = 10000

// The default addresses of mode host: one that no router forwards (RFC 3927), and
// a unique local one (RFC 4193) whose 40 bits spell "ambas".
var (
	hostAddr4 = netip.AddrFrom4([4]byte{169, 254, 77, 1})
	hostAddr6 = netip.AddrFrom16([16]byte{0xfd, 'a', 'm', 'b', 'a', 's', 15: 1})
)

// metadata is where clouds tell a machine about itself; nobody else may be there.
var metadata = netip.AddrFrom4([4]byte{169, 254, 169, 254})

// Listener is a port of ours with one fixed target.
type Listener struct {
	// Address is what to listen on, HOST:PORT; an empty host is every address.
	Address string
	// Target is the target as it was written.
	Target string
	// Origin says where it was written; "" is the command line.
	Origin string
	// Options are the listener's own.
	Options option.Layer
	// AcceptProxyFrom are those of whom a PROXY protocol header is expected.
	AcceptProxyFrom []netip.Prefix
}

// At names in err where l was written.
func (l Listener) At(err error) error {
	if l.Origin == "" || err == nil {
		return err
	}
	return fmt.Errorf("%s: %w", l.Origin, err)
}

// TargetOptions are the options of all ports that lead to a target.
type TargetOptions struct {
	// Target is the target as it was written.
	Target string
	// Origin says where.
	Origin  string
	Options option.Layer
}

// Config is all that the daemon is told.
type Config struct {
	// Modes is empty when only Listeners are wanted.
	Modes []Mode
	// Listeners each forward one port to one target.
	Listeners []Listener
	// Port is the listen port of mode link.
	Port uint16
	// RulesByOthers lets mode link run without the right to set its rules: somebody
	// else does, as --setup-iptables can.
	RulesByOthers bool
	// HostAddrs are the fixed addresses of mode host, at most one of each family.
	HostAddrs []netip.Addr
	// TrustSources believes source addresses that containers could have forged.
	TrustSources bool
	// DockerHost is the engine's endpoint; "" means DOCKER_HOST, else the usual
	// socket.
	DockerHost string
	// ConsulAddr is the agent that consul-service:// asks, or several, separated by
	// commas; "" means CONSUL_HTTP_ADDR, else 127.0.0.1:8500.
	ConsulAddr string
	// ConsulDomain is the DNS domain whose names are asked of a configured agent.
	ConsulDomain string
	// EtcdEndpoints are the cluster that etcd:///path asks; none means
	// ETCDCTL_ENDPOINTS, else 127.0.0.1:2379.
	EtcdEndpoints []string
	// Defaults are the options of every port, the lowest layer first.
	Defaults []option.Layer
	// Targets are the options of single targets.
	Targets []TargetOptions
	// Clients declare for containers that cannot be labelled.
	Clients []binding.Static
	// Policy is who may reach what.
	Policy Policy
	// Limits are what containers may choose of options.
	Limits option.Limited
	// MaxConnections is how many connections may be open; 0 is as many as the limit
	// of open files is good for.
	MaxConnections int
	// AcceptRate is how many new connections a second the daemon takes; 0 is no limit.
	AcceptRate int
	// ReclaimIdle is how long no byte has moved on a connection that may be reset when
	// others have no place and its client has more than its share; 0 resets none.
	ReclaimIdle time.Duration
	// MetricsSeries is how many pairs of client and target the metrics tell apart.
	MetricsSeries int
	// MetricsEndpoints has the metrics tell endpoints apart, too.
	MetricsEndpoints bool
	// ResolveTimeout bounds the wait for a target's first answer.
	ResolveTimeout time.Duration
	// MaxStale is how long a source may fail before its last answer no longer
	// counts; 0 is for ever.
	MaxStale time.Duration
	// DrainTimeout is how long live connections may go on after SIGTERM.
	DrainTimeout time.Duration
	// TakeOver starts as the successor of the daemon that runs, if one does.
	TakeOver bool
	// HandoverTimeout is how long live connections may go on after another daemon has
	// taken over; 0 is for as long as they take.
	HandoverTimeout time.Duration
	// Program is our version, for the other end of a handover.
	Program string
	// Rules is how rules get into the kernel: "auto", "iptables" or "nft"; "" is auto.
	Rules string
	// RepairInterval is how often the rules are looked after.
	RepairInterval time.Duration
	// RunDir is the folder of lock files and control sockets; "" is the usual one.
	RunDir string
	// RunDirShared says that whoever has that folder, in other containers too, may
	// speak to the daemon.
	RunDirShared bool
	// Admin is the admin interface.
	Admin Admin
	// KeepRules leaves the rules in place at exit.
	KeepRules bool
	// Keeper is the command of the process that carries live connections on when the
	// daemon dies; empty means that they die with it.
	Keeper []string
	// Preparer is the command of the process that prepares new network namespaces; the folders in
	// which they appear follow. Nil does without.
	Preparer []string
	// Sweeper is the command of the process that the keeper starts when the daemon is dead:
	// it removes the rules that were left for the keeper's connections.
	Sweeper []string
	// LogFormat is "text" or "json".
	LogFormat string
	// LogLevel is the least level that is logged.
	LogLevel slog.Level
	// AccessLog is where the line of each connection goes.
	AccessLog AccessLog
}

// Default is the Config of a daemon that was told nothing.
func Default() Config {
	return Config{
		Modes:          []Mode{Auto},
		Port:           DefaultPort,
		ConsulDomain:   "consul",
		HostAddrs:      []netip.Addr{hostAddr4, hostAddr6},
		ResolveTimeout: 5 * time.Second,
		DrainTimeout:   8 * time.Second,
		RepairInterval: 5 * time.Second,
		LogFormat:      "text",
		AccessLog:      AccessLog{To: AccessToLog, Sample: 1},
		MetricsSeries:  defaultSeries,
	}
}

const (
	// defaultSeries is good for a thousand containers of two targets each; a scrape of them takes
	// some tens of milliseconds.
	defaultSeries = 2000
	// mostSeries bounds what a scrape may cost.
	mostSeries = 100_000
)

// Validate says what is wrong with values that no parser has seen yet.
func (c *Config) Validate() error {
	for name, d := range map[string]time.Duration{
		"--resolve-timeout": c.ResolveTimeout, "--repair-interval": c.RepairInterval,
	} {
		if d <= 0 {
			return hint.Errorf("give a duration such as 5s", "%s must be more than 0", name)
		}
	}
	if c.DrainTimeout < 0 {
		return hint.Errorf("give a duration such as 8s, or 0 to wait for nothing", "--drain-timeout must not be negative")
	}
	if c.HandoverTimeout < 0 {
		return hint.Errorf("give a duration such as 1h, or 0 for as long as they take", "--handover-timeout must not be negative")
	}
	if c.MaxStale < 0 {
		return hint.Errorf("give a duration such as 1h, or 0 for ever", "--max-stale must not be negative")
	}
	if c.MetricsSeries < 1 || c.MetricsSeries > mostSeries {
		return hint.Errorf("give a number such as 2000", "--metrics-series must be from 1 to %d", mostSeries)
	}
	if c.ReclaimIdle < 0 {
		return hint.Errorf("give a duration such as 10m, or 0 to reset none", "--reclaim-idle must not be negative")
	}
	if err := c.ValidRules(); err != nil {
		return err
	}
	if c.LogFormat != "text" && c.LogFormat != "json" {
		return choice("--log-format", c.LogFormat, "text", "json")
	}
	if err := c.AccessLog.validate(); err != nil {
		return err
	}
	for name, n := range map[string]int{"--max-connections": c.MaxConnections, "--accept-rate": c.AcceptRate} {
		if n < 0 {
			return hint.Errorf("give a number, or 0 for none of your own", "%s must not be negative", name)
		}
	}
	if c.RunDir != "" && (!filepath.IsAbs(c.RunDir) || filepath.Clean(c.RunDir) == "/") {
		return hint.Errorf("give the whole path of a folder, such as /run/ambassadord", "--run-dir does not take %q", c.RunDir)
	}
	if err := c.Admin.validate(); err != nil {
		return err
	}
	if err := c.validServers(); err != nil {
		return err
	}
	seen := map[string]string{}
	for _, l := range c.Listeners {
		if other, ok := seen[l.Address]; ok && other != l.Target {
			return l.At(hint.Errorf("give each target a port of its own, or write one list a:6379,b:6379",
				"%s is asked to listen for %q and for %q", l.Address, other, l.Target))
		}
		if _, ok := seen[l.Address]; ok && l.Origin != "" {
			return l.At(hint.Errorf("keep one of the two", "%s is there already", l.Address))
		}
		seen[l.Address] = l.Target
	}
	return nil
}

// validServers says which server cannot be one, however it is asked.
func (c *Config) validServers() error {
	for flag, servers := range map[string][]string{
		"--consul-addr": strings.Split(c.ConsulAddr, ","), "--consul-domain": {c.ConsulDomain}, "--etcd-endpoints": c.EtcdEndpoints,
	} {
		for _, text := range servers {
			text = strings.TrimSpace(text)
			_, err := url.Parse(text)
			if strings.ContainsFunc(text, func(r rune) bool { return r <= ' ' }) || err != nil && strings.Contains(text, "://") {
				fix := "give HOST:PORT, or a URL such as http://127.0.0.1:8500"
				if flag == "--consul-domain" {
					fix = "give a domain, such as consul"
				}
				return hint.Errorf(fix, "%s does not take %q", flag, text)
			}
		}
	}
	return nil
}

// ValidRules says what is wrong with Rules.
func (c *Config) ValidRules() error {
	if ways := []string{"auto", "iptables", "nft"}; c.Rules != "" && !slices.Contains(ways, c.Rules) {
		return choice("--rules", c.Rules, ways...)
	}
	return nil
}

// ParseModes reads a list of modes.
func ParseModes(words []string) ([]Mode, error) {
	var modes []Mode
	for _, w := range words {
		m := Mode(strings.TrimSpace(w))
		if !slices.Contains(Modes(), m) {
			return nil, choice("--mode", w, names(Modes())...)
		}
		if !slices.Contains(modes, m) {
			modes = append(modes, m)
		}
	}
	if len(modes) > 1 && slices.Contains(modes, Auto) {
		return nil, hint.Errorf("leave auto out, or give it alone", "--mode auto chooses the modes itself")
	}
	if slices.Contains(modes, Redirect) && slices.Contains(modes, Listen) {
		return nil, hint.Errorf("give one of them", "modes redirect and listen serve the same local addresses")
	}
	return modes, nil
}

// ParseHostAddrs reads the addresses of mode host.
func ParseHostAddrs(texts []string) ([]netip.Addr, error) {
	const fix = "give one IPv4 and one IPv6 address that nothing on your network has, for example 169.254.77.1 and fd61:6d62:6173::1"
	var addrs []netip.Addr
	for _, text := range texts {
		addr, err := netip.ParseAddr(strings.TrimSpace(text))
		if err != nil {
			return nil, hint.Errorf(fix, "--host-addr: %q is no IP address", text)
		}
		addr = addr.Unmap()
		switch {
		case addr.IsLoopback():
			return nil, hint.Errorf(fix, "--host-addr %s is each container's own", addr)
		case addr == metadata:
			return nil, hint.Errorf(fix, "--host-addr %s is where clouds serve their metadata", addr)
		case addr.IsUnspecified(), addr.IsMulticast(), addr.Zone() != "", addr.Is6() && addr.IsLinkLocalUnicast(), addr == netip.AddrFrom4([4]byte{255, 255, 255, 255}):
			return nil, hint.Errorf(fix, "--host-addr %s cannot be reached from a bridge", addr)
		case slices.ContainsFunc(addrs, func(a netip.Addr) bool { return a.Is4() == addr.Is4() }):
			return nil, hint.Errorf(fix, "--host-addr is given twice for one address family")
		}
		addrs = append(addrs, addr)
	}
	return addrs, nil
}

// choice is the error for a word that is none of a few.
func choice(flag, got string, words ...string) error {
	fix := "give one of " + strings.Join(words, ", ")
	if s := suggest.Closest(got, words); s != "" {
		fix = fmt.Sprintf("did you mean %s?", s)
	}
	return hint.Errorf(fix, "%s does not know %q", flag, got)
}

// ParsePort reads a port from 1 to 65535.
func ParsePort(text string) (uint16, error) {
	n, err := strconv.ParseUint(text, 10, 16)
	if err != nil || n == 0 {
		return 0, hint.Errorf("a port is a number from 1 to 65535", "%q is not a port", text)
	}
	return uint16(n), nil
}

// ParseAddress reads an address to listen on: PORT, :PORT or IP:PORT.
func ParseAddress(text string) (string, error) {
	const fix = "give PORT, :PORT or IP:PORT, for example 127.0.0.1:6379"
	if port, err := ParsePort(text); err == nil {
		return fmt.Sprintf(":%d", port), nil
	}
	host, portText, err := net.SplitHostPort(text)
	if err != nil {
		return "", hint.Errorf(fix, "%q is no address to listen on", text)
	}
	if _, err := ParsePort(portText); err != nil {
		return "", fmt.Errorf("listen on %q: %w", text, err)
	}
	if host != "" {
		if _, err := netip.ParseAddr(host); err != nil {
			return "", hint.Errorf(fix, "%q in %q is not an IP address", host, text)
		}
	}
	return text, nil
}

// CutListener splits LISTEN_PORT=TARGET (or ADDRESS=TARGET); ok is false when
// arg is a target alone. A target may hold a '=' of its own, so the left side
// decides.
func CutListener(arg string) (address, target string, ok bool) {
	left, right, found := strings.Cut(arg, "=")
	if !found {
		return "", "", false
	}
	address, err := ParseAddress(left)
	if err != nil {
		return "", "", false
	}
	return address, right, true
}
