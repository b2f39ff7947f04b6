package main

import (
	"time"

	"github.com/ambassadord/ambassadord/bench/inside/job"
)

// churnRate bounds how many connections a second of churn makes. Each leaves entries in
// the kernel's tables for one or two minutes, which hold a quarter of a million.
const churnRate = 4000

// workload is what every contestant is put under.
type workload struct {
	name   string
	job    job.Job // without addresses and times
	ports  []int
	stream bool // counted in bytes, not operations
}

func workloads() []workload {
	echo := []int{job.Echo}
	var echoes []int
	for i := range job.Echoes {
		echoes = append(echoes, job.Echo+i)
	}
	return []workload{
		{name: "64 B there and back, 1 connection", job: job.Job{Kind: job.Exchange, Size: 64, Connections: 1}, ports: echo},
		{name: "64 B there and back, 64 connections", job: job.Job{Kind: job.Exchange, Size: 64, Connections: 64}, ports: echo},
		{name: "4 KiB there and back, 1 connection", job: job.Job{Kind: job.Exchange, Size: 4096, Connections: 1}, ports: echo},
		{name: "4 KiB there and back, 64 connections", job: job.Job{Kind: job.Exchange, Size: 4096, Connections: 64}, ports: echo},
		{name: "connect, 64 B there and back, close; 1 at once", job: job.Job{Kind: job.Churn, Size: 64, Connections: 1}, ports: echoes},
		{name: "connect, 64 B there and back, close; 64 at once", job: job.Job{Kind: job.Churn, Size: 64, Connections: 64}, ports: echoes},
		{name: "one stream to the backend", job: job.Job{Kind: job.Up}, ports: []int{job.Sink}, stream: true},
		{name: "one stream from the backend", job: job.Job{Kind: job.Down}, ports: []int{job.Source}, stream: true},
	}
}

// jobFor is a workload for a contestant.
func (c insideContestant) jobFor(a *arena, w workload, d time.Duration) job.Job {
	j := w.job
	for _, port := range w.ports {
		j.Addresses = append(j.Addresses, c.address(a, port))
	}
	j.Warm, j.Time = d/4, d
	j.Most = max(j.Connections, int(churnRate*d.Seconds()))
	return j
}
