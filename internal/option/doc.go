// Package option is the one table of what can be set for a port, a target or all
// of them, and the merging of the layers in which it can be set.
//
// A new option is a row in table.go and a field of Set. Labels, environment, file
// keys, --default, their messages, completion and docs/options.md come from the
// row.
//
//	layer := option.Layer{{Name: "wait", Text: "5s", Origin: "label connect.6379.wait"}}
//	set, problems := option.Merge(defaults, layer)
//
// A value that cannot be used costs that option alone: the next lower layer's is
// used, and a Problem says why.
package option
