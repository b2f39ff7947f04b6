package nft

import (
	"github.com/google/nftables/userdata"

	"github.com/ambassadord/ambassadord/netrules/nfnetlink"
)

// maxComment is the longest comment that nft reads back from what it has printed, in bytes
// (NFTNL_UDATA_COMMENT_MAXLEN): else nobody could save a host's rule set and load it again.
const maxComment = 128

func commentData(text string) []byte { return userdata.AppendString(nil, userdata.TypeComment, text) }

// commentOf finds the comment in what nft keeps with a rule: a list of type, length and value.
func commentOf(data []byte) string {
	for len(data) >= 2 {
		size := int(data[1])
		if len(data) < 2+size {
			return ""
		}
		if data[0] == byte(userdata.TypeComment) {
			return nfnetlink.Text(data[2 : 2+size])
		}
		data = data[2+size:]
	}
	return ""
}
