package identity

import "github.com/ambassadord/ambassadord/internal/watchable"

// Latest holds the newest table: connections read it without a lock, and wait for the next when
// they miss a container in it. The zero value holds nil.
type Latest = watchable.Value[*Table]
