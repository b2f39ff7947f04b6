package status

import (
	"encoding/json"
	"time"
)

// Event is something that the daemon has told of: a line of its log, but for connections that ended well.
type Event struct {
	// ID is larger than those of all events before it, of daemons before this one as well: it is the time in
	// microseconds since 1970, or one more than the last one's.
	ID    uint64    `json:"id" doc:"larger than those before, over restarts as well"`
	Time  time.Time `json:"time"`
	Level string    `json:"level" enum:"debug,info,warn,error" doc:"as in the log"`
	// Message says what happened, in words that are the same each time.
	Message string `json:"message" example:"ejected" doc:"what happened, in the log's words"`
	// Fields are the line's, called as in the log, without passwords.
	Fields json.RawMessage `json:"fields" doc:"the other fields of the log's line"`
}
