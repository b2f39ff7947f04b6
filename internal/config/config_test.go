package config

import (
	"slices"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/ambassadord/ambassadord/internal/hint"
)

func TestLinkListeners(t *testing.T) {
	got := LinkListeners([]string{
		"REDIS_PORT_6379_TCP=tcp://172.17.0.5:6379",
		"REDIS_PORT=tcp://172.17.0.5:6379",
		"REDIS_PORT_6379_TCP_ADDR=172.17.0.5",
		"REDIS2_PORT_6379_TCP=tcp://172.17.0.6:6379",
		"HTTP_PORT_8080_TCP=tcp://[fd00::5]:8080",
		"DNS_PORT_53_UDP=udp://172.17.0.7:53",
		"PATH=/bin",
	})
	want := []Listener{
		{Address: ":6379", Target: "172.17.0.5:6379,172.17.0.6:6379"},
		{Address: ":8080", Target: "[fd00::5]:8080"},
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("(-want +got):\n%s", diff)
	}
}

func TestListenersOfBothKinds(t *testing.T) {
	if names := LinkVariables([]string{"MY_DB_PORT_5432_TCP=tcp://172.17.0.5:5432", "OTHER=x"}); len(names) != 1 || !names[LinkVariable("my-db")] {
		t.Errorf("the links with variables are %v; want my-db's", names)
	}
	got := MergeListeners([]Listener{{Address: ":80", Target: "172.17.0.5:80"}},
		[]Listener{{Address: ":6379", Target: "redis:6379"}, {Address: ":80", Target: "web:80"}})
	want := []Listener{{Address: ":6379", Target: "redis:6379"}, {Address: ":80", Target: "172.17.0.5:80,web:80"}}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("(-want +got):\n%s", diff)
	}
}

func TestAliasListeners(t *testing.T) {
	got := AliasListeners([]Alias{{"b", 6379}, {"a", 6379}, {"b", 6379}, {"web", 80}})
	want := []Listener{{Address: ":6379", Target: "a:6379,b:6379"}, {Address: ":80", Target: "web:80"}}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("(-want +got):\n%s", diff)
	}
}

func TestCutListener(t *testing.T) {
	for arg, want := range map[string][2]string{
		"6379=redis:6379":                  {":6379", "redis:6379"},
		":80=web":                          {":80", "web"},
		"127.0.0.1:80=docker://?label=a=b": {"127.0.0.1:80", "docker://?label=a=b"},
		"[::1]:80=web:80":                  {"[::1]:80", "web:80"},
		"docker://?label=a=b&port=1":       {},
		"redis:6379":                       {},
		"0=web:80":                         {},
		"consul-service://redis?tag=a":     {},
		"example.com:80=web:80":            {},
	} {
		address, target, ok := CutListener(arg)
		if ok != (want[0] != "") || address != want[0] || target != want[1] {
			t.Errorf("CutListener(%q) = %q, %q, %t; want %q", arg, address, target, ok, want)
		}
	}
}

func TestParseModes(t *testing.T) {
	if got, err := ParseModes([]string{"redirect", "link", "redirect"}); err != nil || len(got) != 2 {
		t.Errorf("ParseModes = %v, %v; want both once", got, err)
	}
	for word, want := range map[string]string{"redirct": "did you mean redirect?", "tproxy": "give one of auto, redirect, listen, host, link"} {
		if _, err := ParseModes([]string{word}); hint.Of(err) != want {
			t.Errorf("ParseModes(%q): %v with hint %q; want %q", word, err, hint.Of(err), want)
		}
	}
	if _, err := ParseModes([]string{"auto", "link"}); err == nil {
		t.Error("auto beside another mode must be refused")
	}
	if _, err := ParseModes([]string{"listen", "redirect"}); err == nil {
		t.Error("listen beside redirect must be refused")
	}
}

func TestParseHostAddrs(t *testing.T) {
	var defaults []string
	for _, a := range Default().HostAddrs {
		defaults = append(defaults, a.String())
	}
	if got, err := ParseHostAddrs(defaults); err != nil || !slices.Equal(got, Default().HostAddrs) {
		t.Errorf("the defaults %v: %v, %v", defaults, got, err)
	}
	if got, err := ParseHostAddrs([]string{" ::ffff:10.1.2.3"}); err != nil || got[0].String() != "10.1.2.3" {
		t.Errorf("one address: %v, %v", got, err)
	}
	for _, bad := range [][]string{
		{""}, {"backends"}, {"10.1.2.0/24"}, {"127.0.0.1"}, {"::1"}, {"0.0.0.0"}, {"::"}, {"224.0.0.1"}, {"255.255.255.255"},
		{"fe80::1"}, {"fd00::1%eth0"}, {"169.254.169.254"}, {"10.1.2.3", "10.1.2.4"}, {"fd00::1", "fd00::1"},
	} {
		if got, err := ParseHostAddrs(bad); err == nil || hint.Of(err) == "" {
			t.Errorf("ParseHostAddrs(%q) = %v, %v; want an error with a hint", bad, got, err)
		}
	}
}

func TestValidate(t *testing.T) {
	c := Default()
	if err := c.Validate(); err != nil {
		t.Errorf("the defaults: %v", err)
	}
	for name, spoil := range map[string]func(*Config){
		"max connections -1": func(c *Config) { c.MaxConnections = -1 },
		"accept rate -1":     func(c *Config) { c.AcceptRate = -1 },
		"resolve timeout -1": func(c *Config) { c.ResolveTimeout = -1 },
		"repair interval 0":  func(c *Config) { c.RepairInterval = 0 },
		"reclaim idle -1":    func(c *Config) { c.ReclaimIdle = -1 },
		"drain timeout -1":   func(c *Config) { c.DrainTimeout = -1 },
		"max stale -1":       func(c *Config) { c.MaxStale = -1 },
		"log format":         func(c *Config) { c.LogFormat = "jsn" },
		"one port twice": func(c *Config) {
			c.Listeners = []Listener{{Address: ":1", Target: "a:1"}, {Address: ":1", Target: "b:1"}}
		},
	} {
		c := Default()
		spoil(&c)
		if err := c.Validate(); err == nil || hint.Of(err) == "" {
			t.Errorf("%s: %v; want an error with a hint", name, err)
		}
	}
}
