package main

import (
	"context"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"syscall"
	"time"
)

const (
	nameserverAddress = "127.0.0.1:31520"
	zone              = "bench.test"
)

// nameserver is a running NSD with one zone.
type nameserver struct {
	serverProgram
	dir    string
	serial int
}

func startNameserver(ctx context.Context, dir, records string) (*nameserver, error) {
	n := &nameserver{dir: dir}
	if err := n.write(records); err != nil {
		return nil, err
	}
	host, port, err := net.SplitHostPort(nameserverAddress)
	if err != nil {
		return nil, err
	}
	config := filepath.Join(dir, "nsd.conf")
	if err := os.WriteFile(config, fmt.Appendf(nil, `
server:
	ip-address: %[2]s@%[3]s
	username: ""
	server-count: 1
	rrl-ratelimit: 0
	database: ""
	zonesdir: %[1]q
	xfrdir: %[1]q
	xfrdfile: ""
	zonelistfile: "%[1]s/zones.list"
	pidfile: "%[1]s/nsd.pid"
	logfile: "%[1]s/nsd.log"
remote-control:
	control-enable: no
zone:
	name: %[4]s
	zonefile: zone
`, dir, host, port, zone), 0o600); err != nil {
		return nil, err
	}
	if n.serverProgram, err = launch(ctx, dir, "nsd", "-d", "-c", config); err != nil {
		return nil, err
	}
	resolver := net.Resolver{PreferGo: true, Dial: func(ctx context.Context, network, _ string) (net.Conn, error) {
		var d net.Dialer
		return d.DialContext(ctx, network, nameserverAddress)
	}}
	for deadline := time.Now().Add(time.Minute); ; {
		if _, err := resolver.LookupNS(ctx, zone+"."); err == nil {
			return n, nil
		} else if time.Now().After(deadline) {
			n.stop()
			return nil, fmt.Errorf("NSD does not serve its zone: %w", err)
		}
		if err := rest(ctx, 50*time.Millisecond); err != nil {
			n.stop()
			return nil, err
		}
	}
}

// set gives the zone other records and has NSD read it.
func (n *nameserver) set(records string) error {
	if err := n.write(records); err != nil {
		return err
	}
	return n.cmd.Process.Signal(syscall.SIGHUP)
}

// write puts the zone in place as an editor does. NSD looks whether the file is a newer
// one, to the nanosecond.
func (n *nameserver) write(records string) error {
	n.serial++
	text := fmt.Sprintf("$ORIGIN %s.\n@ 0 SOA ns root %d 3600 600 86400 0\n@ 0 NS ns\n%s\n", zone, n.serial, records)
	return replace(filepath.Join(n.dir, "zone"), text)
}

// replace puts a file with this content in the place of the one that was there.
func replace(path, content string) error {
	if err := os.WriteFile(path+".new", []byte(content), 0o600); err != nil {
		return err
	}
	return os.Rename(path+".new", path)
}
