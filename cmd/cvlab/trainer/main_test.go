package trainer

import (
	"context"
	"os"
	"testing"

	"go.uber.org/goleak"
)

// TestMain lets the test binary be the example itself, since signals and exit codes are those of a process.
func TestMain(m *testing.M) {
	if len(os.Args) > 1 && os.Args[1] == "example" {
		os.Exit(Main(context.Background(), os.Args[2:], os.Stdout, os.Stderr))
	}
	goleak.VerifyTestMain(m)
}
