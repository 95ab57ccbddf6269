package trainer

import _ "embed"

//go:embed sweep.yaml
var sweepYAML string

// SweepConfig is a cvlab-kit style config that sweeps the example: six trainings of some seconds each. It names no command: it is
// for nodes whose kit command is `cvlab example`.
func SweepConfig() string { return sweepYAML }

// withCommand is SweepConfig for any node that has the program cvlab.
func withCommand() string {
	return sweepYAML + `
# Nodes started with --kit-command "cvlab example" do not need this.
cvlab:
  command: cvlab example --config config.yaml --fast
`
}
