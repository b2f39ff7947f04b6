// Package dns resolves targets through DNS, and is the only importer of
// miekg/dns. One Client is behind two sources:
//
//   - "dns", host:port: every A and AAAA record of the host (RFC 1035, RFC 3596),
//     after /etc/hosts and localhost;
//   - "srv", a bare name: its SRV records (RFC 2782) with their targets, ports,
//     priorities and weights.
//
// It is a stub resolver of its own, and not package net's, because package net
// tells neither TTLs nor SRV glue. It asks the servers of resolv.conf(5) in
// order, through the search list, over UDP with EDNS0 (RFC 6891) and again over
// TCP when the answer was cut (RFC 7766).
//
// A watch asks again when the answer's shortest TTL is over. That a name does
// not exist or has no such records is an answer, kept as long as its SOA says
// (RFC 2308). A server that fails, refuses or stays silent is an error, once no
// other server has an answer either.
//
//	watch → lookup → ask (servers in turn) → try (UDP, then TCP)
//	          ↓
//	        parse (pure: message → endpoints, TTL)
package dns
