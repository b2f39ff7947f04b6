package netrules

import "strings"

// Notation is how rules are written for people.
type Notation uint8

// The notations.
const (
	AsIPTables Notation = iota // as iptables-save writes them
	AsNFT                      // as commands of nft(8)
)

// RuleText returns a rule of the table as a line in its notation.
func (s State) RuleText(chain string, args []string) string {
	if s.Notation == AsNFT {
		return "add rule " + s.address(chain) + " " + nftRule(s.Family, args)
	}
	return RuleText(chain, args)
}

// chainText returns a chain of ours as a line.
func (s State) chainText(chain string) string {
	if s.Notation == AsNFT {
		return "add chain " + s.address(chain)
	}
	return joinArgs([]string{string(NewChain), chain})
}

// address names a chain as nft does: its family, table and name.
func (s State) address(chain string) string {
	family := "ip"
	if s.Family == IPv6 {
		family = "ip6"
	}
	return family + " " + s.Table + " " + chain
}

// nftRule translates a rule's arguments to nft's words. An argument that it does not know
// it leaves as it is: nft refuses that.
func nftRule(f Family, args []string) string {
	var words []string
	comment, not := "", ""
	counted := false
	for i := 0; i < len(args); i++ {
		value := ""
		if i+1 < len(args) {
			value = args[i+1]
		}
		took := 1 // values
		switch arg := args[i]; arg {
		case "!":
			not, took = "!= ", 0
		case "-d":
			family := "ip"
			if f == IPv6 {
				family = "ip6"
			}
			words = append(words, family+" daddr "+not+strings.TrimSuffix(strings.TrimSuffix(value, "/32"), "/128"))
		case "-i":
			words = append(words, "iifname "+not+quote(value))
		case "-p":
			if !namesTCP(args[i:]) {
				words = append(words, "meta l4proto "+not+value)
			}
		case "-m":
			if strings.HasPrefix(value, "nft:") { // an expression that no rule of ours has
				words = append(words, "["+strings.TrimPrefix(value, "nft:")+"]")
			}
		case "--dst-type":
			words = append(words, "fib daddr type "+not+strings.ToLower(value))
		case "--dport":
			words = append(words, "tcp dport "+not+value)
		case "--tcp-flags":
			took = 2
			words = append(words, "tcp flags & ("+strings.ReplaceAll(strings.ToLower(value), ",", " | ")+") == "+strings.ToLower(args[min(i+2, len(args)-1)]))
		case "--comment":
			comment = value
		case "-j", "-g":
			counted = true
			words = append(words, "counter", nftTarget(arg, value))
		case "--to-ports":
			words = append(words, "to :"+value)
		case "--to-destination":
			words = append(words, "to "+value)
		default:
			took = 0
			words = append(words, arg)
		}
		if took > 0 {
			not = ""
		}
		i += took
	}
	if !counted {
		words = append(words, "counter")
	}
	if comment != "" {
		words = append(words, "comment "+quote(comment))
	}
	return strings.Join(words, " ")
}

// namesTCP reports whether TCP is named again by what follows, which implies the protocol.
func namesTCP(args []string) bool {
	for i := 0; i < len(args); i++ {
		switch args[i] {
		case "--comment":
			i++ // a comment may look like an option
		case "--dport", "--tcp-flags":
			return true
		}
	}
	return false
}

func nftTarget(flag, target string) string {
	switch target {
	case "RETURN", "ACCEPT", "DROP", "REDIRECT", "DNAT":
		return strings.ToLower(target)
	}
	if flag == "-g" {
		return "goto " + target
	}
	return "jump " + target
}
