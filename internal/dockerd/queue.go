package dockerd

// queue holds the IDs that are to be inspected, each once: those that events
// named first, then those of a full list.
type queue struct {
	waiting map[string]bool // true: urgent
	urgent  []string
	routine []string
}

func newQueue() queue { return queue{waiting: make(map[string]bool)} }

func (q *queue) push(id string, urgent bool) {
	was, waiting := q.waiting[id]
	if waiting && (was || !urgent) {
		return
	}
	q.waiting[id] = urgent
	if urgent {
		q.urgent = append(q.urgent, id) // its place in routine, if any, is skipped when it comes
	} else {
		q.routine = append(q.routine, id)
	}
}

// pop takes the next ID, of the routine ones only if told so.
func (q *queue) pop(routine bool) (string, bool) {
	for len(q.urgent) > 0 {
		id := q.urgent[0]
		q.urgent = q.urgent[1:]
		if q.waiting[id] {
			delete(q.waiting, id)
			return id, true
		}
	}
	for routine && len(q.routine) > 0 {
		id := q.routine[0]
		q.routine = q.routine[1:]
		if urgent, waiting := q.waiting[id]; waiting && !urgent {
			delete(q.waiting, id)
			return id, true
		}
	}
	return "", false
}
