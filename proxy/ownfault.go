package proxy

import (
	"context"
	"errors"

	"golang.org/x/sys/unix"
)

// ErrOwnWay is in the chain of an error of a dial that failed by the way it took, which is
// the client's own, such as a source address of another family.
var ErrOwnWay = errors.New("the way there is the client's own")

// ownErrnos are what a dial fails with before anything has reached the endpoint: this host
// lacks something, or does not let it be done.
var ownErrnos = []unix.Errno{
	unix.EMFILE, unix.ENFILE, unix.ENOMEM, unix.ENOBUFS, // descriptors, memory
	unix.EADDRNOTAVAIL, unix.EADDRINUSE, // ports of ours, or a source address that is not ours
	unix.EACCES, unix.EPERM, // a firewall of this host, a missing capability
	unix.EINVAL, unix.EAFNOSUPPORT, unix.EPROTONOSUPPORT, // a source that does not go with the destination
	unix.EAGAIN, // of the routing cache, or of local ports: connect(2)
}

// OwnFault reports whether err, of a dial, is this host's doing or the client's rather
// than the endpoint's, so that it says nothing of the endpoint.
func OwnFault(err error) bool {
	if errors.Is(err, context.Canceled) || errors.Is(err, ErrOwnWay) {
		return true
	}
	if reason := ReasonOf(err); reason == Denied || reason == OverLimit || reason == ClientGone {
		return true
	}
	for _, errno := range ownErrnos {
		if errors.Is(err, errno) {
			return true
		}
	}
	return false
}
