package proxy

import "os"

// spareDescriptor is a descriptor held back for the moment when there is none left.
type spareDescriptor struct{ file *os.File }

// take holds one, unless there is none to be had.
func (s *spareDescriptor) take() {
	if s.file == nil {
		s.file, _ = os.Open(os.DevNull) // nil is what says that there is none
	}
}

// release lets go of it, and reports whether there was one.
func (s *spareDescriptor) release() bool {
	if s.file == nil {
		return false
	}
	s.file.Close()
	s.file = nil
	return true
}
