package explain

import (
	"testing"

	"github.com/ambassadord/ambassadord/internal/admin"
	"github.com/ambassadord/ambassadord/internal/status"
)

// TestDrainedBeforeItWasDialled: an endpoint in no pool is drained as one that is.
func TestDrainedBeforeItWasDialled(t *testing.T) {
	members := map[string]status.MemberView{}
	decided(members, []admin.DecidedEndpoint{{Address: "10.0.0.2:6379", DecidedView: status.DecidedView{State: "drained"}}})
	if e := endpointOf(status.EndpointView{Address: "10.0.0.2:6379"}, members, nil, noon); e.State != "drained" || e.Why != byOperator {
		t.Errorf("it is %+v; want drained", e)
	}
}
