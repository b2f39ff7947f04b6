//go:build integration

package iptables

import (
	"context"
	"errors"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/ambassadord/ambassadord/internal/netlab"
	"github.com/ambassadord/ambassadord/netrules"
	"github.com/ambassadord/ambassadord/netrules/nfnetlink"
)

func fingerprint(t *testing.T, r *Rules, lab *netlab.Lab, f netrules.Family) uint64 {
	t.Helper()
	value, err := r.Fingerprint(t.Context(), lab.NS(), f)
	if err != nil {
		t.Fatal(err)
	}
	return value
}

func TestFingerprintShowsEveryChange(t *testing.T) {
	eachVariant(t, func(t *testing.T, r *Rules) {
		for _, f := range families {
			lab := netlab.New(t)
			before := fingerprint(t, r, lab, f)
			serve(t, lab, loopback(f, listenPort), "listener")
			iptables := func(args ...string) func() {
				return func() { lab.Run(t, "", program(r, f), append([]string{"-t", "nat"}, args...)...) }
			}
			for _, step := range []struct {
				what   string
				do     func()
				change bool
			}{
				{"nothing", func() {}, false},
				{"a plan", func() { _, _ = r.Plan(t.Context(), lab.NS(), redirect(f, 6379)) }, false},
				{"our rules", func() { mustApply(t, r, lab, redirect(f, 6379)) }, true},
				{"our rules again", func() { mustApply(t, r, lab, redirect(f, 6379)) }, false},
				{"traffic", func() { greeted(t, lab, loopback(f, 6379)) }, false},
				{"a foreign chain", iptables("-N", "MINE"), true},
				{"a foreign rule", iptables("-A", "MINE", "-p", "tcp", "--dport", "80", "-j", "RETURN"), true},
				{"another one of the same size", iptables("-R", "MINE", "1", "-p", "tcp", "--dport", "81", "-j", "RETURN"), true},
				{"our chain flushed", iptables("-F", "AMBASSADORD"), true},
				{"our rules repaired", func() { mustApply(t, r, lab, redirect(f, 6379)) }, true},
				{"our rules unhooked", func() { _, _ = r.Unhook(t.Context(), lab.NS(), f) }, true},
				{"our rules removed", func() { mustRemove(t, r, lab, f) }, true},
			} {
				step.do()
				after := fingerprint(t, r, lab, f)
				if changed := after != before; changed != step.change {
					t.Errorf("%s: %s: changed: %v", f, step.what, changed)
				}
				before = after
			}
		}
	})
}

func TestFingerprintMakesNoTable(t *testing.T) {
	eachVariant(t, func(t *testing.T, r *Rules) {
		lab := netlab.New(t)
		for _, f := range families {
			want := save(t, r, lab, f)
			fingerprint(t, r, lab, f)
			if got := save(t, r, lab, f); got != want {
				t.Errorf("%s: asking changed\n%s\nto\n%s", f, want, got)
			}
		}
	})
}

// Namespaces are told apart: a change in one is none in another.
func TestFingerprintIsOfOneNamespace(t *testing.T) {
	eachVariant(t, func(t *testing.T, r *Rules) {
		here, there := netlab.New(t), netlab.New(t)
		before := fingerprint(t, r, here, netrules.IPv4)
		mustApply(t, r, there, redirect(netrules.IPv4, 6379))
		if fingerprint(t, r, here, netrules.IPv4) != before {
			t.Error("another namespace's change shows")
		}
	})
}

func TestFingerprintNeeds(t *testing.T) {
	eachVariant(t, func(t *testing.T, r *Rules) {
		lab := netlab.New(t)
		ctx, cancel := context.WithCancel(t.Context())
		cancel()
		if _, err := r.Fingerprint(ctx, lab.NS(), netrules.IPv4); !errors.Is(err, context.Canceled) {
			t.Errorf("cancelled: %v", err)
		}
		if _, err := r.Fingerprint(t.Context(), lab.NS(), netrules.Family(5)); !errors.Is(err, netrules.ErrUnsupported) {
			t.Errorf("no such family: %v", err)
		}
		mustApply(t, r, lab, redirect(netrules.IPv4, 6379))
		ask := nfnetlink.Generation
		if r.Variant() == Legacy {
			ask = func() (uint64, error) { return legacyFingerprint(netrules.IPv4) }
		}
		for capability, want := range map[uint]error{
			unix.CAP_NET_RAW:   nil,
			unix.CAP_NET_ADMIN: unix.EPERM, // and not the answer "no change"
		} {
			err := lab.NS().Do(func() error {
				return without(capability, func() error { _, err := ask(); return err })
			})
			if !errors.Is(err, want) {
				t.Errorf("without capability %d: %v", capability, err)
			}
		}
	})
}

// without takes a capability from the calling thread while fn runs.
func without(capability uint, fn func() error) (err error) {
	header := unix.CapUserHeader{Version: unix.LINUX_CAPABILITY_VERSION_3}
	var data [2]unix.CapUserData
	if err := unix.Capget(&header, &data[0]); err != nil {
		return err
	}
	less := data
	less[0].Effective &^= 1 << capability
	if err := unix.Capset(&header, &less[0]); err != nil {
		return err
	}
	defer func() { err = errors.Join(err, unix.Capset(&header, &data[0])) }()
	return fn()
}
