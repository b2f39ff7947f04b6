package docker

import (
	"fmt"
	"net"
	"net/netip"
	"net/url"
	"slices"
	"strings"
	"testing"

	"github.com/ambassadord/ambassadord/internal/dockerd"
	"github.com/ambassadord/ambassadord/internal/hint"
	"github.com/ambassadord/ambassadord/resolver"
)

// container is a running one on networks given as "NAME=ADDR[,ADDR]".
func container(name string, networks ...string) *dockerd.Container {
	c := &dockerd.Container{ID: "id-" + name, Name: name, Running: true, NetworkMode: "bridge"}
	for _, text := range networks {
		network, addrs, _ := strings.Cut(text, "=")
		n := dockerd.Network{Name: network, ID: "id-" + network, Driver: "bridge", Scope: "local"}
		for a := range strings.SplitSeq(addrs, ",") {
			if ip, err := netip.ParseAddr(a); err == nil && ip.Is4() {
				n.IPv4 = ip
			} else if err == nil {
				n.IPv6 = ip
			}
		}
		c.Networks = append(c.Networks, n)
	}
	return c
}

// bridged are the subnets of a host that is on all networks of these tests.
var bridged = []netip.Prefix{netip.MustParsePrefix("10.77.0.1/16"), netip.MustParsePrefix("172.16.0.1/12"), netip.MustParsePrefix("fd00::1/16")}

// everywhere are Options of a host that is on all networks of these tests.
var everywhere = Options{Addrs: func() ([]net.Addr, error) {
	var addrs []net.Addr
	for _, p := range bridged {
		addrs = append(addrs, &net.IPNet{IP: p.Addr().AsSlice(), Mask: net.CIDRMask(p.Bits(), p.Addr().BitLen())})
	}
	return addrs, nil
}}

func with(c *dockerd.Container, change func(*dockerd.Container)) *dockerd.Container {
	change(c)
	return c
}

func labelled(c *dockerd.Container, labels ...string) *dockerd.Container {
	c.Labels = make(map[string]string)
	for _, text := range labels {
		k, v, _ := strings.Cut(text, "=")
		c.Labels[k] = v
	}
	return c
}

// publishing is a container whose port the host publishes at addrs.
func publishing(name string, port uint16, addrs ...string) *dockerd.Container {
	c := container(name, "bridge=172.17.0.2")
	for _, a := range addrs {
		c.Published = append(c.Published, dockerd.Published{Port: port, At: netip.MustParseAddrPort(a)})
	}
	return c
}

const (
	project = "com.docker.compose.project="
	service = "com.docker.compose.service="
	oneOff  = "com.docker.compose.oneoff="
)

