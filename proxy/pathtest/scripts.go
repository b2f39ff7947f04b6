package pathtest

import "slices"

// Scripts lists them all.
func Scripts() []Script {
	return slices.Concat(pairings(), deeds(), urgents())
}

// action is how a side ends its part.
type action struct {
	name string
	do   func(e *end)
	// what of the connection is left for this side
	sends, receives bool
}

var (
	fin     = action{"closes", (*end).close, false, false}
	rst     = action{"resets", (*end).reset, false, false}
	half    = action{"half-closes", (*end).halfClose, false, true}
	silence = action{"is silent", func(*end) {}, true, true}
)

// moment is how far the data is when the first side acts.
type moment struct {
	name string
	do   func(first, second *end)
}

const (
	block  = 64 << 10 // fits into every buffer on the way
	answer = 1000
)

var moments = []moment{
	{"before data", func(_, _ *end) {}},
	{"during its own data", func(first, second *end) {
		first.send(block)
		second.receive(block / 2)
		first.acknowledged()
		second.arrived()
	}},
	{"during the other's data", func(first, second *end) {
		second.send(block)
		first.receive(block / 2)
		first.arrived()
	}},
	{"during data both ways", func(first, second *end) {
		first.send(block)
		second.send(block)
		first.receive(block / 2)
		second.receive(block / 2)
		first.arrived()
		second.arrived()
		first.acknowledged()
	}},
	{"after data", func(first, second *end) {
		first.send(block)
		second.send(block)
		first.receive(block)
		second.receive(block)
	}},
}

// pairings has each side act first, in each way, at each moment, and the other act
// then in each way.
func pairings() (scripts []Script) {
	actions := []action{fin, rst, half, silence}
	for _, one := range actions {
		for _, other := range actions {
			for _, at := range moments {
				for _, who := range []string{"client", "endpoint"} {
					second := map[string]string{"client": "endpoint", "endpoint": "client"}[who]
					scripts = append(scripts, Script{
						Name: who + " " + one.name + " " + at.name + ", " + second + " " + other.name,
						do: func(client, endpoint *end) {
							if who == "client" {
								pairing(client, endpoint, one, other, at)
							} else {
								pairing(endpoint, client, one, other, at)
							}
						},
					})
				}
			}
		}
	}
	return scripts
}

func pairing(first, second *end, one, other action, at moment) {
	at.do(first, second)
	one.do(first)
	if !one.sends {
		second.receiveAll()
	} else {
		second.receive(first.sent - second.got)
	}

	// The second still sends. It reaches the first, if that still reads, or breaks
	// the connection.
	second.send(answer)
	if !one.receives {
		second.broken()
		other.do(second)
		return
	}
	first.receive(second.sent - first.got)
	other.do(second)
	if !other.sends {
		first.receiveAll()
	}
	switch {
	case one.sends && other.receives: // the first may go on
		first.send(answer)
		second.receive(answer)
	case one.sends:
		first.send(answer)
		first.broken()
	}
	if one.sends && other.sends { // both silent: nothing may have ended
		second.send(answer)
		first.receive(answer)
	}
}
