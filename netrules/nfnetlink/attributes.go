package nfnetlink

import (
	"bytes"
	"encoding/binary"
	"fmt"
	"syscall"

	"github.com/mdlayher/netlink"
	"golang.org/x/sys/unix"
)

// Name is an attribute with a name in it.
func Name(kind uint16, name string) netlink.Attribute {
	return netlink.Attribute{Type: kind, Data: []byte(name + "\x00")}
}

// NameAttribute is Name as it is sent.
func NameAttribute(kind uint16, name string) []byte {
	const attribute, alignment = 4, 4
	size := attribute + len(name) + 1
	b := make([]byte, (size+alignment-1)&^(alignment-1))
	binary.NativeEndian.PutUint16(b, uint16(size))
	binary.NativeEndian.PutUint16(b[2:], kind)
	copy(b[attribute:], name)
	return b
}

// Data is the value of an attribute, nil without it.
func Data(attrs []netlink.Attribute, kind uint16) []byte {
	for _, a := range attrs {
		if a.Type&^unix.NLA_F_NESTED == kind {
			return a.Data
		}
	}
	return nil
}

// Nested returns the data of the first attribute of a kind among attributes.
func Nested(attributes []byte, kind uint16) []byte {
	all, err := netlink.UnmarshalAttributes(attributes)
	if err != nil {
		return nil
	}
	return Data(all, kind)
}

// Uint32 is a number that an attribute holds, 0 without it.
func Uint32(attrs []netlink.Attribute, kind uint16) uint32 {
	if b := Data(attrs, kind); len(b) == 4 {
		return binary.BigEndian.Uint32(b)
	}
	return 0
}

// Text is what stands before the first NUL.
func Text(b []byte) string {
	before, _, _ := bytes.Cut(b, []byte{0})
	return string(before)
}

// EachExpression goes through a rule's list of expressions: the name and the data of each.
func EachExpression(list []byte) func(func(string, []byte) bool) {
	return func(yield func(string, []byte) bool) {
		all, err := netlink.UnmarshalAttributes(list)
		if err != nil {
			return
		}
		for _, e := range all {
			if !yield(Text(Nested(e.Data, unix.NFTA_EXPR_NAME)), Nested(e.Data, unix.NFTA_EXPR_DATA)) {
				return
			}
		}
	}
}

// EachAttributes has the attributes of every message that nftables answers, for
// [Budget].Each.
func EachAttributes(each func([]netlink.Attribute)) func(syscall.NetlinkMessage) error {
	return func(m syscall.NetlinkMessage) error {
		if len(m.Data) < header {
			return nil
		}
		attrs, err := netlink.UnmarshalAttributes(m.Data[header:])
		if err != nil {
			return fmt.Errorf("what nftables answered: %w", err)
		}
		each(attrs)
		return nil
	}
}
