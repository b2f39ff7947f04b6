package policy

import (
	"fmt"
	"net/netip"
	"strings"
	"testing"

	"github.com/ambassadord/ambassadord/internal/hint"
)

// addrs is a Host with these addresses.
type addrs []string

func (a addrs) Has(addr netip.Addr) bool {
	for _, text := range a {
		if netip.MustParseAddr(text) == addr {
			return true
		}
	}
	return false
}

func place(t testing.TB, texts ...string) []Place {
	t.Helper()
	var out []Place
	for _, text := range texts {
		p, err := ParsePlace(text)
		if err != nil {
			t.Fatal(err)
		}
		out = append(out, p)
	}
	return out
}

var web = Client{Container: "web", Labels: map[string]string{"app": "shop", "tier": ""}, Project: "shop", Image: "registry:5000/team/web:1",
	Networks: []string{"backend"}, NetworksKnown: true, ByImage: No}

func of(kind, name string) Target { return Target{Text: name, Parts: []Part{{Kind: kind, Name: name}}} }

// TestDefault: what containers declare reaches others, and nothing of this host's own.
func TestDefault(t *testing.T) {
	p := New(Config{OwnPorts: []uint16{6379}, OwnAddrs: []netip.Addr{netip.MustParseAddr("fd61:6d62:6173::1")}, Host: addrs{"10.0.0.1", "172.17.0.1", "2001:db8::1"}})
	loose := New(Config{AllowLoopback: true, OwnPorts: []uint16{6379}})
	for addr, want := range map[string]struct {
		says  string // "" is allowed
		loose bool   // with AllowLoopback
	}{
		"192.0.2.1:80":                  {"", true},
		"[2001:db8::2]:80":              {"", true},
		"10.0.0.1:80":                   {"", true}, // this host, but no socket of ours
		"127.0.0.1:80":                  {"loopback", true},
		"127.255.255.254:80":            {"loopback", true},
		"[::1]:80":                      {"loopback", true},
		"[::ffff:127.0.0.1]:80":         {"loopback", true},
		"[::ffff:127.0.0.1%1]:80":       {"loopback", true},
		"[64:ff9b::127.0.0.1]:80":       {"loopback", true},
		"[64:ff9b:1::127.0.0.1]:80":     {"loopback", true},
		"[2002:7f00:1::]:80":            {"loopback", true},
		"[::127.0.0.1]:80":              {"loopback", true},
		"[2001::80ff:fffe]:80":          {"loopback", true},
		"[2001:db8::5efe:127.0.0.1]:80": {"loopback", true},
		// RFC 8215: of the prefixes that an operator may choose within it, any may be his.
		"[64:ff9b:1:7f00:0:100::]:80":       {"loopback", true},    // a /48 (RFC 6052, section 2.2)
		"[64:ff9b:1:7f00:0:100::dead]:80":   {"loopback", true},    // translators pass over what follows
		"[64:ff9b:1:ab7f::1:0:0]:80":        {"loopback", true},    // a /56: 127.0.0.1
		"[64:ff9b:1:abcd:7f:0:100:0]:80":    {"loopback", true},    // a /64
		"[64:ff9b:1:abcd:0:1:7f00:1]:80":    {"loopback", true},    // a /96
		"[64:ff9b:1:a9fe:a9:fe00::]:80":     {"clouds", false},     // a /48: 169.254.169.254
		"[64:ff9b:1:aba9:fe:a9fe::]:80":     {"clouds", false},     // a /56
		"[64:ff9b:1:abcd:a9:fea9:fe00::]:8": {"clouds", false},     // a /64
		"[64:ff9b:1:a9fe:1:100::]:80":       {"link-local", false}, // a /48: 169.254.1.1
		"[64:ff9b:1:c000:2:100::]:80":       {"", true},            // a /48: 192.0.2.1, whose last bytes are no 0.0.0.0
		"[64:ff9b:1::192.0.2.1]:80":         {"", true},            // a /96
		"[64:ff9b:1:c000:e0:100::]:80":      {"", true},            // a /48: 192.0.224.1, which is no multicast as a /64
		"[2001:db8:7f00:0:100::]:80":        {"", true},            // nobody can know whose prefix it is
		"[::ffff:0:127.0.0.1]:80":           {"loopback", true},    // RFC 2765
		"[2002:c000:201::5efe:127.0.0.1]:1": {"loopback", true},    // ISATAP within 6to4
		"[2002:a9fe:a9fe::1]:80":            {"clouds", false},     // 6to4
		"[fe80::5efe:192.0.2.1]:80":         {"link-local", false}, // ISATAP
		"[2001:db8::200:5efe:7f00:1]:80":    {"loopback", true},    // ISATAP of a global address
		"[64:ff9b::10.0.0.1]:2375":          {"engine", true},      // this host's, if a translator turns it back
		"[64:ff9b:1:a00:0:100::]:2375":      {"engine", true},
		"0.0.0.0:22":                        {"no address of one machine", false},
		"0.1.2.3:22":                        {"no address of one machine", false},
		"[::]:22":                           {"no address of one machine", false},
		"[::ffff:0.0.0.0]:22":               {"no address of one machine", false},
		"224.0.0.1:80":                      {"no address of one machine", false},
		"255.255.255.255:80":                {"no address of one machine", false},
		"[ff02::1%eth0]:80":                 {"no address of one machine", false},
		"169.254.1.1:80":                    {"link-local", false},
		"[fe80::1%eth0]:80":                 {"link-local", false},
		"169.254.169.254:80":                {"clouds", false},
		"[::ffff:169.254.169.254]:80":       {"clouds", false},
		"[64:ff9b::169.254.169.254]:80":     {"clouds", false},
		"[fd00:ec2::254]:80":                {"clouds", false},
		"100.100.100.200:80":                {"clouds", false},
		"172.17.0.1:2375":                   {"engine", true}, // loose knows no host
		"[2001:db8::1]:2376":                {"engine", true},
		"10.0.0.1:6379":                     {"engine's or the daemon's", true},
		"127.0.0.1:2375":                    {"loopback", false},
		"127.0.0.1:6379":                    {"loopback", false},
		"192.0.2.1:2375":                    {"", true}, // another host's
		"[fd61:6d62:6173::1]:1":             {"daemon's", true},
		"[::ffff:192.0.2.1]:80":             {"", true},
		"[64:ff9b::192.0.2.1]:80":           {"", true},
	} {
		e := netip.MustParseAddrPort(addr)
		v := p.Scope(web, of("static", addr)).Check(e, false)
		if v.Denied() != (want.says != "") || !strings.Contains(v.String(), want.says) {
			t.Errorf("%s: %v, %s; want %q", addr, v.Action, v, want.says)
		}
		if v.Denied() && hint.Of(p.Scope(web, of("static", addr)).Deny(v, addr)) == "" {
			t.Errorf("%s: no hint", addr)
		}
		if v := loose.Scope(web, of("static", addr)).Check(e, false); v.Denied() == want.loose {
			t.Errorf("%s where loopback is allowed: %s", addr, v)
		}
		own := web
		own.ByOperator = true
		if v := p.Scope(own, of("static", addr)).Check(e, false); v.Denied() {
			t.Errorf("%s declared by the operator: %s", addr, v)
		}
		var none *Scope
		if v := none.Check(e, false); e.Addr().Unmap().IsLoopback() && !v.Denied() {
			t.Errorf("%s without a scope is allowed", addr)
		}
	}
	if v := p.Scope(web, of("docker", "db")).Check(netip.MustParseAddrPort("127.0.0.1:2375"), true); v.Denied() {
		t.Errorf("a port that the engine publishes: %s", v)
	}
}

