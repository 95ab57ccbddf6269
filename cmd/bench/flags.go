package main

import (
	"slices"
	"strings"
	"time"

	"github.com/spf13/cobra"
)

// before adds a check that is made before anything is started.
func before(c *cobra.Command, check func() error) {
	inner := c.PreRunE
	c.PreRunE = func(c *cobra.Command, args []string) error {
		if inner != nil {
			if err := inner(c, args); err != nil {
				return err
			}
		}
		return check()
	}
}

// needPositive refuses a flag that is not at least 1 before anything is started.
func needPositive(c *cobra.Command, name string, v *int) {
	before(c, func() error {
		if *v < 1 {
			return usage("--%s %d: it must be at least 1", name, *v)
		}
		return nil
	})
}

// needLonger refuses a flag whose duration is not positive.
func needLonger(c *cobra.Command, name string, v *time.Duration) {
	before(c, func() error {
		if *v <= 0 {
			return usage("--%s %v: it must be longer than nothing", name, *v)
		}
		return nil
	})
}

// needWord refuses a flag that is none of the words.
func needWord(c *cobra.Command, name string, v *string, words ...string) {
	before(c, func() error {
		if !slices.Contains(words, *v) {
			return usage("--%s %s: it must be one of %s", name, *v, strings.Join(words, ", "))
		}
		return nil
	})
}
