package doctor

import (
	"errors"
	"fmt"
	"io/fs"
	"slices"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/ambassadord/ambassadord/internal/config"
	"github.com/ambassadord/ambassadord/internal/dockerd"
	"github.com/ambassadord/ambassadord/internal/hint"
	"github.com/ambassadord/ambassadord/internal/privilege"
	"github.com/ambassadord/ambassadord/netrules"
	"github.com/ambassadord/ambassadord/netrules/iptables"
	"github.com/ambassadord/ambassadord/resolver/dns"
)

// verdict is a result that a judge must come to: its status, a part of its
// summary, and a part of its hint, "" for no hint.
type verdict struct {
	status        Status
	summary, hint string
}

func (v verdict) check(t *testing.T, name string, r Result) {
	t.Helper()
	if r.Status != v.status || !strings.Contains(r.Summary, v.summary) || !strings.Contains(r.Hint, v.hint) || (v.hint == "") != (r.Hint == "") {
		t.Errorf("%s: %+v, want %+v", name, r, v)
	}
}

func TestPrivileges(t *testing.T) {
	all := privilege.Of("NET_ADMIN", "NET_BIND_SERVICE", "NET_RAW", "SYS_ADMIN", "SYS_PTRACE")
	redirect, listen, link := []config.Mode{config.Redirect}, []config.Mode{config.Listen}, []config.Mode{config.Link}
	host := []config.Mode{config.Host}
	tests := []struct {
		name   string
		wanted []config.Mode
		have   privilege.Set
		c      privilege.Circumstances
		want   verdict
	}{
		{"root", redirect, all, privilege.Circumstances{Legacy: true, ThroughProc: true}, verdict{OK, "enough for mode redirect; also for ", ""}},
		{"the least for redirect", redirect, privilege.Of("NET_ADMIN", "SYS_ADMIN"), privilege.Circumstances{}, verdict{OK, "enough for mode redirect", ""}},
		{
			"the least for redirect, by legacy iptables", redirect, privilege.Of("NET_ADMIN", "NET_BIND_SERVICE", "SYS_ADMIN"), privilege.Circumstances{Legacy: true},
			verdict{Fail, "mode redirect lacks NET_RAW", "--cap-add NET_RAW; or use --mode listen"},
		},
		{
			"the least for redirect, through /proc", redirect, privilege.Of("NET_ADMIN", "SYS_ADMIN"), privilege.Circumstances{ThroughProc: true},
			verdict{Fail, "mode redirect lacks SYS_PTRACE", "--cap-add SYS_PTRACE; or use --mode host"},
		},
		{"the least for listen", listen, privilege.Of("NET_BIND_SERVICE", "SYS_ADMIN"), privilege.Circumstances{Legacy: true}, verdict{OK, "enough for mode listen", ""}},
		{"the least for listen, through /proc", listen, privilege.Of("NET_BIND_SERVICE", "SYS_ADMIN"), privilege.Circumstances{ThroughProc: true}, verdict{Fail, "mode listen lacks SYS_PTRACE", "--cap-add SYS_PTRACE"}},
		{"the least for host", host, privilege.Of("NET_ADMIN", "SYS_ADMIN"), privilege.Circumstances{}, verdict{OK, "enough for mode host; also for redirect, link", ""}},
		{
			"the least for host, through /proc", host, privilege.Of("NET_ADMIN", "SYS_ADMIN", "SYS_PTRACE"), privilege.Circumstances{ThroughProc: true},
			verdict{OK, "enough for mode host; also for redirect, link", ""},
		},
		{
			"host without a guard", host, privilege.Of("NET_ADMIN"), privilege.Circumstances{ThroughProc: true},
			verdict{Warn, "not for the guard of mode host, which lacks SYS_ADMIN, SYS_PTRACE", "--cap-add SYS_ADMIN --cap-add SYS_PTRACE; or accept the risk"},
		},
		{
			"link without a guard", link, privilege.Of("NET_ADMIN"), privilege.Circumstances{},
			verdict{Warn, "not for the guard of mode link, which lacks SYS_ADMIN", "--cap-add SYS_ADMIN; or accept the risk"},
		},
		{"modes without a guard are possible", listen, privilege.Of("NET_ADMIN", "NET_BIND_SERVICE", "SYS_ADMIN", "SYS_PTRACE"), privilege.Circumstances{ThroughProc: true},
			verdict{OK, "also for redirect, host, link", ""}},
		{"the least for link, by legacy iptables", link, privilege.Of("NET_ADMIN"), privilege.Circumstances{Legacy: true}, verdict{Fail, "mode link lacks NET_RAW", "--cap-add NET_RAW"}},
		{
			"nothing, several modes", []config.Mode{config.Link, config.Redirect}, 0, privilege.Circumstances{},
			verdict{Fail, "mode redirect lacks NET_ADMIN, SYS_ADMIN; mode link lacks NET_ADMIN", "add --cap-add NET_ADMIN --cap-add SYS_ADMIN"},
		},
	}
	for _, tt := range tests {
		tt.want.check(t, tt.name, judgePrivileges(tt.wanted, tt.have, tt.c))
	}
}

