package config

import (
	"net/netip"
	"os"
	"path"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/ambassadord/ambassadord/internal/policy"
)

// FuzzPolicy: whatever a file says and whatever address an endpoint has, the answer comes
// soon and costs little; and no rule that only denies opens what the default denies.
func FuzzPolicy(f *testing.F) {
	paths, _ := filepath.Glob("testdata/*policy*.yml")
	for _, name := range paths {
		content, err := os.ReadFile(name)
		if err != nil {
			f.Fatal(err)
		}
		for _, addr := range []string{"127.0.0.1", "::ffff:169.254.169.254", "64:ff9b::1", "192.0.2.1"} {
			f.Add(content, netip.MustParseAddr(addr).AsSlice(), uint16(8080), "web-1", "registry/web:1", "services/redis")
		}
	}
	f.Fuzz(func(t *testing.T, content, raw []byte, port uint16, container, image, target string) {
		if len(content) > 64<<10 || len(container)+len(image)+len(target) > 64<<10 {
			return
		}
		file, err := ParseFile("f.yml", content, testFlags)
		if err != nil {
			return
		}
		addr, _ := netip.AddrFromSlice(raw)
		var before, after runtime.MemStats
		runtime.ReadMemStats(&before)
		began := time.Now()
		p := policy.New(policy.Config{Rules: file.Policy})
		s := p.Scope(policy.Client{Container: container, Image: image, Labels: map[string]string{"app": "shop"}, Project: "shop", NetworksKnown: true, ByImage: policy.No},
			policy.Target{Text: target, Parts: []policy.Part{{Kind: "consul", Name: target, Registry: "10.9.9.9:8500"}, {Kind: "file", Name: "/" + target}}})
		v := s.Check(netip.AddrPortFrom(addr, port), false)
		whole, at := s.Target()
		for _, v := range []policy.Verdict{v, whole} {
			if v.Denied() && s.Deny(v, at).Error() == "" {
				t.Error("no text")
			}
		}
		runtime.ReadMemStats(&after)
		if took := time.Since(began); took > time.Second {
			t.Errorf("it took %s", took)
		}
		if cost := after.TotalAlloc - before.TotalAlloc; cost > 64<<20 {
			t.Errorf("it took %d bytes", cost)
		}
		if name := "/" + target; path.Clean(name) != name && !whole.Denied() {
			t.Errorf("the file %q is allowed: %s", name, whole)
		}
		opens := slices.ContainsFunc(file.Policy, func(r policy.Rule) bool { return r.Action != policy.Deny })
		if addr.Unmap().IsLoopback() && !opens && !v.Denied() {
			t.Errorf("%s is allowed: %s", addr, v)
		}
	})
}

// TestRulesAreBounded: all are asked about each client and target.
func TestRulesAreBounded(t *testing.T) {
	rules := func(n int) []byte {
		return []byte("policy:\n" + strings.Repeat("  - {action: deny, to: 192.0.2.1}\n", n))
	}
	if file, err := ParseFile("f.yml", rules(maxRules), testFlags); err != nil || len(file.Policy) != maxRules {
		t.Errorf("%d rules: %v", maxRules, err)
	}
	_, err := ParseFile("f.yml", rules(maxRules+1), testFlags)
	if err == nil || !strings.Contains(err.Error(), "f.yml:1002:5: more than 1000 rules") {
		t.Errorf("one more: %v; want to be told where", err)
	}
}
