package identity

import (
	"fmt"
	"strings"

	"github.com/ambassadord/ambassadord/internal/dockerd"
)

// OwnerText says in the kernel whose something is: "NAME (ID)". ParseOwner reads it back.
func OwnerText(c *dockerd.Container) string { return fmt.Sprintf("%s (%s)", c.Name, c.ShortID()) }

// ParseOwner reads the comment of a rule, "NAME (ID) ORIGIN": the client's name, its short ID, and
// where the client declared the port. Text of another form is where the port was declared, and no
// client's.
func ParseOwner(text string) (client, id, declared string) {
	name, rest, ok := strings.Cut(text, " (")
	short, origin, closed := strings.Cut(rest, ") ")
	if !ok || !closed || strings.ContainsAny(name+short, " ()") {
		return "", "", text
	}
	return name, short, origin
}
