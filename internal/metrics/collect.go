package metrics

import (
	"cmp"
	"maps"
	"slices"
	"sync/atomic"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/ambassadord/ambassadord/internal/status"
)

// collector makes a scrape of the counters and of a snapshot.
type collector struct {
	counters *Counters
	from     Source
	now      func() time.Time
}

// Describe is part of prometheus.Collector.
func (c *collector) Describe(to chan<- *prometheus.Desc) {
	for _, f := range families {
		to <- f.of(c.counters.options.Endpoints)
	}
}

// Collect is part of prometheus.Collector.
func (c *collector) Collect(to chan<- prometheus.Metric) {
	n := c.counters
	n.collecting.Lock()
	defer n.collecting.Unlock()
	c.from.Moved(n.moved)
	s := c.from.Snapshot()
	n.clients.sweep(s, c.now())
	w := scrape{to, n.options}
	w.daemon(s)
	w.total(&n.total)
	w.clients(&n.clients)
	w.declared(s)
	w.targets(s)
	w.endpoints(s)
	w.sources(s)
	w.limits(s)
}

// of is the desc of a daemon that tells endpoints apart, or does not.
func (f *metricFamily) of(endpoints bool) *prometheus.Desc {
	if endpoints && f.byEndpoint != nil {
		return f.byEndpoint
	}
	return f.desc
}

// valueTypes are those of the kinds that have one value.
var valueTypes = map[string]prometheus.ValueType{counter: prometheus.CounterValue, gauge: prometheus.GaugeValue}

// scrape writes one scrape.
type scrape struct {
	to      chan<- prometheus.Metric
	options Options
}

func (w scrape) value(f *metricFamily, value float64, labels ...string) {
	w.to <- prometheus.MustNewConstMetric(f.of(w.options.Endpoints), valueTypes[f.kind], value, labels...)
}

func (w scrape) truth(f *metricFamily, is bool, labels ...string) {
	value := 0.0
	if is {
		value = 1
	}
	w.value(f, value, labels...)
}

func (w scrape) count(f *metricFamily, n *atomic.Int64, labels ...string) {
	w.value(f, float64(n.Load()), labels...)
}

func (w scrape) histogram(f *metricFamily, h *durationCounts, told int) {
	count, sum, buckets := h.cumulative(told)
	w.to <- prometheus.MustNewConstHistogram(f.desc, count, sum, buckets)
}

func (w scrape) daemon(s *status.Snapshot) {
	w.value(buildInfo, 1, label(s.Daemon.Program))
	w.truth(ready, s.Daemon.Ready)
	w.truth(engineUp, s.Daemon.Engine == nil)
	w.value(handover, 1, s.Daemon.HandOver)
	w.value(snapshotTook, s.Took.Seconds())
}

// shortWaits is how many of the bounds suit the wait for an endpoint.
const shortWaits = 8

func (w scrape) total(t *total) {
	w.value(openNow, float64(t.open()))
	w.count(closed, &t.closed) // before opened
	w.count(opened, &t.opened)
	for i, reason := range reasons {
		w.count(failed, &t.failed[i], reason)
	}
	w.count(sent, &t.up)
	w.count(received, &t.down)
	w.count(dialled, &t.dials)
	w.histogram(establish, &t.established, shortWaits)
	w.histogram(unanswered, &t.unanswered, shortWaits)
	w.histogram(duration, &t.duration, len(bounds))
}

func (w scrape) clients(t *seriesTable) {
	all := t.list()
	w.value(clientSeries, float64(len(all)))
	w.value(clientSeriesMost, float64(t.most))
	w.count(overflowed, &t.overflowed)
	for _, s := range append(all, &t.other) {
		if s == &t.other && s.changes() == 0 {
			continue
		}
		values := []string{s.labels.client, s.labels.project, s.labels.service, s.labels.target}
		by := values
		if w.options.Endpoints {
			by = append(slices.Clip(values), s.labels.endpoint)
		}
		w.value(clientOpen, float64(s.open()), by...)
		w.count(clientClosed, &s.closed, by...) // before opened
		w.count(clientOpened, &s.opened, by...)
		w.count(clientSent, &s.up, by...)
		w.count(clientReceived, &s.down, by...)
		w.count(clientDialled, &s.dials, by...)
		w.to <- prometheus.MustNewConstSummary(clientEstablish.of(w.options.Endpoints), uint64(s.answered.Load()), time.Duration(s.waited.Load()).Seconds(), nil, by...)
		for i, reason := range reasons {
			if s.failed[i].Load() == 0 {
				continue
			}
			with := append(slices.Clip(values), reason)
			if w.options.Endpoints {
				with = append(with, s.labels.endpoint)
			}
			w.count(clientFailed, &s.failed[i], with...)
		}
	}
}

func (w scrape) declared(s *status.Snapshot) {
	ports, bad, wrong := 0, 0, 0
	for i := range s.Containers {
		c := &s.Containers[i]
		wrong += c.Mistakes
		for j := range c.Bindings {
			ports++
			if c.Bindings[j].Problem != "" || c.Bindings[j].Overruled != "" {
				bad++
			}
		}
	}
	w.value(containers, float64(len(s.Containers)))
	w.value(bindings, float64(ports))
	w.value(quarantined, float64(bad))
	w.value(mistakes, float64(wrong))
	w.value(listeners, float64(len(s.Listeners)))
}

// sumsByLabel is a map by a label that containers choose the values of, with most of them: what comes
// after is summed up as others. Texts that look the same as labels are one.
type sumsByLabel[T any] struct {
	most int
	of   map[string]*T
}