func TestAnswer(t *testing.T) {
	mode := func(m string) func(*dockerd.Container) {
		return func(c *dockerd.Container) { c.NetworkMode = m }
	}
	stopped := func(c *dockerd.Container) { c.Running = false }
	tests := []struct {
		name       string
		containers []*dockerd.Container
		query      string
		scope      dockerd.Scope
		self       string
		engine     string
		want       []string // ADDR NAME
		note       string
	}{
		{
			name:       "container by name",
			containers: []*dockerd.Container{container("web", "bridge=172.17.0.2"), container("other", "bridge=172.17.0.3")},
			query:      "web:80",
			want:       []string{"172.17.0.2:80 web"},
		},
		{
			name: "a container's name wins over a service's",
			containers: []*dockerd.Container{
				container("web", "bridge=172.17.0.2"),
				labelled(container("p-web-1", "bridge=172.17.0.3"), service+"web"),
			},
			query: "web:80",
			want:  []string{"172.17.0.2:80 web"},
		},
		{
			name: "even if it is stopped",
			containers: []*dockerd.Container{
				with(container("web"), stopped),
				labelled(container("p-web-1", "bridge=172.17.0.3"), service+"web"),
			},
			query: "web:80",
			note:  "1 left out: web is not running",
		},
		{
			name: "a service of one project, one-off tasks left aside",
			containers: []*dockerd.Container{
				labelled(container("p-web-2", "bridge=172.17.0.3"), service+"web", oneOff+"False"),
				labelled(container("p-web-1", "bridge=172.17.0.4"), service+"web"),
				labelled(container("p-web-run-1", "bridge=172.17.0.5"), service+"web", oneOff+"True"),
			},
			query: "web:80",
			want:  []string{"172.17.0.4:80 p-web-1", "172.17.0.3:80 p-web-2"},
		},
		{
			name: "one-off tasks have the labels of a service and serve nobody",
			containers: []*dockerd.Container{
				labelled(container("p-web-1", "bridge=172.17.0.4"), service+"web", project+"p", "app=web"),
				labelled(container("p-web-run-1", "bridge=172.17.0.5"), service+"web", project+"p", "app=web", oneOff+"True"),
			},
			query: "?label=app=web&port=80",
			want:  []string{"172.17.0.4:80 p-web-1"},
		},
		{
			name: "nor are they of a project",
			containers: []*dockerd.Container{
				labelled(container("p-web-run-1", "bridge=172.17.0.5"), service+"web", project+"p", oneOff+"True"),
			},
			query: "?project=p&port=80",
			note:  "no container on this host is of the project p",
		},
		{
			name: "unless they are asked for by name",
			containers: []*dockerd.Container{
				labelled(container("p-web-run-1", "bridge=172.17.0.5"), service+"web", project+"p", oneOff+"True"),
			},
			query: "p-web-run-1:80",
			want:  []string{"172.17.0.5:80 p-web-run-1"},
		},
		{
			name: "labels must all match; one without a value matches any",
			containers: []*dockerd.Container{
				labelled(container("a", "bridge=172.17.0.2"), "app=web", "tls=x"),
				labelled(container("b", "bridge=172.17.0.3"), "app=web"),
				labelled(container("c", "bridge=172.17.0.4"), "app=db", "tls="),
				labelled(container("d", "bridge=172.17.0.5"), "app=web", "tls="),
			},
			query: "?label=app=web&label=tls&port=80",
			want:  []string{"172.17.0.2:80 a", "172.17.0.5:80 d"},
		},
		{
			name:       "an empty value matches only an empty value",
			containers: []*dockerd.Container{labelled(container("a", "bridge=172.17.0.2"), "tls=x")},
			query:      "?label=tls=&port=80",
			note:       "no container on this host has the label tls=",
		},
		{
			name: "name and label",
			containers: []*dockerd.Container{
				labelled(container("p-web-1", "bridge=172.17.0.2"), service+"web", "tier=front"),
				labelled(container("p-web-2", "bridge=172.17.0.3"), service+"web", "tier=back"),
			},
			query: "web?label=tier=back&port=80",
			want:  []string{"172.17.0.3:80 p-web-2"},
		},
		{
			name:       "name without the label",
			containers: []*dockerd.Container{container("web", "bridge=172.17.0.2")},
			query:      "web:80?label=tier=back&label=x",
			note:       "no container or service named web on this host has the labels tier=back and x",
		},
		{
			name:  "nobody",
			query: "web:80",
			note:  "no container or service is named web on this host",
		},
		{
			name: "who does not serve is named",
			containers: []*dockerd.Container{
				labelled(with(container("web-1", "bridge=172.17.0.2"), func(c *dockerd.Container) { c.Health = "healthy" }), service+"web"),
				labelled(with(container("web-2", "bridge=172.17.0.3"), func(c *dockerd.Container) { c.Health = "unhealthy" }), service+"web"),
				labelled(with(container("web-3"), func(c *dockerd.Container) { c.Running, c.Health = false, "unhealthy" }), service+"web"),
				labelled(with(container("web-4", "bridge=172.17.0.5"), func(c *dockerd.Container) { c.Paused, c.Health = true, "unhealthy" }), service+"web"),
				labelled(with(container("web-5", "bridge=172.17.0.6"), func(c *dockerd.Container) { c.Health = "starting" }), service+"web"),
			},
			query: "web:80",
			want:  []string{"172.17.0.2:80 web-1", "172.17.0.6:80 web-5"},
			note:  "3 left out: web-2 is unhealthy, web-3 is not running, web-4 is paused",
		},
		{
			name: "at most five are named",
			containers: slices.Collect(func(yield func(*dockerd.Container) bool) {
				for i := range 7 {
					if !yield(labelled(with(container(fmt.Sprintf("w%d", i)), stopped), "app")) {
						return
					}
				}
			}),
			query: "?label=app&port=1",
			note: "7 left out: w0 is not running, w1 is not running, w2 is not running, w3 is not running, " +
				"w4 is not running, and 2 more",
		},
		{
			name:       "IPv4 before IPv6, networks by name",
			containers: []*dockerd.Container{container("web", "a=fd00::2", "b=172.18.0.2,fd00:1::2", "c=172.19.0.2")},
			query:      "web:80",
			want:       []string{"172.18.0.2:80 web"},
		},
		{
			name:       "IPv6 alone",
			containers: []*dockerd.Container{container("web", "a=fd00::2")},
			query:      "web:80",
			want:       []string{"[fd00::2]:80 web"},
		},
		{
			name: "a network that we share first, whatever its family",
			containers: []*dockerd.Container{
				container("web", "a=172.18.0.2", "b=fd00:1::2"),
				container("me", "b=fd00:1::9"),
			},
			query: "web:80", self: "id-me",
			want: []string{"[fd00:1::2]:80 web"},
		},
		{
			name: "a network that our namespace's owner shares",
			containers: []*dockerd.Container{
				container("web", "a=172.18.0.2", "b=172.19.0.2"),
				with(container("me"), mode("container:id-pod")),
				container("pod", "b=172.19.0.9"),
			},
			query: "web:80", self: "id-me",
			want: []string{"172.19.0.2:80 web"},
		},
		{
			name:       "no shared network",
			containers: []*dockerd.Container{container("web", "a=172.18.0.2"), container("me", "b=172.19.0.9")},
			query:      "web:80", self: "id-me",
			want: []string{"172.18.0.2:80 web"},
		},
		{
			name:       "never ourselves",
			containers: []*dockerd.Container{labelled(container("me", "b=172.19.0.9"), "x"), labelled(container("web", "b=172.19.0.2"), "x")},
			query:      "?label=x&port=80", self: "id-me",
			want: []string{"172.19.0.2:80 web"},
			note: "1 left out: me is our own container",
		},
		{
			name:       "host network from the host",
			containers: []*dockerd.Container{with(container("web", "host="), mode("host"))},
			query:      "web:80",
			want:       []string{"127.0.0.1:80 web"},
		},
		{
			name: "host network from a container on it",
			containers: []*dockerd.Container{
				with(container("web", "host="), mode("host")),
				with(container("me", "host="), mode("host")),
			},
			query: "web:80", self: "id-me",
			want: []string{"127.0.0.1:80 web"},
		},
		{
			name:       "host network from a bridge",
			containers: []*dockerd.Container{with(container("web", "host="), mode("host")), container("me", "b=172.19.0.9")},
			query:      "web:80", self: "id-me",
			note: "1 left out: web is on the host's network, which ambassadord's container is not",
		},
		{
			name:       "another container's network",
			containers: []*dockerd.Container{with(container("web"), mode("container:id-pod")), container("pod", "bridge=172.17.0.7")},
			query:      "web:80",
			want:       []string{"172.17.0.7:80 web"},
		},
		{
			name:       "another container's network, gone",
			containers: []*dockerd.Container{with(container("web"), mode("container:id-pod"))},
			query:      "web:80",
			note:       "1 left out: web shares the network of a container that is gone",
		},
		{
			name: "one namespace is one endpoint",
			containers: []*dockerd.Container{
				labelled(with(container("side"), mode("container:id-pod")), "app"),
				labelled(container("pod", "bridge=172.17.0.7"), "app"),
			},
			query: "?label=app&port=80",
			want:  []string{"172.17.0.7:80 pod"},
		},
		{
			name:       "no network",
			containers: []*dockerd.Container{with(container("web", "none="), mode("none"))},
			query:      "web:80",
			note:       "1 left out: web has no network",
		},
		{
			name:       "no address",
			containers: []*dockerd.Container{container("web", "bridge=")},
			query:      "web:80",
			note:       "1 left out: web has no address",
		},
		{
			name: "told to stop",
			containers: []*dockerd.Container{
				with(container("web", "bridge=172.17.0.2"), func(c *dockerd.Container) { c.Stopping = true }),
			},
			query: "web:80",
			note:  "1 left out: web is stopping",
		},
		{
			name: "one of several networks",
			containers: []*dockerd.Container{
				labelled(container("a", "back=172.19.0.2", "front=172.20.0.2"), "app"),
				labelled(container("b", "back=172.19.0.3"), "app"),
				labelled(with(container("c", "host="), mode("host")), "app"),
			},
			query: "?label=app&network=front&port=80",
			want:  []string{"172.20.0.2:80 a"},
			note:  "2 left out: b is not on the network front, c is on the host's network, not on front",
		},
		{
			name: "a service of one project, whatever container has that name",
			containers: []*dockerd.Container{
				container("web", "bridge=172.17.0.2"),
				labelled(container("p-web-1", "bridge=172.17.0.3"), service+"web", project+"p"),
				labelled(container("q-web-1", "bridge=172.17.0.4"), service+"web", project+"q"),
			},
			query: "web:80?project=q",
			want:  []string{"172.17.0.4:80 q-web-1"},
		},
		{
			name: "a whole project",
			containers: []*dockerd.Container{
				labelled(container("p-web-1", "bridge=172.17.0.3"), service+"web", project+"p"),
				labelled(container("q-web-1", "bridge=172.17.0.4"), service+"web", project+"q"),
			},
			query: "?project=p&port=80",
			want:  []string{"172.17.0.3:80 p-web-1"},
		},
		{
			name:       "nobody of that project",
			containers: []*dockerd.Container{labelled(container("p-web-1", "bridge=172.17.0.3"), service+"web", project+"p")},
			query:      "web:80?project=q&label=x",
			note:       "no Compose service named web on this host is of the project q and has the label x",
		},
		{
			name: "published by the host",
			containers: []*dockerd.Container{
				labelled(publishing("a", 80, "0.0.0.0:32768", "[::]:32768"), "app"),
				labelled(publishing("b", 80, "192.0.2.1:8080"), "app"),
				labelled(publishing("c", 81, "0.0.0.0:32769"), "app"),
				labelled(publishing("d", 80, "[::]:32770"), "app"),
			},
			query: "?label=app&port=80&published=1",
			want:  []string{"127.0.0.1:32768 a", "192.0.2.1:8080 b", "[::1]:32770 d"},
			note:  "1 left out: c does not publish its port 80",
		},
		{
			name: "published by another host",
			containers: []*dockerd.Container{
				labelled(publishing("a", 80, "0.0.0.0:32768"), "app"),
				labelled(publishing("b", 80, "127.0.0.1:8080"), "app"),
			},
			engine: "192.0.2.9",
			query:  "?label=app&port=80&published=1",
			want:   []string{"192.0.2.9:32768 a"},
			note:   "1 left out: b publishes its port 80 where ambassadord cannot reach it",
		},
		{
			name:       "published by another host that is known by name",
			containers: []*dockerd.Container{publishing("a", 80, "0.0.0.0:32768")},
			engine:     "build.example.com",
			query:      "a:80?published=1",
			want:       []string{"build.example.com:32768 a"},
		},
		{
			name:       "published on the host's loopback, asked from a bridge",
			containers: []*dockerd.Container{publishing("a", 80, "127.0.0.1:8080"), container("me", "b=172.19.0.9")},
			self:       "id-me",
			query:      "a:80?published=1",
			note:       "1 left out: a publishes its port 80 where ambassadord cannot reach it",
		},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			q, err := parse(parseQuery(t, tt.query))
			if err != nil {
				t.Fatal(err)
			}
			snapshot := dockerd.NewSnapshot(tt.containers...)
			a := match(snapshot, q, tt.scope, locate(snapshot, tt.self, tt.engine, tt.engine == "", bridged))
			if got := texts(a); !slices.Equal(got, tt.want) {
				t.Errorf("endpoints: %q, want %q", got, tt.want)
			}
			if got := said(a); got != tt.note {
				t.Errorf("said: %q\n want: %q", got, tt.note)
			}
			if a.Note != "" && a.Hint == "" {
				t.Errorf("%q, and no hint what to do", a.Note)
			}
			distance := resolver.SameHost
			if tt.engine != "" {
				distance = resolver.DistanceUnknown
			}
			for _, e := range a.Endpoints {
				if e.Distance != distance {
					t.Errorf("%s is at distance %q; want %q", e, e.Distance, distance)
				}
			}
		})
	}
}

