package binding

import (
	"fmt"
	"math/rand/v2"
	"runtime"
	"strings"
	"testing"
	"time"

	"github.com/ambassadord/ambassadord/internal/hint"
	"github.com/ambassadord/ambassadord/resolver"
)

// hostile are containers that are as dear to read as their author could make them.
func hostile() map[string]Declarer {
	labels := func(n int, of func(i int) (key, value string)) Declarer {
		d := Declarer{Name: "hostile", Labels: map[string]string{}}
		for i := range n {
			key, value := of(i)
			d.Labels[key] = value
		}
		return d
	}
	variables := func(n int, of func(i int) string) Declarer {
		d := Declarer{Name: "hostile"}
		for i := range n {
			d.Env = append(d.Env, of(i))
		}
		return d
	}
	long := strings.Repeat("x", 65_000)
	return map[string]Declarer{
		"ports that are none": labels(10_000, func(i int) (string, string) { return fmt.Sprintf("connect.x%d", i), "a:1" }),
		"mistaken options": labels(5_000, func(i int) (string, string) {
			return fmt.Sprintf("connect.%d.tiemout%c", i/10+1, 'a'+i%10), "1s"
		}),
		"mistaken values": labels(5_000, func(i int) (string, string) {
			return fmt.Sprintf("connect.%d.%s", i/10+1, []string{"wait", "timeout", "hedge", "queue", "mark", "keepalive", "eject-for", "eject-after", "check-rise", "check-fall"}[i%10]), "x"
		}),
		"bad targets":  labels(2_000, func(i int) (string, string) { return fmt.Sprintf("connect.%d", i+1), "a:" + strings.Repeat("9", 4000) }),
		"long targets": labels(1_000, func(i int) (string, string) { return fmt.Sprintf("connect.%d", i+1), long }),
		"long lists": labels(1_000, func(i int) (string, string) {
			return fmt.Sprintf("connect.%d", i+1), strings.Repeat("10.0.0.1:1,", 255) + "a:1"
		}),
		"long names":               labels(100, func(i int) (string, string) { return fmt.Sprintf("connect.%d.%s", i+1, long), "1s" }),
		"long words":               labels(100, func(i int) (string, string) { return fmt.Sprintf("%s%d", long, i), "1s" }),
		"misspelt labels":          labels(10_000, func(i int) (string, string) { return fmt.Sprintf("conect.%d", i), "a:1" }),
		"misspelt variables":       variables(10_000, func(i int) string { return fmt.Sprintf("CONECT_%d=a:1", i) }),
		"options of nothing":       labels(10_000, func(i int) (string, string) { return fmt.Sprintf("connect.%d.wait", i+1), "1s" }),
		"options wrong for all":    labels(1_024, func(i int) (string, string) { return fmt.Sprintf("connect.%d", i+1), "a:1" }).with("connect.check-path", "/x", "connect.wait", "5m"),
		"one option, many times":   variables(10_000, func(i int) string { return fmt.Sprintf("CONNECT_1_WAIT=%dms", i) }),
		"one port, many times":     variables(10_000, func(i int) string { return fmt.Sprintf("CONNECT_1=a:%d", i+1) }),
		"labels of other programs": labels(20_000, func(i int) (string, string) { return fmt.Sprintf("traefik.http.routers.r%d", i), "x" }),
	}
}

// with is d with more labels: name, value, …
func (d Declarer) with(pairs ...string) Declarer {
	for i := 0; i < len(pairs); i += 2 {
		d.Labels[pairs[i]] = pairs[i+1]
	}
	return d
}