// TestRules: the first that matches decides.
func TestRules(t *testing.T) {
	static := of("static", "x")
	srv := Target{Parts: []Part{{Kind: "srv", Name: "redis.service.consul"}}}
	chain := Target{Parts: []Part{{Kind: "docker", Name: "db"}, {Kind: "consul", Name: "a/b", Registry: "10.9.9.9:8500"}}}
	for name, test := range map[string]struct {
		rule   Rule
		client func(*Client)
		target Target
		addr   string
		want   bool // whether the rule decides
	}{
		"everybody":                  {rule: Rule{Action: Deny}, target: static, want: true},
		"container":                  {rule: Rule{Action: Deny, Containers: []string{"w*"}}, target: static, want: true},
		"another container":          {rule: Rule{Action: Deny, Containers: []string{"x*"}}, target: static},
		"no container":               {rule: Rule{Action: Deny, Containers: []string{"*"}}, client: func(c *Client) { c.Container = "" }, target: static},
		"label":                      {rule: Rule{Action: Deny, Labels: []string{"app=shop"}}, target: static, want: true},
		"label of any value":         {rule: Rule{Action: Deny, Labels: []string{"x", "tier"}}, target: static, want: true},
		"another label":              {rule: Rule{Action: Deny, Labels: []string{"app=x"}}, target: static},
		"project":                    {rule: Rule{Action: Deny, Projects: []string{"shop"}}, target: static, want: true},
		"another project":            {rule: Rule{Action: Deny, Projects: []string{"sho"}}, target: static},
		"image":                      {rule: Rule{Action: Deny, Images: []string{"*/web:*"}}, target: static, want: true},
		"another image":              {rule: Rule{Action: Deny, Images: []string{"web:*"}}, target: static},
		"network":                    {rule: Rule{Action: Deny, Networks: []string{"backend"}}, target: static, want: true},
		"another network":            {rule: Rule{Action: Deny, Networks: []string{"x"}}, target: static},
		"networks unknown":           {rule: Rule{Action: Deny, Networks: []string{"x"}}, client: func(c *Client) { c.NetworksKnown = false }, target: static, want: true},
		"unknown, to allow":          {rule: Rule{Action: Allow, Networks: []string{"x"}}, client: func(c *Client) { c.NetworksKnown = false }, target: static},
		"by the image":               {rule: Rule{Action: Deny, Declared: []Declarer{ByImage}}, client: func(c *Client) { c.ByImage = Yes }, target: static, want: true},
		"not by the image":           {rule: Rule{Action: Deny, Declared: []Declarer{ByImage}}, target: static},
		"perhaps by the image":       {rule: Rule{Action: Deny, Declared: []Declarer{ByImage}}, client: func(c *Client) { c.ByImage = Unknown }, target: static, want: true},
		"perhaps by it, allow":       {rule: Rule{Action: Allow, Declared: []Declarer{ByImage}}, client: func(c *Client) { c.ByImage = Unknown }, target: static},
		"by the container":           {rule: Rule{Action: Deny, Declared: []Declarer{ByContainer}}, target: static, want: true},
		"by configuration":           {rule: Rule{Action: Deny, Declared: []Declarer{ByConfiguration}}, client: func(c *Client) { c.ByOperator = true }, target: static, want: true},
		"not by configuration":       {rule: Rule{Action: Deny, Declared: []Declarer{ByImage, ByContainer}}, client: func(c *Client) { c.ByOperator = true }, target: static},
		"network of addresses":       {rule: Rule{Action: Deny, To: place(t, "192.0.2.0/24")}, target: static, want: true},
		"mapped network":             {rule: Rule{Action: Deny, To: place(t, "::ffff:192.0.2.0/120")}, target: static, want: true},
		"another network's":          {rule: Rule{Action: Deny, To: place(t, "198.51.100.0/24")}, target: static},
		"embedded, to deny":          {rule: Rule{Action: Deny, To: place(t, "192.0.2.0/24")}, target: static, addr: "[64:ff9b::192.0.2.7]:80", want: true},
		"embedded, to allow":         {rule: Rule{Action: Allow, To: place(t, "192.0.2.0/24")}, target: static, addr: "[64:ff9b::192.0.2.7]:80"},
		"port":                       {rule: Rule{Action: Deny, Ports: []PortRange{{80, 90}}}, target: static, want: true},
		"another port":               {rule: Rule{Action: Deny, Ports: []PortRange{{81, 90}}}, target: static},
		"both":                       {rule: Rule{Action: Deny, To: place(t, "192.0.2.1"), Ports: []PortRange{{81, 90}}}, target: static},
		"host":                       {rule: Rule{Action: Deny, To: place(t, "host")}, target: static, addr: "10.0.0.1:22", want: true},
		"host's loopback":            {rule: Rule{Action: Deny, To: place(t, "host")}, target: static, addr: "127.0.0.1:22", want: true},
		"not the host":               {rule: Rule{Action: Deny, To: place(t, "host")}, target: static},
		"kind":                       {rule: Rule{Action: Deny, Kinds: []string{"srv"}}, target: srv, want: true},
		"another kind":               {rule: Rule{Action: Deny, Kinds: []string{"dns"}}, target: srv},
		"kind of Docker, Swarm's":    {rule: Rule{Action: Deny, Kinds: []string{"docker"}, Targets: []string{"db"}}, target: of("swarm", "db"), want: true},
		"kind of Swarm's alone":      {rule: Rule{Action: Deny, Kinds: []string{"swarm"}}, target: of("docker", "db")},
		"kind of Consul's":           {rule: Rule{Action: Deny, Kinds: []string{"consul"}}, target: of("consul-service", "redis"), want: true},
		"target":                     {rule: Rule{Action: Deny, Targets: []string{"*.Consul"}}, target: srv, want: true},
		"another target":             {rule: Rule{Action: Deny, Targets: []string{"*.consu"}}, target: srv},
		"a part of a chain":          {rule: Rule{Action: Deny, Kinds: []string{"consul"}}, target: chain, want: true},
		"not all of a chain":         {rule: Rule{Action: Allow, Kinds: []string{"consul"}}, target: chain},
		"all of a chain":             {rule: Rule{Action: Allow, Kinds: []string{"consul", "docker"}}, target: chain, want: true},
		"registry":                   {rule: Rule{Action: Deny, Registries: []string{"10.9.*"}}, target: chain, want: true},
		"registry with its port":     {rule: Rule{Action: Deny, Registries: []string{"10.9.9.9:8500"}}, target: chain, want: true},
		"no such registry":           {rule: Rule{Action: Deny, Registries: []string{"10.9.9.9:8501"}}, target: chain},
		"audit":                      {rule: Rule{Action: Audit, To: place(t, "192.0.2.1")}, target: static, want: true},
		"embedded as a /48, to deny": {rule: Rule{Action: Deny, To: place(t, "192.0.2.0/24")}, target: static, addr: "[64:ff9b:1:c000:2:700::]:80", want: true},
		// What the default denies has to be meant.
		"a translator's prefix":          {rule: Rule{Action: Allow, To: place(t, "64:ff9b::/96")}, target: static, addr: "[64:ff9b::127.0.0.1]:80"},
		"a translator's prefix, others":  {rule: Rule{Action: Allow, To: place(t, "64:ff9b::/96")}, target: static, addr: "[64:ff9b::192.0.2.1]:80", want: true},
		"translated loopback":            {rule: Rule{Action: Allow, To: place(t, "64:ff9b::7f00:0/104")}, target: static, addr: "[64:ff9b::127.0.0.1]:80", want: true},
		"one translated address":         {rule: Rule{Action: Allow, To: place(t, "64:ff9b::127.0.0.1")}, target: static, addr: "[64:ff9b::127.0.0.1]:80", want: true},
		"a prefix says the layout":       {rule: Rule{Action: Allow, To: place(t, "64:ff9b:1:abcd::/64")}, target: static, addr: "[64:ff9b:1:abcd:c0:2:7f00:0]:80", want: true}, // 192.0.2.127
		"a prefix, and its loopback":     {rule: Rule{Action: Allow, To: place(t, "64:ff9b:1:abcd::/64")}, target: static, addr: "[64:ff9b:1:abcd:7f:0:100:0]:80"},
		"a prefix like loopback":         {rule: Rule{Action: Allow, To: place(t, "64:ff9b:1:7f::/64")}, target: static, addr: "[64:ff9b:1:7f:7f:0:100:0]:80"},
		"a prefix of no layout":          {rule: Rule{Action: Allow, To: place(t, "64:ff9b:1:abcd::/72")}, target: static, addr: "[64:ff9b:1:abcd:c0:2:7f00:0]:80"},
		"a block, and a /96 within":      {rule: Rule{Action: Allow, To: place(t, "64:ff9b:1::/48")}, target: static, addr: "[64:ff9b:1::7f00:1]:80"},
		"a block, and link-local":        {rule: Rule{Action: Allow, To: place(t, "64:ff9b:1::/48")}, target: static, addr: "[64:ff9b:1::a9fe:1]:80"},
		"a block, and its last /96":      {rule: Rule{Action: Allow, To: place(t, "64:ff9b:1::/48")}, target: static, addr: "[64:ff9b:1:fffe::7f00:1]:80"},
		"a block, and the engine":        {rule: Rule{Action: Allow, To: place(t, "64:ff9b:1::/48"), Ports: []PortRange{{2375, 2375}}}, target: static, addr: "[64:ff9b:1::7f00:1]:2375"},
		"a block, and the host's engine": {rule: Rule{Action: Allow, To: place(t, "64:ff9b:1::/48"), Ports: []PortRange{{2375, 2375}}}, target: static, addr: "[64:ff9b:1::10.0.0.1]:2375"},
		"a /56, and a /96 within":        {rule: Rule{Action: Allow, To: place(t, "64:ff9b:1:ab00::/56")}, target: static, addr: "[64:ff9b:1:ab00::7f00:1]:80"},
		"a /56, and the engine":          {rule: Rule{Action: Allow, To: place(t, "64:ff9b:1:ab00::/56"), Ports: []PortRange{{2375, 2375}}}, target: static, addr: "[64:ff9b:1:ab00::7f00:1]:2375"},
		"a /64, and a /96 within":        {rule: Rule{Action: Allow, To: place(t, "64:ff9b:1:abcd::/64")}, target: static, addr: "[64:ff9b:1:abcd::7f00:1]:80"},
		"a /64, and the engine":          {rule: Rule{Action: Allow, To: place(t, "64:ff9b:1:abcd::/64"), Ports: []PortRange{{2375, 2375}}}, target: static, addr: "[64:ff9b:1:abcd::7f00:1]:2375"},
		"a /64 of no engine":             {rule: Rule{Action: Allow, To: place(t, "64:ff9b:1:abcd::/64"), Ports: []PortRange{{2375, 2375}}}, target: static, addr: "[64:ff9b:1:abcd:c0:2:7f00:0]:2375"},
		"a /56 like loopback":            {rule: Rule{Action: Allow, To: place(t, "64:ff9b:1:7f00::/56")}, target: static, addr: "[64:ff9b:1:7f00::7f00:1]:80"},
		"a /64 with the byte that is 0":  {rule: Rule{Action: Allow, To: place(t, "64:ff9b:1:abcd::/64")}, target: static, addr: "[64:ff9b:1:abcd:1c0:2:7f00:0]:80"},
		"a block, and others":            {rule: Rule{Action: Allow, To: place(t, "64:ff9b:1::/48")}, target: static, addr: "[64:ff9b:1::192.0.2.1]:80", want: true},
		"a /48 says the layout":          {rule: Rule{Action: Allow, To: place(t, "64:ff9b:1::/48")}, target: static, addr: "[64:ff9b:1:c07f:0:100::]:80", want: true},       // 192.127.0.1
		"a /56 says the layout":          {rule: Rule{Action: Allow, To: place(t, "64:ff9b:1:ab00::/56")}, target: static, addr: "[64:ff9b:1:abc0:7f:201::]:80", want: true}, // 192.127.2.1
		"loopback of a /96 within":       {rule: Rule{Action: Allow, To: place(t, "64:ff9b:1:abcd::7f00:0/104")}, target: static, addr: "[64:ff9b:1:abcd::7f00:1]:80", want: true},
		"one address of a /96 within":    {rule: Rule{Action: Allow, To: place(t, "64:ff9b:1:abcd::7f00:1"), Ports: []PortRange{{2375, 2375}}}, target: static, addr: "[64:ff9b:1:abcd::7f00:1]:2375", want: true},
		"6to4's loopback, not ISATAP's":  {rule: Rule{Action: Allow, To: place(t, "2002:7f00::/24")}, target: static, addr: "[2002:7f00:1::5efe:127.0.0.1]:80"},
		"loopback":                       {rule: Rule{Action: Allow, To: place(t, "loopback")}, target: static, addr: "127.0.0.1:80", want: true},
		"loopback's network":             {rule: Rule{Action: Allow, To: place(t, "127.0.0.0/8")}, target: static, addr: "127.0.0.1:80", want: true},
		"all networks":                   {rule: Rule{Action: Allow, To: place(t, "0.0.0.0/0", "::/0")}, target: static, addr: "127.0.0.1:80"},
		"all networks, metadata":         {rule: Rule{Action: Allow, To: place(t, "0.0.0.0/0")}, target: static, addr: "169.254.169.254:80"},
		"all networks, others":           {rule: Rule{Action: Allow, To: place(t, "0.0.0.0/0")}, target: static, want: true},
		"link-local":                     {rule: Rule{Action: Allow, To: place(t, "link-local")}, target: static, addr: "169.254.1.1:80", want: true},
		"link-local is not metadata":     {rule: Rule{Action: Allow, To: place(t, "link-local", "169.254.0.0/16")}, target: static, addr: "169.254.169.254:80"},
		"metadata":                       {rule: Rule{Action: Allow, To: place(t, "metadata")}, target: static, addr: "169.254.169.254:80", want: true},
		"metadata's address":             {rule: Rule{Action: Allow, To: place(t, "169.254.169.254")}, target: static, addr: "169.254.169.254:80", want: true},
		"metadata is not link-local":     {rule: Rule{Action: Deny, To: place(t, "metadata")}, target: static, addr: "169.254.1.1:80"},
		"link-local is metadata to deny": {rule: Rule{Action: Deny, To: place(t, "link-local")}, target: static, addr: "169.254.169.254:80", want: true},
		"loopback is not the engine":     {rule: Rule{Action: Allow, To: place(t, "loopback")}, target: static, addr: "127.0.0.1:2375"},
		"the engine by its port":         {rule: Rule{Action: Allow, To: place(t, "loopback"), Ports: []PortRange{{2375, 2375}}}, target: static, addr: "127.0.0.1:2375", want: true},
		"the engine by a word":           {rule: Rule{Action: Allow, To: place(t, "own")}, target: static, addr: "127.0.0.1:2375", want: true},
		"the engine by its network":      {rule: Rule{Action: Allow, To: place(t, "10.0.0.0/8")}, target: static, addr: "10.0.0.1:2375"},
		"a port alone, and loopback":     {rule: Rule{Action: Allow, Ports: []PortRange{{80, 80}}}, target: static, addr: "127.0.0.1:80"},
		"a port alone, and metadata":     {rule: Rule{Action: Audit, Ports: []PortRange{{80, 80}}}, target: static, addr: "169.254.169.254:80"},
		"a port alone, and link-local":   {rule: Rule{Action: Allow, Ports: []PortRange{{80, 80}}}, target: static, addr: "169.254.1.1:80"},
		"a port alone, and the engine":   {rule: Rule{Action: Allow, Ports: []PortRange{{2375, 2375}}}, target: static, addr: "10.0.0.1:2375"},
		"a port alone, and others":       {rule: Rule{Action: Allow, Ports: []PortRange{{80, 80}}}, target: static, want: true},
		"a port alone, by the operator":  {rule: Rule{Action: Allow, Ports: []PortRange{{80, 80}}}, client: func(c *Client) { c.ByOperator = true }, target: static, addr: "127.0.0.1:80", want: true},
		"a port alone, to deny":          {rule: Rule{Action: Deny, Ports: []PortRange{{80, 80}}}, target: static, addr: "127.0.0.1:80", want: true},
		"the engine by address and port": {rule: Rule{Action: Allow, To: place(t, "10.0.0.1"), Ports: []PortRange{{2375, 2376}}}, target: static, addr: "10.0.0.1:2375", want: true},
		"the engine by host and port":    {rule: Rule{Action: Allow, To: place(t, "host"), Ports: []PortRange{{2375, 2375}}}, target: static, addr: "10.0.0.1:2375", want: true},
		"the engine by any address":      {rule: Rule{Action: Allow, To: place(t, "0.0.0.0/0"), Ports: []PortRange{{1, 65535}}}, target: static, addr: "10.0.0.1:2375"},
		"our link-local address":         {rule: Rule{Action: Allow, To: place(t, "link-local"), Ports: []PortRange{{80, 80}}}, target: static, addr: "169.254.77.1:80"},
		"our address and its port":       {rule: Rule{Action: Allow, To: place(t, "169.254.77.1"), Ports: []PortRange{{80, 80}}}, target: static, addr: "169.254.77.1:80", want: true},
		"loopback's network and port":    {rule: Rule{Action: Allow, To: place(t, "127.0.0.0/8"), Ports: []PortRange{{2375, 2375}}}, target: static, addr: "127.0.0.1:2375", want: true},
		"own to deny":                    {rule: Rule{Action: Deny, To: place(t, "own")}, target: static, addr: "10.0.0.1:2375", want: true},
		"all, to audit":                  {rule: Rule{Action: Audit}, target: static, want: true},
		"all, to audit, and loopback":    {rule: Rule{Action: Audit}, target: static, addr: "127.0.0.1:80"},
		"a client, and metadata":         {rule: Rule{Action: Allow, Containers: []string{"web"}}, target: static, addr: "169.254.169.254:80"},
		"a client, and the engine":       {rule: Rule{Action: Allow, Containers: []string{"web"}}, target: static, addr: "10.0.0.1:2375"},
		"the operator's, to audit":       {rule: Rule{Action: Audit}, client: func(c *Client) { c.ByOperator = true }, target: static, addr: "127.0.0.1:80", want: true},
		"the unspecified by a rule":      {rule: Rule{Action: Allow}, target: static, addr: "0.0.0.0:22"},
	} {
		c := web
		if test.client != nil {
			test.client(&c)
		}
		if test.addr == "" {
			test.addr = "192.0.2.1:80"
		}
		p := New(Config{Rules: []Rule{test.rule}, Host: addrs{"10.0.0.1"}, OwnAddrs: []netip.Addr{netip.MustParseAddr("169.254.77.1")}})
		v := p.Scope(c, test.target).Check(netip.MustParseAddrPort(test.addr), false)
		if (v.Rule != nil) != test.want {
			t.Errorf("%s: %s is decided by %s; want the rule: %t", name, test.addr, v, test.want)
		}
		if v.Rule != nil && v.Action != test.rule.Action {
			t.Errorf("%s: %v; want %v", name, v.Action, test.rule.Action)
		}
	}
	order := New(Config{Rules: []Rule{
		{Action: Allow, To: place(t, "192.0.2.1")}, {Action: Deny, To: place(t, "192.0.2.0/24"), Name: "no-lab", Origin: "f.yml:3:5", Number: 2}, {Action: Allow},
	}}).Scope(web, static)
	for addr, want := range map[string]Action{"192.0.2.1:1": Allow, "192.0.2.2:1": Deny, "198.51.100.1:1": Allow, "127.0.0.1:1": Deny} {
		if v := order.Check(netip.MustParseAddrPort(addr), false); v.Action != want {
			t.Errorf("%s: %s; want %v", addr, v, want)
		}
	}
	err := order.Deny(order.Check(netip.MustParseAddrPort("192.0.2.2:1"), false), "192.0.2.2:1")
	if text := err.Error(); !strings.Contains(text, "container web may not reach 192.0.2.2:1") || !strings.Contains(text, `rule 2 "no-lab" in f.yml:3:5`) {
		t.Errorf("%q does not name who, what and the rule", text)
	}
	if hint.Of(err) == "" {
		t.Error("no hint")
	}
}

