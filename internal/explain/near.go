package explain

import (
	"bufio"
	"context"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"

	"github.com/ambassadord/ambassadord/internal/dockerd"
	"github.com/ambassadord/ambassadord/internal/status"
	"github.com/ambassadord/ambassadord/internal/suggest"
)

const (
	// mostNear bounds how many near misses there are, mostKeys how many labels and variables are looked at.
	mostNear = 8
	mostKeys = 4096
	maxKey   = 256
)

// nearMisses looks for what may have been meant to declare the port, or says that what declares it is
// not what somebody has written last.
func (a *asker) nearMisses(ctx context.Context, c *dockerd.Container, known *status.Container) {
	e := a.e
	e.NearMisses = []NearMiss{}
	for _, p := range known.Problems { // the declaration's own is told with it
		if names(p.Origin+" "+p.Error+" "+p.Hint, e.Asked.Port) && (e.Declaration == nil || p.Origin != e.Declaration.Origin) {
			if e.near(p.Origin, p.Error, p.Hint) {
				e.NearMisses[len(e.NearMisses)-1].Declared = true
			}
		}
	}
	e.compose(c)
	a.image(ctx, c)
	if e.Declaration == nil {
		e.keys(c)
		e.otherPorts()
		a.others(c)
	}
}

// near adds a near miss, unless it is there or there are enough.
func (e *Explanation) near(where, why, fix string) (added bool) {
	where = short(where)
	if len(e.NearMisses) == mostNear || slices.ContainsFunc(e.NearMisses, func(n NearMiss) bool { return n.Where == where }) {
		return false
	}
	e.NearMisses = append(e.NearMisses, NearMiss{Where: where, Why: short(why), Fix: short(fix)})
	return true
}

// names reports whether the port stands in text as a number.
func names(text string, port uint16) bool {
	number := strconv.Itoa(int(port))
	digit := func(at int) bool { return at >= 0 && at < len(text) && text[at] >= '0' && text[at] <= '9' }
	for from := 0; ; {
		at := strings.Index(text[from:], number)
		if at < 0 {
			return false
		}
		at += from
		if !digit(at-1) && !digit(at+len(number)) {
			return true
		}
		from = at + 1
	}
}

// keys looks for labels and variables that have the port in their names.
func (e *Explanation) keys(c *dockerd.Container) {
	look := func(kind, key string) {
		lower := strings.ToLower(key)
		if len(key) > maxKey || !names(key, e.Asked.Port) || !strings.Contains(lower, "connect") && !strings.Contains(lower, "backend") {
			return
		}
		why, fix := "names the port and declares nothing", fmt.Sprintf("write the label connect.%d=TARGET", e.Asked.Port)
		if strings.Contains(lower, "udp") {
			why, fix = "is about UDP, which is not carried", "only TCP is: let the client speak TCP, or reach the service without ambassadord"
		}
		e.NearMisses = slices.DeleteFunc(e.NearMisses, func(n NearMiss) bool {
			return strings.Contains(lower, "udp") && n.Where == short(kind+" "+key)
		})
		e.near(kind+" "+key, why, fix)
	}
	keys := make([]string, 0, min(len(c.Labels), mostKeys))
	for key := range c.Labels {
		if len(keys) < mostKeys {
			keys = append(keys, key)
		}
	}
	slices.Sort(keys)
	for _, key := range keys {
		look("label", key)
	}
	for _, item := range c.Env[:min(len(c.Env), mostKeys)] {
		key, _, _ := strings.Cut(item, "=")
		look("environment", key)
	}
}

// otherPorts looks for a declared port that looks like the one that is asked for.
func (e *Explanation) otherPorts() {
	number := strconv.Itoa(int(e.Asked.Port))
	for _, port := range e.Ports {
		other := strconv.Itoa(int(port))
		if suggest.Distance(number, other) == 1 || strings.HasPrefix(other, number) || strings.HasPrefix(number, other) {
			e.near("port "+other, "is declared, and looks like "+number, fmt.Sprintf("dial localhost:%s, or declare connect.%s", other, number))
		}
	}
}

