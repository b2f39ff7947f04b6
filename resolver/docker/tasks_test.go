package docker

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/ambassadord/ambassadord/internal/dockerd"
	"github.com/ambassadord/ambassadord/internal/hint"
	"github.com/ambassadord/ambassadord/resolver"
)

const swarmService = dockerd.LabelSwarmService + "="

func swarmQuery(t *testing.T, text string) resolver.Query {
	t.Helper()
	q := parseQuery(t, text)
	q.Scheme = SchemeSwarm
	return q
}

// task is a container that the engine has made for a service.
func task(c *dockerd.Container, service string) *dockerd.Container {
	c = labelled(c, swarmService+service, dockerd.LabelSwarmNode+"=ours")
	c.Task = true
	return c
}

// TestTasksAreSwarmsOwn: labels are not enough, whatever a manager knows, and whether or not
// there is one to ask.
func TestTasksAreSwarmsOwn(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var mu sync.Mutex
		var known []dockerd.Task
		var failure error
		questions := 0
		knows := func(err error, tasks ...dockerd.Task) {
			mu.Lock()
			known, failure = tasks, err
			mu.Unlock()
			time.Sleep(recheck)
		}
		options := everywhere
		options.Tasks = func(_ context.Context, service string) ([]dockerd.Task, error) {
			mu.Lock()
			defer mu.Unlock()
			if questions++; service != "web" {
				t.Errorf("asked for %s", service)
			}
			return known, failure
		}
		f := newFakeContainers()
		said := make(chan string, 1)
		ctx, cancel := context.WithCancel(t.Context())
		defer cancel()
		go func() {
			_ = New(f, options).Watch(ctx, swarmQuery(t, "web:80"), func(a resolver.Answer) {
				select {
				case <-said:
				default:
				}
				said <- fmt.Sprintf("%v %v %s", texts(a), a.LeftOut, a.Note)
			})
		}()
		want := func(want string) {
			t.Helper()
			synctest.Wait()
			select {
			case got := <-said:
				if got != want {
					t.Fatalf("%s\nwant %s", got, want)
				}
			default:
				t.Fatalf("nothing is said, want %s", want)
			}
		}
		web := func(slot int, change func(*dockerd.Container)) *dockerd.Container {
			c := task(container(fmt.Sprintf("web.%d", slot), fmt.Sprintf("docker_gwbridge=172.18.0.%d", slot)), "web")
			if change != nil {
				change(c)
			}
			return c
		}
		f.set()
		want("[] [] no task of a Swarm service named web is on this host")
		evil := labelled(container("evil", "bridge=172.17.0.9"), swarmService+"web")
		const stranger = "evil has the labels of a task, and the engine says that it is none"
		f.set(evil)
		want("[] [" + stranger + "] ")
		time.Sleep(time.Minute)
		if synctest.Wait(); questions > 8 {
			t.Errorf("%d questions to a manager in a minute", questions)
		}
		f.set(evil, web(1, nil)) // a manager hears of a task a moment after it has started
		want("[172.18.0.1:80 web.1] [" + stranger + "] ")

		ill := web(2, func(c *dockerd.Container) { c.Health = "unhealthy" })
		f.set(evil, web(1, nil), ill)
		want("[172.18.0.1:80 web.1] [web.2 is unhealthy " + stranger + "] ")
		one := dockerd.Task{Container: "id-web.1", State: "running", Slot: 1, Node: "ours"}
		knows(nil, one, dockerd.Task{Container: "id-web.2", State: "running", Slot: 2, Node: "ours"},
			dockerd.Task{Container: "not seen yet", State: "running", Slot: 5, Node: "ours"}, dockerd.Task{Container: "id-evil", State: "running", Slot: 6, Node: "ours"},
			dockerd.Task{Container: "elsewhere", State: "running", Slot: 3, Node: "node-of-another-host"}, dockerd.Task{State: "pending", Slot: 4})
		const other = "web.3 is on the node node-of-anot, to whose containers this host has no way: publish a port of the service and write NODE:PORT"
		want("[172.18.0.1:80 web.1] [web.2 is unhealthy " + stranger + " " + other + "] ")

		knows(errors.New("the engine is away"))
		f.set(evil, web(1, nil), web(2, nil))
		want("[172.18.0.1:80 web.1 172.18.0.2:80 web.2] [" + stranger + " " + other + "] ")

		knows(dockerd.ErrNotManager) // a worker, or a manager that starts again
		want("[172.18.0.1:80 web.1 172.18.0.2:80 web.2] [" + stranger + "] ")
	})
}

// TestForgedTasks: what only says that it is Swarm's is none of its service, nor has the labels.
func TestForgedTasks(t *testing.T) {
	genuine := task(container("web.1", "docker_gwbridge=172.18.0.1"), "web")
	forged := labelled(container("evil", "bridge=172.17.0.9"), swarmService+"web", "app=web")
	for text, want := range map[string][]string{
		"web:80": {"172.18.0.1:80 web.1"},
		"?label=com.docker.swarm.service.name=web&port=80": {"172.18.0.1:80 web.1"},
		"?label=com.docker.swarm.service.name&port=80":     {"172.18.0.1:80 web.1"},
		"?label=app=web&port=80":                           {"172.17.0.9:80 evil"},
	} {
		q, err := parse(parseQuery(t, text))
		if err != nil {
			t.Fatal(err)
		}
		s := dockerd.NewSnapshot(genuine, forged)
		if got := texts(match(s, q, dockerd.Scope{}, locate(s, "", "", true, bridged))); !slices.Equal(got, want) {
			t.Errorf("docker://%s is %q, want %q", text, got, want)
		}
	}
}

func TestSwarmTargets(t *testing.T) {
	for text, want := range map[string]string{
		"web:80": "", "web?port=80": "", "web:80?network=front": "", "web:80?label=a=b": "", "web:80?published=1": "",
		"web":                 "swarm target has no port",
		"?port=80":            "swarm target names no service",
		"?label=a&port=80":    "swarm target names no service",
		"web:80/path":         `swarm target has a path, "/path"`,
		"web:80?project=shop": "swarm target has a project, which is Compose's",
		"web:80?labl=a":       `swarm target has an unknown parameter "labl"`,
	} {
		_, err := parse(swarmQuery(t, text))
		if err == nil && want != "" || err != nil && (err.Error() != want || hint.Of(err) == "") {
			t.Errorf("%s: %v (%s), want %q", text, err, hint.Of(err), want)
		}
	}
	if New(newFakeContainers(), Options{}).ByClient(swarmQuery(t, "web:80")) {
		t.Error("a service's name means something else to each client")
	}
}
