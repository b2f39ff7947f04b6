// Package structure holds the shape of the repository: which package may import
// which, and what every package and file owes its reader. It has no code but its
// tests, which read the source with go list and go/parser. Each rule comes with
// its reason, and a failure prints it.
//
// A rule here is a decision, not a law of nature. Where it stands in the way of
// something better, change it, and ARCHITECTURE.md with it.
package structure