func TestAutoIsWhatTheDaemonChooses(t *testing.T) {
	tests := []struct {
		modes       []config.Mode
		inContainer bool
		have        privilege.Set
		want        []config.Mode
	}{
		{nil, false, 0, []config.Mode{config.Redirect}},
		{[]config.Mode{config.Auto}, true, 0, []config.Mode{config.Link}},
		{[]config.Mode{config.Auto}, true, privilege.Of("NET_ADMIN", "SYS_ADMIN"), []config.Mode{config.Link, config.Redirect}},
		{[]config.Mode{config.Listen}, true, privilege.Of("SYS_ADMIN"), []config.Mode{config.Listen}},
	}
	for _, tt := range tests {
		if got := concrete(tt.modes, tt.inContainer, tt.have); !slices.Equal(got, tt.want) {
			t.Errorf("modes %v, in a container %t: %v, want %v", tt.modes, tt.inContainer, got, tt.want)
		}
	}
}

func TestMix(t *testing.T) {
	counts := func(nft, legacy int) []natRules {
		return []natRules{{iptables.NFT, nft}, {iptables.Legacy, legacy}}
	}
	nft, legacy := []iptables.Variant{iptables.NFT}, []iptables.Variant{iptables.Legacy}
	both := slices.Concat(nft, legacy)
	for _, tt := range []struct {
		name   string
		choice iptables.Choice
		found  []natRules
		want   verdict
	}{
		{"no rules", iptables.Choice{Variant: iptables.NFT}, counts(0, 0), verdict{OK, "no nat rules", ""}},
		{"one variant", iptables.Choice{Variant: iptables.Legacy, Docker: legacy}, counts(0, 4), verdict{OK, "of variant legacy", ""}},
		{"Docker's in both", iptables.Choice{Variant: iptables.NFT, Docker: both}, counts(3, 3), verdict{Warn, "Docker has rules in both", "restart"}},
		{"Docker's in the other", iptables.Choice{Variant: iptables.NFT, Docker: legacy}, counts(0, 3), verdict{Warn, "Docker's rules are in the packet filter legacy", "install"}},
		{"somebody else's in the other", iptables.Choice{Variant: iptables.NFT, Docker: nft}, counts(5, 2), verdict{Warn, "5 of nf_tables and 2 of legacy", "update-alternatives"}},
	} {
		tt.want.check(t, tt.name, judgeMix(tt.choice, tt.found))
	}
}