// TestHostileContainersAreReadInBoundedWork: none takes the follower longer than an instant,
// holds much memory, or says more than people read.
func TestHostileContainersAreReadInBoundedWork(t *testing.T) {
	for name, d := range hostile() {
		t.Run(name, func(t *testing.T) {
			var set Set
			took := time.Duration(1<<63 - 1)
			for range 3 { // the quickest: others use the processor too
				began := time.Now()
				set = Read(d, nil, resolver.Parse)
				took = min(took, time.Since(began))
			}
			if took > time.Second {
				t.Errorf("it takes %s to read", took)
			}
			held := 0
			for _, p := range set.Problems {
				held += len(p.Origin) + len(p.Error()) + len(hint.Of(p))
			}
			if len(set.Problems) > maxProblems+3 || held > (maxProblems+3)*3_000 {
				t.Errorf("%d problems of %d bytes are kept", len(set.Problems), held)
			}
			if set.Len() > maxPorts {
				t.Errorf("%d ports are accepted", set.Len())
			}
			queries := 0
			for _, b := range set.All() {
				for range b.Target.Queries() {
					queries++
				}
			}
			if queries > maxQueries+256 {
				t.Errorf("its targets ask %d questions", queries)
			}
			t.Logf("%s, %d problems of %d bytes, %d ports", took, len(set.Problems), held, set.Len())
		})
	}
}

// TestWorkIsLinear: twice the labels are twice the work, counted in allocations, which do
// not depend on what else the machine does.
func TestWorkIsLinear(t *testing.T) {
	for _, test := range []struct {
		name string
		of   func(i int) string
	}{
		{"mistaken labels", func(i int) string { return fmt.Sprintf("connect.x%d", i) }},
		{"mistaken options", func(i int) string { return fmt.Sprintf("connect.%d.tiemout", i+1) }},
		{"options of nothing", func(i int) string { return fmt.Sprintf("connect.%d.wait", i+1) }},
	} {
		work := func(n int) float64 {
			d := Declarer{Labels: map[string]string{}}
			for i := range n {
				d.Labels[test.of(i)] = "a:1"
			}
			return testing.AllocsPerRun(1, func() { Read(d, nil, resolver.Parse) })
		}
		if few, many := work(1_000), work(4_000); many > 5*few {
			t.Errorf("%s: 1,000 take %.0f allocations, 4,000 %.0f", test.name, few, many)
		}
	}
}

func TestProblemsAreKeptUpToABoundAndCountedPastIt(t *testing.T) {
	d := Declarer{Labels: map[string]string{"connect.6379": "redis:6379"}}
	for i := range 1_000 {
		d.Labels[fmt.Sprintf("connect.x%d", i)] = "a:1"
	}
	set := Read(d, nil, resolver.Parse)
	if len(set.Problems) != maxProblems || set.Mistakes != 1_000 {
		t.Errorf("%d problems are kept of %d; want %d of 1,000", len(set.Problems), set.Mistakes, maxProblems)
	}
	if b, ok := set.Lookup(6379); !ok || b.Problem != nil {
		t.Errorf("the good declaration is lost among them: %+v", b)
	}
}

// TestEachQuarantinedPortKeepsItsReason, also past the bound on what is said of all.
func TestEachQuarantinedPortKeepsItsReason(t *testing.T) {
	d := Declarer{Labels: map[string]string{}}
	for i := range 200 {
		d.Labels[fmt.Sprintf("connect.%d", i+1)] = "a:b"
	}
	for _, b := range Read(d, nil, resolver.Parse).All() {
		if b.Problem == nil || !strings.Contains(b.Problem.Error(), fmt.Sprintf("label connect.%d: ", b.Port)) {
			t.Errorf("port %d has the problem %v", b.Port, b.Problem)
		}
	}
}

func TestDeclarationsAreBounded(t *testing.T) {
	d := Declarer{LeftOut: 7, Labels: map[string]string{}}
	for i := range maxDeclarations + 10 {
		d.Labels[fmt.Sprintf("connect.%d", i+1)] = "a:1"
	}
	var said []string
	for _, p := range Read(d, nil, resolver.Parse).Problems {
		said = append(said, p.Error())
	}
	for i, want := range []string{
		"container: 7 of its largest labels and variables are passed over: together they are too large",
		fmt.Sprintf("container: has %d labels and variables that declare something; the most is %d, and the others are passed over", maxDeclarations+10, maxDeclarations),
		fmt.Sprintf("container: declares %d ports; the most is %d, and those above port ", maxDeclarations, maxPorts),
	} {
		if i >= len(said) || !strings.HasPrefix(said[i], want) {
			t.Errorf("problems %q; want %q at %d", said, want, i)
		}
	}
}

