package route

import (
	"net/netip"
	"strings"
	"testing"

	"github.com/ambassadord/ambassadord/internal/dockerd"
	"github.com/ambassadord/ambassadord/internal/option"
	"github.com/ambassadord/ambassadord/internal/proxyproto"
)

// TestThePROXYHeaderSuitsEveryReceiver: by default it says the addresses alone, and whatever
// it says, it is no longer than the strictest receiver takes, unless that is asked for.
func TestThePROXYHeaderSuitsEveryReceiver(t *testing.T) {
	longest, err := option.Lookup("proxy-protocol-max")
	if err != nil {
		t.Fatal(err)
	}
	if s := option.Default(); s.ProxyProtocolMax != proxyproto.SafeLength {
		t.Errorf("a header has at most %d bytes by default; want %d", s.ProxyProtocolMax, proxyproto.SafeLength)
	}
	if err := longest.Validate("4112"); err != nil || proxyproto.MostLength != 4112 {
		t.Errorf("4112 bytes: %v; want what is read, %d", err, proxyproto.MostLength)
	}
	container := &dockerd.Container{Name: "web", ID: strings.Repeat("0", 64), Labels: map[string]string{"a": "b", "long": strings.Repeat("x", 700)}}
	four := Flow{netip.MustParseAddrPort("172.17.0.2:40000"), netip.MustParseAddrPort("127.0.0.1:6379")}
	six := Flow{netip.MustParseAddrPort("[fd00::2]:40000"), netip.MustParseAddrPort("[::1]:6379")}
	for name, test := range map[string]struct {
		flow Flow
		tlvs option.ProxyTLVs
		most int
		long int
	}{
		"addresses":          {four, option.TLVsNone, proxyproto.SafeLength, 28},
		"addresses, IPv6":    {six, option.TLVsNone, proxyproto.SafeLength, 52},
		"the container":      {four, option.TLVsContainer, proxyproto.SafeLength, 28 + 6 + 67},
		"likewise, IPv6":     {six, option.TLVsContainer, proxyproto.SafeLength, 52 + 6},
		"its labels":         {four, option.TLVsLabels, proxyproto.SafeLength, 28 + 6 + 67 + 6},
		"all, where it fits": {four, option.TLVsLabels, 4112, 28 + 6 + 67 + 6 + 708},
	} {
		o := option.Default()
		o.ProxyProtocol, o.ProxyProtocolTlvs, o.ProxyProtocolMax = option.ProxyV2, test.tlvs, test.most
		header, err := preface(&o, test.flow, container)
		if err != nil || len(header) != test.long {
			t.Errorf("%s: %d bytes, %v; want %d", name, len(header), err, test.long)
		}
	}
}
