package attached

import (
	"errors"
	"testing"

	"github.com/ambassadord/ambassadord/internal/config"
	"github.com/ambassadord/ambassadord/internal/dockerd"
	"github.com/ambassadord/ambassadord/internal/status"
)

// TestNamespacesAreReported: of each container the namespace that it is in, since when it is served,
// which a later failure does not change; one that is started again begins anew.
func TestNamespacesAreReported(t *testing.T) {
	var a Namespaces
	owner := &dockerd.Container{ID: "0123456789abcdef", PID: 7}
	report := func() *status.Attached {
		s := &status.Snapshot{Containers: []status.Container{{Name: "joined", Namespace: "0123456789ab"}, {Name: "other", Namespace: "ba9876543210"}}}
		a.Report(s)
		if other := s.Containers[1].Attached; other != nil {
			t.Errorf("another namespace is reported as attached: %+v", other)
		}
		return s.Containers[0].Attached
	}
	a.Note(owner, config.Redirect, errors.New("cannot enter"))
	if got := report(); got == nil || !got.Since.IsZero() || got.Error != "cannot enter" {
		t.Errorf("reported %+v; want a failure", got)
	}
	a.Note(owner, config.Redirect, nil)
	first := report()
	if first == nil || first.Since.IsZero() || first.Error != "" || first.Mode != "redirect" {
		t.Fatalf("reported %+v; want that it is attached", first)
	}
	a.Note(owner, config.Redirect, errors.New("no iptables"))
	if got := report(); got == nil || !got.Since.Equal(first.Since) || got.Error != "no iptables" {
		t.Errorf("reported %+v; want the failure, and since when", got)
	}
	restarted := *owner
	restarted.PID = 8
	a.Note(&restarted, config.Redirect, errors.New("cannot enter"))
	if got := report(); got == nil || !got.Since.IsZero() {
		t.Errorf("reported %+v of one that was started again", got)
	}
	a.Drop(owner.ID)
	if got := report(); got != nil {
		t.Errorf("reported %+v of one that has ended", got)
	}
}