func TestQuestionsAreBounded(t *testing.T) {
	d := Declarer{Labels: map[string]string{}}
	for i := range 40 {
		d.Labels[fmt.Sprintf("connect.%d", i+1)] = strings.Repeat("a:1,", 255) + "a:1"
	}
	set := Read(d, nil, resolver.Parse)
	first, _ := set.Lookup(16)
	last, _ := set.Lookup(17)
	if first.Problem != nil || last.Problem == nil || hint.Of(last.Problem) == "" {
		t.Errorf("16 lists of 256 items have the problem %v, the 17th has %v; want the 17th to be one too many", first.Problem, last.Problem)
	}
}

func TestNamesAreBounded(t *testing.T) {
	long := strings.Repeat("9", 65_000)
	set := read(map[string]string{"connect." + long: "a:1", "connect.1": "a:1"}, []string{"CONNECT_" + long + "=a:1"})
	if len(set.Problems) != 2 || set.Len() != 1 {
		t.Fatalf("problems %.200v; want one for each long name", set.Problems)
	}
	for _, p := range set.Problems {
		if text := p.Error(); len(text) > 300 || !strings.Contains(text, "… (65,008 bytes)") {
			t.Errorf("a problem of %d bytes: %.300q", len(text), text)
		}
	}
}

// FuzzDeclarations: whatever labels and variables hold, each alone or many of a kind, they
// are read in bounded time and memory, and said of in bounded text.
func FuzzDeclarations(f *testing.F) {
	f.Add("connect.6379", "redis:6379", "BACKEND_1=a:1", uint16(1))
	f.Add("connect.x", "a:1", "CONNECT_1_WAIT=1x", uint16(3000))
	f.Add("connect[1].check-path", "\xff", "conect_1=a|b", uint16(100))
	f.Add("connect.1", strings.Repeat("a:1,", 300), "CONNECT_1=a:1", uint16(1100))
	f.Fuzz(func(t *testing.T, key, value, env string, times uint16) {
		if len(key)+len(value)+len(env) > 64<<10 {
			return
		}
		n := int(times)%4_000 + 1
		// A megabyte at most, as the engine's answers are cut to.
		n = min(n, 1+(1<<20)/(len(key)+len(value)+len(env)+16))
		d := Declarer{Name: "web", Labels: map[string]string{key: value}, Env: []string{env}}
		random := rand.New(rand.NewPCG(1, uint64(times)))
		for range n - 1 {
			at := random.IntN(len(key) + 1)
			d.Labels[fmt.Sprint(key[:at], random.IntN(70_000), key[at:])] = value
			at = random.IntN(len(env) + 1)
			d.Env = append(d.Env, fmt.Sprint(env[:at], random.IntN(70_000), env[at:]))
		}
		var before, after runtime.MemStats
		runtime.ReadMemStats(&before)
		began := time.Now()
		set := Read(d, nil, resolver.Parse)
		took := time.Since(began)
		runtime.ReadMemStats(&after)
		if took > 5*time.Second {
			t.Errorf("%d of %.100q=%.100q and %.100q take %s", n, key, value, env, took)
		}
		if allocated := after.TotalAlloc - before.TotalAlloc; allocated > 256<<20 {
			t.Errorf("%d of %.100q=%.100q and %.100q allocate %d bytes", n, key, value, env, allocated)
		}
		if len(set.Problems) > maxProblems+3 || set.Len() > maxPorts {
			t.Errorf("%d problems, %d ports", len(set.Problems), set.Len())
		}
		for _, p := range set.Problems {
			if size := len(p.Origin) + len(p.Error()) + len(hint.Of(p)); size > 4_000 {
				t.Errorf("a problem of %d bytes: %.200q", size, p)
			}
		}
		for _, b := range set.All() {
			if (b.Problem == nil) != (len(b.Target.Choices) > 0) {
				t.Errorf("%+v has a target and a problem, or neither", b)
			}
		}
	})
}
