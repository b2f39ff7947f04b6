package structure

import (
	"slices"
	"strings"
	"testing"
)

// The three packages that hold the design's decisions, and what they may lean
// on, directly or through others, beside the standard library.
var (
	core      = []string{"proxy", "resolver", "netrules"}
	coreMayDo = []string{
		module + "/internal/backoff",
		module + "/internal/hint",
		module + "/internal/watchable",
		module + "/internal/selfconnect", // a dial, with nothing around it
		module + "/internal/shorten",
		module + "/internal/suggest",
		"golang.org/x/sys/unix",  // the kernel's interface, as syscall was
		"golang.org/x/time/rate", // a token bucket, which speaks to nobody
	}
)

const coreReason = "proxy, resolver and netrules are to be read, tested and replaced alone: " +
	"what they need of one another is handed to them by internal/agent, " +
	"and what speaks to the outside lives in the folders under them"

func TestCoreStandsAlone(t *testing.T) {
	packages := all(t)
	for _, folder := range core {
		p := packages[module+"/"+folder]
		if p == nil {
			t.Errorf("there is no package %s; if it moved, move it in this test too", folder)
			continue
		}
		for _, dep := range p.Deps {
			d := packages[dep]
			if d == nil || d.Standard || slices.Contains(coreMayDo, dep) {
				continue
			}
			t.Errorf("%s depends on %s\n%s", folder, dep, coreReason)
		}
	}
}

const agentReason = "internal/agent is the composition root: it knows everybody, so nobody but the commands may know it"

func TestOnlyCommandsImportAgent(t *testing.T) {
	agent := module + "/internal/agent"
	for _, p := range own(t) {
		if p.ImportPath == agent || strings.HasPrefix(p.folder(), "cmd/") {
			continue
		}
		imports := slices.Concat(p.Imports, p.TestImports, p.XTestImports)
		if under := agent + "/"; slices.Contains(imports, agent) && !strings.HasPrefix(p.ImportPath, under) {
			t.Errorf("%s imports internal/agent\n%s", p.folder(), agentReason)
		}
	}
}

// homes says which folders may import a client library. A library is named by
// its module, or by the beginning of its modules.
var homes = []struct {
	library string
	folders []string
}{
	{"github.com/hashicorp/", []string{"resolver/consul"}},
	{"go.etcd.io/", []string{"resolver/etcd"}},
	{"google.golang.org/grpc", []string{"resolver/etcd"}}, // etcd's transport
	{"go.uber.org/zap", []string{"resolver/etcd"}},        // its client's logger, which is silenced
	{"github.com/fsouza/go-dockerclient", []string{"internal/dockerd"}},
	{"github.com/docker/", []string{"internal/dockerd"}},
	{"github.com/moby/", []string{"internal/dockerd"}},
	{"github.com/miekg/dns", []string{"resolver/dns"}},
	{"github.com/coreos/go-iptables", []string{"netrules/iptables"}},
	{"github.com/coreos/go-systemd/", []string{"internal/systemd"}},
	{"github.com/godbus/", []string{"internal/firewalld"}},
	{"github.com/google/nftables", []string{"netrules/advance", "netrules/anchor", "netrules/guard", "netrules/iptables", "netrules/nft", "netrules/owned", "netrules/refuse"}},
	{"github.com/mdlayher/", []string{"netrules/advance", "netrules/anchor", "netrules/iptables", "netrules/nfnetlink", "netrules/nft", "netrules/owned"}}, // nftables' transport
	{"github.com/vishvananda/", []string{"netrules/netns", "internal/netlab"}},
	{"github.com/pires/go-proxyproto", []string{"internal/proxyproto"}},
	{"go.yaml.in/", []string{"internal/config"}},
	{"github.com/spf13/", []string{"cmd/ambassadord"}},
}

const homeReason = "a client library has one home, which turns its types and errors into ours: " +
	"so it can be replaced, and its quirks are handled in one place (tests may use what they like)"

func TestClientLibrariesHaveOneHome(t *testing.T) {
	for _, p := range own(t) {
		for _, imported := range p.Imports {
			for _, home := range homes {
				if !strings.HasPrefix(imported, home.library) || p.isTestHelper() {
					continue
				}
				if !slices.Contains(home.folders, p.folder()) {
					t.Errorf("%s imports %s, whose home is %s\n%s",
						p.folder(), imported, strings.Join(home.folders, " and "), homeReason)
				}
			}
		}
	}
}

const strangerReason = "a new dependency is a decision: give it a home in this test and a line in ARCHITECTURE.md"

// Every library that is not the Go project's own is in homes.
func TestEveryLibraryHasAHome(t *testing.T) {
	packages := all(t)
	for _, p := range own(t) {
		if p.isTestHelper() {
			continue
		}
		for _, imported := range p.Imports {
			d := packages[imported]
			if d == nil || d.Standard || d.folder() != "" || strings.HasPrefix(imported, "golang.org/x/") {
				continue
			}
			known := false
			for _, home := range homes {
				known = known || strings.HasPrefix(imported, home.library)
			}
			if !known {
				t.Errorf("%s imports %s, which has no home\n%s", p.folder(), imported, strangerReason)
			}
		}
	}
}

const testHelperReason = "helpers of tests bring the package testing and test servers along, which have no place in the daemon"

func TestNoTestHelperInTheDaemon(t *testing.T) {
	packages := all(t)
	for _, p := range own(t) {
		if p.isTestHelper() {
			continue
		}
		for _, imported := range p.Imports {
			if imported == "testing" || packages[imported] != nil && packages[imported].folder() != "" && packages[imported].isTestHelper() {
				t.Errorf("%s imports %s outside its tests\n%s", p.folder(), imported, testHelperReason)
			}
		}
	}
}
