// Package e2e tests the whole daemon with real parts: the binary as a process
// or in its image, a real engine, a real Consul, a real Redis, real rules in
// real network namespaces. The tests carry the build tag "integration"; the
// set-up script provides the parts.
package e2e
