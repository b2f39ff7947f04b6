// Package abstract knows the abstract sockets (unix(7)) of daemons as they were before
// they had a folder (internal/rundir), which anybody in the network namespace can take.
//
//	@ambassadord/redirect     the lock of the daemon that serves a host
//	@ambassadord/control…     where it was spoken to
//	@ambassadord/draining/…   one that has handed over, and carries connections still
//
// Such a daemon may run when a newer one is started, and is taken over from once. It is
// believed to be one only with evidence: the process that listens is alive, of our user,
// our mount namespace and our user namespace ([control.Peer.SameSystem]), so it is in no
// container that we are not in. Any other process that has such a name is a squatter: it is
// named, and changes nothing.
package abstract

import (
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"slices"
	"strings"
	"time"

	"golang.org/x/sys/unix"

	"github.com/ambassadord/ambassadord/internal/control"
)

const (
	// Prefix is what all the names begin with.
	Prefix = "@ambassadord/"
	// Guard is the lock. A newer daemon holds it where it can, so that an older one,
	// which knows nothing else, does not serve beside it; it relies on it for nothing.
	Guard    = Prefix + "redirect"
	draining = Prefix + "draining/"

	// patience bounds a dial, which the other end takes no part in.
	patience = time.Second
	// most is how many names are looked at for those that drain: a squatter may take any
	// number. A dial of each takes 20 µs.
	most = 4096
	// told is how many squatters are told of.
	told = 64
)

// Control is the socket of an older daemon that serves a host, or with an address one
// that listens there.
func Control(address string) string {
	if address == "" {
		return Prefix + "control"
	}
	return Prefix + "control/" + address
}

// ErrNobody says that nobody listens at a name.
var ErrNobody = errors.New("nobody listens there")

// Squatter is a process that has a name and is no daemon of ours, for what is known.
type Squatter struct {
	Name string
	Who  string // the process and its container
	Why  string // it is not believed
	// Unseen says that the process is out of our sight: it may as well be a daemon.
	Unseen bool
}

// Error names the squatter.
func (s *Squatter) Error() string {
	if s.Unseen {
		return fmt.Sprintf("%s is held by %s: a daemon on the host or in another container, or anybody's process", s.Name, s.Who)
	}
	return fmt.Sprintf("%s is held by %s, which is not believed to be an ambassadord: %s", s.Name, s.Who, s.Why)
}

// Daemon reports by nil that an older daemon listens at name. Else the error is
// ErrNobody or a *Squatter.
func Daemon(ctx context.Context, name string) error {
	conn, err := connect(ctx, name)
	if err != nil {
		return held(name, err)
	}
	defer conn.Close()
	peer, err := control.PeerOf(conn)
	if err != nil {
		return err
	}
	defer peer.Close()
	if err := peer.SameSystem(); err != nil {
		return &Squatter{Name: name, Who: peer.String(), Why: err.Error(), Unseen: errors.Is(err, control.ErrUnseen)}
	}
	return nil
}

// connect dials a name.
func connect(ctx context.Context, name string) (*net.UnixConn, error) {
	kind := "unix"
	if strings.HasPrefix(name, Control("")) {
		kind = "unixpacket"
	}
	ctx, cancel := context.WithTimeout(ctx, patience)
	defer cancel()
	var dialer net.Dialer
	conn, err := dialer.DialContext(ctx, kind, name)
	if err != nil {
		return nil, err
	}
	return conn.(*net.UnixConn), nil
}

// held is what err, of a dial, says of a name: an older daemon listens, with room for
// who dials.
func held(name string, err error) error {
	if errors.Is(err, unix.ECONNREFUSED) && !slices.Contains(names(Prefix), name) {
		return ErrNobody
	}
	return &Squatter{Name: name, Who: "a process that does not answer", Why: err.Error()}
}

// Dial reaches the older daemon that listens at the control socket name. The error is as
// that of Daemon.
func Dial(ctx context.Context, name string) (*control.Conn, error) {
	if err := Daemon(ctx, name); err != nil {
		return nil, err
	}
	c, err := control.Dial(name)
	if err != nil {
		return nil, err
	}
	// Once more, of this connection: another process may have taken the name between.
	peer, err := c.Peer()
	if err == nil {
		err = peer.SameSystem()
		peer.Close()
	}
	if err != nil {
		c.Close()
		return nil, &Squatter{Name: name, Who: "another process by now", Why: err.Error()}
	}
	return c, nil
}

// Runs reports whether an older daemon serves this network namespace's host.
func Runs(ctx context.Context) bool {
	// The lock may have been handed on by the process that listened first, and is then
	// known by that; the control socket is listened at anew.
	return Daemon(ctx, Guard) == nil || Daemon(ctx, Control("")) == nil
}

// Elsewhere names a process that has the lock, or an older daemon's control socket, and
// could serve this host although it is no peer of ours: a daemon in a container, or one
// with a /run of its own. It is "" if there is none, or none in our sight.
func Elsewhere(ctx context.Context) string { return elsewhere(ctx, Guard, Control("")) }

func elsewhere(ctx context.Context, names ...string) string {
	for _, name := range names {
		conn, err := connect(ctx, name)
		if err != nil {
			continue
		}
		peer, err := control.PeerOf(conn)
		conn.Close()
		if err != nil {
			continue
		}
		serves, who := peer.MayServe(), peer.String()
		peer.Close()
		if serves {
			return who
		}
	}
	return ""
}

// Drains reports whether an older daemon that has handed over carries connections still.
func Drains(ctx context.Context) bool {
	return slices.ContainsFunc(names(draining), func(name string) bool { return Daemon(ctx, name) == nil })
}

// Squatters are those who have one of the names and are not believed; at most 64 are
// looked for. A daemon that runs may have the lock's, and is believed.
func Squatters(ctx context.Context) []*Squatter {
	var all []*Squatter
	for _, name := range names(Prefix) {
		if s := (*Squatter)(nil); errors.As(Daemon(ctx, name), &s) {
			if all = append(all, s); len(all) == told {
				break
			}
		}
	}
	return all
}

// names are the bound sockets of this network namespace whose name begins with prefix,
// by what proc_net(5) says: Num, RefCount, Protocol, Flags, Type, St, Inode, Path. A name
// may hold anything, lines that look like these included; each is only dialled.
func names(prefix string) []string {
	text, err := os.ReadFile("/proc/thread-self/net/unix")
	if err != nil {
		return nil
	}
	var found []string
	for line := range strings.Lines(string(text)) {
		f := strings.Fields(line)
		if len(f) != 8 || !strings.HasPrefix(f[7], prefix) || slices.Contains(found, f[7]) {
			continue
		}
		if found = append(found, f[7]); len(found) == most {
			break
		}
	}
	return found
}
