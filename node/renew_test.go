package node

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"net/http"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/deveronica/cvlab/fsm"
	"github.com/deveronica/cvlab/node/leader"
	"github.com/deveronica/cvlab/node/worker"
)

// confirms is a leader's rule that says yes to the first token, no to the second, has never heard of others, and notes who
// asked.
type confirms struct {
	leads bool
	err   error
	asked []string
}

func (c *confirms) Renew(_ context.Context, node string, tokens []fsm.Token) (leader.Verdict, error) {
	if !c.leads {
		return leader.Verdict{}, leader.ErrNotLeading
	}
	c.asked = append(c.asked, node)
	if c.err != nil {
		return leader.Verdict{}, c.err
	}
	n := len(tokens)
	return leader.Verdict{Valid: tokens[:min(n, 1)], Revoked: tokens[min(n, 1):min(n, 2)], Unknown: tokens[min(n, 2):]}, nil
}

// threeNodes has A, which leads, and B; it gives the renewals of C, which knows the leader by that name.
func threeNodes(t *testing.T, m *meshLab, known string) (*renewals, *confirms) {
	t.Helper()
	f, rules := newFacts(t), &confirms{leads: true}
	m.serveWith(newLights(f, nodeA, nodeA), nil, rules, func() []string { return []string{nodeB, nodeC} })
	m.serveWith(newLights(f, nodeB, nodeA), nil, &confirms{}, func() []string { return []string{nodeA, nodeC} })
	return m.serveWith(newLights(f, nodeC, known), nil, &confirms{}, func() []string { return []string{nodeB, nodeA} }), rules
}

func TestRenewalFindsItsWay(t *testing.T) {
	tokens := []fsm.Token{{Epoch: 1, Index: 7}, {Epoch: 1, Index: 9}, {Epoch: 1, Index: 11}}
	for _, c := range []struct {
		name  string
		known string
		cut   [][2]string
		fails bool
		takes time.Duration
	}{
		{"directly", nodeA, nil, false, 0},
		{"through a member, the leader is out of reach", nodeA, [][2]string{{nodeC, nodeA}}, false, oneWay},
		{"through a member, no leader is known", "", nil, false, 0},
		{"through a member, a leader of the past is known", nodeB, nil, false, 0},
		{"nowhere", nodeA, [][2]string{{nodeC, nodeA}, {nodeC, nodeB}}, true, 2 * oneWay},
		{"not beyond one relay", nodeA, [][2]string{{nodeC, nodeA}, {nodeB, nodeA}}, true, 2 * oneWay},
	} {
		t.Run(c.name, func(t *testing.T) {
			onMesh(t, func(t *testing.T, m *meshLab) {
				m.net.cut = map[[2]string]bool{}
				for _, pair := range c.cut {
					m.net.cut[pair] = true
				}
				r, rules := threeNodes(t, m, c.known)
				began := time.Now()
				ctx, cancel := context.WithTimeout(t.Context(), 20*time.Second)
				defer cancel()
				v, err := r.Renew(ctx, tokens)
				if took := time.Since(began); took != c.takes {
					t.Errorf("it took %s, want %s", took, c.takes)
				}
				<-time.After(lostDial) // the connection that is still being made
				if c.fails {
					if err == nil || !cmp.Equal(v, worker.Verdict{}) || len(rules.asked) > 0 {
						t.Errorf("answered %+v, %v", v, err)
					}
					return
				}
				if err != nil || !cmp.Equal(v, worker.Verdict{Valid: tokens[:1], Revoked: tokens[1:2], Unknown: tokens[2:]}) {
					t.Errorf("answered %+v, %v", v, err)
				}
				if !cmp.Equal(rules.asked, []string{nodeC}) {
					t.Errorf("the leader heard of %v, want the node whose attempts they are", rules.asked)
				}
			})
		})
	}
}

// Half a question's time goes to the first way at most, so that short leases try another one, too.
func TestRenewalInShortTime(t *testing.T) {
	onMesh(t, func(t *testing.T, m *meshLab) {
		m.net.cut = map[[2]string]bool{{nodeC, nodeA}: true}
		r, _ := threeNodes(t, m, nodeA)
		ctx, cancel := context.WithTimeout(t.Context(), time.Second)
		defer cancel()
		if v, err := r.Renew(ctx, []fsm.Token{{Epoch: 1, Index: 7}}); err != nil || len(v.Valid) != 1 {
			t.Errorf("%+v, %v", v, err)
		}
		<-time.After(lostDial)
	})
}

func TestRenewalIsRefused(t *testing.T) {
	onMesh(t, func(t *testing.T, m *meshLab) {
		r, rules := threeNodes(t, m, nodeA)
		for _, c := range []struct {
			body string
			code int
		}{
			{`{"for":"` + nodeB + `","relay":true,"tokens":["1-7"]}`, http.StatusForbidden}, // for somebody else, from C
			{`{"for":"` + nodeC + `","tokens":["seven"]}`, http.StatusBadRequest},
			{`{"for":"` + nodeC + `","force":true}`, http.StatusBadRequest},
			{`no JSON`, http.StatusBadRequest},
		} {
			resp, err := r.peers.client.Post("http://"+nodeA+"/renew", "application/json", bytes.NewReader([]byte(c.body)))
			if err != nil {
				t.Fatal(err)
			}
			resp.Body.Close()
			if resp.StatusCode != c.code {
				t.Errorf("%s: %s, want %d", c.body, resp.Status, c.code)
			}
		}
		rules.err = errors.New("no majority")
		if _, err := r.Renew(t.Context(), []fsm.Token{{Epoch: 1, Index: 7}}); err == nil || !strings.Contains(fmt.Sprint(err), "no majority") {
			t.Errorf("a leader without a majority: %v", err)
		}
	})
}
