package mode

import (
	"log/slog"
	"slices"
	"testing"

	"github.com/ambassadord/ambassadord/internal/config"
	"github.com/ambassadord/ambassadord/internal/privilege"
)

func TestRequired(t *testing.T) {
	for _, test := range []struct {
		mode config.Mode
		c    privilege.Circumstances
		want []string
	}{
		{config.Redirect, privilege.Circumstances{}, []string{"NET_ADMIN", "SYS_ADMIN"}},
		{config.Redirect, privilege.Circumstances{Legacy: true, ThroughProc: true}, []string{"NET_ADMIN", "NET_RAW", "SYS_ADMIN", "SYS_PTRACE"}},
		{config.Listen, privilege.Circumstances{Legacy: true}, []string{"NET_BIND_SERVICE", "SYS_ADMIN"}},
		{config.Listen, privilege.Circumstances{ThroughProc: true}, []string{"NET_BIND_SERVICE", "SYS_ADMIN", "SYS_PTRACE"}},
		{config.Link, privilege.Circumstances{ThroughProc: true}, []string{"NET_ADMIN"}},
		{config.Link, privilege.Circumstances{Legacy: true}, []string{"NET_ADMIN", "NET_RAW"}},
	} {
		if got := Required(test.mode, test.c); !slices.Equal(got, test.want) {
			t.Errorf("mode %s, %+v needs %v; want %v", test.mode, test.c, got, test.want)
		}
	}
}

func TestMissingForGuard(t *testing.T) {
	for _, test := range []struct {
		c    privilege.Circumstances
		have privilege.Set
		want []string
	}{
		{privilege.Circumstances{}, 0, []string{"NET_ADMIN", "SYS_ADMIN"}},
		{privilege.Circumstances{ThroughProc: true}, privilege.Of("NET_ADMIN"), []string{"SYS_ADMIN", "SYS_PTRACE"}},
		{privilege.Circumstances{ThroughProc: true}, privilege.Of("NET_ADMIN", "SYS_ADMIN"), []string{"SYS_PTRACE"}},
		{privilege.Circumstances{Legacy: true}, privilege.Of("NET_ADMIN", "SYS_ADMIN"), nil}, // the table is nftables' all the same
	} {
		if got := MissingForGuard(test.c, test.have); !slices.Equal(got, test.want) {
			t.Errorf("with %b, %+v, the guard lacks %v; want %v", test.have, test.c, got, test.want)
		}
	}
}

func TestMissing(t *testing.T) {
	if got := Missing(config.Redirect, privilege.Circumstances{}, privilege.Of("NET_ADMIN", "NET_RAW")); !slices.Equal(got, []string{"SYS_ADMIN"}) {
		t.Errorf("missing %v; want SYS_ADMIN", got)
	}
	if got := Missing(config.Redirect, privilege.Circumstances{}, privilege.Of("NET_ADMIN", "SYS_ADMIN")); len(got) != 0 {
		t.Errorf("missing %v; want nothing", got)
	}
}

func TestEffectiveModes(t *testing.T) {
	log := slog.New(slog.DiscardHandler)
	for _, test := range []struct {
		modes                 []config.Mode
		inContainer, canEnter bool
		want                  []config.Mode
	}{
		{[]config.Mode{config.Auto}, false, true, []config.Mode{config.Redirect}},
		{[]config.Mode{config.Auto}, false, false, []config.Mode{config.Redirect}},
		{[]config.Mode{config.Auto}, true, true, []config.Mode{config.Link, config.Redirect}},
		{[]config.Mode{config.Auto}, true, false, []config.Mode{config.Link}},
		{[]config.Mode{config.Redirect}, true, false, []config.Mode{config.Redirect}},
		{nil, false, true, nil},
	} {
		var have privilege.Set
		if test.canEnter {
			have = privilege.Of("NET_ADMIN", "SYS_ADMIN")
		}
		if got := Effective(test.modes, test.inContainer, have, log); !slices.Equal(got, test.want) {
			t.Errorf("%v, in a container %t, may enter %t: %v; want %v", test.modes, test.inContainer, test.canEnter, got, test.want)
		}
	}
}
