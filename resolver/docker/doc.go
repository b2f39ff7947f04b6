// Package docker answers docker:// targets with containers of this host:
//
//	docker://NAME:PORT                          a container, else a Compose service
//	docker://?label=app=web&label=tls&port=443  every container with these labels
//	docker://NAME?label=tier=front&port=80      both
//
// A container serves while it is running, neither paused nor unhealthy, and has
// an address; a health check that has not concluded yet does not keep it out.
// Those that match and do not serve are named in the answer's note.
//
// The package asks no engine. It reads the snapshots of internal/dockerd, so an
// answer is as fresh as the engine's last event, and an engine that is away
// leaves the last answer in place.
package docker