func TestKernel(t *testing.T) {
	forbidden := fmt.Errorf("unshare: %w", fs.ErrPermission)
	host, redirect := []config.Mode{config.Host}, []config.Mode{config.Redirect}
	lacks := hint.Errorf("modprobe iptable_nat", "no such table")
	for _, tt := range []struct {
		name string
		got  Result
		want verdict
	}{
		{"redirect", judgeRedirect(netrules.IPv4, nil), verdict{OK, "original port read back", ""}},
		{"redirect, kernel lacks it", judgeRedirect(netrules.IPv4, lacks), verdict{Fail, "no such table", "modprobe"}},
		{"redirect of IPv6, kernel lacks it", judgeRedirect(netrules.IPv6, lacks), verdict{Warn, "no such table", "modprobe"}},
		{"redirect, not allowed to try", judgeRedirect(netrules.IPv4, forbidden), verdict{Warn, "not checked: unshare", "as the daemon would be"}},
		{"bridge filter", judgeBridgeFilter(nil, host), verdict{OK, "can filter", ""}},
		{"bridge filter, kernel lacks it", judgeBridgeFilter(errors.New("not supported"), host), verdict{Fail, "not supported", "CONFIG_NF_TABLES_BRIDGE"}},
		{"bridge filter, kernel lacks it, another mode", judgeBridgeFilter(errors.New("not supported"), redirect), verdict{Warn, "not supported", "CONFIG_NF_TABLES_BRIDGE"}},
		{"bridge filter, not allowed to try", judgeBridgeFilter(forbidden, host), verdict{Warn, "not checked", "as the daemon would be"}},
		{"bridge filter, not allowed to try, another mode", judgeBridgeFilter(forbidden, redirect), verdict{OK, "not needed by mode redirect", ""}},
		{"splice", judgeSplice(nil), verdict{OK, "inside the kernel", ""}},
		{"splice, forbidden", judgeSplice(forbidden), verdict{Warn, "copied through the process", "seccomp"}},
	} {
		tt.want.check(t, tt.name, tt.got)
	}
}

func TestEngine(t *testing.T) {
	old := dockerd.Info{Version: "20.10.24", APIVersion: "1.41", FirewallBackend: "iptables", Running: 3}
	nft := dockerd.Info{Version: "29.0.0", APIVersion: "1.52", FirewallBackend: "nftables+firewalld", LiveRestore: true}
	verdict{OK, "version 20.10.24, API 1.41, firewall by iptables, 3 containers running; containers end with it", ""}.check(t, "old", judgeEngine(old, iptables.Legacy))
	verdict{OK, "firewall by nftables+firewalld, 0 containers running; containers outlive it", ""}.check(t, "nft", judgeEngine(nft, iptables.NFT))
	verdict{Warn, "our iptables is of variant legacy", "or the nft variant"}.check(t, "nft beside legacy", judgeEngine(nft, iptables.Legacy))
	verdict{OK, "nftables", ""}.check(t, "nft, and no rules needed", judgeEngine(nft, ""))
	podman := dockerd.Info{Podman: true, Version: "4.3.1", APIVersion: "1.41", FirewallBackend: "iptables", Running: 2}
	verdict{OK, "Podman, version 4.3.1, API 1.41, 2 containers running; containers outlive its service", ""}.check(t, "Podman", judgeEngine(podman, iptables.NFT))
}

func TestExposure(t *testing.T) {
	label := map[string]string{"connect.6379": "redis:6379"}
	containers := []*dockerd.Container{
		{ID: "1", Name: "raw", Running: true, NetRaw: true, Labels: label},
		{ID: "2", Name: "dropped", Running: true, Labels: label},
		{ID: "3", Name: "stopped", NetRaw: true, Labels: label},
		{ID: "4", Name: "silent", Running: true, NetRaw: true},
		{ID: "5", Name: "variable", Running: true, Env: []string{"BACKEND_80=not a target"}},
	}
	e := expose(containers)
	if want := (exposure{running: 4, declaring: 3, raw: 2, example: "silent"}); e != want {
		t.Fatalf("exposure %+v, want %+v", e, want)
	}
	verdict{OK, "2 of 4 running containers", ""}.check(t, "exact mode", judgeExposure(e, []config.Mode{config.Redirect}))
	verdict{Warn, "2 of 4 running containers can send packets with any source address (NET_RAW), silent among them; mode link cannot", "--cap-drop NET_RAW"}.
		check(t, "mode link", judgeExposure(e, []config.Mode{config.Redirect, config.Link}))
	verdict{OK, "2 of 4 running containers can send packets with any source address (NET_RAW); mode host guards", ""}.
		check(t, "mode host", judgeExposure(e, []config.Mode{config.Host}))
	verdict{OK, "0 of 1 running", ""}.check(t, "mode link, dropped", judgeExposure(expose(containers[1:2]), []config.Mode{config.Link}))
	verdict{OK, "no running container", ""}.check(t, "nobody", judgeExposure(exposure{}, []config.Mode{config.Link}))
}