// said is what the error says for an answer of nobody, after its target.
func said(a resolver.Answer) string {
	e := resolver.NoEndpointsError{LeftOut: a.LeftOut}
	if a.Note != "" {
		e.Notes = []string{a.Note}
	}
	_, text, _ := strings.Cut(e.Error(), " has no endpoints: ")
	return text
}

func texts(a resolver.Answer) []string {
	var out []string
	for _, e := range a.Endpoints {
		out = append(out, e.String()+" "+e.Name)
	}
	return out
}

// parseQuery reads what follows docker:// in a target, without the resolver's
// own grammar.
func parseQuery(t *testing.T, text string) resolver.Query {
	t.Helper()
	u, err := url.Parse("docker://" + text)
	if err != nil {
		t.Fatal(err)
	}
	q := resolver.Query{Scheme: Scheme, Host: u.Hostname(), Path: strings.TrimPrefix(u.Path, "/"), Params: u.Query().Encode()}
	if u.Port() != "" {
		if _, err := fmt.Sscan(u.Port(), &q.Port); err != nil {
			t.Fatal(err)
		}
	}
	return q
}

func TestCheck(t *testing.T) {
	tests := []struct{ query, err, hint string }{
		{query: "web:80"},
		{query: "web?port=80"},
		{query: "web:80?label=a=b"},
		{query: "?label=a=b=c&label=d&port=80"},
		{"web", "docker target has no port", formHint},
		{"?label=a", "docker target has no port", formHint},
		{"?port=80", "docker target names no container", formHint},
		{":80", "docker target names no container", formHint},
		{"app=redis:6379", `docker target: "app=redis" is not the name of a container`, "write docker://?label=app=redis&port=6379"},
		{"app=redis", `docker target: "app=redis" is not the name of a container`, "write docker://?label=app=redis&port=PORT"},
		{"web:80/udp", `docker target has a path, "/udp"`, "only TCP is carried: let the client speak TCP, or reach the service without ambassadord"},
		{"web:80/tcp", `docker target has a path, "/tcp"`, "leave it out: only TCP is carried"},
		{"web:80/path", `docker target has a path, "/path"`, formHint},
		{"web:80?port=81", "docker target has more than one port", formHint},
		{"web?port=81&port=82", "docker target has more than one port", formHint},
		{"web?port=0", `docker target: "0" is not a port`, "a port is a number from 1 to 65535"},
		{"web?port=http", `docker target: "http" is not a port`, "a port is a number from 1 to 65535"},
		{"?label==x&port=1", `docker target: label "=x" has no key`, "write label=KEY=VALUE, or label=KEY for any value"},
		{"web:80?labels=a", `docker target has an unknown parameter "labels"`, `did you mean "label"?`},
		{"web:80?tag=a", `docker target has an unknown parameter "tag"`, "known parameters are label, network, port, project and published"},
		{query: "?project=shop&port=80"},
		{query: "web:80?network=front&project=shop"},
		{"web:80?network=", "docker target needs one name as its network", "write network=NAME"},
		{"web:80?project=a&project=b", "docker target needs one name as its project", "write project=NAME"},
		{"web:80?published=yes", `docker target: published is "yes"`, "write published=1, or leave it out"},
		{"web:80?published=1&network=a", "docker target: a published port is the host's, not that of the network a", "leave one of them out"},
	}
	for _, tt := range tests {
		t.Run(tt.query, func(t *testing.T) {
			err := New(nil, Options{}).Check(parseQuery(t, tt.query))
			if tt.err == "" {
				if err != nil {
					t.Errorf("Check: %v, want nil", err)
				}
				return
			}
			if err == nil || err.Error() != tt.err || hint.Of(err) != tt.hint {
				t.Errorf("Check: %v (%s)\n want: %s (%s)", err, hint.Of(err), tt.err, tt.hint)
			}
		})
	}
}

