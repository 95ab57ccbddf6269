package main

import (
	"context"
	"fmt"
	"os"
	"strings"

	"github.com/deveronica/cvlab/node"
	"github.com/deveronica/cvlab/ui/api"
)

// connect makes a client for the node that the flags, the environment or this machine name.
func (p *program) connect() (*api.Client, error) {
	o, err := p.clientOptions()
	if err != nil {
		return nil, err
	}
	return api.NewClient(o)
}

// connectAll makes a client that goes on with the other nodes when the asked one dies; for streams that last.
func (p *program) connectAll(ctx context.Context) (*api.Client, error) {
	o, err := p.clientOptions()
	if err != nil {
		return nil, err
	}
	c, err := api.NewClient(o)
	if err != nil {
		return nil, err
	}
	status, err := c.Cluster(ctx)
	if err != nil {
		return nil, err
	}
	for _, n := range status.Nodes {
		o.Fallback = append(o.Fallback, api.Address{URL: "https://" + n.HTTP, Fingerprint: n.ID})
	}
	return api.NewClient(o)
}

func (p *program) clientOptions() (api.ClientOptions, error) {
	s, err := loadSettings()
	if err != nil {
		return api.ClientOptions{}, err
	}
	dir, dirNamed := p.dataDir(s)
	here, hereErr := node.ReadRunning(dir)
	o := api.ClientOptions{URL: first(p.server, os.Getenv("CVLAB_SERVER_URL"))}
	named := p.data != "" && p.server == "" // a data directory on the command line names its node
	if o.URL == "" || named && hereErr == nil {
		if dirNamed && hereErr != nil && s.ServerURL == "" {
			return o, &exitError{code: exitUnreachable, err: fmt.Errorf("no node runs on %s; start it with cvlab up, or name a server with --server or CVLAB_SERVER_URL", dir)}
		}
		o.URL = first(here.HTTP, s.ServerURL, "http://127.0.0.1:8000")
	}
	o.Token = first(p.token, os.Getenv("CVLAB_TOKEN"))
	if o.Token == "" && (hereErr != nil || strings.TrimRight(o.URL, "/") == here.HTTP || p.data != "" || os.Getenv("CVLAB_DATA_DIR") != "") {
		// The token of a node's directory is that node's; without one, or without the right to read it, the settings' counts.
		if t, err := node.ReadToken(dir); err == nil {
			o.Token = t
		}
	}
	o.Token = first(o.Token, s.Token)
	return o, nil
}
