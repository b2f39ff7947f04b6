package dockerd

import (
	"cmp"
	"encoding/json"
	"fmt"
	"io"
	"slices"
)

const (
	// maxDescription is how many bytes the engine may have to say of one container. A
	// usual one takes 10,000.
	maxDescription = 4 << 20
	// maxDeclared is how many bytes of labels and environment are kept of one.
	maxDeclared = 1 << 20
)

// errTooLarge: the engine has more to say of a container than maxDescription.
var errTooLarge = fmt.Errorf("its description has more than %d bytes; give it fewer or shorter labels and variables", maxDescription)

// decodeDescription decodes what describes one container, and reads no more of it than a
// container may have.
func decodeDescription(r io.Reader, value any) error {
	limited := &io.LimitedReader{R: r, N: maxDescription + 1}
	err := json.NewDecoder(limited).Decode(value)
	if limited.N <= 0 {
		return errTooLarge
	}
	return err
}

// keepDeclared leaves the largest labels and variables out until what stays is within
// maxDeclared: what somebody has written by hand is small.
func (c *Container) keepDeclared() {
	type item struct {
		size  int
		label string // "" for a variable
		at    int
	}
	total := 0
	for key, value := range c.Labels {
		total += len(key) + len(value)
	}
	for _, text := range c.Env {
		total += len(text)
	}
	if total <= maxDeclared {
		return
	}
	items := make([]item, 0, len(c.Labels)+len(c.Env))
	for key, value := range c.Labels {
		items = append(items, item{size: len(key) + len(value), label: key, at: -1})
	}
	for i, text := range c.Env {
		items = append(items, item{size: len(text), at: i})
	}
	slices.SortFunc(items, func(a, b item) int {
		return cmp.Or(cmp.Compare(b.size, a.size), cmp.Compare(a.label, b.label), cmp.Compare(a.at, b.at))
	})
	without := map[int]bool{}
	for _, i := range items {
		if total <= maxDeclared {
			break
		}
		total -= i.size
		c.LeftOut++
		if i.at < 0 {
			delete(c.Labels, i.label)
		} else {
			without[i.at] = true
		}
	}
	kept := make([]string, 0, len(c.Env)-len(without))
	for i, text := range c.Env {
		if !without[i] {
			kept = append(kept, text)
		}
	}
	c.Env = kept
}
