package rundir

import (
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"slices"
	"strconv"
	"time"

	"golang.org/x/sys/unix"

	"github.com/ambassadord/ambassadord/internal/hint"
)

const (
	// MaxClaim bounds the text of a claim, in bytes.
	MaxClaim = 256 << 10
	// maxClaims bounds how many claims are read, and maxNames how many names of the folder
	// are looked at for them.
	maxClaims, maxNames = 1000, 20_000
	// claimKind and claimEnd are what the name of a claim begins and ends with.
	claimKind, claimEnd = "carrier", ".claim"
)

// Claim is a file in which a process says something of itself for as long as it lives. The
// process that makes it hands it to a child of its own, which has its lock from then on and
// writes it; so the claim ends with the child, however that ends. That the maker lives shows
// in a second lock, on the first byte of the file.
type Claim struct {
	lock  *Lock
	maker *os.File // another open file description; its lock ends with our process
}

// MakeClaim makes an empty claim.
func (d *Dir) MakeClaim() (*Claim, error) {
	lock, err := d.Take(d.name(claimKind, strconv.Itoa(os.Getpid())+"-"+strconv.FormatInt(time.Now().UnixNano(), 36)) + claimEnd)
	if err != nil {
		return nil, err
	}
	// Not by path, where another file could be by now; and a duplicate has the same locks.
	maker, err := os.OpenFile(fmt.Sprintf("/proc/self/fd/%d", lock.file.Fd()), os.O_RDWR, 0)
	if err == nil {
		if err = unix.FcntlFlock(maker.Fd(), unix.F_OFD_SETLK, makersLock()); err != nil {
			maker.Close()
		}
	}
	if err != nil {
		lock.Release()
		return nil, fmt.Errorf("lock %s: %w", d.Path(lock.name), err)
	}
	return &Claim{lock: lock, maker: maker}, nil
}

func makersLock() *unix.Flock_t {
	return &unix.Flock_t{Type: unix.F_WRLCK, Whence: io.SeekStart, Start: 0, Len: 1}
}

// Name is that of the file.
func (c *Claim) Name() string { return c.lock.name }

// File is what to hand to the child.
func (c *Claim) File() *os.File { return c.lock.file }

// HandedOver lets go of our hold on the lock: the child has one.
func (c *Claim) HandedOver() { c.lock.Leave() }

// Orphan lets go of the claim as the end of our process does: to others we are dead.
func (c *Claim) Orphan() { c.maker.Close() }

// Release removes the file. The child has ended, or was never started.
func (c *Claim) Release() {
	c.lock.Release()
	c.maker.Close()
}

// Claimed is a claim as it was read.
type Claimed struct {
	Name      string
	Text      []byte
	MakerLive bool // the process that made it lives
}

// Claims reads the claims that living processes have, whichever network namespace they were
// made in. Files that dead ones have left are removed. A file there under such a name that is
// no claim of ours is in others, each with what is wrong and what to do, and changes nothing.
func (d *Dir) Claims() (all []Claimed, others []error, err error) {
	names, cut, err := d.claimNames()
	if err != nil {
		return nil, nil, err
	}
	if cut {
		others = append(others, hint.Errorf("see what is in there, and remove what is not ambassadord's",
			"not all files in %s were looked at: there are more than %d, or %d claims", d, maxNames, maxClaims))
	}
	for _, name := range names {
		claimed, err := d.ReadClaim(name)
		switch {
		case err == nil:
			all = append(all, claimed)
		case errors.Is(err, fs.ErrNotExist), errors.Is(err, errReplaced):
		default:
			others = append(others, err)
		}
	}
	return all, others, nil
}

// claimNames are the names that claims may have; cut says that there are too many.
func (d *Dir) claimNames() (names []string, cut bool, err error) {
	err = d.with(false, func(int) error {
		folder, err := os.Open(d.path)
		if err != nil {
			return err
		}
		defer folder.Close()
		for looked := 0; ; {
			some, err := folder.Readdirnames(1000)
			for _, name := range some {
				if middle, ok := cutName(name, claimKind, claimEnd); ok && middle != "" && middle[0] == '-' {
					names = append(names, name)
				}
			}
			looked += len(some)
			if cut = looked > maxNames || len(names) > maxClaims; cut {
				names = names[:min(len(names), maxClaims)]
				break
			}
			if errors.Is(err, io.EOF) {
				break
			}
			if err != nil {
				return err
			}
		}
		slices.Sort(names)
		return nil
	})
	if errors.Is(err, fs.ErrNotExist) {
		err = nil
	}
	return names, cut, err
}

// ReadClaim reads one claim; fs.ErrNotExist if nobody has it.
func (d *Dir) ReadClaim(name string) (Claimed, error) {
	claimed := Claimed{Name: name}
	err := d.with(false, func(folder int) error {
		// None of the flags waits for anybody, whatever kind of file is there.
		fd, err := unix.Openat(folder, name, unix.O_RDWR|unix.O_NOFOLLOW|unix.O_NONBLOCK|unix.O_NOCTTY|unix.O_CLOEXEC, 0)
		if errors.Is(err, unix.ENOENT) {
			return &os.PathError{Op: "open", Path: d.Path(name), Err: err}
		}
		if err != nil {
			return notAClaim(d.Path(name), err)
		}
		file := os.NewFile(uintptr(fd), d.Path(name))
		defer file.Close()
		var st unix.Stat_t
		if err := unix.Fstat(fd, &st); err != nil {
			return notAClaim(d.Path(name), err)
		}
		switch {
		case st.Mode&unix.S_IFMT != unix.S_IFREG:
			return notAClaim(d.Path(name), errors.New("it is no plain file"))
		case int(st.Uid) != os.Geteuid():
			return notAClaim(d.Path(name), fmt.Errorf("it belongs to user %d", st.Uid))
		case st.Mode&0o022 != 0:
			return notAClaim(d.Path(name), fmt.Errorf("others may write it (mode %04o)", st.Mode&0o7777))
		case st.Size > MaxClaim:
			return notAClaim(d.Path(name), fmt.Errorf("it has %d bytes", st.Size))
		}
		err = d.lock(folder, fd, name)
		if err == nil { // a dead process has left it
			_ = unix.Unlinkat(folder, name, 0)
			return &os.PathError{Op: "open", Path: d.Path(name), Err: fs.ErrNotExist}
		}
		if !errors.Is(err, ErrHeld) {
			return err
		}
		// First who lives: whoever finds the maker dead has what the child wrote before that.
		probe := makersLock()
		if err := unix.FcntlFlock(file.Fd(), unix.F_OFD_GETLK, probe); err != nil {
			return fmt.Errorf("see who has %s: %w", d.Path(name), err)
		}
		claimed.MakerLive = probe.Type != unix.F_UNLCK
		claimed.Text, err = io.ReadAll(io.NewSectionReader(file, 0, MaxClaim))
		return err
	})
	return claimed, err
}

func notAClaim(path string, err error) error {
	return hint.Wrap(fmt.Errorf("%s is none of ours, and changes nothing: %w", path, err), "see what it is, and remove it")
}
