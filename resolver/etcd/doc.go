// Package etcd resolves targets through etcd's v3 API, and is the only importer of
// its client. It is the source of the scheme "etcd":
//
//	etcd://HOST:PORT/path   the endpoints at a path of that server
//	etcd:///path            of the configured cluster
//
// What a path means is kvlist's, the same as for Consul. Keys are bytes to etcd,
// and people write them with a leading slash or without; a path means both.
//
// A watch reads its keys at one revision, and is then told of every change after
// it. It fails, for the Resolver to start it again, when the connection is lost for
// longer than a reconnect takes, or the server has lost its leader. Revisions that
// were compacted away meanwhile are no failure: the keys are read again.
//
// The cluster's addresses come from Config; user, password and TLS from the
// ETCDCTL_* environment, as in etcd's own tool. They go to the configured cluster
// alone: a target names a server, but it is written by whoever starts a container.
//
//	Watch → cluster.dial → keys.follow (read, then changes) → kvlist.Read
package etcd
