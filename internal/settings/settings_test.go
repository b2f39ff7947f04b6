package settings

import (
	"net/netip"
	"slices"
	"testing"

	"github.com/ambassadord/ambassadord/internal/config"
	"github.com/ambassadord/ambassadord/internal/policy"
)

// TestHostAddrs knows this machine's, and no others.
func TestHostAddrs(t *testing.T) {
	var h HostAddrs
	if !h.Has(netip.MustParseAddr("127.0.0.1")) || h.Has(netip.MustParseAddr("192.0.2.1")) {
		t.Error("127.0.0.1 is this host's, and 192.0.2.1 nobody's")
	}
}

// TestPolicyKnowsOurSockets: those of the listeners, of mode link and of the engine.
func TestPolicyKnowsOurSockets(t *testing.T) {
	cfg := config.Default()
	cfg.Listeners = []config.Listener{{Address: ":6379"}, {Address: "127.0.0.1:5432"}}
	cfg.DockerHost, cfg.Policy.AllowLoopback = "tcp://127.0.0.1:4243", true
	cfg.Admin.Listen = "127.0.0.1:9100"
	for _, mode := range []config.Mode{config.Redirect, config.Link} {
		s := policyOf(cfg, []config.Mode{mode}, nil, nil).Scope(policy.Client{Container: "web"}, policy.Target{})
		for port, denied := range map[uint16]bool{6379: true, 5432: true, 4243: true, 9100: true, 2375: true, 80: false, cfg.Port: mode == config.Link} {
			if v := s.Check(netip.AddrPortFrom(netip.MustParseAddr("127.0.0.1"), port), false); v.Denied() != denied {
				t.Errorf("mode %s, port %d: %s; want it denied: %t", mode, port, v, denied)
			}
		}
	}
}

// TestKeepStartedKnowsTheConfig: every setting of the daemon is either told to need a
// restart or is read where it is used, from the current settings.
func TestKeepStartedKnowsTheConfig(t *testing.T) {
	started := config.Default()
	cfg := config.Config{
		Modes: []config.Mode{config.Link}, Port: 1, RulesByOthers: true, TrustSources: true, DockerHost: "x", ConsulAddr: "x",
		ConsulDomain: "x", EtcdEndpoints: []string{"x"}, ResolveTimeout: 1, MaxStale: 1, Keeper: []string{"x"}, LogFormat: "json",
		DrainTimeout: 1, RepairInterval: 1, KeepRules: true, MaxConnections: 1, AcceptRate: 1, ReclaimIdle: 1, MetricsSeries: 1, MetricsEndpoints: true,
		Admin: config.Admin{Path: "x", Group: "x", Listen: "x", TokenFile: "x", Cert: "x", Key: "x", ClientCA: "x"},
	}
	differed := KeepStarted(&cfg, started)
	want := []string{"admin", "admin-cert", "admin-client-ca", "admin-group", "admin-key", "admin-listen", "admin-token-file", "consul-addr", "consul-domain", "docker-host", "etcd-endpoints", "host-addr", "keep-connections", "max-connections", "max-stale", "metrics-endpoints", "metrics-series", "mode", "resolve-timeout", "trust-source-addresses"}
	if !slices.Equal(differed, want) {
		t.Errorf("differed: %v\nwant %v", differed, want)
	}
	if cfg.DrainTimeout != 1 || cfg.RepairInterval != 1 || !cfg.KeepRules || cfg.AcceptRate != 1 || cfg.ReclaimIdle != 1 || cfg.LogFormat != "json" {
		t.Errorf("%+v: what a reload changes was put back", cfg)
	}
	if again := KeepStarted(&cfg, started); len(again) > 0 {
		t.Errorf("%v still differ", again)
	}
}
