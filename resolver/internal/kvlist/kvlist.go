// Package kvlist reads endpoints out of a key-value store. Consul's and etcd's
// stores are filled by the same people and programs, so a path means the same in
// both:
//
//	path = a:6379,b:6379 3      its own value, a list, of which b has a weight
//	path/1 = a:6379             or the values below it: Registrator's layout,
//	path/2 = b:6379             prefix/service/id = ip:port, for path = prefix/service
//
// Values below the path win over its own. Where they all lie in folders, and in
// more than one, the folders are services (path is Registrator's prefix): taking
// them together would lead a client of one service to another, so none is taken.
package kvlist

import (
	"cmp"
	"errors"
	"fmt"
	"slices"
	"strings"

	"github.com/ambassadord/ambassadord/resolver"
	"github.com/ambassadord/ambassadord/resolver/internal/answer"
)

// Pair is a key and its value.
type Pair struct{ Key, Value string }

const (
	// maxExamples is how many folders a note names.
	maxExamples = 3
	// maxItem and maxReason bound what is said of an item that is left out.
	maxItem, maxReason = 100, 200
)

// Read makes the answer for path out of the pairs of store whose keys start with
// it. Keys and path have no slash at their ends. notes are added to the answer's.
func Read(store, path string, pairs []Pair, notes ...string) resolver.Answer {
	var own, below []Pair
	for _, pair := range pairs {
		switch {
		case strings.TrimSpace(pair.Value) == "": // a folder, or nothing yet
		case strings.HasPrefix(pair.Key, path+"/"):
			below = append(below, pair)
		case pair.Key == path:
			own = append(own, pair)
		}
	}
	slices.SortFunc(below, func(a, b Pair) int { return cmp.Compare(a.Key, b.Key) })
	if folders := foldersOf(path, below); len(folders) > 1 {
		return answer.New(nil, append([]string{ambiguous(path, folders)}, notes...)...)
	}
	read := below
	if len(read) == 0 {
		read = own
	}
	if len(read) == 0 {
		none := fmt.Sprintf("%s has no value at %.200s or below it", store, path)
		return answer.New(nil, append([]string{none}, notes...)...)
	}
	l := itemList{seen: map[string]bool{}}
	for _, pair := range read {
		l.add(pair)
	}
	return l.leftOut.Answer(l.endpoints, notes...)
}

// foldersOf are the folders in path that hold all of pairs, sorted; none when one
// of the pairs is in path itself. pairs are sorted by key.
func foldersOf(path string, pairs []Pair) []string {
	var folders []string
	for _, pair := range pairs {
		folder, _, ok := strings.Cut(pair.Key[len(path)+1:], "/")
		if !ok {
			return nil
		}
		folders = append(folders, folder)
	}
	slices.Sort(folders) // "a-b/1" is before "a/1"
	return slices.Compact(folders)
}

func ambiguous(path string, folders []string) string {
	var names []string
	for _, folder := range folders[:min(len(folders), maxExamples)] {
		names = append(names, fmt.Sprintf("%.100q", folder))
	}
	text := strings.Join(names, ", ")
	if more := len(folders) - len(names); more > 0 {
		text += fmt.Sprintf(" and %d more", more)
	}
	return fmt.Sprintf("%.200s holds the folders of %d services: %s; name one of them", path, len(folders), text)
}

// itemList gathers the items of values.
type itemList struct {
	endpoints []resolver.Endpoint
	seen      map[string]bool
	leftOut   answer.LeftOut
}

// add reads the items of one value: host:port [weight], separated by commas. An item that
// is already there is skipped.
func (l *itemList) add(pair Pair) {
	for item := range strings.SplitSeq(pair.Value, ",") {
		item = strings.TrimSpace(item)
		if item == "" {
			continue
		}
		endpoint, err := answer.Item(item, pair.Key)
		if err != nil {
			l.leaveOut(pair.Key, item, err)
			continue
		}
		if text := endpoint.String(); !l.seen[text] {
			l.seen[text] = true
			l.endpoints = append(l.endpoints, endpoint)
		}
	}
}

// leaveOut notes an item that cannot be used, under the name of its key.
func (l *itemList) leaveOut(key, item string, err error) {
	reason := "it is not host:port"
	var syntax *resolver.SyntaxError
	if errors.As(err, &syntax) {
		reason = syntax.Msg
	}
	l.leftOut.Add(resolver.LeftOut{
		Name: key,
		Why:  fmt.Sprintf("lists %q (%s)", answer.Shorten(item, maxItem), answer.Shorten(reason, maxReason)),
	})
}
