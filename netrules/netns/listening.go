package netns

import (
	"bufio"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"strconv"
	"strings"
)

// ListeningPorts returns the TCP ports somebody listens on inside the namespace, on
// whatever address (proc_pid_net(5), tcp and tcp6).
func (n *Namespace) ListeningPorts() (map[uint16]bool, error) {
	ports := map[uint16]bool{}
	err := n.Do(func() error {
		// thread-self, because self is the process's first thread, which is elsewhere.
		for _, name := range []string{"tcp", "tcp6"} {
			err := readListening("/proc/thread-self/net/"+name, ports)
			if err != nil && !errors.Is(err, fs.ErrNotExist) { // a kernel without IPv6
				return err
			}
		}
		return nil
	})
	if err != nil {
		return nil, fmt.Errorf("list listening ports in network namespace %s: %w", n.path, err)
	}
	return ports, nil
}

// readListening adds the listening ports of one table.
func readListening(path string, ports map[uint16]bool) error {
	file, err := os.Open(path)
	if err != nil {
		return err
	}
	defer file.Close()
	lines := bufio.NewScanner(file)
	lines.Scan() // the heading
	for lines.Scan() {
		const local, state = 1, 3
		fields := strings.Fields(lines.Text())
		if len(fields) <= state || fields[state] != "0A" { // TCP_LISTEN
			continue
		}
		_, port, _ := strings.Cut(fields[local], ":")
		number, err := strconv.ParseUint(port, 16, 16)
		if err != nil {
			return fmt.Errorf("read %s: unexpected line %q", path, lines.Text())
		}
		ports[uint16(number)] = true
	}
	return lines.Err()
}
