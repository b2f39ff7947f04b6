// Package selfdial recognises connections of ours that come back to a listener of ours, so that a
// target that leads back to us ends as a loop at once. It notes what we dial, and from where; it
// neither dials nor accepts.
package selfdial
