// Package rights is about descriptors that come with messages of a Unix socket (SCM_RIGHTS,
// unix(7)).
package rights

import "golang.org/x/sys/unix"

// Of are the descriptors that came with a message, whose control data is oob. They are the
// caller's to close.
func Of(oob []byte) []int {
	messages, err := unix.ParseSocketControlMessage(oob)
	if err != nil {
		return nil
	}
	var fds []int
	for _, m := range messages {
		if got, err := unix.ParseUnixRights(&m); err == nil {
			fds = append(fds, got...)
		}
	}
	return fds
}

// Close closes descriptors.
func Close(fds []int) {
	for _, fd := range fds {
		_ = unix.Close(fd)
	}
}
