// Package confine takes from this process, for good, what it will not need any more: so
// that an attacker who gets code to run in it, by the bytes that it relays, gains little.
//
// Two parts of the kernel do it, and either without the other. A seccomp(2) filter refuses
// the system calls that open files, make sockets and connect them, start programs, make
// processes, make and enter namespaces, trace processes and change the kernel. Landlock (landlock(7)) refuses files
// and TCP connections by whichever way they are asked for, io_uring among them, which a
// filter of system calls does not see. Capabilities go as well.
//
// Both are for the threads of a process one by one. The filter is set for all of them at
// once; Landlock and capabilities are, too, unless the program was built with cgo, which
// has threads that Go does not know.
//
// It is of no use to the daemon itself: that enters namespaces, starts iptables, opens
// /proc of other processes and dials any declared endpoint: those rights are all that there is to take.
package confine

import (
	"errors"
	"fmt"
	"os"
	"runtime"
	"syscall"
	"time"
	"unsafe"

	"golang.org/x/sys/unix"
)

// ErrPartly says that not everything could be taken; what is still there the error behind
// it names.
var ErrPartly = errors.New("the process keeps more privileges than it needs")

// ToOpenDescriptors leaves the process with the descriptors that it has, and those that
// others send it: it can read, write and close them, and neither open files nor make
// connections. It is for a process that only carries what it was given. Whatever the error,
// the rest holds.
func ToOpenDescriptors() error {
	_, _ = time.Now().Zone() // for log lines; later its file cannot be opened
	// In this order: Landlock is asked for by system calls, too.
	err := errors.Join(landlock(), dropCapabilities(), filter())
	if err != nil {
		return fmt.Errorf("%w: %w", ErrPartly, err)
	}
	return nil
}

// landlock forbids files and TCP for all threads.
func landlock() error {
	version, _, errno := unix.Syscall(unix.SYS_LANDLOCK_CREATE_RULESET, 0, 0, unix.LANDLOCK_CREATE_RULESET_VERSION)
	if errno != 0 {
		return fmt.Errorf("landlock: %w", errno) // of a kernel before 5.13, or turned off
	}
	rules := handledBy(int(version))
	fd, _, errno := unix.Syscall(unix.SYS_LANDLOCK_CREATE_RULESET, uintptr(unsafe.Pointer(&rules)), landlockSize, 0) //nolint:gosec // the kernel reads it
	if errno != 0 {
		return fmt.Errorf("landlock: make rules: %w", errno)
	}
	defer func() { _ = unix.Close(int(fd)) }()
	if err := onAllThreads("no_new_privs", unix.SYS_PRCTL, unix.PR_SET_NO_NEW_PRIVS, 1, 0); err != nil {
		return err
	}
	return onAllThreads("landlock", unix.SYS_LANDLOCK_RESTRICT_SELF, fd, 0, 0)
}

// landlockSize is that of the attributes up to Scoped, which the kernel takes for any
// version: what follows what it knows has to be zero.
const landlockSize = 24

// handledBy is all that Landlock of a version can forbid, with no exception.
func handledBy(version int) unix.LandlockRulesetAttr {
	const (
		first    = unix.LANDLOCK_ACCESS_FS_MAKE_SYM<<1 - 1 // every right of version 1
		tcp      = unix.LANDLOCK_ACCESS_NET_BIND_TCP | unix.LANDLOCK_ACCESS_NET_CONNECT_TCP
		scopes   = unix.LANDLOCK_SCOPE_ABSTRACT_UNIX_SOCKET | unix.LANDLOCK_SCOPE_SIGNAL
		tcpSince = 4
	)
	rules := unix.LandlockRulesetAttr{Handled_access_fs: first}
	if version >= 2 {
		rules.Handled_access_fs |= unix.LANDLOCK_ACCESS_FS_REFER
	}
	if version >= 3 {
		rules.Handled_access_fs |= unix.LANDLOCK_ACCESS_FS_TRUNCATE
	}
	if version >= tcpSince {
		rules.Handled_access_net = tcp
	}
	if version >= 5 {
		rules.Handled_access_fs |= unix.LANDLOCK_ACCESS_FS_IOCTL_DEV
	}
	if version >= 6 {
		rules.Scoped = scopes
	}
	return rules
}

// dropCapabilities gives all of capabilities(7) up.
func dropCapabilities() error {
	header := unix.CapUserHeader{Version: unix.LINUX_CAPABILITY_VERSION_3}
	var none [2]unix.CapUserData
	return onAllThreads("capset", unix.SYS_CAPSET, uintptr(unsafe.Pointer(&header)), uintptr(unsafe.Pointer(&none[0])), 0) //nolint:gosec // likewise
}

// onAllThreads makes a system call on each thread of the process. The memory that its
// arguments point to stays where it is meanwhile.
//
//go:uintptrescapes
func onAllThreads(what string, call, a, b, c uintptr) error {
	_, _, errno := syscall.AllThreadsSyscall(call, a, b, c)
	switch errno {
	case 0:
		return nil
	case syscall.ENOTSUP:
		return fmt.Errorf("%s: %w in a program that was built with cgo", what, errors.ErrUnsupported)
	}
	return os.NewSyscallError(what, errno)
}

