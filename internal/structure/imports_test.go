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
		module + "/resolver/internal/burstlog", // parts of resolver itself, which know no registry
		module + "/resolver/internal/outage",
		module + "/proxy/limit",   // what proxy bounds its connections by, and others name
		module + "/proxy/origdst", // a question to the kernel, asked by others, too
		"golang.org/x/sys/unix",   // the kernel's interface, as syscall was
		"golang.org/x/time/rate",  // a token bucket, which speaks to nobody
	}
)

const coreReason = "proxy, resolver and netrules are to be read, tested and replaced alone: " +
	"what they need of one another is handed to them by internal/daemon, " +
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
			if d == nil || d.Standard || slices.Contains(coreMayDo, dep) || strings.HasPrefix(d.folder(), folder+"/internal/") {
				continue
			}
			t.Errorf("%s depends on %s\n%s", folder, dep, coreReason)
		}
	}
}

// floors are the rooms of the house, from the top: a room imports those of its own floor and
// below. What is not named here may import the lowest. A name that ends in a slash is every room in
// that folder.
var floors = [][]string{
	{"cmd/ambassadord"},
	{"internal/daemon", "internal/oneshot", "internal/operate", "internal/rulescmd", "internal/doctor", "internal/explain"},
	{"internal/mode/"},
	{"internal/admin"},
	{"internal/sourceguard", "internal/listenset", "internal/reconcile", "internal/cleanup", "internal/refusal", "internal/ruleslots"},
	{"internal/route", "internal/hold", "internal/settings", "internal/mode"},
	{"internal/sources", "internal/identity", "internal/config", "internal/handover", "internal/accesslog", "internal/keeper", "internal/inquiry", "internal/status", "internal/attached", "internal/failures", "internal/metrics", "internal/endpoints", "internal/events", "internal/logging"},
	{"internal/binding", "internal/dockerd", "internal/policy", "internal/claim", "internal/control"},
}

// nevers are imports that a floor would allow.
var nevers = []struct{ from, to, why string }{
	{"internal/mode/", "internal/mode/", "a mode imports no other mode: what two of them need stands below"},
	{"internal/oneshot", "internal/daemon", "a command that needs no daemon builds none"},
	{"internal/operate", "internal/daemon", "a command that asks a daemon builds none"},
	{"internal/rulescmd", "internal/daemon", "a command that needs no daemon builds none"},
	{"internal/doctor", "internal/daemon", "doctor looks at the parts, and runs none"},
	{"internal/daemon", "internal/doctor", "the daemon is not a command"},
	{"internal/sources", "internal/identity", "a source does not know who asks"},
}

const floorReason = "arrows between rooms go down (ARCHITECTURE.md, Directions): give the lower room an interface or a function of its own, or move what both need below them"

// floorOf is how far from the top a folder stands, and false for one that is no room.
func floorOf(folder string) (int, bool) {
	for i, rooms := range floors {
		for _, named := range rooms {
			if folder == named || strings.HasSuffix(named, "/") && strings.HasPrefix(folder, named) {
				return i, true
			}
		}
	}
	return 0, false
}

func TestArrowsGoDown(t *testing.T) {
	packages := all(t)
	for _, p := range own(t) {
		if p.isTestHelper() {
			continue
		}
		from, room := floorOf(p.folder())
		if !room {
			from = len(floors) - 1
		}
		for _, imported := range p.Imports {
			d := packages[imported]
			if d == nil || d.folder() == "" {
				continue
			}
			if to, ok := floorOf(d.folder()); ok && to < from && !strings.HasPrefix(p.folder(), "bench") {
				t.Errorf("%s imports %s, which stands above it\n%s", p.folder(), d.folder(), floorReason)
			}
			for _, never := range nevers {
				inside := func(folder, prefix string) bool {
					return folder == prefix || strings.HasSuffix(prefix, "/") && strings.HasPrefix(folder, prefix)
				}
				if inside(p.folder(), never.from) && inside(d.folder(), never.to) {
					t.Errorf("%s imports %s\n%s", p.folder(), d.folder(), never.why)
				}
			}
		}
	}
	for _, rooms := range floors {
		for _, folder := range rooms {
			if !strings.HasSuffix(folder, "/") && packages[module+"/"+folder] == nil {
				t.Errorf("there is no package %s; if it moved, move it in this test too", folder)
			}
		}
	}
}

// toldByAdmin are what the admin interface may import of ours, beside wordRooms.
var toldByAdmin = []string{"internal/status", "internal/explain", "internal/metrics"}

const adminReason = "the admin interface tells what parts know and is handed functions and values: a part that it imported would be one that requests reach"

func TestAdminKnowsNoPart(t *testing.T) {
	p := all(t)[module+"/internal/admin"]
	if p == nil {
		t.Fatal("there is no internal/admin; if it moved, move it in this test too")
	}
	for _, imported := range p.Imports {
		folder, ok := strings.CutPrefix(imported, module+"/")
		if ok && !slices.Contains(toldByAdmin, folder) && !slices.Contains(wordRooms, folder) {
			t.Errorf("internal/admin imports %s\n%s", folder, adminReason)
		}
	}
}

const commandReason = "the daemon knows every part, so nothing but the commands may know it"

func TestOnlyCommandsImportTheDaemon(t *testing.T) {
	daemon := module + "/internal/daemon"
	for _, p := range own(t) {
		if p.ImportPath == daemon || strings.HasPrefix(p.folder(), "cmd/") {
			continue
		}
		if slices.Contains(slices.Concat(p.Imports, p.TestImports, p.XTestImports), daemon) {
			t.Errorf("%s imports internal/daemon\n%s", p.folder(), commandReason)
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
	{"github.com/prometheus/", []string{"internal/metrics"}},
	{"github.com/pires/go-proxyproto", []string{"internal/proxyproto"}},
	{"go.yaml.in/", []string{"internal/config", "internal/lint"}},
	{"github.com/spf13/", []string{"cmd/ambassadord"}},
	{"github.com/danielgtaylor/huma/", []string{"internal/admin"}},
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