// TestWhoIsUnhealthy: a container whose check fails, not one that somebody has paused or stops,
// of which the engine says the same; and where it would be.
func TestWhoIsUnhealthy(t *testing.T) {
	for name, test := range map[string]struct {
		change    func(*dockerd.Container)
		unhealthy bool
	}{
		"unhealthy": {func(c *dockerd.Container) {}, true},
		"paused":    {func(c *dockerd.Container) { c.Paused = true }, false},
		"stopping":  {func(c *dockerd.Container) { c.Stopping = true }, false},
		"stopped":   {func(c *dockerd.Container) { c.Running = false }, false},
	} {
		c := with(container("web", "bridge=172.17.0.2"), func(c *dockerd.Container) { c.Health = "unhealthy"; test.change(c) })
		snapshot := dockerd.NewSnapshot(c)
		a := match(snapshot, query{name: "web", port: 80}, dockerd.Scope{}, locate(snapshot, "", "", true, bridged))
		if len(a.LeftOut) != 1 || a.LeftOut[0].Unhealthy != test.unhealthy || test.unhealthy && a.LeftOut[0].Addr != "172.17.0.2:80" {
			t.Errorf("%s: left out %+v; want one, unhealthy: %t", name, a.LeftOut, test.unhealthy)
		}
	}
}