func TestSight(t *testing.T) {
	none := errors.New("open /run/netns: no such file or directory")
	for _, tt := range []struct {
		name string
		s    sight
		want verdict
	}{
		{"the folder", sight{folder: "/f", entered: 2}, verdict{OK, "2 in /f", ""}},
		{"an empty folder", sight{folder: "/f"}, verdict{OK, "0 in /f", ""}},
		{"one that is being mounted", sight{folder: "/f", entered: 1, ordinary: 1}, verdict{OK, "1 in /f", ""}},
		{"no propagation", sight{folder: "/f", ordinary: 3, contained: true}, verdict{Fail, "3 files that are no namespaces", "rslave"}},
		{"containers that have ended", sight{folder: "/f", ordinary: 3, contained: true, hostMount: true}, verdict{OK, "0 in /f", ""}},
		{"containers that have ended, in a PID namespace", sight{folder: "/f", ordinary: 3}, verdict{OK, "0 in /f", ""}},
		{"no SYS_ADMIN", sight{folder: "/f", enterErr: fs.ErrPermission}, verdict{Fail, "none in /f", "--cap-add SYS_ADMIN"}},
		{"not all", sight{folder: "/f", entered: 1, enterErr: fs.ErrPermission}, verdict{Warn, "not all", "look again"}},
		{"through /proc", sight{folderErr: none, hostPIDs: true, ptrace: true}, verdict{Warn, "through /proc", "-v /run/docker/netns"}},
		{"no SYS_PTRACE", sight{folderErr: none, hostPIDs: true}, verdict{Fail, "neither", "--cap-add SYS_PTRACE"}},
		{"a PID namespace", sight{folderErr: none, ptrace: true}, verdict{Fail, "neither", "--pid host"}},
	} {
		tt.want.check(t, tt.name, judgeSight(tt.s))
	}
}

func TestDNS(t *testing.T) {
	well, silent := dns.ServerStatus{Server: "192.0.2.1:53"}, dns.ServerStatus{Server: "192.0.2.2:53", Err: errors.New("no answer over udp within 2s")}
	verdict{OK, "192.0.2.1:53: an answer", ""}.check(t, "well", judgeDNS([]dns.ServerStatus{well}, ""))
	verdict{Warn, "only 192.0.2.1:53 answers; 192.0.2.2:53: no answer", "resolv.conf"}.check(t, "one silent", judgeDNS([]dns.ServerStatus{silent, well}, "web"))
	verdict{Fail, "no server answers, which a target of web needs: 192.0.2.2:53", "resolv.conf"}.check(t, "all silent", judgeDNS([]dns.ServerStatus{silent}, "web"))
	verdict{Warn, "no running container declares a target that needs one: 192.0.2.2:53", "resolv.conf"}.check(t, "all silent, and none is needed", judgeDNS([]dns.ServerStatus{silent}, ""))
}

func TestWhoAsksDNS(t *testing.T) {
	declares := func(target string) *dockerd.Container {
		return &dockerd.Container{Name: "web", Running: true, Labels: map[string]string{"connect.6379": target}}
	}
	stopped := declares("redis.example.com:6379")
	stopped.Running = false
	for target, want := range map[string]string{
		"redis.example.com:6379": "web", "redis.example.com": "web", "10.0.0.1:80 | a.test:80": "web",
		"10.0.0.1:6379": "", "docker://redis:6379": "", "dns://127.0.0.1:53/redis.test:6379": "", "redis:": "",
	} {
		if got := asksDNS([]*dockerd.Container{stopped, declares(target)}); got != want {
			t.Errorf("%s: %q asks DNS; want %q", target, got, want)
		}
	}
}

func TestEtcd(t *testing.T) {
	away := hint.Errorf("check that etcd runs", "connection refused")
	verdict{OK, "not configured, and no server", ""}.check(t, "none", judgeEtcd(false, "127.0.0.1:2379", away))
	verdict{OK, "have a leader", ""}.check(t, "found", judgeEtcd(false, "127.0.0.1:2379", nil))
	verdict{Fail, "connection refused", "etcd runs"}.check(t, "configured and away", judgeEtcd(true, "etcd:2379", away))
	verdict{OK, "have a leader", ""}.check(t, "configured", judgeEtcd(true, "etcd:2379", nil))
}

