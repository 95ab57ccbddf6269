package main

import (
	"errors"
	"strings"
)

// words splits a command into its words as a shell would: at blanks, with '…', "…" and \ to keep blanks in a word. Nothing
// is expanded.
func words(command string) ([]string, error) {
	var list []string
	var w strings.Builder
	inWord, quote, escaped := false, rune(0), false
	for _, r := range command {
		switch {
		case escaped:
			w.WriteRune(r)
			escaped = false
		case r == '\\' && quote != '\'':
			inWord, escaped = true, true
		case quote != 0 && r == quote:
			quote = 0
		case quote != 0:
			w.WriteRune(r)
		case r == '\'' || r == '"':
			inWord, quote = true, r
		case r == ' ' || r == '\t' || r == '\n':
			if inWord {
				list = append(list, w.String())
			}
			w.Reset()
			inWord = false
		default:
			w.WriteRune(r)
			inWord = true
		}
	}
	if quote != 0 || escaped {
		return nil, errors.New("a quotation or \\ at its end is not complete")
	}
	if inWord {
		list = append(list, w.String())
	}
	return list, nil
}
