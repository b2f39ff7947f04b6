package socket

import "os"

// Spare is a descriptor held back for the moment when there is none left.
type Spare struct{ file *os.File }

// Take holds one, unless there is none to be had.
func (s *Spare) Take() {
	if s.file == nil {
		s.file, _ = os.Open(os.DevNull) // nil is what says that there is none
	}
}

// Held reports whether there is one.
func (s *Spare) Held() bool { return s.file != nil }

// Release lets go of it, and reports whether there was one.
func (s *Spare) Release() bool {
	if s.file == nil {
		return false
	}
	s.file.Close()
	s.file = nil
	return true
}
