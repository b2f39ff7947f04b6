package metrics

import (
	"cmp"
	"maps"
	"slices"
	"sync/atomic"
	"time"

	dto "github.com/prometheus/client_model/go"

	"github.com/ambassadord/ambassadord/internal/status"
)

// collector makes a scrape of the counters and of a snapshot. It makes the messages that are encoded
// by itself: a registry would make each label anew for each metric, sort all and look for those that
// are there twice, which takes as long as the rest does. The tests have one look.
type collector struct {
	counters *Counters
	from     Source
	now      func() time.Time
}

// Gather is part of prometheus.Gatherer.
func (c *collector) Gather() ([]*dto.MetricFamily, error) {
	n := c.counters
	n.collecting.Lock()
	defer n.collecting.Unlock()
	c.from.Moved(n.moved)
	s := c.from.Snapshot()
	n.clients.sweep(s, c.now())
	w := scrape{options: n.options, metrics: make([][]*dto.Metric, len(families))}
	w.daemon(s)
	w.total(&n.total)
	w.clients(&n.clients)
	w.declared(s)
	w.targets(s)
	w.endpoints(s)
	w.sources(s)
	w.limits(s)
	return w.families(), nil
}

// scrape is one scrape, as far as it has come.
type scrape struct {
	options Options
	metrics [][]*dto.Metric // by metricFamily.index
}

var kinds = map[string]dto.MetricType{
	counter: dto.MetricType_COUNTER, gauge: dto.MetricType_GAUGE, histogram: dto.MetricType_HISTOGRAM, summary: dto.MetricType_SUMMARY,
}

// families are those that have a metric, in the order of documentation.
func (w scrape) families() []*dto.MetricFamily {
	var all []*dto.MetricFamily
	for i, f := range families {
		if len(w.metrics[i]) > 0 {
			all = append(all, &dto.MetricFamily{Name: &f.name, Help: &f.help, Type: kinds[f.kind].Enum(), Metric: w.metrics[i]})
		}
	}
	return all
}

// valueMetric is all there is to a metric with one value.
type valueMetric struct {
	metric  dto.Metric
	gauge   dto.Gauge
	counter dto.Counter
	value   float64
}

// with adds a metric with labels that others may share, sorted by name.
func (w scrape) with(labels []*dto.LabelPair, f *metricFamily, value float64) {
	m := &valueMetric{value: value}
	m.metric.Label = labels
	if f.kind == gauge {
		m.gauge.Value = &m.value
		m.metric.Gauge = &m.gauge
	} else {
		m.counter.Value = &m.value
		m.metric.Counter = &m.counter
	}
	w.metrics[f.index] = append(w.metrics[f.index], &m.metric)
}

// pairs makes labels of names and values in turn.
func pairs(texts ...string) []*dto.LabelPair {
	all := make([]*dto.LabelPair, 0, len(texts)/2)
	for i := 0; i+1 < len(texts); i += 2 {
		all = append(all, &dto.LabelPair{Name: &texts[i], Value: &texts[i+1]})
	}
	return all
}

func (w scrape) value(f *metricFamily, value float64) { w.with(nil, f, value) }

func (w scrape) truth(labels []*dto.LabelPair, f *metricFamily, is bool) {
	value := 0.0
	if is {
		value = 1
	}
	w.with(labels, f, value)
}

func (w scrape) count(labels []*dto.LabelPair, f *metricFamily, n *atomic.Int64) {
	w.with(labels, f, float64(n.Load()))
}

// histogram adds a histogram with as many of the bounds as are told.
func (w scrape) histogram(f *metricFamily, d *durationCounts, told int) {
	h := &dto.Histogram{SampleSum: proto(seconds(&d.sum))}
	var count uint64
	for i := range d.buckets {
		count += uint64(d.buckets[i].Load())
		if i < told {
			h.Bucket = append(h.Bucket, &dto.Bucket{UpperBound: proto(bounds[i].Seconds()), CumulativeCount: proto(count)})
		}
	}
	h.SampleCount = &count
	w.metrics[f.index] = append(w.metrics[f.index], &dto.Metric{Histogram: h})
}

// proto is a value as a message wants it.
func proto[T any](v T) *T { return &v }

func (w scrape) daemon(s *status.Snapshot) {
	w.with(pairs("version", label(s.Daemon.Program)), buildInfo, 1)
	w.truth(nil, ready, s.Daemon.Ready)
	w.truth(nil, engineUp, s.Daemon.Engine == nil)
	w.with(pairs("state", s.Daemon.HandOver), handover, 1)
	w.truth(nil, configHolds, s.Daemon.Config.Refused == nil)
	if read := s.Daemon.Config.Read; !read.IsZero() {
		w.value(configRead, float64(read.UnixMilli())/1000)
	}
	w.value(snapshotTook, s.Took.Seconds())
}

// shortWaits is how many of the bounds suit the wait for an endpoint.
const shortWaits = 8

