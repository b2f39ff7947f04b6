// Package docker answers docker:// and swarm:// targets with containers of this host:
//
//	docker://NAME:PORT                          a container, else a service of Compose or Swarm, of the client's
//	                                            own project, else on its networks, else of the host
//	docker://?label=app=web&label=tls&port=443  every container with these labels
//	docker://NAME?label=tier=front&port=80      both
//	docker://web:80?project=shop                the Compose service of one project
//	docker://web:80?network=back                on that network of several
//	docker://web:80?published=1                 where the host publishes that port
//	swarm://web:80                              the tasks of a Swarm service on this host
//
// A container serves while it is running, neither paused, unhealthy nor told to
// stop, and has an address; a health check that has not concluded yet does not keep
// it out. Those that match and do not serve are the answer's LeftOut.
//
// An address is dialled only if it is on a network that our host is part of, by what the engine
// says of its driver and scope and by our own interfaces, or that our own container is on. Any
// other would be somebody else's beyond the default route.
//
// published is for containers whose own addresses cannot be reached from here: those
// of an engine on another host, or of a rootless one. Without it nothing is gained
// by going through the host.
//
// Endpoints are on our host unless the engine was reached at another's address.
//
// Of a service of Swarm a manager is asked which containers are its tasks. Otherwise
// the package asks no engine. It reads the snapshots of internal/dockerd, so an
// answer is as fresh as the engine's last event, and an engine that is away
// leaves the last answer in place and is told as the answer's Err.
package docker
