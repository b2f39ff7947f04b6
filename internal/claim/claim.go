// Package claim is how a process says that it carries connections which rules in the kernel
// translate, so that a process that takes rules away leaves these.
//
// Sockets and names of processes say it badly: any container can make them, and to look for
// them costs what a container chose. So it is said in the folder of internal/rundir, which is
// root's alone, by a file that its holder has locked: the lock ends with the process, so
// nobody is taken for a process that had its number before.
//
//	daemon              child                        cleanup
//	rundir.MakeClaim ─► (has the lock)
//	  ✕ dies            Write: what it carries ────► Find
//	                    Write: less and less
//	                      ✕ ends                     Find: nobody
//
// While the daemon lives, its child carries nothing and has said nothing. From the moment of
// its death on a reader of claims waits a moment for the child's.
package claim

import (
	"cmp"
	"encoding/json"
	"errors"
	"fmt"
	"hash/crc32"
	"io/fs"
	"os"
	"slices"
	"strings"
	"time"

	"golang.org/x/sys/unix"

	"github.com/ambassadord/ambassadord/internal/control"
	"github.com/ambassadord/ambassadord/internal/hint"
	"github.com/ambassadord/ambassadord/internal/rundir"
	"github.com/ambassadord/ambassadord/netrules"
	"github.com/ambassadord/ambassadord/netrules/netns"
)

// Need is rules of ours that connections need: those of one address family in one network
// namespace.
type Need struct {
	Namespace netns.ID
	Family    netrules.Family
}

// Needs is how many connections need what.
type Needs map[Need]int

// Total is how many connections there are.
func (n Needs) Total() (total int) {
	for _, connections := range n {
		total += connections
	}
	return total
}

// content is a claim as it is written, after its checksum: JSON, to which fields are only
// added, so that versions understand each other.
type content struct {
	PID          int    `json:"pid"`
	PIDNamespace string `json:"pid_namespace"`
	In           []in   `json:"in,omitempty"`
	// Everywhere is how many connections there are, where it would take too long a text to
	// say where.
	Everywhere int `json:"everywhere,omitempty"`
}

type in struct {
	Dev   uint64 `json:"dev"`
	Inode uint64 `json:"inode"`
	IPv4  int    `json:"ipv4,omitempty"`
	IPv6  int    `json:"ipv6,omitempty"`
}

// Writer writes the claim of this process. It opens no file, for a process that may not.
type Writer struct {
	file *os.File
	self content
}

// NewWriter takes over the claim that the daemon has made for us.
func NewWriter(file *os.File) *Writer {
	ns, _ := os.Readlink(pidNamespace)
	return &Writer{file: file, self: content{PID: os.Getpid(), PIDNamespace: ns}}
}

// maxConnections is what a number of connections is taken for that no process can have.
const maxConnections = 1 << 30

const pidNamespace = "/proc/self/ns/pid"

// Write replaces what the claim says.
func (w *Writer) Write(needs Needs) error {
	text, err := encode(w.self, needs)
	if err != nil {
		return err
	}
	if _, err := w.file.WriteAt(text, 0); err != nil {
		return fmt.Errorf("say what is carried: %w", err)
	}
	if err := unix.Ftruncate(int(w.file.Fd()), int64(len(text))); err != nil {
		return fmt.Errorf("say what is carried: %w", os.NewSyscallError("ftruncate", err))
	}
	return nil
}

func encode(c content, needs Needs) ([]byte, error) {
	at := map[netns.ID]*in{}
	for need, connections := range needs {
		one := at[need.Namespace]
		if one == nil {
			one = &in{Dev: need.Namespace.Dev, Inode: need.Namespace.Inode}
			at[need.Namespace] = one
		}
		if need.Family == netrules.IPv6 {
			one.IPv6 += connections
		} else {
			one.IPv4 += connections
		}
	}
	for _, one := range at {
		c.In = append(c.In, *one)
	}
	slices.SortFunc(c.In, func(a, b in) int { return cmp.Compare(a.Inode, b.Inode) })
	text, err := seal(c)
	if err == nil && len(text) > rundir.MaxClaim {
		c.In, c.Everywhere = nil, needs.Total()
		text, err = seal(c)
	}
	return text, err
}

// seal puts the checksum before the text: who reads while it is written reads again.
func seal(c content) ([]byte, error) {
	text, err := json.Marshal(c)
	if err != nil {
		return nil, err
	}
	return fmt.Appendf(nil, "%08x\n%s\n", crc32.ChecksumIEEE(text), text), nil
}

// errUnsealed says that a text is not whole.
var errUnsealed = errors.New("it is not whole")

