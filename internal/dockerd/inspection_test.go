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
