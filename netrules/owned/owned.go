// Package owned makes nftables tables that belong to the netlink socket that made
// them (NFT_TABLE_F_OWNER, Linux 5.12): nobody else can change or flush one, and it
// goes with our process, however that ends.
package owned

import (
	"encoding/binary"
	"time"

	"github.com/google/nftables"
	"github.com/mdlayher/netlink"
	"golang.org/x/sys/unix"

	"github.com/ambassadord/ambassadord/netrules/netns"
)

// answerTimeout bounds every exchange with the kernel, which answers at once.
const answerTimeout = 10 * time.Second

// Table is such a table. Changes that are asked of Conn are made by Flush. It is for
// one goroutine at a time.
type Table struct {
	*nftables.Table

	Conn   *nftables.Conn
	socket *netlink.Conn // Conn's
}

// Make makes an empty table in a namespace, nil being the process's own. A
// transaction may be as long as size bytes; with 0, as the system's default. It
// takes CAP_NET_ADMIN, and fails with EEXIST or EPERM when there is a table of that
// name.
func Make(ns *netns.Namespace, family nftables.TableFamily, name string, size int) (*Table, error) {
	t := &Table{Table: &nftables.Table{Name: name, Family: family}}
	open := func() (err error) {
		t.Conn, err = nftables.New(nftables.AsLasting(), nftables.WithSockOptions(func(c *netlink.Conn) error {
			t.socket = c
			if size == 0 {
				return nil
			}
			return c.SetWriteBuffer(size)
		}))
		return err
	}
	if err := ns.Do(open); err != nil { // the socket stays in the namespace that it was made in
		return nil, err
	}
	if err := t.make(); err != nil {
		_ = t.Close()
		return nil, err
	}
	return t, nil
}

// make asks for the table. google/nftables knows no flags of a table, hence this
// message of our own.
func (t *Table) make() error {
	const owner = 0x2 // NFT_TABLE_F_OWNER of linux/netfilter/nf_tables.h
	attrs, err := netlink.MarshalAttributes([]netlink.Attribute{
		{Type: unix.NFTA_TABLE_NAME, Data: []byte(t.Name + "\x00")},
		{Type: unix.NFTA_TABLE_FLAGS, Data: binary.BigEndian.AppendUint32(nil, owner)},
	})
	if err != nil {
		return err
	}
	// Begin and end name their subsystem in the big-endian resource ID (struct nfgenmsg).
	bracket := func(kind netlink.HeaderType) netlink.Message {
		return netlink.Message{
			Header: netlink.Header{Type: kind, Flags: netlink.Request},
			Data:   []byte{unix.AF_UNSPEC, unix.NFNETLINK_V0, 0, unix.NFNL_SUBSYS_NFTABLES},
		}
	}
	if err := t.socket.SetDeadline(time.Now().Add(answerTimeout)); err != nil {
		return err
	}
	_, err = t.socket.SendMessages([]netlink.Message{
		bracket(unix.NFNL_MSG_BATCH_BEGIN),
		{
			Header: netlink.Header{
				Type:  unix.NFNL_SUBSYS_NFTABLES<<8 | unix.NFT_MSG_NEWTABLE,
				Flags: netlink.Request | netlink.Acknowledge | netlink.Create | netlink.Excl,
			},
			Data: append([]byte{byte(t.Family), unix.NFNETLINK_V0, 0, 0}, attrs...),
		},
		bracket(unix.NFNL_MSG_BATCH_END),
	})
	if err != nil {
		return err
	}
	_, err = t.socket.Receive()
	return err
}

// Flush makes what was asked for, in one transaction.
func (t *Table) Flush() error {
	if err := t.socket.SetDeadline(time.Now().Add(answerTimeout)); err != nil {
		return err
	}
	return t.Conn.Flush()
}

// Close removes the table.
func (t *Table) Close() error { return t.Conn.CloseLasting() }
