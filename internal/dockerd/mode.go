package dockerd

import (
	"context"
	"encoding/json"
	"net/url"
)

// modesAtOnce bounds the questions of askMode that are on their way.
const modesAtOnce = 8

// networkMode is that of a container that is announced.
type networkMode struct{ id, mode string }

// askMode asks for the network mode of a container that is announced, where the engine's
// record of it is out of our sight: whose namespace it is going to join has to be known
// before it runs. The list says so also while the engine starts the container, and answers
// no question about the container alone.
func (f *eventFollower) askMode(ctx context.Context, id string) {
	if f.modesBusy == modesAtOnce {
		return // the inspection tells, if later
	}
	f.modesBusy++
	f.wg.Go(func() {
		mode, err := f.w.engine.networkMode(ctx, id)
		if err != nil {
			mode = ""
		}
		f.modes <- networkMode{id, mode} // has room for every one that may run
	})
}

// learnMode takes the answer to askMode.
func (f *eventFollower) learnMode(m networkMode) {
	f.modesBusy--
	c := f.containers[m.id]
	if m.mode == "" || c == nil || !c.Announced || c.NetworkMode == m.mode {
		return
	}
	known := *c
	known.NetworkMode = m.mode
	f.containers[m.id] = &known
	f.changed = true
}

// networkMode returns the network mode of one container, "" if the engine has no such or
// does not say.
func (e *engine) networkMode(ctx context.Context, id string) (string, error) {
	filters, err := json.Marshal(map[string][]string{"id": {id}})
	if err != nil {
		return "", err
	}
	ctx, cancel := withTimeout(ctx, e.inspectTimeout)
	defer cancel()
	body, err := e.get(ctx, "/containers/json?"+url.Values{"all": {"1"}, "filters": {string(filters)}}.Encode())
	if err != nil {
		return "", err
	}
	defer body.Close()
	var all []struct {
		ID         string `json:"Id"`
		HostConfig struct{ NetworkMode string }
	}
	if err := decodeDescription(body, &all); err != nil {
		return "", err
	}
	for _, c := range all {
		if c.ID == id {
			return c.HostConfig.NetworkMode, nil
		}
	}
	return "", nil
}
