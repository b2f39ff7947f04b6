package privilege

import "testing"

func TestEffective(t *testing.T) {
	if _, err := Effective(); err != nil {
		t.Error(err)
	}
}
