// Package balance chooses the endpoint for a connection, and remembers for the
// whole host which endpoints are well.
//
//	pool := registry.Pool(target, options)  // one for each target and options, shared
//	pool.Update(version, endpoints)         // cheap while version is the same
//	choice := pool.Choose(client)           // for one connection
//	for use, ok := choice.Next(); ok; use, ok = choice.Next() {
//		… dial use.Addr, then use.Failed(err), or use.Opened() and later use.Closed(end)
//	}
//
// All profit from what one client learns of an endpoint: health belongs to the
// address, not to the pool. An address is ejected after failures in a row, for a
// time that doubles; when it is over, one connection is let through as a probe.
// Active checks come to the same verdict without waiting for a client.
//
// Nothing here turns bad health into "nobody": an endpoint that is out is tried last.
//
// Choosing takes no lock. A pool's snapshot of who is well and what weighs how much
// is immutable and behind an atomic pointer; it is made anew when the endpoints
// change, when the health of one of them does, and at the times it names itself
// (an ejection ends, a slow start is a step further).
package balance
