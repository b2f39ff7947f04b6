package keeper

import (
	"errors"
	"fmt"
	"os"
	"runtime"
	"sync/atomic"
	"unsafe"

	"golang.org/x/sys/unix"
)

// ring holds references to files without descriptors: the registered files of an io_uring
// instance (io_uring_register(2)) that does nothing else. A file is registered at a place,
// and gets a descriptor again when it is needed (IORING_OP_FIXED_FD_INSTALL, Linux 6.8).
// It is for one goroutine.
type ring struct {
	fd      int
	queues  []byte // the submission and the completion queue
	entries []byte // what is submitted
	params  ringParams
}

// ringParams is struct io_uring_params (io_uring_setup(2)).
type ringParams struct {
	sqEntries, cqEntries, flags, sqThreadCPU, sqThreadIdle, features, wqFD uint32
	_                                                                      [3]uint32
	sq                                                                     struct{ head, tail, mask, entries, flags, dropped, array, _, _, _ uint32 }
	cq                                                                     struct{ head, tail, mask, entries, overflow, cqes, flags, _, _, _ uint32 }
}

// ringEntry is struct io_uring_sqe as far as it is used (io_uring_enter(2)).
type ringEntry struct {
	opcode, flags uint8
	_             uint16
	file          int32
	_             [56]byte
}

// ringResult is struct io_uring_cqe.
type ringResult struct {
	_      uint64
	result int32
	_      uint32
}

// Numbers of <linux/io_uring.h>.
const (
	registerFilesUpdate = 6
	registerFiles2      = 13
	registerSparse      = 1
	opFixedFDInstall    = 54
	fixedFile           = 1 // of an entry: file is a place
	getEvents           = 1
	featSingleMmap      = 1
	offsetEntries       = 0x10000000
)

// newRing makes a ring with so many places, which are empty. It fails where the kernel is
// older, and where io_uring is not allowed, as in most containers.
func newRing(places int) (_ *ring, err error) {
	r := &ring{}
	fd, _, errno := unix.Syscall(unix.SYS_IO_URING_SETUP, 1, uintptr(unsafe.Pointer(&r.params)), 0)
	if errno != 0 {
		return nil, os.NewSyscallError("io_uring_setup", errno)
	}
	r.fd = int(fd)
	defer func() {
		if err != nil {
			r.close()
		}
	}()
	// struct io_uring_rsrc_register
	files := struct {
		n, flags     uint32
		_, data, tag uint64
	}{n: uint32(places), flags: registerSparse}
	if _, err := r.register(registerFiles2, unsafe.Pointer(&files), unsafe.Sizeof(files)); err != nil {
		return nil, err
	}
	p := &r.params
	if p.features&featSingleMmap == 0 { // before Linux 5.4
		return nil, errors.New("io_uring: the queues cannot be mapped together")
	}
	length := max(p.sq.array+4*p.sqEntries, p.cq.cqes+uint32(unsafe.Sizeof(ringResult{}))*p.cqEntries)
	if r.queues, err = unix.Mmap(r.fd, 0, int(length), unix.PROT_READ|unix.PROT_WRITE, unix.MAP_SHARED); err != nil {
		return nil, os.NewSyscallError("mmap", err)
	}
	size := int(unsafe.Sizeof(ringEntry{})) * int(p.sqEntries)
	if r.entries, err = unix.Mmap(r.fd, offsetEntries, size, unix.PROT_READ|unix.PROT_WRITE, unix.MAP_SHARED); err != nil {
		return nil, os.NewSyscallError("mmap", err)
	}
	if err := r.try(); err != nil {
		return nil, err
	}
	return r, nil
}

// try has a file make the whole way once.
func (r *ring) try() error {
	file, err := unix.Eventfd(0, unix.EFD_CLOEXEC)
	if err != nil {
		return os.NewSyscallError("eventfd", err)
	}
	defer unix.Close(file)
	if err := r.put(0, int32(file)); err != nil {
		return err
	}
	installed, err := r.install(0)
	if err != nil {
		return err
	}
	_ = unix.Close(installed)
	return r.put(0, -1)
}

// put registers files from a place on; -1 empties one. On failure some may be registered.
func (r *ring) put(at int, fds ...int32) error {
	var pinner runtime.Pinner
	pinner.Pin(&fds[0])
	defer pinner.Unpin()
	// struct io_uring_files_update
	update := struct {
		offset, _ uint32
		fds       uint64
	}{offset: uint32(at), fds: uint64(uintptr(unsafe.Pointer(&fds[0])))}
	n, err := r.register(registerFilesUpdate, unsafe.Pointer(&update), uintptr(len(fds)))
	if err == nil && n < len(fds) {
		err = fmt.Errorf("io_uring_register: %d of %d files", n, len(fds))
	}
	return err
}

// install makes a descriptor, closed by execve(2), of the file at a place.
func (r *ring) install(at int) (int, error) {
	p := &r.params
	tail := r.word(p.sq.tail)
	index := *tail & *r.word(p.sq.mask)
	*(*ringEntry)(unsafe.Pointer(&r.entries[uintptr(index)*unsafe.Sizeof(ringEntry{})])) =
		ringEntry{opcode: opFixedFDInstall, flags: fixedFile, file: int32(at)}
	*r.word(p.sq.array + 4*index) = index
	atomic.AddUint32(tail, 1)
	head := r.word(p.cq.head)
	for *head == atomic.LoadUint32(r.word(p.cq.tail)) { // a signal may come in between
		submit := atomic.LoadUint32(tail) - atomic.LoadUint32(r.word(p.sq.head))
		_, _, errno := unix.Syscall6(unix.SYS_IO_URING_ENTER, uintptr(r.fd), uintptr(submit), 1, getEvents, 0, 0)
		if errno != 0 && errno != unix.EINTR {
			atomic.StoreUint32(tail, atomic.LoadUint32(r.word(p.sq.head))) // or the next one would get this file
			return -1, os.NewSyscallError("io_uring_enter", errno)
		}
	}
	slot := uintptr(*head & *r.word(p.cq.mask))
	result := (*ringResult)(unsafe.Pointer(&r.queues[uintptr(p.cq.cqes)+slot*unsafe.Sizeof(ringResult{})])).result
	atomic.AddUint32(head, 1)
	if result < 0 {
		return -1, os.NewSyscallError("io_uring: install a descriptor", unix.Errno(-result))
	}
	return int(result), nil
}

// word is a number in the queues, which the kernel reads and writes as well.
func (r *ring) word(offset uint32) *uint32 { return (*uint32)(unsafe.Pointer(&r.queues[offset])) }

func (r *ring) register(operation uintptr, argument unsafe.Pointer, n uintptr) (int, error) {
	result, _, errno := unix.Syscall6(unix.SYS_IO_URING_REGISTER, uintptr(r.fd), operation, uintptr(argument), n, 0, 0)
	if errno != 0 {
		return 0, os.NewSyscallError("io_uring_register", errno)
	}
	return int(result), nil
}

// close lets go of all files.
func (r *ring) close() {
	for _, b := range [][]byte{r.queues, r.entries} {
		if b != nil {
			_ = unix.Munmap(b)
		}
	}
	_ = unix.Close(r.fd)
}
