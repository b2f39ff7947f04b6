// Package preparer is a process of the daemon's own that prepares new network namespaces at
// real-time priority, and hands what it has made to the daemon.
//
// From the mount of a namespace to the container's first instruction an engine of today
// leaves 8 ms. To prepare one takes a third of a millisecond; but on a host whose processors
// others want, an ordinary thread waits longer than that for its turn. One thread of the
// daemon at real-time priority does not help: Go's runtime has it wait for ordinary ones, at
// each garbage collection and at each lock that it shares with them (of 144 that were started
// 12 at once beside two busy loops, 5 to 16 were too late). And all of the daemon's threads at
// that priority would let its traffic keep others from the processors. So it is a process that
// does nothing else, has next to no garbage, and shares no lock: its one thread of real-time
// priority waits in ppoll(2), makes the sockets and the rules, and sends them off.
//
// It takes CAP_SYS_NICE. Where the control group has no real-time time the
// thread is nice -10 instead; where it may be neither, and where there is no such process, the
// daemon prepares namespaces itself, as quickly as it is given processors. The time that the
// thread may use of them at its priority is bounded twice: by itself (see urgency in internal/sandbox), and by
// the kernel (RLIMIT_RTTIME).
//
// It ends with its daemon, which is told by the end of their socket, and when it is told to, by
// the end of that socket's one direction: what it has made by then comes by the other. Of two
// that see a namespace, during a takeover, one makes everything and the other nothing: the
// nftables table of the rules in advance is there once.
//
// The daemon's side is Preparer.Run (daemon.go), the process is Serve (serve.go), and message.go
// is what they say to each other.
package preparer
