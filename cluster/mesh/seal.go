package mesh

import (
	"errors"
	"fmt"
	"hash/crc32"
)

// sealSize is the size of the last line of a sealed text: eight digits in quotes.
const sealSize = len(`"00000000"`) + 1

// ErrSeal marks a text whose checksum is not that of its content.
var ErrSeal = errors.New("its checksum is not that of its content")

// Seal puts the checksum of a text (CRC-32C) behind it as a last line. The small files that a node's identity stands on
// carry one: JSON and keys have many neighbours one flipped bit away that read as well.
func Seal(body []byte) []byte {
	return append(body[:len(body):len(body)], sealOf(body)...)
}

// Unseal gives the text without its last line. sealed is false, and the text whole, when it ends with no checksum, as
// older versions wrote it. The error wraps ErrSeal.
func Unseal(text []byte) (body []byte, sealed bool, err error) {
	cut := len(text) - sealSize
	if cut < 0 || text[cut] != '"' || text[len(text)-2] != '"' || text[len(text)-1] != '\n' {
		return text, false, nil
	}
	if body = text[:cut]; string(text[cut:]) != sealOf(body) {
		return nil, true, ErrSeal
	}
	return body, true, nil
}

func sealOf(body []byte) string {
	return fmt.Sprintf("\"%08x\"\n", crc32.Checksum(body, crc32.MakeTable(crc32.Castagnoli)))
}
