package refusal

import (
	"errors"
	"log/slog"
	"slices"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"go.uber.org/goleak"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// kernelSet is what the kernel would refuse; the changes fail while failing is true.
type kernelSet struct {
	mu      sync.Mutex
	ports   []uint16
	changes int
	failing bool
	opened  int
}

func (k *kernelSet) Set(ports []uint16) error {
	k.mu.Lock()
	defer k.mu.Unlock()
	k.changes++
	if k.failing {
		k.ports = []uint16{1} // it may have done anything
		return errors.New("no buffer space")
	}
	k.ports = slices.Sorted(slices.Values(ports))
	return nil
}

func (k *kernelSet) Close() error {
	k.mu.Lock()
	defer k.mu.Unlock()
	k.ports = nil
	return nil
}

func (k *kernelSet) open() (portSet, error) {
	k.mu.Lock()
	defer k.mu.Unlock()
	if k.opened++; k.failing {
		return nil, errors.New("no buffer space")
	}
	return k, nil
}

func (k *kernelSet) fail(failing bool) {
	k.mu.Lock()
	defer k.mu.Unlock()
	k.failing = failing
}

func (k *kernelSet) now() (ports []uint16, changes int) {
	k.mu.Lock()
	defer k.mu.Unlock()
	return slices.Clone(k.ports), k.changes
}

// TestRefusalsAreCoalesced: however often targets come and go, the kernel's rules change a few
// times a second, and are right in the end.
func TestRefusalsAreCoalesced(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		k := &kernelSet{}
		r := keep(k, k.open, slog.New(slog.DiscardHandler))
		r.want(7, "x", true)
		synctest.Wait()
		if ports, _ := k.now(); !slices.Equal(ports, []uint16{7}) {
			t.Errorf("refused are %v; want the first at once", ports)
		}
		const lasts = 5 * time.Second
		for began := time.Now(); time.Since(began) < lasts; time.Sleep(time.Millisecond) {
			r.want(7, "x", false)
			r.want(8, "x", true)
			r.want(8, "x", false)
			r.want(7, "x", true)
		}
		r.want(9, "x", true)
		time.Sleep(2 * refusePace)
		ports, changes := k.now()
		if most := int(lasts/refusePace) + 4; changes > most || !slices.Equal(ports, []uint16{7, 9}) {
			t.Errorf("%d changes in %v, refused are %v; want at most %d, and 7 and 9", changes, lasts, ports, most)
		}
		r.end()
		if ports, _ := k.now(); len(ports) > 0 {
			t.Errorf("refused are %v after the end", ports)
		}
	})
}

// TestRefusalsAfterAFailure: a change that fails is made anew, and nothing is refused until then.
func TestRefusalsAfterAFailure(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		k := &kernelSet{}
		r := keep(k, k.open, slog.New(slog.DiscardHandler))
		defer r.end()
		r.want(7, "x", true)
		r.want(8, "x", true)
		synctest.Wait()
		k.fail(true)
		time.Sleep(refusePace)
		r.want(7, "x", false)
		synctest.Wait()
		if ports, _ := k.now(); len(ports) > 0 {
			t.Errorf("refused are %v after a change that failed; want none", ports)
		}
		time.Sleep(time.Hour)
		if _, changes := k.now(); changes > 75 {
			t.Errorf("%d changes were tried in an hour", changes)
		}
		k.fail(false)
		time.Sleep(2 * refuseRetryMost)
		if ports, _ := k.now(); !slices.Equal(ports, []uint16{8}) || k.opened == 0 {
			t.Errorf("refused are %v in the end; want 8", ports)
		}
		k.fail(true)
		r.want(8, "x", false)
		time.Sleep(2 * refuseRetryMost)
		if ports, _ := k.now(); len(ports) > 0 {
			t.Errorf("refused are %v although nothing is to be, and nothing can be changed", ports)
		}
	})
}
