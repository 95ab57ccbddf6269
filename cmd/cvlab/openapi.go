package main

import (
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"net/http"
	"time"

	"github.com/spf13/cobra"

	"github.com/deveronica/cvlab/cluster/mesh"
	"github.com/deveronica/cvlab/ui/api"
)

func (p *program) openapiCommand() *cobra.Command {
	return &cobra.Command{
		Use:   "openapi",
		Short: "Print the description of the REST API, as the asked node serves it",
		Args:  exactly(0, "no argument"),
		RunE: func(cmd *cobra.Command, _ []string) error {
			o, err := p.clientOptions()
			if err != nil {
				return err
			}
			c, err := api.NewClient(o)
			if err != nil {
				return err
			}
			// The client finds out whether somebody answers and lets us in; the document itself is no API type.
			if _, err := c.Me(cmd.Context()); err != nil {
				return err
			}
			req, err := http.NewRequestWithContext(cmd.Context(), http.MethodGet, c.URL()+"/api/openapi.json", nil)
			if err != nil {
				return fmt.Errorf("ask for the description: %w", err)
			}
			req.Header.Set("Authorization", "Bearer "+o.Token)
			resp, err := documents(o.Fingerprint).Do(req)
			if err != nil {
				return fmt.Errorf("ask for the description: %w", err)
			}
			defer resp.Body.Close()
			if resp.StatusCode != http.StatusOK {
				return fmt.Errorf("ask for the description: the server answered %s", resp.Status)
			}
			if _, err := io.Copy(p.stdout, resp.Body); err != nil {
				return fmt.Errorf("print the description: %w", err)
			}
			return nil
		},
	}
}

// documents makes a client that fetches plain documents from the node with this ID.
func documents(fingerprint string) *http.Client {
	t := &tls.Config{MinVersion: tls.VersionTLS13}
	if fingerprint != "" {
		t.InsecureSkipVerify = true // the key is the identity
		t.VerifyConnection = func(cs tls.ConnectionState) error {
			if mesh.FingerprintID(cs.PeerCertificates[0]) != fingerprint {
				return errors.New("another node answers than the one you signed in to")
			}
			return nil
		}
	}
	return &http.Client{Timeout: 15 * time.Second, Transport: &http.Transport{TLSClientConfig: t, Proxy: http.ProxyFromEnvironment}}
}