// refused are the system calls that are refused, besides those that only some
// architectures have. All are there on every one of Go's.
func refused() []uint32 {
	return append([]uint32{
		// Files by name.
		unix.SYS_OPENAT, unix.SYS_OPENAT2, unix.SYS_OPEN_BY_HANDLE_AT, unix.SYS_MKNODAT, unix.SYS_MKDIRAT, unix.SYS_UNLINKAT,
		unix.SYS_LINKAT, unix.SYS_SYMLINKAT, unix.SYS_RENAMEAT2, unix.SYS_FCHMODAT, unix.SYS_FCHOWNAT, unix.SYS_TRUNCATE,
		unix.SYS_MEMFD_CREATE,
		// Sockets.
		unix.SYS_SOCKET, unix.SYS_CONNECT, unix.SYS_BIND, unix.SYS_LISTEN, unix.SYS_ACCEPT4,
		// Programs and other processes.
		unix.SYS_EXECVE, unix.SYS_EXECVEAT, unix.SYS_PTRACE, unix.SYS_PROCESS_VM_READV, unix.SYS_PROCESS_VM_WRITEV,
		unix.SYS_KILL, unix.SYS_PIDFD_OPEN, unix.SYS_PIDFD_GETFD, unix.SYS_PIDFD_SEND_SIGNAL, unix.SYS_KCMP,
		// Namespaces and mounts.
		unix.SYS_SETNS, unix.SYS_UNSHARE, unix.SYS_CHROOT, unix.SYS_PIVOT_ROOT, unix.SYS_MOUNT, unix.SYS_UMOUNT2,
		unix.SYS_OPEN_TREE, unix.SYS_MOVE_MOUNT, unix.SYS_FSOPEN, unix.SYS_FSMOUNT,
		// The kernel.
		unix.SYS_BPF, unix.SYS_PERF_EVENT_OPEN, unix.SYS_USERFAULTFD, unix.SYS_INIT_MODULE, unix.SYS_FINIT_MODULE,
		unix.SYS_DELETE_MODULE, unix.SYS_KEXEC_LOAD, unix.SYS_REBOOT, unix.SYS_SWAPON, unix.SYS_SETHOSTNAME,
		unix.SYS_KEYCTL, unix.SYS_ADD_KEY, unix.SYS_REQUEST_KEY,
		// Credentials.
		unix.SYS_CAPSET, unix.SYS_SETUID, unix.SYS_SETGID, unix.SYS_SETRESUID, unix.SYS_SETRESGID, unix.SYS_SETGROUPS,
	}, olderCalls()...)
}

// filter has the kernel refuse these calls, with EPERM, for all threads.
func filter() error {
	arch := auditArch()
	if arch == 0 {
		return fmt.Errorf("seccomp: no filter is written for %s", runtime.GOARCH)
	}
	program := assemble(arch, refused())
	rules := unix.SockFprog{Len: uint16(len(program)), Filter: &program[0]}
	runtime.LockOSThread() // what the kernel demands of who asks is this thread's
	defer runtime.UnlockOSThread()
	if err := unix.Prctl(unix.PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0); err != nil {
		return os.NewSyscallError("prctl", err)
	}
	stuck, _, errno := unix.Syscall(unix.SYS_SECCOMP, unix.SECCOMP_SET_MODE_FILTER, unix.SECCOMP_FILTER_FLAG_TSYNC, uintptr(unsafe.Pointer(&rules))) //nolint:gosec // likewise
	switch {
	case errno != 0:
		return os.NewSyscallError("seccomp", errno)
	case stuck != 0:
		return fmt.Errorf("seccomp: thread %d has a filter of its own", stuck)
	}
	return nil
}

// assemble is the filter as a BPF program (seccomp(2), struct seccomp_data).
func assemble(arch uint32, calls []uint32) []unix.SockFilter {
	const (
		numberAt, archAt, flagsAt = 0, 4, 16 // of clone(2), the lower half of its first argument

		refuse       = unix.SECCOMP_RET_ERRNO | uint32(unix.EPERM)
		notThere     = unix.SECCOMP_RET_ERRNO | uint32(unix.ENOSYS)
		otherNumbers = 1 << 30 // x32, which has numbers of its own for the same calls
	)
	load := func(at uint32) unix.SockFilter {
		return unix.SockFilter{Code: unix.BPF_LD | unix.BPF_W | unix.BPF_ABS, K: at}
	}
	answer := func(k uint32) unix.SockFilter { return unix.SockFilter{Code: unix.BPF_RET | unix.BPF_K, K: k} }
	program := []unix.SockFilter{
		load(archAt),
		{Code: unix.BPF_JMP | unix.BPF_JEQ | unix.BPF_K, Jt: 1, K: arch},
		answer(refuse),
		load(numberAt),
		{Code: unix.BPF_JMP | unix.BPF_JGE | unix.BPF_K, Jf: 1, K: otherNumbers},
		answer(refuse),
	}
	for _, call := range calls {
		program = append(program, unix.SockFilter{Code: unix.BPF_JMP | unix.BPF_JEQ | unix.BPF_K, Jf: 1, K: call}, answer(refuse))
	}
	// Threads may be made, and neither processes nor namespaces. What clone3(2) is to make no
	// filter sees, so it is not there: who wants a thread asks clone(2) then.
	return append(program,
		unix.SockFilter{Code: unix.BPF_JMP | unix.BPF_JEQ | unix.BPF_K, Jf: 1, K: unix.SYS_CLONE3},
		answer(notThere),
		unix.SockFilter{Code: unix.BPF_JMP | unix.BPF_JEQ | unix.BPF_K, Jf: 3, K: unix.SYS_CLONE},
		load(flagsAt),
		unix.SockFilter{Code: unix.BPF_JMP | unix.BPF_JSET | unix.BPF_K, Jt: 1, K: unix.CLONE_THREAD},
		answer(refuse),
		answer(unix.SECCOMP_RET_ALLOW),
	)
}
