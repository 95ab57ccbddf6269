package mesh

import (
	"errors"
	"os"
	"path/filepath"
	"testing"
)

func TestMarks(t *testing.T) {
	a := Marks{MachineID: "a", Board: "a", MACs: []string{"1", "2"}}
	for _, c := range []struct {
		name  string
		marks Marks
		other bool
	}{
		{"the same", a, false},
		{"a new network card", Marks{"a", "a", []string{"3"}}, false},
		{"a card more", Marks{"a", "a", []string{"1", "2", "3"}}, false},
		{"reinstalled", Marks{"b", "a", []string{"1", "2"}}, false},
		{"a new mainboard with its card", Marks{"a", "b", []string{"3"}}, false},
		{"reinstalled, in a container that sees no hardware", Marks{"b", "", nil}, false},
		{"another machine", Marks{"b", "b", []string{"3"}}, true},
		{"another machine, not as root", Marks{"b", "", []string{"3"}}, true},
		{"nothing known", Marks{}, false},
	} {
		if got := a.Other(c.marks); got != c.other || c.marks.Other(a) != c.other {
			t.Errorf("%s: other machine %v, want %v", c.name, got, c.other)
		}
	}
}

func TestReadMarks(t *testing.T) {
	root := t.TempDir()
	for path, text := range map[string]string{
		"etc/machine-id": "id\n", "sys/class/dmi/id/product_uuid": "board\n", "sys/class/net/eth0/address": "aa:bb\n",
		"sys/class/net/eth0/device/vendor": "", "sys/class/net/veth1/address": "cc:dd\n",
	} {
		if err := errors.Join(os.MkdirAll(filepath.Dir(filepath.Join(root, path)), 0o700), os.WriteFile(filepath.Join(root, path), []byte(text), 0o600)); err != nil {
			t.Fatal(err)
		}
	}
	if m := readMarks(root); m.MachineID != "id" || m.Board != "board" || len(m.MACs) != 1 || m.MACs[0] != "aa:bb" {
		t.Errorf("read %+v", m)
	}
	if m := readMarks(t.TempDir()); m.Other(Marks{"x", "x", []string{"x"}}) {
		t.Errorf("a machine that tells nothing counts as another: %+v", m)
	}
}

func FuzzMarks(f *testing.F) {
	f.Add(Seal([]byte(`{"machine_id":"a"}`)))
	f.Fuzz(func(t *testing.T, text []byte) { _, _ = decodeMarks(text) })
}

func FuzzSeal(f *testing.F) {
	f.Add([]byte("text"))
	f.Fuzz(func(t *testing.T, text []byte) {
		if body, sealed, err := Unseal(Seal(text)); err != nil || !sealed || string(body) != string(text) {
			t.Fatalf("%q comes back as %q, %v, %v", text, body, sealed, err)
		}
		_, _, _ = Unseal(text)
	})
}
