package status

import (
	"fmt"
	"regexp"
	"strings"
)

// redaction stands for what is not shown.
const redaction = "…"

var (
	// userinfo is USER:PASSWORD@ of a URL (RFC 3986, 3.2.1). No target has one, but a mistaken
	// declaration may: CONNECT_5432=postgres://app:secret@db.
	userinfo = regexp.MustCompile(`://[^/\s"'?#]*@`)
	// credentials are the same with a password that has characters which a URL has only as escapes, or without
	// a scheme: app:sec/ret@db.
	credentials = regexp.MustCompile(`(://|^|[\s"'|,=(])[^\s"'|,=(@/?#:]+:[^\s"'|/][^\s"'|]*@`)
	// port is what has a port where those have a password: consul://host:8500/a@b.
	port = regexp.MustCompile(`^[^:]*(://[^:]*)?:[0-9]+[/?#]`)
	// parameter is a parameter of a query whose name says that its value is secret.
	parameter = regexp.MustCompile(`(?i)([?&;][a-z0-9_.%-]*(?:token|password|passwd|secret|key|auth)[a-z0-9_.%-]*=)[^&;\s"'|]+`)
)

// Redacted is text without the passwords of the URLs in it.
func Redacted(text string) string {
	if strings.Contains(text, "@") {
		text = userinfo.ReplaceAllLiteralString(text, "://"+redaction+"@")
		text = credentials.ReplaceAllStringFunc(text, func(match string) string {
			if port.MatchString(match) {
				return match
			}
			before := credentials.FindStringSubmatch(match)[1]
			return before + redaction + "@"
		})
	}
	if strings.ContainsAny(text, "?&") {
		text = parameter.ReplaceAllString(text, "${1}"+redaction)
	}
	return text
}

func allRedacted(texts []string) []string {
	if texts == nil {
		return nil
	}
	return each(texts, func(t *string) string { return Redacted(*t) })
}

// redactedPath is the path of a check over HTTP without its query, where tokens are.
func redactedPath(path string) string {
	before, _, query := strings.Cut(path, "?")
	if query {
		return before + "?" + redaction
	}
	return path
}

// length says of bytes that a check sends or expects, such as AUTH PASSWORD, only how many they are.
func length(bytes string) string {
	if bytes == "" {
		return ""
	}
	return fmt.Sprintf("(%d bytes)", len(bytes))
}

// RedactedOption is the value of an option of a port without what may be a secret.
func RedactedOption(name, value string) string {
	switch name {
	case "check-send", "check-expect":
		return length(value)
	case "check-path":
		return redactedPath(value)
	}
	return Redacted(value)
}