func decode(text []byte) (content, error) {
	sum, rest, found := strings.Cut(string(text), "\n")
	body, _, whole := strings.Cut(rest, "\n")
	if !found || !whole || sum != fmt.Sprintf("%08x", crc32.ChecksumIEEE([]byte(body))) {
		return content{}, errUnsealed
	}
	var c content
	if err := json.Unmarshal([]byte(body), &c); err != nil {
		return content{}, err
	}
	return c, nil
}

// Carrier is a process that carries connections which its daemon has left.
type Carrier struct {
	Name  string // of the claim
	Who   string // "process 17 (ambassadord)"
	Needs Needs
	// Everything says that what it needs is not known: all there is.
	Everything bool
	Total      int // connections; 0 if that is not known either
}

// Count is how many connections need a thing, and whether it is needed at all.
func (c *Carrier) Count(need Need) (connections int, needed bool) {
	if c.Everything {
		return c.Total, true
	}
	connections = c.Needs[need]
	return connections, connections > 0
}

const (
	// patience is how long is waited for a child to say what it carries, whose daemon has
	// just died, and for a text to be whole.
	patience = 2 * time.Second
	look     = 5 * time.Millisecond
)

// Find returns the processes that say in dir that they carry connections. One that has the lock
// of a claim and does not say what it carries needs everything. A file there that is no claim
// is in others. A nil dir has none.
func Find(dir *rundir.Dir) (all Carriers, others []error, err error) {
	if dir == nil {
		return nil, nil, nil
	}
	claims, others, err := dir.Claims()
	if err != nil {
		return nil, others, fmt.Errorf("see who carries connections: %w", err)
	}
	until := time.Now().Add(patience) // for all of them
	for _, claimed := range claims {
		c, carries, err := carrier(dir, claimed, false, until)
		if err != nil {
			others = append(others, err)
		}
		if carries {
			all = append(all, c)
		}
	}
	return all, others, nil
}

// Orphan is the carrier that has the claim name, for a process that knows its daemon to be
// dead: the lock of a process that ends goes a moment after its pipes. The zero value carries
// nothing, or is nobody; an error says that it cannot be seen.
func Orphan(dir *rundir.Dir, name string) (Carrier, error) {
	claimed, err := dir.ReadClaim(name)
	if errors.Is(err, fs.ErrNotExist) {
		return Carrier{}, nil
	}
	if err != nil {
		return Carrier{}, err
	}
	c, _, err := carrier(dir, claimed, true, time.Now().Add(patience))
	if c.Everything { // what it says cannot be read, which whoever removes rules minds
		err = nil
	}
	return c, err
}

// carrier is who has a claim; orphan says that the daemon is known to be dead.
func carrier(dir *rundir.Dir, claimed rundir.Claimed, orphan bool, until time.Time) (c Carrier, carries bool, err error) {
	for {
		if claimed.MakerLive && !orphan {
			return Carrier{}, false, nil // the daemon carries its connections itself
		}
		said, err := decode(claimed.Text)
		if err == nil {
			c := said.carrier(claimed.Name)
			return c, c.Everything || len(c.Needs) > 0, nil
		}
		if !errors.Is(err, errUnsealed) || time.Now().After(until) {
			path := dir.Path(claimed.Name)
			return Carrier{Name: claimed.Name, Who: "a process that has " + path, Everything: true}, true,
				hint.Wrap(fmt.Errorf("what %s says cannot be read, so all rules are left for it: %w", path, err), "see which process has it open: fuser "+path)
		}
		time.Sleep(look)
		if claimed, err = dir.ReadClaim(claimed.Name); err != nil {
			if !errors.Is(err, fs.ErrNotExist) {
				return Carrier{}, false, err
			}
			return Carrier{}, false, nil // it has ended
		}
	}
}

func (said *content) carrier(name string) Carrier {
	c := Carrier{Name: name, Who: said.who(), Needs: Needs{}, Everything: said.Everywhere > 0, Total: min(max(said.Everywhere, 0), maxConnections)}
	for _, one := range said.In {
		id := netns.ID{Dev: one.Dev, Inode: one.Inode}
		for family, connections := range map[netrules.Family]int{netrules.IPv4: one.IPv4, netrules.IPv6: one.IPv6} {
			if connections > 0 {
				connections = min(connections, maxConnections)
				c.Needs[Need{id, family}] += connections
				c.Total += connections
			}
		}
	}
	return c
}

// who names the process, where its number says something to us.
func (said *content) who() string {
	if ns, err := os.Readlink(pidNamespace); err != nil || ns != said.PIDNamespace {
		return "a process out of our sight"
	}
	return control.DescribeProcess(said.PID)
}
