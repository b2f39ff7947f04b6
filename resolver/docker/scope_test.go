package docker

import (
	"fmt"
	"strings"
	"testing"

	"github.com/ambassadord/ambassadord/internal/dockerd"
	"github.com/ambassadord/ambassadord/internal/hint"
	"github.com/ambassadord/ambassadord/resolver"
)

// TestWhoseName: a name means what its writer means.
func TestWhoseName(t *testing.T) {
	// Two projects of one file, each on a network of its own; of the second somebody has run
	// a task. A third has joined the network of the first.
	host := func(more ...*dockerd.Container) *dockerd.Snapshot {
		return dockerd.NewSnapshot(append([]*dockerd.Container{
			labelled(container("shop-redis-1", "shop_default=172.18.0.2"), service+"redis", project+"shop"),
			labelled(container("blog-redis-1", "blog_default=172.19.0.2"), service+"redis", project+"blog"),
			labelled(container("blog-redis-run-1", "blog_default=172.19.0.3"), service+"redis", project+"blog", oneOff+"True"),
			labelled(container("shop-only-1", "shop_default=172.18.0.4"), service+"only", project+"shop"),
		}, more...)...)
	}
	shop := dockerd.Scope{Project: "shop", Networks: []string{"shop_default"}}
	blog := dockerd.Scope{Project: "blog", Networks: []string{"blog_default"}}
	both := "redis is a service of more than one project on this host: blog-redis-1 of project blog, shop-redis-1 of project shop"
	tests := []struct {
		name  string
		more  []*dockerd.Container
		scope dockerd.Scope
		query string
		want  string
		note  string
		hint  string
	}{
		{name: "the client's own project", scope: shop, query: "redis:6379", want: "172.18.0.2:6379"},
		{name: "of the other", scope: blog, query: "redis:6379", want: "172.19.0.2:6379"},
		{
			name: "without any network", scope: dockerd.Scope{Project: "shop"}, query: "redis:6379", want: "172.18.0.2:6379",
		},
		{
			name: "the client's own networks", scope: dockerd.Scope{Networks: []string{"blog_default", "x"}}, query: "redis:6379",
			want: "172.19.0.2:6379",
		},
		{
			name: "of another project, which has none", scope: dockerd.Scope{Project: "ci", Networks: []string{"blog_default"}}, query: "redis:6379",
			want: "172.19.0.2:6379",
		},
		{name: "the host has one", scope: blog, query: "only:80", want: "172.18.0.4:80"},
		{
			name: "the host has two", query: "redis:6379", note: both,
			hint: "say which: docker://redis:6379?project=PROJECT, or a container by its name",
		},
		{
			name: "so has another project's client", scope: dockerd.Scope{Project: "ci", Networks: []string{"ci_default"}}, query: "redis:6379", note: both,
			hint: "say which: docker://redis:6379?project=PROJECT, or a container by its name",
		},
		{
			name: "two on the client's networks", scope: dockerd.Scope{Networks: []string{"blog_default", "shop_default"}}, query: "redis:6379",
			note: strings.ReplaceAll(both, "this host", "the client's networks"),
			hint: "say which: docker://redis:6379?project=PROJECT, or a container by its name",
		},
		{name: "it is said which", query: "redis:6379?project=shop", want: "172.18.0.2:6379"},
		{name: "by a label", query: "redis:6379?label=com.docker.compose.project=shop", want: "172.18.0.2:6379"},
		{name: "although the client is of another", scope: shop, query: "redis:6379?project=blog", want: "172.19.0.2:6379"},
		{name: "a container's own name", scope: shop, query: "blog-redis-1:6379", want: "172.19.0.2:6379"},
		{
			name: "another's container has the name of the client's service", scope: shop, query: "redis:6379", want: "172.18.0.2:6379",
			more: []*dockerd.Container{container("redis", "bridge=172.17.0.9")},
		},
		{
			name: "and is meant by the host", query: "redis:6379", want: "172.17.0.9:6379",
			more: []*dockerd.Container{container("redis", "bridge=172.17.0.9")},
		},
		{
			name: "a container of the client's project has the name of another service", scope: shop, query: "redis:6379", want: "172.18.0.9:6379",
			more: []*dockerd.Container{labelled(container("redis", "shop_default=172.18.0.9"), service+"cache", project+"shop")},
		},
		{
			name: "a container that says it is of the project, on everybody's bridge", scope: shop, query: "redis:6379", want: "172.18.0.2:6379",
			more: []*dockerd.Container{labelled(container("evil", "bridge=172.17.0.9"), service+"redis", project+"shop")},
		},
		{
			name: "and has the name of the service", scope: shop, query: "redis:6379", want: "172.18.0.2:6379",
			more: []*dockerd.Container{labelled(container("redis", "bridge=172.17.0.9"), project+"shop")},
		},
		{
			name: "everybody's bridge is nobody's own", scope: dockerd.Scope{Project: "ci"}, query: "redis:6379",
			more: []*dockerd.Container{labelled(container("evil", "bridge=172.17.0.9"), service+"redis", project+"evil")},
			note: "redis is a service of more than one project on this host: blog-redis-1 of project blog, evil of project evil, shop-redis-1 of project shop",
			hint: "say which: docker://redis:6379?project=PROJECT, or a container by its name",
		},
		{
			name: "Swarm's and a project's", query: "only:80",
			more: []*dockerd.Container{task(container("only.1.x", "docker_gwbridge=172.20.0.2"), "only")},
			note: "only is a service of more than one project on this host: only.1.x of Swarm, shop-only-1 of project shop",
			hint: "say which: docker://only:80?project=PROJECT, or swarm://only:80, or a container by its name",
		},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			q, err := parse(parseQuery(t, test.query))
			if err != nil {
				t.Fatal(err)
			}
			a := match(host(test.more...), q, test.scope, dialOrigin{onHost: true, here: true, subnets: bridged})
			var got []string
			for _, e := range a.Endpoints {
				got = append(got, e.Addr.String())
			}
			if g := strings.Join(got, " "); g != test.want || a.Note != test.note || a.Hint != test.hint {
				t.Errorf("%q, note %q, hint %q\nwant %q, %q, %q", g, a.Note, a.Hint, test.want, test.note, test.hint)
			}
		})
	}
	t.Run("a hundred projects", func(t *testing.T) {
		var many []*dockerd.Container
		for i := range 100 {
			many = append(many, labelled(container(fmt.Sprintf("%s%03d", strings.Repeat("x", 1000), i)), service+"x", project+fmt.Sprint(i)))
		}
		_, err := candidates(dockerd.NewSnapshot(many...), query{name: "x", port: 1}, dockerd.Scope{})
		if err == nil || len(err.Error()) > 1000 || !strings.HasSuffix(err.Error(), "and 95 more") || hint.Of(err) == "" {
			t.Errorf("%v", err)
		}
	})
}

