package lint

// What a file may make a reader do and say.
const (
	// MaxFile is how many bytes a file may have.
	MaxFile = 1 << 20
	// maxFindings is how many findings are kept of one file; the others are counted.
	maxFindings = 500
	// maxServices is how many services of Compose a file may have, and maxStages how many stages a
	// Dockerfile.
	maxServices, maxStages = 1000, 1000
	// maxMerged is how many keys the merges, the extends and the aliases of a Compose file may add in
	// all. Aliases of aliases would else grow without any bound that the file's size sets.
	maxMerged = 50_000
	// maxAliases is how many aliases, merges or services that extend others may stand behind one
	// another.
	maxAliases = 16
	// maxNested is how deep ${A:-${B}} may go.
	maxNested = 16
	// maxExpanded is how many bytes the variables of a Dockerfile may become in all. Each may hold
	// the one before twice.
	maxExpanded = 4 << 20
	// maxServed is how many ports, or ranges of them, that are served in a network namespace are looked at.
	maxServed = 1024
	// maxShown and maxMessage are how many bytes of a name, and of a message, are kept.
	maxShown, maxMessage = 128, 1024
)
