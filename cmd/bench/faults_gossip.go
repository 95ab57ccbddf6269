package main

import (
	"context"
	"time"
)

// shortForget is how long gossip keeps a dead member in clusters of the forgetful kind; usually it is a minute.
const shortForget = 4 * time.Second

func gossipScenarios() []scenario {
	on := kind{nodes: 5, net: true, forgetful: true}
	return []scenario{
		{id: "F28", does: "5 nodes split 3/2 until gossip has forgotten the others", figure: "healed to whole", on: on, run: forgotten},
	}
}

// forgotten is F28. Nobody is restarted: the two sides must find each other by themselves.
func forgotten(ctx context.Context, b *bed, _ times) (got outcome, err error) {
	if err := b.aJobEverywhere(ctx); err != nil {
		return got, err
	}
	if err := split(ctx, b.l.nodes[:2], b.l.nodes[2:]); err != nil {
		return got, err
	}
	// A member is declared dead some seconds after it fell silent.
	if err := pause(ctx, 3*shortForget+10*time.Second); err != nil {
		return got, err
	}
	began := time.Now()
	if err := b.healAll(ctx); err != nil {
		return got, err
	}
	_, err = b.wholeAgain(ctx, 15*time.Second)
	got.add(time.Since(began))
	return got, err
}