// others looks for containers of the same network namespace or project that declare the port.
func (a *asker) others(c *dockerd.Container) {
	key := fmt.Sprintf("connect.%d", a.e.Asked.Port)
	for _, other := range a.snapshot.Containers() {
		if _, ok := other.Labels[key]; ok && other != c && other.Project() != "" && other.Project() == c.Project() {
			a.e.near("container "+other.Name, "of the same project declares the port; "+c.Name+" does not", "give "+c.Service()+" the label, too")
		}
	}
}

// image looks at the image as it is named now: one that was built anew declares for containers made
// from then on.
func (a *asker) image(ctx context.Context, c *dockerd.Container) {
	if c.Image == "" || strings.HasPrefix(c.Image, "sha256:") {
		return
	}
	image, err := a.sources.Docker.Image(ctx, c.Image)
	if err != nil {
		return // it has been removed, or its name
	}
	key := fmt.Sprintf("connect.%d", a.e.Asked.Port)
	if says, ok := image.Labels[key]; ok && c.Labels[key] == "" && c.Labels[fmt.Sprintf("connect[%d]", a.e.Asked.Port)] == "" {
		a.e.near("image "+c.Image, "has the label "+key+"="+says+" by now, and the container was made before", "create the container anew")
	}
}

const (
	labelFiles = "com.docker.compose.project.config_files"
	// mostFiles and mostFile bound what is read of Compose's files, in bytes of each.
	mostFiles = 4
	mostFile  = 1 << 20
)

// compose looks into the project's files for a declaration of the port that the container does not
// have: Compose applies a label when it creates a container. Only where it stands is told of a file,
// whose path the container's labels name.
func (e *Explanation) compose(c *dockerd.Container) {
	files := strings.Split(c.Labels[labelFiles], ",")
	for _, file := range files[:min(len(files), mostFiles)] {
		if !filepath.IsAbs(file) {
			continue
		}
		line, found := 0, false
		key := fmt.Sprintf("connect.%d", e.Asked.Port)
		variable := fmt.Sprintf("CONNECT_%d", e.Asked.Port)
		_ = eachLine(file, func(n int, text string) bool {
			text = strings.TrimSpace(text)
			if strings.HasPrefix(text, "#") || !declares(text, key) && !declares(text, variable) {
				return true
			}
			if e.Declaration != nil && (strings.Contains(text, e.Declaration.Target) || strings.Contains(text, "$")) {
				line, found = 0, false // as the container has it, or as a variable says
				return false
			}
			line, found = n, true
			return true
		})
		if found {
			why := "declares the port, and the container does not have it"
			if e.Declaration != nil {
				why = "declares another target than the container has"
			}
			e.near(fmt.Sprintf("%s:%d", file, line), why+": Compose applies labels when it creates a container", "docker compose -p "+short(c.Project())+" up -d "+short(c.Service()))
		}
	}
}

// declares reports whether a line of YAML has that key, and no option of it.
func declares(text, key string) bool {
	_, rest, found := strings.Cut(text, key)
	rest = strings.TrimLeft(rest, `"' `)
	return found && rest != "" && (rest[0] == ':' || rest[0] == '=')
}

// eachLine calls fn for the lines of a regular file, counted from 1, until that returns false.
func eachLine(path string, fn func(n int, text string) bool) error {
	file, err := os.OpenFile(path, os.O_RDONLY|unix.O_NONBLOCK, 0) // a pipe would hold us up
	if err != nil {
		return err
	}
	defer file.Close()
	if st, err := file.Stat(); err != nil || !st.Mode().IsRegular() {
		return err
	}
	lines := bufio.NewScanner(io.LimitReader(file, mostFile))
	for n := 1; lines.Scan(); n++ {
		if !fn(n, lines.Text()) {
			return nil
		}
	}
	return lines.Err()
}
