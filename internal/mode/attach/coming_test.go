package attach

import (
	"fmt"
	"testing"

	"github.com/ambassadord/ambassadord/internal/dockerd"
	"github.com/ambassadord/ambassadord/internal/identity"
	"github.com/ambassadord/ambassadord/resolver"
)

func TestPortsOfComingContainers(t *testing.T) {
	owner := &dockerd.Container{ID: "owner", Name: "owner", Running: true, NetworkMode: "bridge", Labels: map[string]string{"connect.1": "a:1"}}
	containers := []*dockerd.Container{owner}
	for i := range 2 {
		labels := map[string]string{"connect.1": "b:1"}
		for port := range maxEarly {
			labels[fmt.Sprintf("connect.%d", 2+i*maxEarly+port)] = "b:1"
		}
		containers = append(containers, &dockerd.Container{ID: fmt.Sprint("joiner", i), Name: "j", NetworkMode: "container:owner", Labels: labels})
	}
	n := identity.Build(dockerd.NewSnapshot(containers...), nil, "", nil, resolver.Parse).Owned("owner")
	of := map[bool]int{}
	for _, p := range comingPorts(n) {
		if p.Number == 1 {
			t.Error("a port that a running container declares is taken for one of the coming ones")
		}
		of[p.Number < 2+maxEarly]++
	}
	if of[true]+of[false] > maxEarly || of[true]-of[false] > 1 || of[false]-of[true] > 1 || of[true] < maxEarly/2-1 {
		t.Errorf("%d ports of one joiner and %d of the other; want %d, shared", of[true], of[false], maxEarly)
	}
}
