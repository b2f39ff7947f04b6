// Package suggest finds the word somebody probably meant: the "did you mean"
// behind misspelt flags, schemes, parameters and labels.
package suggest

// Closest returns the candidate nearest to word by edit distance, the first of
// them on a tie, or "" when none is near enough to be a plausible slip: at
// most a third of the word's length, and never more than three edits.
func Closest(word string, candidates []string) string {
	best, bestDistance := "", min(3, max(1, len(word)/3))+1
	for _, c := range candidates {
		// Each byte by which they differ in length is an edit: what strangers wrote may be
		// long, and is not compared letter by letter then.
		if max(len(word)-len(c), len(c)-len(word)) >= bestDistance {
			continue
		}
		if d := Distance(word, c); d < bestDistance {
			best, bestDistance = c, d
		}
	}
	return best
}

// Distance is the number of single-byte insertions, deletions, substitutions
// and swaps of neighbours that turn a into b (optimal string alignment).
func Distance(a, b string) int {
	twoAgo := make([]int, len(b)+1)
	previous := make([]int, len(b)+1)
	current := make([]int, len(b)+1)
	for j := range previous {
		previous[j] = j
	}
	for i := 1; i <= len(a); i++ {
		current[0] = i
		for j := 1; j <= len(b); j++ {
			cost := 1
			if a[i-1] == b[j-1] {
				cost = 0
			}
			current[j] = min(previous[j]+1, current[j-1]+1, previous[j-1]+cost)
			if i > 1 && j > 1 && a[i-1] == b[j-2] && a[i-2] == b[j-1] {
				current[j] = min(current[j], twoAgo[j-2]+1)
			}
		}
		twoAgo, previous, current = previous, current, twoAgo
	}
	return previous[len(b)]
}
