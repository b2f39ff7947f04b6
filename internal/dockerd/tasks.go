package dockerd

import (
	"context"
	"encoding/json"
	"errors"
	"net/http"
	"net/url"

	docker "github.com/fsouza/go-dockerclient"
)

// ErrNotManager is that this engine does not know the tasks of Swarm's services: it is a
// worker, or in no swarm.
var ErrNotManager = errors.New("the engine is no manager of a swarm")

// Task is one of a Swarm service that is to run.
type Task struct {
	// Container is the ID of its container, on whatever node, "" before there is one.
	Container string
	// Node is the ID of the node that it is on, "" before it has one.
	Node string
	// Slot tells the replicas of a service apart; 0 for one on each node.
	Slot int
	// State is Swarm's word for how far it is, "running" for example.
	State string
}

// isTask reports whether the engine itself has made the container id for a service of Swarm: as an
// executor of tasks, on a worker as on a manager, and not for a client of its API. Those cannot
// set what this filter is about (docker ps(1), is-task), whatever labels they give a container.
// Where the engine, or a proxy before its socket, refuses to tell, it is none. An error is worth
// another try.
func (e *engine) isTask(ctx context.Context, id string) (bool, error) {
	filters, err := json.Marshal(map[string][]string{"id": {id}, "is-task": {"true"}})
	if err != nil {
		return false, err
	}
	var found []struct {
		ID string `json:"Id"`
	}
	err = e.ask(ctx, "asking whether a container is a task", "/containers/json?"+url.Values{"all": {"1"}, "filters": {string(filters)}}.Encode(), &found)
	var status *docker.Error
	switch {
	case errors.As(err, &status) && refusal(status.Status):
		return false, nil
	case err != nil:
		return false, err
	}
	return len(found) == 1 && found[0].ID == id, nil
}

// Tasks asks a manager for the tasks that are to run of a service, named by its name or ID.
// There are none of a service that it does not know. The error is ErrNotManager where the
// engine cannot know.
func (w *Watcher) Tasks(ctx context.Context, service string) ([]Task, error) {
	filters, err := json.Marshal(map[string][]string{"service": {service}, "desired-state": {"running"}})
	if err != nil {
		return nil, err
	}
	var answer []struct {
		NodeID string
		Slot   int
		Status struct {
			State           string
			ContainerStatus struct{ ContainerID string }
		}
	}
	err = w.engine.ask(ctx, "asking for a service's tasks", "/tasks?"+url.Values{"filters": {string(filters)}}.Encode(), &answer)
	var status *docker.Error
	switch {
	case errors.As(err, &status) && status.Status == http.StatusServiceUnavailable:
		return nil, ErrNotManager
	case errors.As(err, &status) && status.Status == http.StatusNotFound:
		return nil, nil
	case err != nil:
		return nil, err
	}
	tasks := make([]Task, len(answer))
	for i, t := range answer {
		tasks[i] = Task{Container: t.Status.ContainerStatus.ContainerID, Node: t.NodeID, Slot: t.Slot, State: t.Status.State}
	}
	return tasks, nil
}
