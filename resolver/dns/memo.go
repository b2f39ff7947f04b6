package dns

import (
	"maps"
	"sync"
	"time"
)

// expiringMap is a map whose entries end by themselves. Its zero value is ready. What
// has ended is dropped when something is added, so it does not grow with names
// that nobody asks for any more.
type expiringMap[V any] struct {
	mu      sync.Mutex
	entries map[string]memoEntry[V]
}

type memoEntry[V any] struct {
	value V
	ends  time.Time
}

func (m *expiringMap[V]) get(key string) (V, bool) {
	m.mu.Lock()
	defer m.mu.Unlock()
	entry, ok := m.entries[key]
	if !ok || !time.Now().Before(entry.ends) {
		var none V
		return none, false
	}
	return entry.value, true
}

func (m *expiringMap[V]) put(key string, value V, lasts time.Duration) {
	m.mu.Lock()
	defer m.mu.Unlock()
	now := time.Now()
	maps.DeleteFunc(m.entries, func(_ string, e memoEntry[V]) bool { return !now.Before(e.ends) })
	if m.entries == nil {
		m.entries = map[string]memoEntry[V]{}
	}
	m.entries[key] = memoEntry[V]{value: value, ends: now.Add(lasts)}
}

func (m *expiringMap[V]) drop(key string) {
	m.mu.Lock()
	defer m.mu.Unlock()
	delete(m.entries, key)
}