func TestConsul(t *testing.T) {
	away := errors.New("connection refused")
	verdict{OK, "not configured, and no agent", ""}.check(t, "none", judgeConsul(false, "localhost:8500", "", away, nil))
	verdict{OK, "its leader is 192.0.2.1:8300", ""}.check(t, "found", judgeConsul(false, "localhost:8500", "192.0.2.1:8300", nil, nil))
	verdict{Warn, "knows no leader", "raft"}.check(t, "found without a leader", judgeConsul(false, "localhost:8500", "", nil, nil))
	verdict{Fail, "connection refused", "--consul-addr"}.check(t, "configured and away", judgeConsul(true, "consul:8500", "", away, nil))
	verdict{Fail, "knows no leader", "raft"}.check(t, "configured, without a leader", judgeConsul(true, "consul:8500", "", nil, nil))
	verdict{OK, "its leader", ""}.check(t, "configured", judgeConsul(true, "consul:8500", "192.0.2.1:8300", nil, nil))
	denied := hint.Errorf("set CONSUL_HTTP_TOKEN", "status 403")
	verdict{Fail, "status 403", "CONSUL_HTTP_TOKEN"}.check(t, "configured, and it denies the token", judgeConsul(true, "consul:8500", "192.0.2.1:8300", nil, denied))
	verdict{Warn, "not configured; status 403", "CONSUL_HTTP_TOKEN"}.check(t, "found, and it denies the token", judgeConsul(false, "localhost:8500", "192.0.2.1:8300", nil, denied))
}

func TestLeftovers(t *testing.T) {
	hidden := errors.New("open /proc/1/ns/net: permission denied")
	for _, tt := range []struct {
		name   string
		l      seenRules
		ptrace bool
		want   verdict
	}{
		{"none", seenRules{looked: 3}, true, verdict{OK, "no rules of ours in 3", ""}},
		{"a daemon's", seenRules{looked: 3, ours: 2, stale: []string{"/n"}, locked: true}, true, verdict{OK, "2 of 3 network namespaces, and a daemon runs", ""}},
		{"those of one in a container", seenRules{looked: 3, ours: 1}, true, verdict{OK, "somebody listens", ""}},
		{"a dead one's", seenRules{looked: 3, ours: 2, stale: []string{"/n", "/m"}}, true, verdict{Warn, "in /n, /m", "ambassadord rules remove"}},
		{"a dead one's, whose connections are carried on", seenRules{looked: 3, ours: 1, carried: []string{"/n: 2 connections that process 17 (ambassadord) carries"}}, true, verdict{OK, "have ended, /n: 2 connections that process 17", ""}},
		{"not to be listed", seenRules{looked: 3, ours: 2, locked: true, blind: []string{"/n: app (3f2a) label connect.1"}}, true, verdict{Warn, "iptables cannot list the nat table, because of a rule that it has no words for, in /n: app (3f2a)", "nft list ruleset"}},
		{"hidden from all", seenRules{looked: 3, hidden: hidden}, true, verdict{OK, "no rules of ours", ""}},
		{"hidden from us", seenRules{looked: 3, hidden: hidden}, false, verdict{Warn, "not all: open /proc/1", "as the daemon would be"}},
		{"cut short", seenRules{looked: 3, err: errors.New("context deadline exceeded")}, true, verdict{Warn, "looked into 3 network namespaces, not all", "as the daemon"}},
	} {
		tt.want.check(t, tt.name, judgeLeftovers(tt.l, tt.ptrace))
	}
}

func TestDestinations(t *testing.T) {
	redirect := netrules.Redirect(netrules.IPv4, 61000, []netrules.Port{{Number: 6379, Comment: "app"}, {Number: 80, Comment: "--to-ports 1"}})
	state, err := netrules.ParseState(netrules.IPv4, "nat", "-N AMBASSADORD\n-A AMBASSADORD -d 127.0.0.11/32 -j RETURN\n"+
		redirect.Rules[1].Text("AMBASSADORD")+"\n"+redirect.Rules[2].Text("AMBASSADORD")+
		"\n-A AMBASSADORD -d 169.254.1.1/32 -p tcp -j DNAT --to-destination 169.254.1.1:10000\n-A AMBASSADORD -j DNAT --to-destination\n")
	if err != nil {
		t.Fatal(err)
	}
	chain, _ := state.Chain("AMBASSADORD")
	if got, want := destinations(chain), []uint16{61000, 61000, 10000}; !slices.Equal(got, want) {
		t.Errorf("destinations %v, want %v", got, want)
	}
}

