package pathtest

import "golang.org/x/sys/unix"

// urgents are scripts with urgent data (tcp(7), MSG_OOB). The receiver either takes
// the byte apart from the stream or, with SO_OOBINLINE, at its place in it.
func urgents() (scripts []Script) {
	for _, s := range []struct {
		name string
		send func(e *end)
	}{
		{"in the middle", func(e *end) { e.text("before"); e.urgent("!"); e.text("after") }},
		{"first", func(e *end) { e.urgent("!"); e.text("after") }},
		{"last", func(e *end) { e.text("before"); e.urgent("!") }},
		{"alone", func(e *end) { e.urgent("!") }},
		{"at the end of a message", func(e *end) { e.text("before"); e.urgent("message!"); e.text("after") }},
		{"twice", func(e *end) { e.text("a"); e.urgent("1"); e.text("b"); e.urgent("2"); e.text("c") }},
	} {
		for name, inline := range map[string]bool{"apart": false, "in line": true} {
			for ending, finish := range map[string]func(*end){
				"goes on":     func(e *end) { e.text(" and on") },
				"half-closes": (*end).halfClose,
				"resets":      func(e *end) { e.acknowledged(); e.reset() },
			} {
				scripts = append(scripts, sided("sends urgent data "+s.name+", read "+name+", and "+ending,
					func(first, second *end) {
						if inline {
							second.inline()
						}
						s.send(first)
						second.arrived()
						finish(first)
						if ending == "resets" { // the kernel gives no byte apart any more
							second.comesToItsEnd()
						}
						second.arrived()
						second.receiveMarked(inline, ending == "goes on")
					})...)
			}
		}
	}
	return scripts
}

func (e *end) text(s string) {
	n, err := e.conn.Write([]byte(s))
	e.sent += n
	if err != nil {
		e.saw("sending: %s", how(err))
	}
}

// urgent sends s, whose last byte is marked.
func (e *end) urgent(s string) {
	_ = e.raw.Write(func(fd uintptr) bool {
		n, err := unix.SendmsgN(int(fd), []byte(s), nil, nil, unix.MSG_OOB|unix.MSG_NOSIGNAL)
		e.sent += n
		if err != nil {
			e.saw("sending: %s", how(err))
		}
		return true
	})
}

func (e *end) inline() {
	_ = e.raw.Control(func(fd uintptr) {
		if err := unix.SetsockoptInt(int(fd), unix.SOL_SOCKET, unix.SO_OOBINLINE, 1); err != nil {
			e.t.Error(err)
		}
	})
}

// receiveMarked reads what has been sent, byte by byte, and says where the mark is
// and, if that is apart, which byte it is. A stream that goes on has no end.
func (e *end) receiveMarked(inline, goesOn bool) {
	text := ""
	for {
		var (
			b    [1]byte
			n    int
			err  error
			mark int
			done bool
		)
		waitErr := e.raw.Read(func(fd uintptr) bool {
			mark, err = unix.IoctlGetInt(int(fd), unix.SIOCATMARK)
			if err != nil {
				return true
			}
			if mark != 0 && !inline {
				if n, _, _ := unix.Recvfrom(int(fd), b[:], unix.MSG_OOB); n == 1 {
					text += "<" + string(b[:]) + ">"
				}
			}
			n, err = unix.Read(int(fd), b[:])
			if err == unix.EAGAIN && goesOn {
				done = true
				return true
			}
			return err != unix.EAGAIN
		})
		switch {
		case e.check(waitErr) != nil:
			e.saw("%q, and then: %s", text, how(waitErr))
			return
		case done:
			e.saw("%q", text)
			return
		case err != nil:
			e.saw("%q, and then: %s", text, how(err))
			return
		case n == 0:
			e.saw("%q, and then: end", text)
			return
		}
		if mark != 0 && inline {
			text += "<" + string(b[:]) + ">"
		} else {
			text += string(b[:])
		}
	}
}
