package resolver

// Distance is how far an endpoint is from us, as far as its source knows. Its zero
// value says that the source does not.
type Distance uint8

// From near to far, but for the first.
const (
	DistanceUnknown Distance = iota
	SameHost
	SameDatacenter
	OtherDatacenter
)

// String is the distance as "resolve -o json" prints it, "" when it is not known.
func (d Distance) String() string {
	switch d {
	case SameHost:
		return "host"
	case SameDatacenter:
		return "datacenter"
	case OtherDatacenter:
		return "remote"
	}
	return ""
}
