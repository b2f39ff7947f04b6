package keeper

import (
	"encoding/json"
	"net/netip"
	"time"

	"github.com/ambassadord/ambassadord/internal/claim"
	"github.com/ambassadord/ambassadord/internal/rights"
	"github.com/ambassadord/ambassadord/proxy"
)

// message is one packet of the socket between the daemon and the keeper
// (SOCK_SEQPACKET, unix(7)), as JSON. With Kept come two descriptors for each of
// its connections, the client's and the endpoint's (SCM_RIGHTS).
type message struct {
	Kept     []connection `json:"kept,omitempty"`
	Released []uint64     `json:"released,omitempty"`
	// Farewell says that the daemon ends as it should, and the keeper with it.
	Farewell bool `json:"farewell,omitempty"`
}

const (
	// perMessage bounds a message, and stays far below what one may carry in
	// descriptors (SCM_MAX_FD, 253) and in bytes (a target has at most 4096).
	perMessage  = 8
	maxReleased = 4096
	maxMessage  = 256 << 10
)

// room is for the descriptors of a message.
var room = rights.Room(2 * perMessage)

// connection is what the log will say of a connection, and how it is to be carried.
type connection struct {
	Number   uint64         `json:"number"`
	Client   proxy.Client   `json:"client"`
	Port     uint16         `json:"port"`
	Target   string         `json:"target"`
	Source   netip.AddrPort `json:"source"`
	Endpoint proxy.Endpoint `json:"endpoint"`
	Attempts int            `json:"attempts"`
	Accepted time.Time      `json:"accepted"`
	Options  proxy.Options  `json:"options"`
	Preface  []byte         `json:"preface,omitempty"`
	Read     int            `json:"read,omitempty"`
	// Need is the rules by which it came; none if that is nil.
	Need *claim.Need `json:"need,omitempty"`
}

func describe(number uint64, live proxy.Live) connection {
	return connection{
		Number: number, Client: live.Route.Client, Port: live.Route.Port, Target: live.Route.Target,
		Source: live.Source, Endpoint: live.Endpoint, Attempts: live.Attempts, Accepted: live.Accepted,
		Options: live.Route.Options, Preface: live.Route.Preface, Read: live.Route.Read,
	}
}

func (m message) encode() ([]byte, error) { return json.Marshal(m) }

func decode(packet []byte) (m message, err error) {
	err = json.Unmarshal(packet, &m)
	return m, err
}
