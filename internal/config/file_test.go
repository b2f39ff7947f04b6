package config

import (
	"errors"
	"flag"
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/ambassadord/ambassadord/internal/binding"
	"github.com/ambassadord/ambassadord/internal/hint"
	"github.com/ambassadord/ambassadord/internal/option"
	"github.com/ambassadord/ambassadord/internal/policy"
)

var update = flag.Bool("update", false, "write the messages of testdata/invalid-*.yml")

var testFlags = []string{"mode", "log-level", "log-format", "drain-timeout", "consul-addr", "allow-loopback"}

func parseTestdata(t *testing.T, path string) (*File, error) {
	t.Helper()
	content, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	return ParseFile(filepath.Base(path), content, testFlags)
}

// TestInvalidFiles: each mistake has its message, which stands beside the file.
func TestInvalidFiles(t *testing.T) {
	paths, err := filepath.Glob("testdata/invalid-*.yml")
	if err != nil || len(paths) == 0 {
		t.Fatalf("no files to test: %v", err)
	}
	for _, path := range paths {
		file, err := parseTestdata(t, path)
		if err == nil {
			t.Errorf("%s is read as %+v; want an error", path, file)
			continue
		}
		got := err.Error() + "\nhint: " + hint.Of(err) + "\n"
		if hint.Of(err) == "" {
			t.Errorf("%s: %q has no hint", path, err)
		}
		expected := strings.TrimSuffix(path, ".yml") + ".want"
		if *update {
			if err := os.WriteFile(expected, []byte(got), 0o644); err != nil {
				t.Fatal(err)
			}
			continue
		}
		want, err := os.ReadFile(expected)
		if err != nil {
			t.Fatal(err)
		}
		if diff := cmp.Diff(string(want), got); diff != "" {
			t.Errorf("%s (-want +got):\n%s", path, diff)
		}
	}
}

