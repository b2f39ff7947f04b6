package status

import (
	"time"

	"github.com/ambassadord/ambassadord/internal/balance"
)

// Members are the endpoints of a target's pools by their addresses; of one in several pools that
// which is out, if any is.
func (v *View) Members(target string) map[string]MemberView {
	members := map[string]MemberView{}
	for i := range v.Pools {
		if v.Pools[i].Target != target {
			continue
		}
		for _, m := range v.Pools[i].Members {
			if had, ok := members[m.Address]; !ok || m.Out && !had.Out {
				members[m.Address] = m
			}
		}
	}
	return members
}

// DecidedView is what an operator has decided of an endpoint.
type DecidedView struct {
	State  string    `json:"state,omitempty" enum:"drained,ejected" doc:"drained gets no connection, ejected gets one for want of others"`
	Until  time.Time `json:"until,omitzero" doc:"when ejected ends"`
	Weight *uint16   `json:"weight,omitempty" doc:"in place of its own"`
	Since  time.Time `json:"since,omitzero"`
}

func decidedOf(o *balance.Override) *DecidedView {
	if o.State == "" && o.Weight == nil {
		return nil
	}
	return &DecidedView{State: string(o.State), Until: o.Until, Weight: o.Weight, Since: o.Since}
}
