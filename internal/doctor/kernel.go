package doctor

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"net"
	"net/netip"
	"os"
	"slices"
	"time"

	"golang.org/x/sys/unix"

	"github.com/ambassadord/ambassadord/internal/config"
	"github.com/ambassadord/ambassadord/netrules"
	"github.com/ambassadord/ambassadord/netrules/filter"
	"github.com/ambassadord/ambassadord/netrules/guard"
	"github.com/ambassadord/ambassadord/netrules/netns"
	"github.com/ambassadord/ambassadord/proxy/origdst"
)

// checkRedirect makes the check for one family.
func checkRedirect(f netrules.Family) func(context.Context, *environment) Result {
	return func(ctx context.Context, h *environment) Result {
		if !h.needsRules() {
			return h.unneeded()
		}
		rules, err := filter.Open(ctx, h.Rules)
		if err != nil {
			return undone(err)
		}
		ns, err := throwaway()
		if err != nil {
			return undone(err)
		}
		defer ns.Close()
		if f == netrules.IPv6 {
			has, err := ns.HasLoopback6()
			switch {
			case err != nil:
				return undone(err)
			case !has:
				return ok("no ::1 in a new network namespace, so nothing to redirect")
			}
		}
		return judgeRedirect(f, redirectOnce(ctx, rules, ns, f))
	}
}

func judgeRedirect(f netrules.Family, err error) Result {
	switch {
	case err == nil:
		return ok("a connection to a declared port was redirected, and its original port read back")
	case errors.Is(err, fs.ErrPermission):
		return undone(err)
	case f == netrules.IPv6:
		r := broken(err) // containers without ::1 are served all the same
		r.Status = Warn
		return r
	}
	return broken(err)
}

// throwaway makes a network namespace of our own with lo up.
func throwaway() (*netns.Namespace, error) {
	ns, err := netns.New()
	if err != nil {
		return nil, err
	}
	if err := ns.LoopbackUp(); err != nil {
		ns.Close()
		return nil, err
	}
	return ns, nil
}

// The ports of redirectOnce: any two, in a namespace where nobody else is.
const (
	probePort   = 6379
	probeListen = 61000
)

// redirectOnce does what mode redirect does: it listens and applies the chain,
// dials a declared port, and reads that port back where the connection arrives.
func redirectOnce(ctx context.Context, rules filter.Rules, ns *netns.Namespace, f netrules.Family) error {
	loopback := netip.MustParseAddr("127.0.0.1")
	if f == netrules.IPv6 {
		loopback = netip.IPv6Loopback()
	}
	listener, err := ns.ListenTCP(netip.AddrPortFrom(loopback, probeListen))
	if err != nil {
		return err
	}
	defer listener.Close()
	chain := netrules.Redirect(f, probeListen, []netrules.Port{{Number: probePort, Comment: "a probe"}})
	// Not a name of ours: a process that looks for leftovers meanwhile must not see it.
	chain.Name = "PROBE"
	if _, err := rules.Apply(ctx, ns, chain); err != nil {
		return err
	}
	declared := netip.AddrPortFrom(loopback, probePort)
	client, err := ns.DialTCP(ctx, declared)
	if err != nil {
		return fmt.Errorf("dial a port that a rule redirects: %w", err)
	}
	defer client.Close()
	server, err := accept(ctx, listener)
	if err != nil {
		return err
	}
	defer server.Close()
	original, err := origdst.Of(server)
	if err == nil && original != declared {
		err = fmt.Errorf("original destination: %s instead of %s", original, declared)
	}
	return err
}

// accept takes a connection that was dialled already, or fails at ctx's deadline.
func accept(ctx context.Context, listener *net.TCPListener) (*net.TCPConn, error) {
	if err := listener.SetDeadline(deadline(ctx)); err != nil {
		return nil, err
	}
	return listener.AcceptTCP()
}

