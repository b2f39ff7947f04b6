package file

import (
	"errors"
	"fmt"
	"strconv"
	"strings"

	"github.com/ambassadord/ambassadord/internal/hint"
	"github.com/ambassadord/ambassadord/resolver"
)

// LineError is a line that does not parse, and where.
type LineError struct {
	Path string
	// Line and Column count from 1, columns in bytes.
	Line, Column int
	// Msg says what is wrong there.
	Msg string
}

func (e *LineError) Error() string {
	return fmt.Sprintf("%s, line %d, column %d: %s", e.Path, e.Line, e.Column, e.Msg)
}

const lineHint = "write HOST:PORT, or HOST:PORT WEIGHT, on each line, and # before a comment"

// parse reads the content of the file at path. An error is a *LineError with a
// hint.
func parse(path, content string) ([]resolver.Endpoint, error) {
	var endpoints []resolver.Endpoint
	lines := make(map[resolver.Query]int) // where each stands
	number := 0
	for line := range strings.Lines(content) {
		number++
		fail := func(column int, fix, format string, args ...any) error {
			return hint.Wrap(&LineError{Path: path, Line: number, Column: column + 1, Msg: fmt.Sprintf(format, args...)}, fix)
		}
		line, _, _ = strings.Cut(line, "#")
		place, start, rest := word(line, 0)
		if place == "" {
			continue
		}
		q, err := resolver.ParseHostPort(place)
		if err != nil {
			column, message := start, err.Error()
			if e, ok := errors.AsType[*resolver.SyntaxError](err); ok {
				column, message = start+e.Column-1, e.Msg
			}
			return nil, fail(column, hint.Of(err), "%s", message)
		}
		e := resolver.Endpoint{Addr: q.AddrPort(), Weight: 1}
		if !e.Addr.IsValid() {
			e.Host, e.Port = q.Host, q.Port
		}
		if text, start, rest := word(line, rest); text != "" {
			weight, err := strconv.ParseUint(text, 10, 16)
			if err != nil {
				return nil, fail(start, lineHint, "%.32q is not a weight from 0 to 65535", text)
			}
			if extra, start, _ := word(line, rest); extra != "" {
				return nil, fail(start, lineHint, "%.32q follows the weight", extra)
			}
			e.Weight = uint16(weight)
		}
		if first, twice := lines[q]; twice {
			return nil, fail(start, "give it a greater weight instead", "%s stands in line %d too", q, first)
		}
		lines[q] = number
		endpoints = append(endpoints, e)
	}
	return endpoints, nil
}

// word is the first word of line from the byte at offset on, where it starts, and
// where what follows it does.
func word(line string, offset int) (text string, start, rest int) {
	const blank = " \t\r\n"
	trimmed := strings.TrimLeft(line[offset:], blank)
	start = len(line) - len(trimmed)
	rest = len(line)
	if i := strings.IndexAny(trimmed, blank); i >= 0 {
		trimmed, rest = trimmed[:i], start+i
	}
	return trimmed, start, rest
}