func TestDaemonState(t *testing.T) {
	squatter := "@ambassadord/redirect is held by process 7 (nc) of container 0123456789ab, which is not believed"
	for _, tt := range []struct {
		name string
		s    daemonState
		want verdict
	}{
		{"none", daemonState{}, verdict{Warn, "none is running, so that nothing is served", "ambassadord run"}},
		{"one", daemonState{by: "process 7 (ambassadord)"}, verdict{OK, "one is running: process 7", ""}},
		{"none, and it is missed", daemonState{declaring: 3}, verdict{Warn, "none is running, and 3 running containers declare ports that nobody serves", "ambassadord run"}},
		{"listeners alone", daemonState{listeners: []string{"process 7 (ambassadord) at 127.0.0.1:1, :2", "process 8 (ambassadord) at :3"}}, verdict{OK, "none is running that redirects what containers dial; for those who dial its own address there is process 7 (ambassadord) at 127.0.0.1:1, :2, and process 8", ""}},
		{"listeners alone, and one is missed", daemonState{declaring: 3, listeners: []string{"process 7 (ambassadord) at :1"}}, verdict{Warn, "process 7 (ambassadord) at :1, and 3 running containers", "ambassadord run"}},
		{"one, and listeners", daemonState{by: "process 7 (ambassadord)", listeners: []string{"process 8 (ambassadord) at :1"}}, verdict{OK, "one is running: process 7 (ambassadord); for those who dial its own address there is process 8", ""}},
		{"somebody out of sight", daemonState{declaring: 3, unseen: "@ambassadord/redirect is held by a process of user 0 out of our sight"}, verdict{Warn, "whether one is running cannot be told from here: @ambassadord/redirect", "--pid host"}},
		{"one, and somebody out of sight", daemonState{by: "process 7", unseen: "@ambassadord/redirect is held by a process of user 0 out of our sight"}, verdict{Warn, "one is running: process 7; @ambassadord/redirect is held", "stop one of the two"}},
		{"none, and its lock is squatted", daemonState{squatters: []string{squatter, "another"}}, verdict{Warn, "process 7 (nc) of container 0123456789ab", "end that process"}},
		{"one, beside a squatter", daemonState{by: "process 8", squatters: []string{squatter}}, verdict{Warn, "one is running: process 8; @ambassadord/redirect", "end that process"}},
		{"it could not have its folder", daemonState{folderErr: hint.Errorf("chmod 700 /run/ambassadord", "/run/ambassadord is open to other users")}, verdict{Fail, "open to other users", "chmod 700"}},
	} {
		tt.want.check(t, tt.name, judgeDaemon(tt.s))
	}
}

func TestDescriptors(t *testing.T) {
	verdict{OK, "1048576, for 480597 connections", ""}.check(t, "many", judgeDescriptors(1<<20))
	verdict{OK, "for 1010", ""}.check(t, "enough", judgeDescriptors(2204))
	verdict{Warn, "for 448", "LimitNOFILE"}.check(t, "the old default", judgeDescriptors(1024))
}

func TestJudgePriority(t *testing.T) {
	for _, test := range []struct {
		name   string
		failed error
		have   privilege.Set
		want   verdict
	}{
		{"root", nil, privilege.Of("SYS_NICE"), verdict{OK, "at real-time priority", ""}},
		{"without the capability", unix.EPERM, 0, verdict{Warn, "no real-time priority", "--cap-add SYS_NICE"}},
		{"in a group that has no such time", unix.EPERM, privilege.Of("SYS_NICE"), verdict{Warn, "no real-time priority", "cpu.rt_runtime_us"}},
		{"a sandbox that knows no such call", unix.ENOSYS, privilege.Of("SYS_NICE"), verdict{Warn, "function not implemented", "sched_setattr"}},
	} {
		test.want.check(t, test.name, judgePriority(test.failed, test.have))
	}
}
