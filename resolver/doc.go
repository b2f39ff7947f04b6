// Package resolver answers "who serves this target right now?".
//
// A Target is parsed text (see Parse for the grammar): one choice, or several in
// order of preference, each of one or more queries. Each query is
// asked of the Source that its scheme names; there is one shared watch for each
// distinct query, however many containers and connections use it, and what it
// last said stays the answer while its source cannot be reached. Resolver owns
// those watches; the folders below hold one source each.
//
//	text → Parse → Target → Choices → Queries → watch (one each) → Source
//	                                              ↓ Answer
//	        endpoints in try-order ← Resolve ← the choice to be used
package resolver
