package procstat

import (
	"fmt"
	"os"
	"strconv"
	"strings"
	"time"
)

// Busy is the time that all processors of the machine have spent on anything since
// it booted, interrupts included: the first line of /proc/stat (proc_stat(5)) but
// idle, iowait, and what a hypervisor took. A container sees the whole machine's.
func Busy() (time.Duration, error) {
	stat, err := os.ReadFile("/proc/stat")
	if err != nil {
		return 0, err
	}
	line, _, _ := strings.Cut(string(stat), "\n")
	fields := strings.Fields(line)
	if len(fields) < 8 || fields[0] != "cpu" {
		return 0, fmt.Errorf("/proc/stat begins with %q; want the times of cpu", line)
	}
	var ticks int
	for _, i := range []int{1, 2, 3, 6, 7} { // user, nice, system, irq, softirq; guests are in user
		t, err := strconv.Atoi(fields[i])
		if err != nil {
			return 0, fmt.Errorf("/proc/stat: %w", err)
		}
		ticks += t
	}
	return time.Duration(ticks) * 10 * time.Millisecond, nil
}
