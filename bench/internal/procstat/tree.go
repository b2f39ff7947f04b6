package procstat

import (
	"bytes"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"strconv"
	"strings"
	"time"

	"golang.org/x/sys/unix"
)

// stat is what Tree needs of /proc/PID/stat (proc_pid_stat(5)).
type stat struct {
	parent    int
	waitedFor time.Duration // user and system time of children that have ended
}

func parseStat(line []byte) (s stat, err error) {
	end := bytes.LastIndexByte(line, ')') // the name before it may hold anything
	fields := strings.Fields(string(line[end+1:]))
	if end < 0 || len(fields) < 15 {
		return s, fmt.Errorf("not the stat of a process: %q", line)
	}
	if s.parent, err = strconv.Atoi(fields[1]); err != nil {
		return s, err
	}
	for _, field := range fields[13:15] {
		ticks, err := strconv.Atoi(field)
		if err != nil {
			return s, err
		}
		s.waitedFor += time.Duration(ticks) * 10 * time.Millisecond
	}
	return s, nil
}

// Tree is a process and all its descendants that live.
func Tree(root int) ([]int, error) {
	entries, err := os.ReadDir("/proc")
	if err != nil {
		return nil, err
	}
	children := map[int][]int{}
	for _, entry := range entries {
		pid, err := strconv.Atoi(entry.Name())
		if err != nil {
			continue
		}
		s, err := statOf(pid)
		if err != nil {
			continue // gone meanwhile
		}
		children[s.parent] = append(children[s.parent], pid)
	}
	if _, err := statOf(root); err != nil {
		return nil, err
	}
	pids := []int{root}
	for i := 0; i < len(pids); i++ {
		pids = append(pids, children[pids[i]]...)
	}
	return pids, nil
}

func statOf(pid int) (stat, error) {
	line, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
	if err != nil {
		return stat{}, err
	}
	return parseStat(line)
}

// TreeCPU is the user and system time of a process and its descendants, those that
// have ended and were waited for included. The kernel's clock of each process
// (clock_getcpuclockid(3)) has it to the nanosecond; the ticks of /proc would be a
// tenth of a short measurement.
func TreeCPU(root int) (sum time.Duration, err error) {
	pids, err := Tree(root)
	if err != nil {
		return 0, err
	}
	for _, pid := range pids {
		s, err := statOf(pid)
		if err != nil {
			if gone(err) && pid != root {
				continue
			}
			return 0, err
		}
		var ts unix.Timespec
		clock := int32(^pid<<3 | 2)
		if err := unix.ClockGettime(clock, &ts); err != nil {
			if pid != root {
				continue
			}
			return 0, fmt.Errorf("CPU clock of process %d: %w", pid, err)
		}
		sum += s.waitedFor + time.Duration(ts.Nano())
	}
	return sum, nil
}

func gone(err error) bool {
	return errors.Is(err, fs.ErrNotExist) || errors.Is(err, unix.ESRCH)
}

// Usage is what a process tree occupies.
type Usage struct {
	RSS         int64 // bytes; pages that processes share count once for each
	Unbacked    int64 // bytes of that which no file has: anonymous and shared memory
	Descriptors int
	Pipes       int // ends of pipes among them
}

// TreeUsage adds up the usage of a process and its descendants.
func TreeUsage(root int) (u Usage, err error) {
	pids, err := Tree(root)
	if err != nil {
		return u, err
	}
	for _, pid := range pids {
		kib, err := Status(pid, "VmRSS")
		var backed int
		if err == nil {
			backed, err = Status(pid, "RssFile")
		}
		if err != nil {
			if pid != root {
				continue // a zombie, or gone
			}
			return u, err
		}
		u.RSS += int64(kib) << 10
		u.Unbacked += int64(kib-backed) << 10
		folder := fmt.Sprintf("/proc/%d/fd", pid)
		entries, err := os.ReadDir(folder)
		if err != nil {
			continue
		}
		u.Descriptors += len(entries)
		for _, entry := range entries {
			if to, err := os.Readlink(folder + "/" + entry.Name()); err == nil && strings.HasPrefix(to, "pipe:") {
				u.Pipes++
			}
		}
	}
	return u, nil
}

// SocketMemory is what TCP's sockets of this network namespace hold in buffers, in
// bytes, by /proc/net/sockstat, and how many there are.
func SocketMemory() (memory int64, sockets int, err error) {
	text, err := os.ReadFile("/proc/thread-self/net/sockstat")
	if err != nil {
		return 0, 0, err
	}
	return parseSockstat(string(text))
}

func parseSockstat(text string) (memory int64, sockets int, err error) {
	for line := range strings.Lines(text) {
		fields := strings.Fields(line)
		if len(fields) < 3 || fields[0] != "TCP:" {
			continue
		}
		for i := 1; i+1 < len(fields); i += 2 {
			n, err := strconv.Atoi(fields[i+1])
			if err != nil {
				return 0, 0, err
			}
			switch fields[i] {
			case "mem":
				memory = int64(n) * int64(os.Getpagesize())
			case "inuse":
				sockets = n
			}
		}
		return memory, sockets, nil
	}
	return 0, 0, fmt.Errorf("sockstat has no line of TCP: %q", text)
}
