package gpu

import (
	"fmt"
	"testing"

	"github.com/google/go-cmp/cmp"
	"pgregory.net/rapid"
)

func TestACardThatFallsOffTheBusStaysInTheListAsLost(t *testing.T) {
	var v inventory
	v.answer([]GPU{card(0, "GPU-a"), card(1, "GPU-b")})
	v.answer([]GPU{card(0, "GPU-b")}) // the driver counts anew

	if len(v.gpus) != 2 {
		t.Fatalf("got %d cards, want both", len(v.gpus))
	}
	a, b := v.gpus[0], v.gpus[1]
	if a.UUID != "GPU-a" || a.State != Lost || a.Index != 0 {
		t.Errorf("lost card: got %+v, want GPU-a lost with index 0", a)
	}
	if a.MemoryTotal != 8<<30 || a.Utilization != 0 || a.Power != 0 || len(a.Processes) != 0 {
		t.Errorf("lost card: got %+v, want its memory and no activity", a)
	}
	if b.UUID != "GPU-b" || b.State != OK || b.Index != 1 {
		t.Errorf("other card: got %+v, want GPU-b ok with the index it always had", b)
	}

	v.answer([]GPU{card(0, "GPU-a"), card(1, "GPU-b")})
	if diff := cmp.Diff(map[string]State{"GPU-a": OK, "GPU-b": OK}, states(v.gpus)); diff != "" {
		t.Errorf("after the card came back (-want +got):\n%s", diff)
	}
}

func TestABadCardKeepsItsLastValues(t *testing.T) {
	var v inventory
	v.answer([]GPU{card(0, "GPU-a"), card(1, "GPU-b")})
	v.answer([]GPU{{UUID: "GPU-a", Index: 0, Name: "Card", State: Bad}, card(1, "GPU-b")})

	want := card(0, "GPU-a")
	want.State = Bad
	if diff := cmp.Diff([]GPU{want, card(1, "GPU-b")}, v.gpus); diff != "" {
		t.Errorf("cards (-want +got):\n%s", diff)
	}
}

func TestSilenceDoesNotHideWorseStates(t *testing.T) {
	var v inventory
	bad := card(1, "GPU-b")
	bad.State = Bad
	v.answer([]GPU{card(0, "GPU-a"), bad, card(2, "GPU-c")})
	v.answer([]GPU{card(0, "GPU-a"), bad})
	v.silence()

	want := map[string]State{"GPU-a": Suspect, "GPU-b": Bad, "GPU-c": Lost}
	if diff := cmp.Diff(want, states(v.gpus)); diff != "" {
		t.Errorf("states (-want +got):\n%s", diff)
	}
	if v.gpus[0].MemoryUsed != 1<<30 || len(v.gpus[0].Processes) != 1 {
		t.Errorf("suspect card: got %+v, want its last values", v.gpus[0])
	}
}

func TestWhateverADriverAnswersEachCardHasOneIndexForEver(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		var v inventory
		first := map[string]int{}
		for range rapid.IntRange(1, 8).Draw(t, "answers") {
			var got []GPU
			for range rapid.IntRange(0, 5).Draw(t, "cards") {
				got = append(got, GPU{
					UUID:  fmt.Sprintf("GPU-%d", rapid.IntRange(0, 5).Draw(t, "uuid")),
					Index: rapid.IntRange(-1, 4).Draw(t, "index"),
					State: rapid.SampledFrom([]State{"", OK, Suspect, Bad, Lost}).Draw(t, "state"),
				})
			}
			v.answer(got)
			if rapid.Bool().Draw(t, "silence") {
				v.silence()
			}
			taken := map[int]string{}
			for _, g := range v.gpus {
				if other, ok := taken[g.Index]; ok {
					t.Fatalf("%s and %s share index %d", other, g.UUID, g.Index)
				}
				taken[g.Index] = g.UUID
				if i, ok := first[g.UUID]; ok && i != g.Index {
					t.Fatalf("%s moved from index %d to %d", g.UUID, i, g.Index)
				}
				first[g.UUID] = g.Index
			}
			if len(v.gpus) != len(first) {
				t.Fatalf("%d cards are listed, %d were seen", len(v.gpus), len(first))
			}
		}
	})
}
