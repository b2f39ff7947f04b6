// Package dns resolves targets through DNS, and is the only importer of
// miekg/dns. One Client is behind two sources:
//
//   - "dns", host:port: every A and AAAA record of the host (RFC 1035, RFC 3596),
//     after /etc/hosts and localhost;
//   - "srv", a bare name: its SRV records (RFC 2782) with their targets, ports,
//     priorities and weights.
//
// It is a stub resolver of its own, and not package net's, because package net
// tells neither TTLs nor SRV glue. It asks the servers of resolv.conf(5), in its
// order and with its options, through the search list; one that was silent is
// asked after the others for a while. A target may name its server instead,
// dns://SERVER/NAME: that alone is asked, for the name as it is written. Questions
// go over UDP with EDNS0 (RFC 6891) and again over TCP when the answer was cut
// (RFC 7766), or may have been: Consul cuts without setting TC.
//
// A watch asks again when the answer's shortest TTL is over, or a file changes.
// That a name does not exist or has no such records is an answer, kept as long as
// its SOA says (RFC 2308). A server that fails, refuses or stays silent is an
// error, once no other server has an answer either.
//
//	watch → lookup → upstream (whose servers)
//	          ↓
//	         ask (aliases) → askServers (in turn) → try (UDP, then TCP) → converse
//	          ↓
//	         parseHost, parseService (pure: message → endpoints, TTL)
package dns
