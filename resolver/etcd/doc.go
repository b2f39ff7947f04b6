// Package etcd resolves targets through etcd's v3 API, and is the only importer of
// its client. It is the source of the scheme "etcd":
//
//	etcd://HOST:PORT/path   the endpoints at a path of that server
//	etcd:///path            of the configured cluster
//
// Package kvlist says what a path means, for Consul likewise. Keys are bytes to etcd,
// and people write them with a leading slash or without; a path means both.
//
// A watch reads its keys at one revision, and is then told of every change after
// it. When the connection is lost, the server gives no sign of life or has lost its leader,
// revisions were compacted away, or the cluster is another one than was read from, the keys are
// read anew from the first server that answers. It fails, for the Resolver to start it again,
// when none does.
//
// The cluster's addresses come from Config; user, password and TLS from the
// ETCDCTL_* environment, as in etcd's own tool. They go to the configured cluster
// alone: a target names a server, but its author is a container's.
//
//	Watch → cluster.follow → read (failover, server.use, keys.read), watch → kvlist.Read
package etcd
