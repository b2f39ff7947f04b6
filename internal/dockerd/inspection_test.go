package dockerd

import (
	"encoding/json"
	"net/netip"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
)

var compareAddrs = cmp.Options{
	cmp.Comparer(func(a, b netip.Addr) bool { return a == b }),
	cmp.Comparer(func(a, b netip.AddrPort) bool { return a == b }),
}

// TestHealthIsWhatProbesHaveShown: the engine's word unhealthy is not enough.
func TestHealthIsWhatProbesHaveShown(t *testing.T) {
	const passed, failed = `{"ExitCode": 0}`, `{"ExitCode": 1}`
	for _, test := range []struct {
		name, health, config string
		state                string // beside the health; running without
		want                 string
		unsure               bool
	}{
		{name: "no check", health: `null`},
		{name: "none", health: `{"Status": "none"}`},
		{name: "it passes", health: `{"Status": "healthy", "Log": [` + passed + `]}`, want: "healthy"},
		{name: "it fails", health: `{"Status": "unhealthy", "FailingStreak": 3, "Log": [` + failed + `]}`, want: "unhealthy"},
		{name: "it failed, and was paused", health: `{"Status": "unhealthy", "FailingStreak": 4, "Log": [` + passed + `,` + failed + `]}`, want: "unhealthy"},
		{name: "it passed, and was paused", health: `{"Status": "unhealthy", "FailingStreak": 0, "Log": [` + failed + `,` + passed + `]}`, want: "healthy", unsure: true},
		{name: "it was paused before the first", health: `{"Status": "unhealthy"}`, want: "starting", unsure: true},
		{name: "it failed once of three times", health: `{"Status": "unhealthy", "FailingStreak": 1, "Log": [` + passed + `,` + failed + `]}`, want: "healthy", unsure: true},
		{name: "it failed once, which is enough", health: `{"Status": "unhealthy", "FailingStreak": 1, "Log": [` + failed + `]}`, config: `{"Healthcheck": {"Retries": 1}}`, want: "unhealthy"},
		{name: "it has stopped, and changes no more", state: `"Running": false`, health: `{"Status": "unhealthy", "Log": [` + passed + `]}`, want: "healthy"},
		{name: "it is paused, and changes no more", state: `"Running": true, "Paused": true`, health: `{"Status": "unhealthy", "Log": [` + passed + `]}`, want: "healthy"},
		{name: "how often is not known", health: `{"Status": "unhealthy", "FailingStreak": 1}`, config: `{}`, want: "unhealthy"},
	} {
		t.Run(test.name, func(t *testing.T) {
			if test.config == "" {
				test.config = `{"Healthcheck": {}}`
			}
			if test.state == "" {
				test.state = `"Running": true`
			}
			var in inspection
			if err := json.Unmarshal([]byte(`{"State": {`+test.state+`, "Health": `+test.health+`}, "Config": `+test.config+`}`), &in); err != nil {
				t.Fatal(err)
			}
			if c := in.container(); c.Health != test.want || c.HealthUnsure != test.unsure {
				t.Errorf("%q, unsure %t; want %q, %t", c.Health, c.HealthUnsure, test.want, test.unsure)
			}
		})
	}
}

