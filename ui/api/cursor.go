package api

import (
	"encoding/base64"
	"encoding/json"
	"errors"
	"net/http"
)

// cursor is where the next page begins: after the row with this key and number, in this order.
type cursor struct {
	Sort string `json:"s"`
	Key  string `json:"k,omitempty"`
	ID   uint64 `json:"i"`
}

const maxCursor = 2048

func (c cursor) encode() string {
	data, err := json.Marshal(c)
	if err != nil {
		return "" // a struct of texts and a number always encodes
	}
	return base64.RawURLEncoding.EncodeToString(data)
}

// decodeCursor reads a cursor that was given out for the same order. nil means the first page.
func decodeCursor(text, sort string) (*cursor, error) {
	if text == "" {
		return nil, nil
	}
	c, err := parseCursor(text)
	if err == nil && c.Sort != sort {
		err = errors.New("the cursor belongs to another order")
	}
	if err != nil {
		return nil, problem(http.StatusBadRequest, err.Error(), "take next of an answer to the same list as it is, or begin without a cursor")
	}
	return c, nil
}

var errBadCursor = errors.New("the cursor is not one that a list gave out")

func parseCursor(text string) (*cursor, error) {
	if len(text) > maxCursor {
		return nil, errBadCursor
	}
	data, err := base64.RawURLEncoding.Strict().DecodeString(text)
	if err != nil {
		return nil, errBadCursor
	}
	c := &cursor{}
	if err := json.Unmarshal(data, c); err != nil {
		return nil, errBadCursor
	}
	return c, nil
}
