package trainer

import (
	"crypto/sha256"
	"encoding/hex"
	"os"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
)

func TestDigitsAreTheRealOnes(t *testing.T) {
	train, val, err := Digits()
	if err != nil {
		t.Fatal(err)
	}
	if train.Len() != 1438 || val.Len() != 359 {
		t.Fatalf("split into %d and %d", train.Len(), val.Len())
	}
	perClass := make([]int, 10)
	seen := map[string]int{}
	for _, d := range []Dataset{train, val} {
		for i := range d.Len() {
			x, y := d.At(i)
			perClass[y]++
			var key strings.Builder
			for _, v := range x {
				if v < 0 || v > 1 {
					t.Fatalf("a pixel of %g", v)
				}
				key.WriteByte(byte(v * digitMax))
			}
			seen[key.String()]++
		}
	}
	// The counts that the data set's own description gives for its test part.
	if diff := cmp.Diff([]int{178, 182, 177, 183, 181, 182, 181, 179, 174, 180}, perClass); diff != "" {
		t.Errorf("images per digit (-want +got):\n%s", diff)
	}
	if len(seen) < 1797 {
		t.Errorf("only %d different images: one may be in both parts", len(seen))
	}
}

func TestDataFileIsTheOneItsLicenceFileNames(t *testing.T) {
	sum := sha256.Sum256([]byte(digitsGz))
	text, err := os.ReadFile("data/DATA.md")
	if err != nil {
		t.Fatal(err)
	}
	for _, want := range []string{hex.EncodeToString(sum[:]), "CC BY 4.0", "E. Alpaydin"} {
		if !strings.Contains(string(text), want) {
			t.Errorf("DATA.md does not say %q", want)
		}
	}
}

func TestReadDigitsNamesTheBadField(t *testing.T) {
	good := strings.Repeat("0,", 64) + "9\n"
	for name, tc := range map[string]struct{ text, want string }{
		"short line":  {good + "1,2,3\n", "line 2 has 3 fields, want 65"},
		"pixel":       {strings.Repeat("17,", 64) + "1", `line 1, field 1: "17" is not a whole number from 0 to 16`},
		"class":       {strings.Repeat("1,", 64) + "10", `line 1, field 65: "10" is not a whole number from 0 to 9`},
		"not numbers": {strings.Repeat("x,", 64) + "1", `line 1, field 1: "x"`},
	} {
		_, err := readDigits(strings.NewReader(tc.text))
		if err == nil || !strings.Contains(err.Error(), tc.want) {
			t.Errorf("%s: got %v, want %q", name, err, tc.want)
		}
	}
}

func FuzzReadDigits(f *testing.F) {
	f.Add(strings.Repeat("0,", 64) + "9\n")
	f.Add("1,2\n")
	f.Fuzz(func(t *testing.T, text string) {
		d, err := readDigits(strings.NewReader(text))
		if err == nil && len(d.X) != d.Len()*64 {
			t.Fatalf("%d pixels for %d labels", len(d.X), d.Len())
		}
	})
}
