package admin

import (
	"cmp"
	"crypto/sha256"
	"crypto/subtle"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"io"
	"os"
	"slices"
	"strings"
	"sync"

	"golang.org/x/sys/unix"

	"github.com/ambassadord/ambassadord/internal/hint"
)

const (
	// leastToken is how many bytes a token has at least.
	leastToken = 16
	// mostSecret bounds a file of a token or of certificates.
	mostSecret = 1 << 20
)

// secretFiles is what was made of some files; it is made anew when one of them is another, or was changed.
type secretFiles[T any] struct {
	paths []string
	flags []string // that name them, as many
	make  func(read []secretFile) (T, error)

	mu    sync.Mutex
	files []fileState
	value T
	err   error
}

// secretFile is a file that was read, and whose it was then.
type secretFile struct {
	path    string
	content []byte
	st      unix.Stat_t
}

// fileState tells one version of a file from the next.
type fileState struct {
	dev, ino       uint64
	size           int64
	changed, ctime unix.Timespec
}

// load is what the files hold now.
func (k *secretFiles[T]) load() (T, error) {
	k.mu.Lock()
	defer k.mu.Unlock()
	states := make([]fileState, len(k.paths))
	for i, path := range k.paths {
		var st unix.Stat_t
		if err := unix.Stat(path, &st); err != nil {
			k.files = nil
			var none T
			return none, k.unreadable(path, &os.PathError{Op: "read", Path: path, Err: err})
		}
		states[i] = fileState{dev: st.Dev, ino: st.Ino, size: st.Size, changed: st.Mtim, ctime: st.Ctim}
	}
	if k.files != nil && equal(states, k.files) {
		return k.value, k.err
	}
	read := make([]secretFile, len(k.paths))
	for i, path := range k.paths {
		var err error
		if read[i], err = readSecret(path); err != nil {
			err = k.unreadable(path, err)
			k.files = nil // to be tried again: there may have been no descriptor left
			var none T
			return none, err
		}
	}
	k.files = states
	k.value, k.err = k.make(read)
	return k.value, k.err
}

// unreadable says of which flag a file is that cannot be read.
func (k *secretFiles[T]) unreadable(path string, err error) error {
	fix := cmp.Or(hint.Of(err), "give it a file that the daemon's user may read")
	return hint.Wrap(fmt.Errorf("%s: %w", k.flags[slices.Index(k.paths, path)], err), fix)
}

func equal(a, b []fileState) bool {
	for i := range a {
		if a[i] != b[i] {
			return false
		}
	}
	return true
}

// readSecret reads a file, bounded, and waits for nobody: a pipe in its place would keep every request
// waiting for who writes into it.
func readSecret(path string) (secretFile, error) {
	one := secretFile{path: path}
	f, err := os.OpenFile(path, os.O_RDONLY|unix.O_NONBLOCK, 0)
	if err != nil {
		return one, err
	}
	defer f.Close()
	if err := unix.Fstat(int(f.Fd()), &one.st); err != nil {
		return one, &os.PathError{Op: "stat", Path: path, Err: err}
	}
	if one.st.Mode&unix.S_IFMT != unix.S_IFREG {
		return one, hint.Errorf("put what it says into a file", "%s is no regular file", path)
	}
	one.content, err = io.ReadAll(io.LimitReader(f, mostSecret+1))
	if err == nil && len(one.content) > mostSecret {
		err = hint.Errorf("give the right file", "%s has more than %d bytes", path, mostSecret)
	}
	return one, err
}

// mustBePrivate refuses a secret that others than its owner and group may read, or whose owner is
// neither root nor we. It is asked of the file that was read: another may have its name by now.
func (f *secretFile) mustBePrivate(flag string) error {
	path, st := f.path, &f.st
	if st.Uid != 0 && int(st.Uid) != os.Geteuid() {
		return hint.Errorf("give the file to root, or to the daemon's user", "%s: %s belongs to user %d", flag, path, st.Uid)
	}
	if st.Mode&0o007 != 0 {
		return hint.Errorf("run: chmod o= "+path+"; and make a new secret, for the old one may have been read", "%s: %s is open to all users (mode %04o)", flag, path, st.Mode&0o7777)
	}
	return nil
}

// adminToken is a file with a bearer token (RFC 6750); its digest is kept.
type adminToken = secretFiles[[sha256.Size]byte]

func newAdminToken(path string) *adminToken {
	return &adminToken{paths: []string{path}, flags: []string{"--admin-token-file"}, make: func(read []secretFile) (digest [sha256.Size]byte, err error) {
		if err := read[0].mustBePrivate("--admin-token-file"); err != nil {
			return digest, err
		}
		token := strings.TrimSpace(string(read[0].content))
		if len(token) < leastToken {
			return digest, hint.Errorf("make one: openssl rand -hex 32", "--admin-token-file: the token in %s has fewer than %d characters", path, leastToken)
		}
		return sha256.Sum256([]byte(token)), nil
	}}
}

// is reports whether text is the token, in a time that does not depend on how much of it is right.
func is(digest [sha256.Size]byte, text string) bool {
	given := sha256.Sum256([]byte(text))
	return subtle.ConstantTimeCompare(given[:], digest[:]) == 1
}

// certificateFiles are our certificate, its key and the authorities of clients' certificates.
type certificateFiles = secretFiles[*tls.Config]

// newCertificateFiles reads cert and key, and ca unless it is "".
func newCertificateFiles(cert, key, ca string) *certificateFiles {
	paths := []string{cert, key}
	if ca != "" {
		paths = append(paths, ca)
	}
	return &certificateFiles{paths: paths, flags: []string{"--admin-cert", "--admin-key", "--admin-client-ca"}, make: func(read []secretFile) (*tls.Config, error) {
		if err := read[1].mustBePrivate("--admin-key"); err != nil {
			return nil, err
		}
		pair, err := tls.X509KeyPair(read[0].content, read[1].content)
		if err != nil {
			return nil, hint.Wrap(fmt.Errorf("--admin-cert and --admin-key: %w", err), "give a certificate and its key, in PEM")
		}
		c := &tls.Config{Certificates: []tls.Certificate{pair}, MinVersion: tls.VersionTLS12, NextProtos: []string{"http/1.1"}}
		if ca != "" {
			c.ClientCAs, c.ClientAuth = x509.NewCertPool(), tls.RequireAndVerifyClientCert
			if !c.ClientCAs.AppendCertsFromPEM(read[2].content) {
				return nil, hint.Wrap(errors.New("--admin-client-ca: no certificate in "+ca), "give the authorities' certificates, in PEM")
			}
		}
		return c, nil
	}}
}
