package resolver

import (
	"slices"
	"strconv"
	"strings"
	"unicode"
)

// parseList reads HOST:PORT [WEIGHT], or several with commas between them.
func parseList(text string) (Choice, error) {
	items := strings.Split(text, ",")
	if len(items) > maxListItems {
		return Choice{}, syntaxError(text[:32]+"…", 0, "keep a list this long in a registry",
			"%d items; the most is %d", len(items), maxListItems)
	}
	c := Choice{Queries: make([]Query, 0, len(items)), Weights: make([]uint16, 0, len(items))}
	offset := 0
	for _, item := range items {
		q, weight, err := listItem(text, offset, item)
		if err != nil {
			return Choice{}, err
		}
		c.Queries, c.Weights = append(c.Queries, q), append(c.Weights, weight)
		offset += len(item) + 1
	}
	if !slices.ContainsFunc(c.Weights, func(w uint16) bool { return w != 1 }) {
		c.Weights = nil
	}
	return c, nil
}

// ParseItem reads one item of a list, HOST:PORT or HOST:PORT WEIGHT: a static query for
// an IP address, a DNS query for a name; and its weight, 1 if it has none. Sources that
// find lists in a registry read them with it.
func ParseItem(text string) (Query, uint16, error) { return listItem(text, 0, text) }

// ParseHostPort is ParseItem for HOST:PORT alone.
func ParseHostPort(text string) (Query, error) { return hostPort(text, 0, text) }

// listItem reads item, which starts at offset of text.
func listItem(text string, offset int, item string) (Query, uint16, error) {
	place, rest := item, ""
	if colon := strings.LastIndexByte(item, ':'); colon >= 0 {
		if i := strings.IndexFunc(item[colon:], unicode.IsSpace); i >= 0 {
			place, rest = item[:colon+i], item[colon+i:]
		}
	}
	q, err := hostPort(text, offset, place)
	if err != nil {
		return Query{}, 0, err
	}
	at := offset + len(item) - len(strings.TrimLeftFunc(rest, unicode.IsSpace))
	words := strings.Fields(rest)
	if len(words) == 0 {
		return q, 1, nil
	}
	weight, err := strconv.ParseUint(words[0], 10, 16)
	if err != nil {
		return Query{}, 0, syntaxError(text, at, weightHint, "%.32q is not a weight from 0 to 65535", words[0])
	}
	if len(words) > 1 {
		at += len(words[0]) + strings.Index(text[at+len(words[0]):], words[1])
		return Query{}, 0, syntaxError(text, at, weightHint, "%.32q follows the weight", words[1])
	}
	return q, uint16(weight), nil
}