// TestTarget: what needs no look at an endpoint is refused before anybody is asked.
func TestTarget(t *testing.T) {
	plain := New(Config{Registries: []string{"http://localhost:8500", "10.1.1.1:2379"}})
	folder := New(Config{FileFolders: []string{"/srv/lists/"}})
	lists := New(Config{Rules: []Rule{{Action: Allow, Kinds: []string{"file"}, Targets: []string{"/srv/lists/*"}}}})
	etc := New(Config{Rules: []Rule{{Action: Deny, Targets: []string{"/etc/*"}}}})
	keys := New(Config{Rules: []Rule{{Action: Deny, Targets: []string{"services/*", "lists/redis"}}}})
	registry := func(server string) Target {
		return Target{Text: "t", Parts: []Part{{Kind: "consul", Name: "p", Registry: server}}}
	}
	addresses := func(list ...string) Target {
		target := Target{Text: "t"}
		for _, text := range list {
			p := Part{Kind: "static", Name: text}
			p.Addr, _ = netip.ParseAddrPort(text)
			target.Parts = append(target.Parts, p)
		}
		return target
	}
	anybodys := New(Config{AllowLoopback: true})
	opened := New(Config{Rules: []Rule{{Action: Allow, To: place(t, "loopback"), Ports: []PortRange{{From: 80, To: 80}}}}})
	for name, test := range map[string]struct {
		policy *Policy
		client func(*Client)
		target Target
		at     string // "" is allowed, "-" the whole
	}{
		"addresses":                {plain, nil, addresses("127.0.0.1:80", "169.254.169.254:80"), "127.0.0.1:80"},
		"an address of others":     {plain, nil, addresses("127.0.0.1:80", "10.0.0.1:80"), ""},
		"a name beside":            {plain, nil, addresses("127.0.0.1:80", "db:80"), ""},
		"an engine's":              {plain, nil, addresses("172.17.0.1:2375"), ""}, // as long as that is this host's
		"where loopback is free":   {anybodys, nil, addresses("127.0.0.1:80"), ""},
		"by a rule with its port":  {opened, nil, addresses("127.0.0.1:80"), ""},
		"beside that port":         {opened, nil, addresses("127.0.0.1:81"), "127.0.0.1:81"},
		"addresses by operator":    {plain, func(c *Client) { c.ByOperator = true }, addresses("127.0.0.1:80"), ""},
		"opened when it is known":  {New(Config{Rules: []Rule{{Action: Allow, Networks: []string{"x"}, To: place(t, "loopback")}}}), func(c *Client) { c.Partial, c.NetworksKnown = true, false }, addresses("127.0.0.1:80"), ""},
		"address":                  {plain, nil, of("static", "127.0.0.1"), ""}, // that is the endpoint's
		"file":                     {plain, nil, of("file", "/etc/ambassadord/a.list"), ""},
		"file elsewhere":           {plain, nil, of("file", "/etc/shadow"), "/etc/shadow"},
		"file beside the folder":   {plain, nil, of("file", "/etc/ambassadord-x/a"), "/etc/ambassadord-x/a"},
		"file by ..":               {plain, nil, of("file", "/etc/ambassadord/../shadow"), "/etc/ambassadord/../shadow"},
		"the folder":               {plain, nil, of("file", "/etc/ambassadord"), "/etc/ambassadord"},
		"file of the operator":     {plain, func(c *Client) { c.ByOperator = true }, of("file", "/etc/shadow"), ""},
		"file in another folder":   {folder, nil, of("file", "/srv/lists/x/a"), ""},
		"no longer the default":    {folder, nil, of("file", "/etc/ambassadord/a.list"), "/etc/ambassadord/a.list"},
		"nil policy":               {nil, nil, of("file", "/etc/shadow"), "/etc/shadow"},
		"file by an audit of all":  {New(Config{Rules: []Rule{{Action: Audit}}}), nil, of("file", "/etc/shadow"), "/etc/shadow"},
		"file by a rule":           {New(Config{Rules: []Rule{{Action: Allow, Kinds: []string{"file"}, Targets: []string{"/data/*"}}}}), nil, of("file", "/data/x/y"), ""},
		"file by a rule and ..":    {lists, nil, of("file", "/srv/lists/../../etc/shadow"), "/srv/lists/../../etc/shadow"},
		"file by a rule and //":    {lists, nil, of("file", "//srv/lists/a"), "//srv/lists/a"},
		"file by a rule, audit":    {New(Config{Rules: []Rule{{Action: Audit, Targets: []string{"/srv/lists/*"}}}}), nil, of("file", "/srv/lists/../../etc/shadow"), "/srv/lists/../../etc/shadow"},
		"file by a rule, in case":  {lists, nil, of("file", "/SRV/lists/a"), "/SRV/lists/a"},
		"file, a rule's case":      {New(Config{Rules: []Rule{{Action: Allow, Targets: []string{"/srv/Lists/*"}}}}), nil, of("file", "/srv/Lists/a"), ""},
		"file without its dot":     {New(Config{Rules: []Rule{{Action: Allow, Targets: []string{"/srv/a"}}}}), nil, of("file", "/srv/a."), "/srv/a."},
		"file of all, and ..":      {New(Config{Rules: []Rule{{Action: Allow, Kinds: []string{"file"}}}}), nil, of("file", "/a/../b"), "/a/../b"},
		"file unclean, not known":  {New(Config{Rules: []Rule{{Action: Allow, Networks: []string{"x"}}}}), func(c *Client) { c.Partial, c.NetworksKnown = true, false }, of("file", "/a/../b"), "/a/../b"},
		"operator's file and ..":   {lists, func(c *Client) { c.ByOperator = true }, of("file", "/srv/../b"), ""},
		"operator's, denied by ..": {etc, func(c *Client) { c.ByOperator = true }, of("file", "/srv/../etc/shadow"), "-"},
		"operator's, and cleaned":  {etc, func(c *Client) { c.ByOperator = true }, of("file", "/etc/../srv/a"), "-"},
		"operator's, allowlist":    {New(Config{Rules: []Rule{{Action: Allow, Targets: []string{"/srv/*"}}, {Action: Deny}}}), func(c *Client) { c.ByOperator = true }, of("file", "/srv/../etc/shadow"), "-"},
		"a key with /":             {keys, nil, of("consul", "/services/redis"), "-"},
		"a key with / at its end":  {keys, nil, of("etcd", "lists/redis/"), "-"},
		"a key by ..":              {keys, nil, of("consul", "x/../services/redis"), "-"},
		"a key out by ..":          {New(Config{Rules: []Rule{{Action: Allow, Targets: []string{"lists/*"}}, {Action: Deny}}}), nil, of("consul", "lists/../services/redis"), "-"},
		"a key in another case":    {keys, nil, of("etcd", "Lists/redis"), ""},
		"registry":                 {plain, nil, registry("10.9.9.9:8500"), ""},
		"registry on loopback":     {plain, nil, registry("127.0.0.1:9999"), "127.0.0.1:9999"},
		"registry at localhost":    {plain, nil, registry("LocalHost.:9999"), "LocalHost.:9999"},
		"registry below localhost": {plain, nil, registry("x.localhost:9999"), "x.localhost:9999"},
		"registry by IPv6":         {plain, nil, registry("[::1]:9999"), "[::1]:9999"},
		"configured registry":      {plain, nil, registry("127.0.0.1:8500"), ""},
		"the same by its name":     {plain, nil, registry("localhost:8500"), ""},
		"registry by a name":       {plain, nil, registry("consul.example:8500"), ""},
		"registry of the operator": {plain, func(c *Client) { c.ByOperator = true }, registry("127.0.0.1:9999"), ""},
		"a rule for everything":    {New(Config{Rules: []Rule{{Action: Deny, To: place(t, "10.0.0.0/8")}, {Action: Deny, Kinds: []string{"dns"}}}}), nil, of("dns", "x"), "-"},
		"not yet known":            {New(Config{Rules: []Rule{{Action: Allow, Networks: []string{"x"}}, {Action: Deny}}}), func(c *Client) { c.Partial, c.NetworksKnown = true, false }, of("dns", "x"), ""},
		"refused in any case":      {New(Config{Rules: []Rule{{Action: Deny, Networks: []string{"x"}}}}), func(c *Client) { c.Partial, c.NetworksKnown = true, false }, of("file", "/etc/shadow"), "/etc/shadow"},
	} {
		c := web
		if test.client != nil {
			test.client(&c)
		}
		v, at := test.policy.Scope(c, test.target).Target()
		if v.Denied() && at == "" {
			at = "-"
		}
		if at != test.at {
			t.Errorf("%s: %q is refused (%s); want %q", name, at, v, test.at)
		}
	}
}

