package confine

import "golang.org/x/sys/unix"

// auditArch is what seccomp calls this architecture.
func auditArch() uint32 { return unix.AUDIT_ARCH_X86_64 }

// olderCalls are those that newer architectures do without.
func olderCalls() []uint32 {
	return []uint32{
		unix.SYS_OPEN, unix.SYS_CREAT, unix.SYS_MKNOD, unix.SYS_MKDIR, unix.SYS_RMDIR, unix.SYS_UNLINK, unix.SYS_LINK, unix.SYS_SYMLINK,
		unix.SYS_RENAME, unix.SYS_RENAMEAT, unix.SYS_CHMOD, unix.SYS_CHOWN, unix.SYS_LCHOWN, unix.SYS_ACCEPT, unix.SYS_FORK, unix.SYS_VFORK,
		unix.SYS_KEXEC_FILE_LOAD,
	}
}
