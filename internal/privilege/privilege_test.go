package privilege

import (
	"slices"
	"testing"

	"github.com/ambassadord/ambassadord/internal/config"
)

func TestRequired(t *testing.T) {
	for _, test := range []struct {
		mode config.Mode
		c    Circumstances
		want []string
	}{
		{config.Redirect, Circumstances{}, []string{"NET_ADMIN", "SYS_ADMIN"}},
		{config.Redirect, Circumstances{Legacy: true, ThroughProc: true}, []string{"NET_ADMIN", "NET_RAW", "SYS_ADMIN", "SYS_PTRACE"}},
		{config.Listen, Circumstances{Legacy: true}, []string{"NET_BIND_SERVICE", "SYS_ADMIN"}},
		{config.Listen, Circumstances{ThroughProc: true}, []string{"NET_BIND_SERVICE", "SYS_ADMIN", "SYS_PTRACE"}},
		{config.Link, Circumstances{ThroughProc: true}, []string{"NET_ADMIN"}},
		{config.Link, Circumstances{Legacy: true}, []string{"NET_ADMIN", "NET_RAW"}},
	} {
		if got := Required(test.mode, test.c); !slices.Equal(got, test.want) {
			t.Errorf("mode %s, %+v needs %v; want %v", test.mode, test.c, got, test.want)
		}
	}
}

func TestMissingForGuard(t *testing.T) {
	for _, test := range []struct {
		c    Circumstances
		have Set
		want []string
	}{
		{Circumstances{}, 0, []string{"NET_ADMIN", "SYS_ADMIN"}},
		{Circumstances{ThroughProc: true}, Of("NET_ADMIN"), []string{"SYS_ADMIN", "SYS_PTRACE"}},
		{Circumstances{ThroughProc: true}, Of("NET_ADMIN", "SYS_ADMIN"), []string{"SYS_PTRACE"}},
		{Circumstances{Legacy: true}, Of("NET_ADMIN", "SYS_ADMIN"), nil}, // the table is nftables' all the same
	} {
		if got := MissingForGuard(test.c, test.have); !slices.Equal(got, test.want) {
			t.Errorf("with %b, %+v, the guard lacks %v; want %v", test.have, test.c, got, test.want)
		}
	}
}

func TestMissing(t *testing.T) {
	if got := Missing(config.Redirect, Circumstances{}, Of("NET_ADMIN", "NET_RAW")); !slices.Equal(got, []string{"SYS_ADMIN"}) {
		t.Errorf("missing %v; want SYS_ADMIN", got)
	}
	if got := Missing(config.Redirect, Circumstances{}, Of("NET_ADMIN", "SYS_ADMIN")); len(got) != 0 {
		t.Errorf("missing %v; want nothing", got)
	}
}

func TestEffective(t *testing.T) {
	if _, err := Effective(); err != nil {
		t.Error(err)
	}
}
