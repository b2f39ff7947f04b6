package route

import (
	"context"
	"slices"
	"sync"
	"testing"
	"testing/synctest"

	"github.com/ambassadord/ambassadord/internal/balance"
	"github.com/ambassadord/ambassadord/internal/dockerd"
	"github.com/ambassadord/ambassadord/internal/identity"
	"github.com/ambassadord/ambassadord/internal/route/routetest"
	"github.com/ambassadord/ambassadord/resolver"
)

// perClient is a source whose names mean something else to each client.
type perClient struct{}

func (perClient) Check(resolver.Query) error   { return nil }
func (perClient) ByClient(resolver.Query) bool { return true }

func (perClient) Watch(ctx context.Context, q resolver.Query, publish func(resolver.Answer)) error {
	publish(routetest.At(map[string]string{
		"project=shop": "10.0.0.1:80", "project=blog": "10.0.0.2:80", resolver.ForHost: "10.0.0.3:80",
	}[q.Client]))
	<-ctx.Done()
	return nil
}

// TestNothingOfOneClientsNamesIsAnothers: two clients write one name and mean two things, so
// they share no endpoint, no answer, no pool, no limit of the target and no watch.
func TestNothingOfOneClientsNamesIsAnothers(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := resolver.New(map[string]resolver.Source{"name": perClient{}}, resolver.Options{})
		ctx, cancel := context.WithCancel(t.Context())
		a := newRouter(ctx, r)
		var running sync.WaitGroup
		running.Go(func() { _ = r.Run(ctx) })
		running.Go(func() { _ = a.balancer.Run(ctx) })
		defer running.Wait()
		defer cancel()

		containerOf := func(id, project string) *dockerd.Container {
			return &dockerd.Container{ID: id, Name: id, Running: true, NetworkMode: "none", Labels: map[string]string{
				"com.docker.compose.project": project, "connect.80": "name://redis:80", "connect.80.target-limit": "5",
			}}
		}
		table := identity.Build(dockerd.NewSnapshot(containerOf("shop-1", "shop"), containerOf("shop-2", "shop"), containerOf("blog-1", "blog")), nil, "", nil, r.Parse)
		a.sets.keep(table)
		r.Keep(nil, a.sets.declared.byOwner()...)
		synctest.Wait()
		set := func(id string) *serverSet {
			b, ok := table.Client(id).Bindings.Lookup(80)
			if !ok || b.Problem != nil {
				t.Fatalf("%s: %v", id, b.Problem)
			}
			return a.sets.of(&b, nil)
		}
		serves := func(id string) string {
			c := &chooser{router: a.Router, set: set(id), client: &balance.Reporter{Key: id}}
			if !c.TryRefresh() {
				t.Fatalf("%s: nothing is known", id)
			}
			attempt, _ := c.Next()
			return attempt.Endpoint.Addr.String()
		}
		for range 3 { // whoever comes first, and what is remembered of it
			got := []string{serves("shop-1"), serves("blog-1"), serves("shop-2")}
			if want := []string{"10.0.0.1:80", "10.0.0.2:80", "10.0.0.1:80"}; !slices.Equal(got, want) {
				t.Fatalf("served by %v, want %v", got, want)
			}
		}
		if set("shop-1") != set("shop-2") || set("shop-1").limit == nil {
			t.Error("two clients of one project mean the same, and share nothing")
		}
		shop, blog := set("shop-1"), set("blog-1")
		if shop == blog || shop.limit == blog.limit || shop.last == blog.last || shop.poolIn(a.pools) == blog.poolIn(a.pools) {
			t.Error("two clients mean two things, and share something")
		}
		shopScope, blogScope := a.audience.declarers().of(common{text: shop.meaning}), a.audience.declarers().of(common{text: blog.meaning})
		if shopScope != nil || blogScope != nil { // the table is not the agent's yet
			t.Error("nobody declares anything, and is found")
		}
		a.clients.Store(table)
		if len(a.audience.declarers().of(common{text: shop.meaning}).each) != 2 || len(a.audience.declarers().of(common{text: blog.meaning}).each) != 1 {
			t.Error("an endpoint would be checked by the leave of another's client")
		}
	})
}
