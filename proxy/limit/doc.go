// Package limit bounds how many connections are open, begin and wait, and shares the places out
// among clients: which of them comes first, what each of them is sure of, and which has more than
// its share while others have no place. It knows no connection.
package limit
