// Package dialfault says why the kernel failed a dial: whether the fault is the endpoint's or this
// host's, what to do about it, and how its local ports stand. It knows nothing of routes.
package dialfault