// TestByClient: names of no project mean something else to each client, and nothing else does.
func TestByClient(t *testing.T) {
	s := New(newFakeContainers(), Options{})
	for text, want := range map[string]bool{
		"redis:6379": true, "redis:6379?label=a": true, "redis?port=1&network=n": true,
		"redis:6379?project=p": false, "?label=app=redis&port=6379": false, "?project=p&port=1": false,
	} {
		if got := s.ByClient(parseQuery(t, text)); got != want {
			t.Errorf("%s: %v, want %v", text, got, want)
		}
	}
	r := resolver.New(map[string]resolver.Source{Scheme: s}, resolver.Options{})
	target, err := r.Parse("docker://redis:6379 | docker://?label=a&port=1")
	if err != nil {
		t.Fatal(err)
	}
	scope := dockerd.Scope{Project: "shop", Networks: []string{"a b", "c"}}
	mine := target.For(scope.String())
	if got := dockerd.ParseScope(mine.Choices[0].Queries[0].Client); fmt.Sprint(got) != fmt.Sprint(scope) {
		t.Errorf("scope %v, want %v", got, scope)
	}
	if q := mine.Choices[1].Queries[0]; q.Client != "" {
		t.Errorf("labels mean the same to all; the client is %q", q.Client)
	}
	if target.Choices[0].Queries[0].Client != resolver.ForHost || mine.String() != target.String() || mine.For("").Choices[0].Queries[0] != target.Choices[0].Queries[0] {
		t.Errorf("%+v and %+v; want the host's as it was, and one text", target, mine)
	}
	if got := dockerd.ParseScope(resolver.ForHost); got.Project != "" || len(got.Networks) > 0 {
		t.Errorf("the host's scope is %+v", got)
	}
}