func newSums[T any](most int) sumsByLabel[T] { return sumsByLabel[T]{most, map[string]*T{}} }

func (b sumsByLabel[T]) get(text string) *T {
	l := label(text)
	one := b.of[l]
	if one == nil && len(b.of) >= b.most {
		l = others
		one = b.of[l]
	}
	if one == nil {
		one = new(T)
		b.of[l] = one
	}
	return one
}

// targetSums is what there is to say of a target, of all its pools.
type targetSums struct {
	declared, failing   bool
	clients, endpoints  int
	pools, out, ejected int
	panic               bool
	up, down, unchecked int
}

func (w scrape) targets(s *status.Snapshot) {
	sums := newSums[targetSums](w.options.Series)
	for i := range s.Targets {
		t := &s.Targets[i]
		sum := sums.get(t.Meaning)
		sum.declared = true
		sum.clients += t.Clients
		sum.endpoints += len(t.Status.Endpoints)
		sum.failing = sum.failing || t.Status.Err != nil
	}
	for i := range s.Pools {
		p := &s.Pools[i]
		sum := sums.get(p.Target)
		sum.pools++
		sum.out += p.Out
		sum.panic = sum.panic || p.Panic
		for j := range p.Members {
			h := &p.Members[j].Health
			if h.Ejected {
				sum.ejected++
			}
			for _, check := range h.Checks {
				if check.Check != p.Options.Check {
					continue // another pool's
				}
				switch check.Verdict {
				case "up":
					sum.up++
				case "down":
					sum.down++
				default:
					sum.unchecked++
				}
			}
		}
	}
	w.value(targets, float64(len(s.Targets)))
	for target, sum := range sums.of {
		if sum.declared {
			w.value(targetClients, float64(sum.clients), target)
			w.value(targetEndpoints, float64(sum.endpoints), target)
			w.truth(targetFailing, sum.failing, target)
		}
		if sum.pools == 0 {
			continue
		}
		w.value(targetOut, float64(sum.out), target)
		w.value(targetEjected, float64(sum.ejected), target)
		w.truth(targetPanic, sum.panic, target)
		if sum.up+sum.down+sum.unchecked > 0 {
			w.value(targetChecks, float64(sum.up), target, "up")
			w.value(targetChecks, float64(sum.down), target, "down")
			w.value(targetChecks, float64(sum.unchecked), target, "unchecked")
		}
	}
}

// endpoints tells of the first Series endpoints, in the order of their targets.
func (w scrape) endpoints(s *status.Snapshot) {
	if !w.options.Endpoints {
		return
	}
	type pair struct{ target, endpoint string }
	told := map[pair]bool{}
	for i := range s.Pools {
		target := label(s.Pools[i].Target)
		for j := range s.Pools[i].Members {
			m := &s.Pools[i].Members[j]
			one := pair{target, m.Addr.String()}
			if told[one] {
				continue
			}
			if len(told) >= w.options.Series {
				return
			}
			told[one] = true
			w.truth(endpointOut, m.Out, one.target, one.endpoint)
			w.value(endpointOpen, float64(m.Health.Open), one.target, one.endpoint)
		}
	}
}

// sourceSums is what there is to say of a kind of source.
type sourceSums struct {
	watched, unwatched, failing int
	oldest, since               time.Time // of answers, and of failures
}

func (w scrape) sources(s *status.Snapshot) {
	kinds := map[string]*sourceSums{} // of which there are few
	for i := range s.Targets {
		for j := range s.Targets[i].Status.Queries {
			q := &s.Targets[i].Status.Queries[j]
			kind := q.Query.Scheme
			sum := kinds[kind]
			if sum == nil {
				sum = &sourceSums{}
				kinds[kind] = sum
			}
			if q.Unwatched {
				sum.unwatched++
			} else {
				sum.watched++
			}
			if q.Err != nil {
				sum.failing++
			}
			sum.oldest, sum.since = earlier(sum.oldest, q.Answered), earlier(sum.since, q.Failing)
		}
	}
	for _, kind := range slices.Sorted(maps.Keys(kinds)) {
		sum := kinds[kind]
		w.value(watches, float64(sum.watched), kind)
		w.value(unwatched, float64(sum.unwatched), kind)
		w.value(failing, float64(sum.failing), kind)
		w.value(failingFor, since(sum.since, s.Taken), kind)
		w.value(oldestAnswer, since(sum.oldest, s.Taken), kind)
	}
}

// earlier is the earlier of two times, of which zero is none.
func earlier(a, b time.Time) time.Time {
	if a.IsZero() || !b.IsZero() && b.Before(a) {
		return b
	}
	return a
}

// since is the seconds from t to now, 0 for none.
func since(t, now time.Time) float64 {
	if t.IsZero() {
		return 0
	}
	return max(0, now.Sub(t).Seconds())
}

func (w scrape) limits(s *status.Snapshot) {
	type limitSums struct{ open, waiting, most int }
	sums := newSums[limitSums](w.options.Series)
	for i := range s.Limits {
		l := &s.Limits[i]
		sum := sums.get(cmp.Or(l.What, others))
		sum.open += l.Open
		sum.waiting += l.Waiting
		sum.most += l.Bounds.Open
	}
	for limit, sum := range sums.of {
		w.value(limitOpen, float64(sum.open), limit)
		w.value(limitWaiting, float64(sum.waiting), limit)
		w.value(limitMost, float64(sum.most), limit)
	}
}
