package confine

import "golang.org/x/sys/unix"

// auditArch is what seccomp calls this architecture.
func auditArch() uint32 { return unix.AUDIT_ARCH_AARCH64 }

// olderCalls are those that not every architecture has.
func olderCalls() []uint32 {
	return []uint32{unix.SYS_ACCEPT, unix.SYS_RENAMEAT, unix.SYS_KEXEC_FILE_LOAD}
}
