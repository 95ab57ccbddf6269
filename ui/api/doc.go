// Package api is the door for people and scripts: REST and server-sent events over HTTP, and the Go client that speaks
// them. Every node serves the same routes from its own replica of the facts; writes go to the leader through the
// backend.
//
//	srv, err := api.New(api.Options{Cluster: seat, Machines: machines, Logs: logs, Joins: joins, …})
//	http.Server{Handler: srv.Handler(), …}
//
//	c, err := api.NewClient(api.ClientOptions{URL: "https://gpu1:8000", Token: token, Fingerprint: nodeID})
//	added, err := c.Add(ctx, api.AddRequest{Config: text})
//
// One literal table (routes.go) names every route with its method, role and handler; the router, the description at
// /api/openapi.json and the security tests are made from it. A request passes, from outside in: limits, allowed hosts,
// cross-origin protection, authentication, access log, router. Nothing is served to an unknown caller but the health
// checks, the sign-in page and the static pages.
package api
