package settings

import (
	"reflect"
	"slices"

	"github.com/ambassadord/ambassadord/internal/config"
)

// needRestart are those that only a restart changes, by their flags.
var needRestart = []struct {
	name  string
	value func(*config.Config) any // a pointer
}{
	{"mode", func(c *config.Config) any { return &c.Modes }},
	{"host-addr", func(c *config.Config) any { return &c.HostAddrs }},
	{"trust-source-addresses", func(c *config.Config) any { return &c.TrustSources }},
	{"docker-host", func(c *config.Config) any { return &c.DockerHost }},
	{"consul-addr", func(c *config.Config) any { return &c.ConsulAddr }},
	{"consul-domain", func(c *config.Config) any { return &c.ConsulDomain }},
	{"etcd-endpoints", func(c *config.Config) any { return &c.EtcdEndpoints }},
	{"max-connections", func(c *config.Config) any { return &c.MaxConnections }},
	{"resolve-timeout", func(c *config.Config) any { return &c.ResolveTimeout }},
	{"metrics-endpoints", func(c *config.Config) any { return &c.MetricsEndpoints }},
	{"metrics-series", func(c *config.Config) any { return &c.MetricsSeries }},
	{"rules", func(c *config.Config) any { return &c.Rules }},
	{"run-dir", func(c *config.Config) any { return &c.RunDir }},
	{"run-dir-shared", func(c *config.Config) any { return &c.RunDirShared }},
	{"admin", func(c *config.Config) any { return &c.Admin.Path }},
	{"admin-group", func(c *config.Config) any { return &c.Admin.Group }},
	{"admin-listen", func(c *config.Config) any { return &c.Admin.Listen }},
	{"admin-token-file", func(c *config.Config) any { return &c.Admin.TokenFile }},
	{"admin-cert", func(c *config.Config) any { return &c.Admin.Cert }},
	{"admin-key", func(c *config.Config) any { return &c.Admin.Key }},
	{"admin-client-ca", func(c *config.Config) any { return &c.Admin.ClientCA }},
	{"max-stale", func(c *config.Config) any { return &c.MaxStale }},
}

// KeepStarted gives cfg what started has of those settings, and names the ones that
// differed.
func KeepStarted(cfg *config.Config, started config.Config) (differed []string) {
	for _, s := range needRestart {
		to, from := reflect.ValueOf(s.value(cfg)).Elem(), reflect.ValueOf(s.value(&started)).Elem()
		if !reflect.DeepEqual(to.Interface(), from.Interface()) {
			differed = append(differed, s.name)
		}
		to.Set(from)
	}
	if (len(cfg.Keeper) > 0) != (len(started.Keeper) > 0) {
		differed = append(differed, "keep-connections")
	}
	cfg.Keeper, cfg.RulesByOthers, cfg.Port = started.Keeper, started.RulesByOthers, started.Port
	slices.Sort(differed)
	return differed
}