// deadline is ctx's, or when a check without one should end.
func deadline(ctx context.Context) time.Time {
	if d, has := ctx.Deadline(); has {
		return d
	}
	return time.Now().Add(defaultTimeout)
}

func checkBridgeFilter(_ context.Context, h *environment) Result {
	ns, err := throwaway()
	if err == nil {
		err = guardOnce(ns)
		ns.Close()
	}
	return judgeBridgeFilter(err, h.modes)
}

// guardOnce installs the guard of modes host and link, and takes it away
// again.
func guardOnce(ns *netns.Namespace) error {
	g, err := guard.Install(ns, "probe", []netip.Addr{netip.MustParseAddr("192.0.2.1"), netip.MustParseAddr("2001:db8::1")}, nil)
	if err != nil {
		return err
	}
	return g.Close()
}

// judgeBridgeFilter: without the guard mode host serves no container that could forge its source
// address, and mode link serves with a warning; the other modes do not use it.
func judgeBridgeFilter(err error, modes []config.Mode) Result {
	needed := slices.Contains(modes, config.Host)
	const fix = "use Linux 5.12 or newer with CONFIG_NF_TABLES_BRIDGE, or mode redirect or listen, which need no such guard"
	switch {
	case err == nil:
		return ok("nftables can filter what passes a bridge")
	case errors.Is(err, fs.ErrPermission) && !needed:
		return ok("not needed by %s", modeNames(modes))
	case errors.Is(err, fs.ErrPermission):
		return undone(err)
	case needed:
		return fail(fix, "forged source addresses on a bridge cannot be kept out: %v", err)
	}
	return warn(fix, "forged source addresses on a bridge could not be kept out in modes host and link: %v", err)
}

func checkSplice(ctx context.Context, _ *environment) Result {
	// On our own loopback: it takes no privilege.
	listener, err := net.ListenTCP("tcp4", &net.TCPAddr{IP: net.IPv4(127, 0, 0, 1)})
	if err != nil {
		return undone(err)
	}
	defer listener.Close()
	var dialer net.Dialer
	dialer.SetMultipathTCP(false)
	client, err := dialer.DialContext(ctx, "tcp4", listener.Addr().String())
	if err != nil {
		return undone(err)
	}
	defer client.Close()
	server, err := accept(ctx, listener)
	if err != nil {
		return undone(err)
	}
	defer server.Close()
	if err := server.SetDeadline(deadline(ctx)); err != nil {
		return undone(err)
	}
	return judgeSplice(spliceOnce(server, client))
}

func judgeSplice(err error) Result {
	if err != nil {
		return warn("allow splice(2), in the seccomp profile of a container for example",
			"data would be copied through the process: %v", err)
	}
	return ok("data goes from socket to socket inside the kernel")
}

// spliceOnce moves a few bytes, written at the other end, from a socket into a
// pipe: the first half of what the data path does.
func spliceOnce(socket *net.TCPConn, other io.Writer) error {
	const text = "spliced"
	if _, err := other.Write([]byte(text)); err != nil {
		return err
	}
	var pipe [2]int
	if err := unix.Pipe2(pipe[:], unix.O_CLOEXEC|unix.O_NONBLOCK); err != nil {
		return os.NewSyscallError("pipe2", err)
	}
	defer func() { _, _ = unix.Close(pipe[0]), unix.Close(pipe[1]) }()
	raw, err := socket.SyscallConn()
	if err != nil {
		return err
	}
	var moved int64
	var errno error
	err = raw.Read(func(fd uintptr) (done bool) {
		moved, errno = unix.Splice(int(fd), nil, pipe[1], nil, len(text), unix.SPLICE_F_NONBLOCK)
		return !errors.Is(errno, unix.EAGAIN)
	})
	switch {
	case err != nil:
		return err
	case errno != nil:
		return os.NewSyscallError("splice", errno)
	case moved == 0:
		return errors.New("splice moved nothing")
	}
	return nil
}
