package route

import (
	"testing"
	"testing/synctest"
	"time"

	"github.com/ambassadord/ambassadord/internal/binding"
	"github.com/ambassadord/ambassadord/internal/route/routetest"
	"github.com/ambassadord/ambassadord/resolver"
)

// TestTheNextEndpointIsKnownAtOnce: nothing is waited for once there was an answer, and
// the balancer is told of another as it would be otherwise.
func TestTheNextEndpointIsKnownAtOnce(t *testing.T) {
	withTold(t, nil, func(t *testing.T, a *router, source *routetest.Told, b binding.Binding) {
		if a.chooserFor(t, b).TryRefresh() {
			t.Error("somebody is known before anybody asked")
		}
		a.resolver.Keep([]resolver.Target{b.Target})
		synctest.Wait()
		next := func() (names []string) {
			c := a.chooserFor(t, b)
			if !c.TryRefresh() {
				return nil
			}
			for {
				attempt, ok := c.Next()
				if !ok {
					return names
				}
				attempt.Verdict.Cancelled()
				names = append(names, attempt.Name)
			}
		}
		if got := next(); len(got) != 2 {
			t.Errorf("endpoints %v; want both", got)
		}
		source.Say(routetest.At("10.0.0.3:80"))
		synctest.Wait()
		if got := next(); len(got) != 1 || got[0] != "10.0.0.3:80" {
			t.Errorf("endpoints %v; want the new one", got)
		}
		time.Sleep(time.Hour) // in which the balancer has forgotten the pool
		if got := next(); len(got) != 1 || a.balancer.Pool(b.Text, balanceOptions(&b.Options)) != a.sets.of(&b, nil).pool.Load() {
			t.Errorf("endpoints %v, of a pool that is not the balancer's", got)
		}
		source.Say(routetest.At())
		synctest.Wait()
		if got := next(); got != nil {
			t.Errorf("endpoints %v; want nobody", got)
		}
	})
}
