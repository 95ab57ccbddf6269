package api

import (
	"log/slog"
	"net/http"
)

// Options are what a Server is made of.
type Options struct {
	Cluster  Cluster
	Machines Machines
	Logs     Logs
	Joins    Joins
	Version  string // of this program
	NodeName string
	Logger   *slog.Logger
	// AllowedHosts gives the names this node may be called by in a Host header, without port. localhost, IP addresses
	// and NodeName are always allowed. Nil adds none.
	AllowedHosts func() []string
	// NoUI serves no pages, only the API and the sign-in.
	NoUI bool
	// Pages serves everything that is not under /api/; nil is the same as NoUI.
	Pages http.Handler
}
