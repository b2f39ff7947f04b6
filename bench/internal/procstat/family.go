package procstat

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"time"

	"golang.org/x/sys/unix"
)

// Family is a process and all that descend from it and live.
func Family(pid int) ([]int, error) {
	pids := []int{pid}
	lists, err := filepath.Glob(fmt.Sprintf("/proc/%d/task/*/children", pid))
	if err != nil {
		return nil, err
	}
	for _, list := range lists {
		children, err := os.ReadFile(list)
		if gone(err) {
			continue // the thread has ended, and its children are another's
		}
		if err != nil {
			return nil, err
		}
		for field := range strings.FieldsSeq(string(children)) {
			child, err := strconv.Atoi(field)
			if err != nil {
				return nil, fmt.Errorf("%s: %w", list, err)
			}
			below, err := Family(child)
			if err != nil {
				return nil, err
			}
			pids = append(pids, below...)
		}
	}
	return pids, nil
}

// FamilyCPUTime is CPUTime of a process and of all that descend from it and live.
func FamilyCPUTime(pid int) (time.Duration, error) {
	pids, err := Family(pid)
	if err != nil {
		return 0, err
	}
	var total time.Duration
	for _, p := range pids {
		t, err := CPUTime(p)
		if p != pid && gone(err) {
			continue // ended since; its parent counts it now
		}
		if err != nil {
			return 0, err
		}
		total += t
	}
	return total, nil
}

// gone reports whether a file of /proc could not be read because what it tells of has
// ended.
func gone(err error) bool {
	return errors.Is(err, fs.ErrNotExist) || errors.Is(err, unix.ESRCH)
}