func TestInspection(t *testing.T) {
	tests := []struct {
		name, answer string
		want         Container
	}{
		{
			name: "user network",
			answer: `{
				"Id": "0123456789abcdef", "Name": "/web", "Image": "sha256:1",
				"State": {"Running": true, "Pid": 42, "StartedAt": "2024-05-06T07:08:09Z", "Health": {"Status": "starting"}},
				"Config": {"Hostname": "h", "Image": "app:1", "Labels": {"a": "b"}, "Env": ["A=1", "B"],
					"ExposedPorts": {"80/tcp": {}, "53/udp": {}, "8080": {}, "9-10/tcp": {}, "22/tcp": {}}},
				"HostConfig": {"NetworkMode": "back", "Links": null},
				"NetworkSettings": {"SandboxKey": "/var/run/docker/netns/1", "IPAddress": "", "Networks": {
					"front": {"NetworkID": "n2", "IPAddress": "172.19.0.2", "GlobalIPv6Address": "fd00::2"},
					"back": {"NetworkID": "n1", "IPAddress": "172.18.0.2", "Aliases": ["web", "x"], "Links": ["pg:db", "redis"]}}}
			}`,
			want: Container{
				ID: "0123456789abcdef", Name: "web", Hostname: "h", Image: "app:1", ImageID: "sha256:1",
				Labels: map[string]string{"a": "b"}, Env: []string{"A=1", "B"},
				Running: true, Health: "starting", PID: 42, SandboxKey: "/var/run/docker/netns/1", NetworkMode: "back",
				Networks: []Network{
					{
						Name: "back", ID: "n1", IPv4: netip.MustParseAddr("172.18.0.2"), Aliases: []string{"web", "x"},
						Links: []Link{{"pg", "db"}, {"redis", "redis"}},
					},
					{Name: "front", ID: "n2", IPv4: netip.MustParseAddr("172.19.0.2"), IPv6: netip.MustParseAddr("fd00::2")},
				},
				ExposedPorts: []uint16{22, 80, 8080},
				NetRaw:       true,
				StartedAt:    time.Date(2024, 5, 6, 7, 8, 9, 0, time.UTC),
			},
		},
		{
			name: "published ports and a stop signal of its own",
			answer: `{"Id": "1", "Name": "/a", "State": {"Running": true}, "Config": {"StopSignal": "SIGQUIT"}, "HostConfig": {},
				"NetworkSettings": {"Ports": {"80/tcp": [{"HostIp": "::", "HostPort": "32768"}, {"HostIp": "0.0.0.0", "HostPort": "32768"}],
					"53/udp": [{"HostIp": "0.0.0.0", "HostPort": "53"}], "81/tcp": null, "82/tcp": [{"HostIp": "", "HostPort": "8082"}, {"HostPort": "x"}]}}}`,
			want: Container{
				ID: "1", Name: "a", Running: true, StopSignal: 3, NetRaw: true,
				Published: []Published{
					{80, netip.MustParseAddrPort("0.0.0.0:32768")},
					{80, netip.MustParseAddrPort("[::]:32768")},
					{82, netip.MustParseAddrPort("0.0.0.0:8082")},
				},
			},
		},
		{
			name: "default bridge of an old engine, with links",
			answer: `{"Id": "1", "Name": "/a", "State": {"Running": true, "Health": {"Status": "none"}},
				"HostConfig": {"NetworkMode": "default", "Links": ["/redis:/a/cache", "/pg:/a/db"]},
				"NetworkSettings": {"IPAddress": "172.17.0.2", "Networks": null}}`,
			want: Container{
				ID: "1", Name: "a", Running: true, NetworkMode: "default",
				Networks: []Network{{Name: "bridge", IPv4: netip.MustParseAddr("172.17.0.2")}},
				Links:    []Link{{"redis", "cache"}, {"pg", "db"}},
				NetRaw:   true,
			},
		},
		{
			name: "between two restarts: not running, without process and namespace",
			answer: `{"Id": "1", "Name": "/a", "State": {"Running": true, "Restarting": true, "Pid": 7},
				"NetworkSettings": {"SandboxKey": "/var/run/docker/netns/1"}}`,
			want: Container{ID: "1", Name: "a"},
		},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			var in inspection
			if err := json.Unmarshal([]byte(tt.answer), &in); err != nil {
				t.Fatal(err)
			}
			if diff := cmp.Diff(&tt.want, in.container(), compareAddrs); diff != "" {
				t.Errorf("container (-want +got):\n%s", diff)
			}
		})
	}
}

func TestCapabilities(t *testing.T) {
	tests := []struct {
		config     string
		raw, admin bool
	}{
		{`{}`, true, false},
		{`{"CapDrop": ["NET_RAW"]}`, false, false},
		{`{"CapDrop": ["cap_net_raw"], "CapAdd": ["cap_net_admin"]}`, false, true},
		{`{"CapDrop": ["NET_ADMIN"]}`, true, false},
		{`{"CapDrop": ["ALL"]}`, false, false},
		{`{"CapDrop": ["all"], "CapAdd": ["CAP_NET_RAW"]}`, true, false},
		{`{"CapDrop": ["NET_RAW"], "CapAdd": ["NET_RAW"]}`, true, false},
		{`{"CapDrop": ["NET_RAW"], "CapAdd": ["ALL"]}`, false, true},
		{`{"CapDrop": ["ALL"], "CapAdd": ["ALL"]}`, true, true},
		{`{"CapDrop": ["ALL"], "Privileged": true}`, true, true},
	}
	for _, tt := range tests {
		var in inspection
		if err := json.Unmarshal([]byte(`{"Id": "1", "HostConfig": `+tt.config+`}`), &in); err != nil {
			t.Fatal(err)
		}
		if c := in.container(); c.NetRaw != tt.raw || c.NetAdmin != tt.admin {
			t.Errorf("%s: NET_RAW %t, NET_ADMIN %t; want %t, %t", tt.config, c.NetRaw, c.NetAdmin, tt.raw, tt.admin)
		}
	}
}
