// Package nfnetlink speaks to nftables as netlink(7) and linux/netfilter/nf_tables.h have it,
// where google/nftables has no words for what is asked: to list no further than a budget
// allows, because a process with NET_ADMIN in a namespace may have made any number of rules; to
// fail rather than delete what is not empty; to ask for the generation of the rule set.
//
// Everything here is about the network namespace of the calling thread.
package nfnetlink

import (
	"encoding/binary"
	"errors"
	"fmt"
	"time"

	"github.com/mdlayher/netlink"
	"golang.org/x/sys/unix"
)

// answerTimeout bounds every exchange with the kernel, which answers at once.
const answerTimeout = 10 * time.Second

// Nonrec is NLM_F_NONREC of linux/netlink.h: do not delete what it contains.
const Nonrec = netlink.HeaderFlags(0x100)

// The attributes of linux/netfilter/nf_tables.h that golang.org/x/sys/unix lacks.
const (
	TableUserdata = 6  // NFTA_TABLE_USERDATA
	ChainUserdata = 12 // NFTA_CHAIN_USERDATA
)

// header is how long struct nfgenmsg is, which comes before a message's attributes.
const header = 4

// Message is one of nftables for a family of its own (NFPROTO_*), of a kind (NFT_MSG_*).
func Message(kind int, family byte, flags netlink.HeaderFlags, attrs ...netlink.Attribute) (netlink.Message, error) {
	data, err := netlink.MarshalAttributes(attrs)
	return netlink.Message{
		Header: netlink.Header{
			Type:  netlink.HeaderType(unix.NFNL_SUBSYS_NFTABLES<<8 | kind),
			Flags: netlink.Request | flags,
		},
		Data: append([]byte{family, unix.NFNETLINK_V0, 0, 0}, data...),
	}, err
}

// Transact makes changes, all or none, however many they are.
func Transact(changes []netlink.Message) error { return TransactAt(0, changes) }

// TransactAt is Transact if the rule set still has the ID that Generation returned, whatever
// that is if it is 0; else it fails with ERESTART, and nothing is changed.
func TransactAt(generation uint32, changes []netlink.Message) error {
	if len(changes) == 0 {
		return nil
	}
	bracket := func(kind netlink.HeaderType) netlink.Message { // begin and end name their subsystem in the big-endian resource ID
		return netlink.Message{
			Header: netlink.Header{Type: kind, Flags: netlink.Request},
			Data:   []byte{unix.AF_UNSPEC, unix.NFNETLINK_V0, 0, unix.NFNL_SUBSYS_NFTABLES},
		}
	}
	begin := bracket(unix.NFNL_MSG_BATCH_BEGIN)
	if generation != 0 {
		const batchGeneration = 1 // NFNL_BATCH_GENID of linux/netfilter/nfnetlink.h
		attr, err := netlink.MarshalAttributes([]netlink.Attribute{
			{Type: batchGeneration, Data: binary.BigEndian.AppendUint32(nil, generation)},
		})
		if err != nil {
			return err
		}
		begin.Data = append(begin.Data, attr...)
	}
	batch := appendMessage(nil, begin)
	for i, m := range changes {
		// The kernel tells of what fails in any case, in order, and of the last that it was done
		// if it is asked to. An answer for each would be more than the socket can hold.
		if i == len(changes)-1 {
			m.Header.Flags |= netlink.Acknowledge
		}
		batch = appendMessage(batch, m)
	}
	batch = appendMessage(batch, bracket(unix.NFNL_MSG_BATCH_END))
	s, err := open()
	if err != nil {
		return fmt.Errorf("open netlink: %w", err)
	}
	defer s.close()
	const usual, spare = 64 << 10, 4 << 10
	if len(batch) > usual { // it is sent as one message, which the buffer has to hold
		if err := s.room(2*len(batch) + spare); err != nil {
			return fmt.Errorf("make room for %d bytes: %w", len(batch), err)
		}
	}
	if err := s.send(batch); err != nil {
		return fmt.Errorf("send to nftables: %w", err)
	}
	if _, err := s.answer(); err != nil {
		return fmt.Errorf("change nftables: %w", err)
	}
	return nil
}

// Ask sends a question about one thing, and returns the attributes of the answer; with ENOENT
// there is no such thing.
func Ask(kind int, family byte, attrs ...netlink.Attribute) ([]netlink.Attribute, error) {
	question, err := Message(kind, family, 0, attrs...)
	if err != nil {
		return nil, err
	}
	s, err := open()
	if err != nil {
		return nil, fmt.Errorf("open netlink: %w", err)
	}
	defer s.close()
	if err := s.send(appendMessage(nil, question)); err != nil {
		return nil, err
	}
	answer, err := s.answer()
	if err != nil {
		return nil, fmt.Errorf("ask nftables: %w", err)
	}
	if len(answer.Data) < header {
		return nil, errors.New("nftables answered nothing")
	}
	return netlink.UnmarshalAttributes(answer.Data[header:])
}

// Generation returns the ID of the rule set's generation: the kernel sets another one with
// each transaction.
func Generation() (uint64, error) {
	attrs, err := Ask(unix.NFT_MSG_GETGEN, unix.AF_UNSPEC)
	if err != nil {
		return 0, fmt.Errorf("ask nftables for its generation: %w", err)
	}
	id := Data(attrs, unix.NFTA_GEN_ID)
	if len(id) == 0 {
		return 0, errors.New("nftables did not say its generation")
	}
	// In network byte order; for telling values apart any order does.
	var value uint64
	for _, b := range id {
		value = value<<8 | uint64(b)
	}
	return value, nil
}
