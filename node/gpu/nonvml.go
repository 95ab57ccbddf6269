//go:build !cgo || !linux || nonvml

package gpu

import "errors"

func openNVML() (Source, error) {
	return nil, errors.New("not compiled in, since this program was built without cgo")
}
