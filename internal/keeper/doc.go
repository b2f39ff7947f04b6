// Package keeper keeps connections alive when the daemon dies.
//
// A spliced connection ends with the process that holds its two sockets. So the
// daemon gives a second reference to both to a process of its own making, the
// keeper, which does nothing with them while the daemon lives. When the daemon is
// gone without a farewell, by kill -9, a panic or the OOM killer, the keeper
// carries its connections on to their end (proxy.Server.Resume) and then exits.
//
//	daemon                                keeper
//	Keeper.Keep ── Keeper.Run ──socket──► Serve
//	                sends: kept (with descriptors), released, farewell
//
// Most connections are short, and one that ends within a second is never handed
// over, so that the keeper costs it nothing. In a container of its own the daemon
// is process 1, and the keeper would die with it: there it is of no use.
package keeper
