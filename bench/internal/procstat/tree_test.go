package procstat

import (
	"os"
	"os/exec"
	"slices"
	"testing"
	"time"
)

func TestParseStat(t *testing.T) {
	line := "17 (a) b (c) S 4 17 17 0 -1 4194560 1 2 3 4 10 20 3 5 20 0 1 0 100 200 300\n"
	got, err := parseStat([]byte(line))
	if err != nil {
		t.Fatal(err)
	}
	if want := (stat{parent: 4, waitedFor: 80 * time.Millisecond}); got != want {
		t.Errorf("got %+v, want %+v", got, want)
	}
	for _, bad := range []string{"", "17 no name S 4", "17 (short) S 4", "17 (a) S x 17 17 0 -1 4194560 1 2 3 4 10 20 3 5 20"} {
		if _, err := parseStat([]byte(bad)); err == nil {
			t.Errorf("no error for %q", bad)
		}
	}
}

func TestParseSockstat(t *testing.T) {
	memory, sockets, err := parseSockstat("sockets: used 9\nTCP: inuse 7 orphan 0 tw 3 alloc 8 mem 2\nUDP: inuse 1 mem 5\n")
	if err != nil || sockets != 7 || memory != 2*int64(os.Getpagesize()) {
		t.Errorf("got %d bytes, %d sockets, %v", memory, sockets, err)
	}
	if _, _, err := parseSockstat("UDP: inuse 1 mem 5\n"); err == nil {
		t.Error("no error where there is no line of TCP")
	}
}

// A tree has the children of children, and the time of a child that has ended counts.
func TestTree(t *testing.T) {
	cmd := exec.Command("sh", "-c", "i=0; (while [ $i -lt 200000 ]; do i=$((i+1)); done); sh -c 'echo ready; read x; :'; :")
	in, err := cmd.StdinPipe()
	if err != nil {
		t.Fatal(err)
	}
	out, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = in.Close(); _ = cmd.Wait() })
	if _, err := out.Read(make([]byte, 6)); err != nil {
		t.Fatal(err)
	}
	pids, err := Tree(cmd.Process.Pid)
	if err != nil || len(pids) != 2 {
		t.Errorf("the tree is %v, %v; want the shell and its child", pids, err)
	}
	ours, err := Tree(os.Getpid())
	if err != nil || !slices.Contains(ours, pids[len(pids)-1]) {
		t.Errorf("our tree %v, %v lacks the grandchild", ours, err)
	}
	cpu, err := TreeCPU(cmd.Process.Pid)
	if err != nil || cpu < 20*time.Millisecond {
		t.Errorf("CPU time %s, %v: the loop of the child that has ended is missing", cpu, err)
	}
	u, err := TreeUsage(cmd.Process.Pid)
	if err != nil || u.RSS == 0 || u.Unbacked <= 0 || u.Unbacked >= u.RSS || u.Descriptors < 6 || u.Pipes < 4 {
		t.Errorf("usage %+v, %v", u, err)
	}
}