// TestUnder: a Scope is made anew for another policy alone.
func TestUnder(t *testing.T) {
	strict, loose := New(Config{}), New(Config{AllowLoopback: true})
	s := strict.Scope(web, of("static", "x"))
	if s.Under(strict) != s {
		t.Error("it is made anew for the same policy")
	}
	there := netip.MustParseAddrPort("127.0.0.1:80")
	if !s.Check(there, false).Denied() || s.Under(loose).Check(there, false).Denied() {
		t.Error("the new policy does not hold")
	}
}

func TestMetadata(t *testing.T) {
	for _, addr := range metadataAddrs {
		if classify(addr)&metadata == 0 {
			t.Errorf("%s is not known", addr)
		}
	}
}

func TestCheckAllocatesNothing(t *testing.T) {
	s := New(Config{Rules: []Rule{{Action: Deny, To: place(t, "198.51.100.0/24", "host")}}, Host: addrs{"10.0.0.1"}}).Scope(web, of("static", "x"))
	there := netip.MustParseAddrPort("192.0.2.1:2375")
	if n := testing.AllocsPerRun(100, func() { s.Check(there, false) }); n > 0 {
		t.Errorf("%v allocations", n)
	}
}

func TestParseFlag(t *testing.T) {
	for text, want := range map[string]string{
		"10.0.0.0/8": "10.0.0.0/8 []", "10.0.0.0/8:22": "10.0.0.0/8 [{22 22}]", "10.0.0.1:22-25": "10.0.0.1 [{22 25}]", "::1": "::1 []",
		"[::1]:22": "[::1] [{22 22}]", "fd00::/8": "fd00::/8 []", "fd00::/8:80": "fd00::/8 [{80 80}]", "loopback:8080": "loopback [{8080 8080}]", "host": "host []",
	} {
		p, ports, err := ParseFlag(text)
		if got := strings.TrimSpace(p.String()) + " " + fmt.Sprint(ports); err != nil || got != want {
			t.Errorf("%q: %q, %v; want %q", text, got, err, want)
		}
	}
	for text, fix := range map[string]string{"lopback": "did you mean loopback?", "10.0.0.0/8:0": "write a port", "10.0.0.0/8:9-1": "write a port", "": "write a network", "10.0.0.0/33": "write a network"} {
		if _, _, err := ParseFlag(text); err == nil || !strings.HasPrefix(hint.Of(err), fix) {
			t.Errorf("%q: %v with hint %q; want %q", text, err, hint.Of(err), fix)
		}
	}
}

func BenchmarkCheck(b *testing.B) {
	there := netip.MustParseAddrPort("192.0.2.1:6379")
	for name, p := range map[string]*Policy{
		"default": New(Config{Host: addrs{"10.0.0.1"}}),
		"rules":   New(Config{Rules: []Rule{{Action: Deny, To: place(b, "198.51.100.0/24", "host")}, {Action: Allow, To: place(b, "192.0.2.0/24")}}, Host: addrs{}}),
	} {
		s := p.Scope(web, of("static", "x"))
		b.Run(name, func(b *testing.B) {
			b.ReportAllocs()
			for b.Loop() {
				s.Check(there, false)
			}
		})
	}
}
