// The goworker command is a client with a pool of ten connections, by one of Go's drivers. It
// does what bench/drivers tells it to, a line at a time: warm opens all ten, use makes twenty
// requests in ten threads and tells what became of them.
package main

import (
	"bufio"
	"context"
	"database/sql"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"os"
	"sync"
	"time"

	"github.com/jackc/pgx/v5/pgxpool"
	_ "github.com/lib/pq"
	"github.com/redis/go-redis/v9"
)

const (
	connections = 10
	timeout     = 2 * time.Second
)

// requester makes one request; a slow one holds its connection for a moment.
type requester func(ctx context.Context, slow bool) error

func driver(name, address string) (requester, error) {
	switch name {
	case "pgx":
		config, err := pgxpool.ParseConfig("postgres://postgres@" + address + "/postgres?sslmode=disable&connect_timeout=2")
		if err != nil {
			return nil, err
		}
		config.MaxConns, config.MinConns = connections, connections
		pool, err := pgxpool.NewWithConfig(context.Background(), config)
		return func(ctx context.Context, slow bool) error {
			var n int
			return pool.QueryRow(ctx, query(slow)).Scan(&n)
		}, err
	case "lib/pq":
		db, err := sql.Open("postgres", "postgres://postgres@"+address+"/postgres?sslmode=disable&connect_timeout=2")
		if err != nil {
			return nil, err
		}
		db.SetMaxOpenConns(connections)
		db.SetMaxIdleConns(connections)
		return func(ctx context.Context, slow bool) error {
			var n int
			return db.QueryRowContext(ctx, query(slow)).Scan(&n)
		}, nil
	case "go-redis":
		client := redis.NewClient(&redis.Options{
			Addr: address, PoolSize: connections, MinIdleConns: connections, MaxIdleConns: connections,
			ReadTimeout: timeout, WriteTimeout: timeout, DialTimeout: timeout,
		})
		return func(ctx context.Context, slow bool) error {
			if slow {
				_, err := client.BLPop(ctx, time.Second, "nothing").Result()
				if err == redis.Nil {
					return nil
				}
				return err
			}
			return client.Ping(ctx).Err()
		}, nil
	case "go http":
		client := &http.Client{Transport: &http.Transport{MaxIdleConnsPerHost: connections, MaxConnsPerHost: connections}}
		return func(ctx context.Context, slow bool) error {
			path := "/"
			if slow {
				path = "/slow"
			}
			r, err := http.NewRequestWithContext(ctx, http.MethodGet, "http://"+address+path, http.NoBody)
			if err != nil {
				return err
			}
			answer, err := client.Do(r)
			if err != nil {
				return err
			}
			defer answer.Body.Close()
			_, err = io.Copy(io.Discard, answer.Body)
			if err == nil && answer.StatusCode != http.StatusOK {
				err = fmt.Errorf("status %d", answer.StatusCode)
			}
			return err
		}, nil
	}
	return nil, fmt.Errorf("no driver %q", name)
}

func query(slow bool) string {
	if slow {
		return "select 1 from pg_sleep(0.3)"
	}
	return "select 1"
}

type workerCounts struct {
	Requests int    `json:"requests"`
	Failed   int    `json:"failed"`
	Slowest  int64  `json:"slowest"` // milliseconds
	Error    string `json:"error"`   // of the first that failed
}

// round makes that many requests in each of ten threads.
func round(do requester, each int, slow bool) workerCounts {
	var mu sync.Mutex
	var wg sync.WaitGroup
	var o workerCounts
	for range connections {
		wg.Go(func() {
			for range each {
				began := time.Now()
				ctx, cancel := context.WithTimeout(context.Background(), timeout)
				err := do(ctx, slow)
				cancel()
				mu.Lock()
				o.Requests++
				o.Slowest = max(o.Slowest, time.Since(began).Milliseconds())
				if err != nil {
					if o.Failed++; o.Failed == 1 {
						o.Error = err.Error()
					}
				}
				mu.Unlock()
			}
		})
	}
	wg.Wait()
	return o
}

func main() {
	do, err := driver(os.Args[1], os.Args[2])
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
	lines := bufio.NewScanner(os.Stdin)
	for lines.Scan() {
		var o workerCounts
		if lines.Text() == "warm" {
			o = round(do, 1, true)
		} else {
			o = round(do, 2, false)
		}
		_ = json.NewEncoder(os.Stdout).Encode(o)
	}
}