func (w scrape) total(t *total) {
	w.value(openNow, float64(t.open()))
	w.count(nil, closed, &t.closed) // before opened
	w.count(nil, opened, &t.opened)
	for i, reason := range reasons {
		w.count(pairs("reason", reason), failed, &t.failed[i])
	}
	w.count(nil, sent, &t.up)
	w.count(nil, received, &t.down)
	w.count(nil, dialled, &t.dials)
	w.histogram(establish, &t.established, shortWaits)
	w.histogram(unanswered, &t.unanswered, shortWaits)
	w.histogram(duration, &t.duration, len(bounds))
}

func (w scrape) clients(t *seriesTable) {
	all := t.list()
	w.value(clientSeries, float64(len(all)))
	w.value(clientSeriesMost, float64(t.most))
	w.count(nil, overflowed, &t.overflowed)
	for _, s := range all {
		w.series(s)
	}
	if t.other.changes() > 0 {
		w.series(&t.other)
	}
}

func (w scrape) series(s *series) {
	by := pairs("client", s.labels.client, "endpoint", s.labels.endpoint, "project", s.labels.project, "service", s.labels.service, "target", s.labels.target)
	before := 3 // labels that come before "reason"
	if !w.options.Endpoints {
		by, before = slices.Delete(by, 1, 2), 2
	}
	w.with(by, clientOpen, float64(s.open()))
	w.count(by, clientClosed, &s.closed) // before opened
	w.count(by, clientOpened, &s.opened)
	w.count(by, clientSent, &s.up)
	w.count(by, clientReceived, &s.down)
	w.count(by, clientDialled, &s.dials)
	w.metrics[clientEstablish.index] = append(w.metrics[clientEstablish.index], &dto.Metric{Label: by, Summary: &dto.Summary{
		SampleCount: proto(uint64(s.answered.Load())), SampleSum: proto(seconds(&s.waited)),
	}})
	for i, reason := range reasons {
		if s.failed[i].Load() > 0 {
			w.count(slices.Insert(slices.Clone(by), before, pairs("reason", reason)...), clientFailed, &s.failed[i])
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
	l := label(status.Redacted(text))
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
	for _, t := range inTurn(s, w.options.Series) {
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
		by := pairs("target", target)
		if sum.declared {
			w.with(by, targetClients, float64(sum.clients))
			w.with(by, targetEndpoints, float64(sum.endpoints))
			w.truth(by, targetFailing, sum.failing)
		}
		if sum.pools == 0 {
			continue
		}
		w.with(by, targetOut, float64(sum.out))
		w.with(by, targetEjected, float64(sum.ejected))
		w.truth(by, targetPanic, sum.panic)
		if sum.up+sum.down+sum.unchecked > 0 {
			w.with(pairs("target", target, "verdict", "up"), targetChecks, float64(sum.up))
			w.with(pairs("target", target, "verdict", "down"), targetChecks, float64(sum.down))
			w.with(pairs("target", target, "verdict", "unchecked"), targetChecks, float64(sum.unchecked))
		}
	}
}

// inTurn is the targets, if they are more than most in an order that leaves each container room: those
// of listeners, then the first of each container's, then the second.
func inTurn(s *status.Snapshot, most int) []*status.Target {
	all := make([]*status.Target, len(s.Targets))
	for i := range s.Targets {
		all[i] = &s.Targets[i]
	}
	if len(all) <= most {
		return all
	}
	turns := make(map[string]int, len(all)) // the earliest of each target; those of listeners have none
	for i := range s.Containers {
		turn := 0
		for j := range s.Containers[i].Bindings {
			b := &s.Containers[i].Bindings[j]
			if b.Problem != "" {
				continue
			}
			turn++
			if before, ok := turns[b.Meaning]; !ok || turn < before {
				turns[b.Meaning] = turn
			}
		}
	}
	for i := range s.Listeners {
		delete(turns, s.Listeners[i].Target)
	}
	slices.SortStableFunc(all, func(a, b *status.Target) int { return cmp.Compare(turns[a.Meaning], turns[b.Meaning]) })
	return all
}

// endpoints tells of the first Series endpoints, in the order of their targets.
func (w scrape) endpoints(s *status.Snapshot) {
	if !w.options.Endpoints {
		return
	}
	type pair struct{ target, endpoint string }
	told := map[pair]bool{}
	for i := range s.Pools {
		target := label(status.Redacted(s.Pools[i].Target))
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
			by := pairs("endpoint", one.endpoint, "target", one.target)
			w.truth(by, endpointOut, m.Out)
			w.with(by, endpointOpen, float64(m.Health.Open))
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
		sum, by := kinds[kind], pairs("source", kind)
		w.with(by, watches, float64(sum.watched))
		w.with(by, unwatched, float64(sum.unwatched))
		w.with(by, failing, float64(sum.failing))
		w.with(by, failingFor, since(sum.since, s.Taken))
		w.with(by, oldestAnswer, since(sum.oldest, s.Taken))
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
		by := pairs("limit", limit)
		w.with(by, limitOpen, float64(sum.open))
		w.with(by, limitWaiting, float64(sum.waiting))
		w.with(by, limitMost, float64(sum.most))
	}
}
