package oneshot

import (
	"context"
	"os"

	"github.com/ambassadord/ambassadord/internal/preparer"
	"github.com/ambassadord/ambassadord/netrules"
)

// GoAhead is the process that Config.Preparer starts: it prepares new network namespaces, which
// appear in folders, and tells the daemon at socket of each, until ctx or the daemon ends.
func GoAhead(ctx context.Context, socket *os.File, folders []string) error {
	return preparer.Serve(ctx, socket, preparer.Config{Folders: folders, First: netrules.FirstListenPort, Last: netrules.LastListenPort})
}
