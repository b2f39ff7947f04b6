package main

import (
	"errors"
	"fmt"
	"sync"
	"sync/atomic"
	"time"
)

// mostWaiting is how many connections may wait for their answer at once.
const mostWaiting = 2000

// steadily calls ask rate times a second, for ever, and prints a line for each that failed,
// and one a second for those that did not. The times are of time.Time.UnixNano.
//
//	failed BEGAN ENDED ERROR
//	foreign BEGAN ENDED ERROR
//	answered HOW MANY
func steadily(rate int, ask func() error) {
	var (
		answered atomic.Int64
		printing sync.Mutex
		waiting  = make(chan struct{}, mostWaiting)
		pace     = time.NewTicker(time.Second / time.Duration(rate))
		tell     = time.NewTicker(time.Second)
	)
	for {
		select {
		case <-tell.C:
			printing.Lock()
			fmt.Println("answered", answered.Swap(0))
			printing.Unlock()
		case <-pace.C:
			waiting <- struct{}{}
			go func() {
				defer func() { <-waiting }()
				began := time.Now()
				err := ask()
				if err == nil {
					answered.Add(1)
					return
				}
				what := "failed"
				if errors.Is(err, errForeign) {
					what = "foreign"
				}
				printing.Lock()
				defer printing.Unlock()
				fmt.Println(what, began.UnixNano(), time.Now().UnixNano(), err)
			}()
		}
	}
}