func TestValidFiles(t *testing.T) {
	layer := func(origin string, pairs ...string) option.Layer {
		l := option.Layer{}
		for i := 0; i < len(pairs); i += 3 {
			l = append(l, option.Setting{Name: pairs[i], Text: pairs[i+1], Origin: origin + pairs[i+2]})
		}
		return l
	}
	const at = "valid-all.yml:"
	want := map[string]*File{
		"valid-empty.yml":   {},
		"valid-comment.yml": {},
		"valid-nulls.yml":   {},
		"valid-policy.yml": {
			Flags: []FileFlag{{Name: "allow-loopback", Values: []string{"true"}, Origin: "valid-policy.yml:1:1"}},
			Policy: []policy.Rule{
				{Name: "no-lab", Origin: "valid-policy.yml:3:5", Number: 1, Action: policy.Deny, To: places(t, "192.0.2.0/24", "metadata"), Ports: []policy.PortRange{{From: 22, To: 22}, {From: 8000, To: 8999}}},
				{Origin: "valid-policy.yml:7:5", Number: 2, Action: policy.Audit, Containers: []string{"web-*", "api"}, Labels: []string{"app=shop"},
					Projects: []string{"shop"}, Images: []string{"registry/*"}, Networks: []string{"backend"}, Declared: []policy.Declarer{policy.ByImage, policy.ByContainer},
					Kinds: []string{"consul"}, Targets: []string{"services/*"}, Registries: []string{"10.9.9.9:8500"}},
			},
		},
		"valid-limits.yml": {Limits: option.Limited{
			"client-limit": {Most: "100", Origin: "valid-limits.yml:2:3"}, "wait": {Least: "0", Most: "10s", Origin: "valid-limits.yml:3:3"},
			"policy": {Words: []string{"random", "first"}, Origin: "valid-limits.yml:4:3"}, "queue": {Most: "10", Origin: "valid-limits.yml:5:3"},
			"mark": {Origin: "valid-limits.yml:6:3"}, "eject-after": {Origin: "valid-limits.yml:7:3"}, "eject-for": {Origin: "valid-limits.yml:7:3"},
			"eject-for-max": {Origin: "valid-limits.yml:7:3"}, "eject-most": {Origin: "valid-limits.yml:7:3"},
		}},
		"valid-all.yml": {
			Flags: []FileFlag{
				{Name: "log-level", Values: []string{"debug"}, Origin: at + "1:1"},
				{Name: "mode", Values: []string{"redirect", "link"}, Origin: at + "2:1"},
			},
			Defaults: layer(at, "wait", "30s", "4:3", "timeout", "1m", "5:3"),
			Targets: []TargetOptions{
				{Target: "redis.service.consul", Origin: at + "7:3", Options: layer(at, "wait", "30s", "4:3", "timeout", "1m", "5:3")},
				{Target: "a:1 | b:2", Origin: at + "8:3", Options: layer(at, "policy", "first", "8:17")},
			},
			Listeners: []Listener{
				{Address: ":6379", Target: "redis.service.consul", Origin: at + "10:5", Options: layer(at, "queue", "10", "13:5"),
					AcceptProxyFrom: []netip.Prefix{netip.MustParsePrefix("10.0.0.0/8"), netip.MustParsePrefix("192.0.2.1/32")}},
				{Address: "127.0.0.1:5432", Target: "pg:5432", Origin: at + "14:5", AcceptProxyFrom: []netip.Prefix{}},
			},
			Clients: []binding.Static{
				{Container: "legacy-*", Ports: map[uint16]binding.StaticPort{
					6379: {Target: "redis.service.consul", Origin: at + "18:7"},
					5432: {Target: "pg:5432", Origin: at + "19:7", Options: layer(at, "wait", "1s", "21:9")},
				}},
				{Label: "app=shop", Ports: map[uint16]binding.StaticPort{80: {Target: "web:80", Origin: at + "23:13"}}},
			},
		},
	}
	paths, err := filepath.Glob("testdata/valid-*.yml")
	if err != nil || len(paths) != len(want) {
		t.Fatalf("%d files, %v; want %d", len(paths), err, len(want))
	}
	for _, path := range paths {
		got, err := parseTestdata(t, path)
		if err != nil {
			t.Errorf("%s: %v", path, err)
			continue
		}
		comparer := cmp.Comparer(func(a, b netip.Prefix) bool { return a == b })
		samePlace := cmp.Comparer(func(a, b policy.Place) bool { return a == b })
		if diff := cmp.Diff(want[filepath.Base(path)], got, comparer, samePlace); diff != "" {
			t.Errorf("%s (-want +got):\n%s", path, diff)
		}
	}
}

func places(t *testing.T, texts ...string) []policy.Place {
	t.Helper()
	out := make([]policy.Place, len(texts))
	for i, text := range texts {
		var err error
		if out[i], err = policy.ParsePlace(text); err != nil {
			t.Fatal(err)
		}
	}
	return out
}

func TestReadFile(t *testing.T) {
	dir := t.TempDir()
	large := filepath.Join(dir, "large.yml")
	if err := os.WriteFile(large, make([]byte, maxFile+1), 0o600); err != nil {
		t.Fatal(err)
	}
	for path, want := range map[string]string{
		filepath.Join(dir, "none.yml"): "no such file",
		large:                          "has more than 1048576 bytes",
		dir:                            "is a directory",
	} {
		if _, err := ReadFile(path, nil); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%s: %v; want %q", path, err, want)
		}
	}
	if _, err := ReadFile(filepath.Join(dir, "none.yml"), nil); !errors.Is(err, os.ErrNotExist) || hint.Of(err) == "" {
		t.Errorf("%v; want the cause, and a hint", err)
	}
}

func FuzzParseFile(f *testing.F) {
	paths, _ := filepath.Glob("testdata/*.yml")
	for _, path := range paths {
		content, err := os.ReadFile(path)
		if err != nil {
			f.Fatal(err)
		}
		f.Add(content)
	}
	f.Fuzz(func(t *testing.T, content []byte) {
		file, err := ParseFile("f.yml", content, testFlags)
		if (file == nil) != (err != nil) {
			t.Errorf("%q: %v, %v", content, file, err)
		}
	})
}
