package iptables

import (
	"errors"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"go.uber.org/goleak"

	"github.com/ambassadord/ambassadord/internal/hint"
	"github.com/ambassadord/ambassadord/netrules"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// fakePrograms puts programs that answer --version alone first and only in PATH.
func fakePrograms(t *testing.T, versions map[string]string) {
	t.Helper()
	dir := t.TempDir()
	for name, version := range versions {
		script := "#!/bin/sh\necho '" + name + " " + version + "'\n"
		if err := os.WriteFile(filepath.Join(dir, name), []byte(script), 0o700); err != nil {
			t.Fatal(err)
		}
	}
	t.Setenv("PATH", dir)
}

func TestNew(t *testing.T) {
	t.Run("no iptables", func(t *testing.T) {
		fakePrograms(t, nil)
		_, err := New(t.Context())
		if !errors.Is(err, exec.ErrNotFound) || !strings.Contains(hint.Of(err), "apt-get install iptables") {
			t.Errorf("error %v, hint %q", err, hint.Of(err))
		}
	})
	t.Run("no ip6tables", func(t *testing.T) {
		fakePrograms(t, map[string]string{"iptables": "v1.8.9 (nf_tables)", "iptables-restore": "v1.8.9 (nf_tables)"})
		r, err := New(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		if r.Variant() != NFT {
			t.Errorf("variant %s", r.Variant())
		}
		if _, err := r.Apply(t.Context(), nil, netrules.Redirect(netrules.IPv6, 1, nil)); !errors.Is(err, netrules.ErrUnsupported) || hint.Of(err) == "" {
			t.Errorf("Apply: %v, hint %q", err, hint.Of(err))
		}
		if _, err := r.Remove(t.Context(), nil, netrules.IPv6); !errors.Is(err, netrules.ErrUnsupported) {
			t.Errorf("Remove: %v", err)
		}
		if err := r.DropTable(t.Context(), nil, netrules.IPv6); !errors.Is(err, netrules.ErrUnsupported) {
			t.Errorf("DropTable: %v", err)
		}
	})
	t.Run("before the nft variant", func(t *testing.T) {
		fakePrograms(t, map[string]string{"iptables": "v1.6.2", "iptables-restore": "v1.6.2"})
		if r, err := New(t.Context()); err != nil || r.Variant() != Legacy {
			t.Errorf("New: %v, %v", r, err)
		}
	})
	t.Run("variants mixed", func(t *testing.T) {
		fakePrograms(t, map[string]string{"iptables": "v1.8.9 (nf_tables)", "iptables-restore": "v1.8.9 (legacy)"})
		if _, err := New(t.Context()); err == nil || !strings.Contains(hint.Of(err), "update-alternatives") {
			t.Errorf("error %v, hint %q", err, hint.Of(err))
		}
	})
}

// The plain names' programs are taken if they are of the variant, the named ones
// if those are not, and where there are none the plain ones have to do.
func TestNewToolLike(t *testing.T) {
	programs := func(versions ...string) map[string]string {
		all := map[string]string{}
		for i := 0; i < len(versions); i += 2 {
			all[versions[i]], all[versions[i]+"-restore"] = versions[i+1], versions[i+1]
		}
		return all
	}
	const nft, legacy = "v1.8.9 (nf_tables)", "v1.8.9 (legacy)"
	for _, tt := range []struct {
		name     string
		programs map[string]string
		want     Variant
		path     string
	}{
		{"plain", programs("iptables", nft, "iptables-nft", nft), NFT, "iptables"},
		{"named", programs("iptables", legacy, "iptables-nft", nft), NFT, "iptables-nft"},
		{"named alone", programs("iptables-nft", nft), NFT, "iptables-nft"},
		{"the other has to do", programs("iptables", legacy), Legacy, "iptables"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			fakePrograms(t, tt.programs)
			tool, err := newToolLike(t.Context(), netrules.IPv4, NFT, settings{})
			if err != nil {
				t.Fatal(err)
			}
			if tool.variant != tt.want || filepath.Base(tool.path) != tt.path {
				t.Errorf("%s of variant %s", tool.path, tool.variant)
			}
		})
	}
	fakePrograms(t, nil)
	if _, err := newToolLike(t.Context(), netrules.IPv4, NFT, settings{}); !errors.Is(err, exec.ErrNotFound) {
		t.Errorf("no programs: %v", err)
	}
}

func TestMixed(t *testing.T) {
	for _, tt := range []struct {
		choice Choice
		want   string // part of the warning, "" for none
	}{
		{Choice{Variant: NFT}, ""},
		{Choice{Variant: NFT, Docker: []Variant{NFT}}, ""},
		{Choice{Variant: NFT, Docker: []Variant{Legacy}}, "Docker's rules are in the packet filter legacy"},
		{Choice{Variant: NFT, Docker: []Variant{NFT, Legacy}}, "Docker has rules in both"},
	} {
		err := tt.choice.Mixed()
		switch {
		case tt.want == "" && err != nil:
			t.Errorf("%+v: %v", tt.choice, err)
		case tt.want != "" && (err == nil || !strings.Contains(err.Error(), tt.want) || hint.Of(err) == ""):
			t.Errorf("%+v: %v, hint %q", tt.choice, err, hint.Of(err))
		}
	}
}

// What the kernel hands out is not trusted to hold together.
func TestEntriesThatEndTooEarly(t *testing.T) {
	at := layoutOf(netrules.IPv4)
	entry := make([]byte, at.counters+16)
	for _, size := range []byte{0, 1, 111, 113, 255} {
		entry[at.next] = size
		if err := zeroCounters(entry, at); err == nil {
			t.Errorf("an entry that says it has %d bytes of %d", size, len(entry))
		}
	}
	if err := zeroCounters(entry[:50], at); err == nil {
		t.Error("half an entry")
	}
	entry[at.next] = byte(len(entry))
	if err := zeroCounters(entry, at); err != nil {
		t.Error(err)
	}
}
