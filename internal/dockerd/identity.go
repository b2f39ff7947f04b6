package dockerd

import (
	"context"
	"path/filepath"
)

// engineIdentity is what an engine says of itself that tells it from any other.
type engineIdentity struct {
	// id is the engine's own for as long as it has its folder; "" where none is known: the
	// engine, or a proxy before its socket, does not tell, or tells another one each time, as
	// Podman does.
	id string
	// root is the folder in which the engine keeps its records, "" where it does not say.
	root string
}

// identify asks the engine who it is. before is the ID of the engine that was connected to last.
func (e *engine) identify(ctx context.Context, before string) engineIdentity {
	now := e.askIdentity(ctx)
	if before != "" && now.id != "" && now.id != before && e.askIdentity(ctx).id != now.id {
		now.id = ""
	}
	return now
}

func (e *engine) askIdentity(ctx context.Context) engineIdentity {
	var info struct{ ID, DockerRootDir string }
	if e.ask(ctx, "asking who it is", "/info", &info) != nil {
		return engineIdentity{}
	}
	return engineIdentity{info.ID, info.DockerRootDir}
}

// recognise compares the engine with the one that was connected to last. Of another engine's
// containers nothing is kept: what has their IDs here, as in a copy of its folder, has another
// state and other addresses, and the list that names none of them may fail.
func (f *eventFollower) recognise(now engineIdentity) {
	f.recognised = true
	w := f.w
	if now.id != "" && w.engineID != "" && now.id != w.engineID {
		w.log.Warn("another docker engine is at the endpoint; what was known of the containers of the one before is dropped",
			"endpoint", w.engine.endpoint, "containers", len(f.doubted), "id", now.id, "before", w.engineID)
		for id := range f.doubted {
			f.drop(id)
		}
		w.engine.kinds.forget()
		w.records.Store(nil)
	}
	if now.id != "" {
		w.engineID = now.id
	}
	if filepath.IsAbs(now.root) {
		folder := filepath.Join(now.root, "containers")
		w.records.Store(&folder)
	}
	if f.unreconciled != nil {
		f.reconcile(*f.unreconciled)
		f.unreconciled = nil
	}
}
