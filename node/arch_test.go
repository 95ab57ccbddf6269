package node_test

import (
	"fmt"
	"go/ast"
	"go/importer"
	"go/parser"
	"go/token"
	"go/types"
	"io"
	"io/fs"
	"os"
	"os/exec"
	"path"
	"path/filepath"
	"slices"
	"strings"
	"testing"
)

const module = "github.com/deveronica/cvlab/"

// layers is the house: an arrow may only point to a lower layer, or from a package to its own parent.
var layers = map[string]int{
	"cmd/cvlab": 5, "cmd/bench": 5, "node/nodetest": 5,
	"node":        4,
	"node/leader": 3, "node/worker": 3, "ui/api": 3,
	"cluster": 2, "cluster/archive": 2, "executor": 2, "ui": 2, "ui/metrics": 2,
	"fsm": 0, "fsm/spec": 0, "fsm/sched": 0, "cluster/mesh": 0, "executor/supervisor": 0, "node/gpu": 0,
	"cmd/cvlab/trainer": 0,
}

// keepers says which package alone may import a library, and why.
var keepers = map[string]struct {
	home []string
	why  string
}{
	"github.com/hashicorp/raft":        {[]string{"cluster"}, "only the seat knows consensus; everybody else proposes"},
	"github.com/hashicorp/raft-boltdb": {[]string{"cluster"}, "only the seat knows where the log lies"},
	"github.com/hashicorp/memberlist":  {[]string{"cluster"}, "nothing authoritative travels by gossip"},
	"github.com/hashicorp/go-memdb":    {[]string{"fsm"}, "the store is a detail of the facts"},
	"github.com/gorilla/mux":           {[]string{"ui/api"}, "routes are stated in one place"},
	"github.com/NVIDIA/go-nvml":        {[]string{"node/gpu"}, "cgo stays in one file"},
	"github.com/spf13/cobra":           {[]string{"cmd/cvlab", "cmd/bench"}, "only programs have flags"},
}

type source struct {
	pkg  string // directory below the module, such as "fsm/spec"
	name string // path below the module
	test bool
	file *ast.File
}

func parseAll(t *testing.T) (*token.FileSet, []source) {
	t.Helper()
	fset := token.NewFileSet()
	var all []source
	err := filepath.WalkDir("..", func(p string, d fs.DirEntry, err error) error {
		if err != nil || d.IsDir() && (strings.HasPrefix(d.Name(), ".") && d.Name() != ".." || d.Name() == "testdata" || d.Name() == "third_party") {
			if d != nil && d.IsDir() && err == nil {
				return filepath.SkipDir
			}
			return err
		}
		if !strings.HasSuffix(p, ".go") {
			return nil
		}
		f, err := parser.ParseFile(fset, p, nil, parser.ParseComments)
		if err != nil {
			return err
		}
		name := filepath.ToSlash(strings.TrimPrefix(p, "../"))
		all = append(all, source{pkg: path.Dir(name), name: name, test: strings.HasSuffix(p, "_test.go"), file: f})
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	if len(all) < 50 {
		t.Fatalf("found only %d files: the walk is broken", len(all))
	}
	return fset, all
}

func TestArrowsPointDown(t *testing.T) {
	_, all := parseAll(t)
	for _, s := range all {
		from, known := layers[s.pkg]
		if !known {
			t.Errorf("%s: package %s has no layer; a new package is another process, a purity border, or keeps the import direction: say which in layers", s.name, s.pkg)
			continue
		}
		for _, imp := range s.file.Imports {
			p := strings.Trim(imp.Path.Value, `"`)
			for lib, k := range keepers {
				if (p == lib || strings.HasPrefix(p, lib+"/")) && !slices.Contains(k.home, s.pkg) {
					t.Errorf("%s imports %s, which belongs to %v: %s", s.name, p, k.home, k.why)
				}
			}
			if !strings.HasPrefix(p, module) || s.test {
				continue
			}
			to := strings.TrimPrefix(p, module)
			down := layers[to] < from || path.Dir(s.pkg) == to && from == layers[to]
			if _, known := layers[to]; !known || !down {
				t.Errorf("%s imports %s: arrows point down only (program → whole → roles → means → leaves)", s.name, to)
			}
		}
	}
}

func TestGoroutinesHaveAWaiter(t *testing.T) {
	fset, all := parseAll(t)
	for _, s := range all {
		ast.Inspect(s.file, func(n ast.Node) bool {
			if g, ok := n.(*ast.GoStmt); ok {
				t.Errorf("%s: a go statement: use errgroup.Group.Go or sync.WaitGroup.Go, so that somebody waits for it", fset.Position(g.Pos()))
			}
			return true
		})
	}
}

func TestNoHiddenState(t *testing.T) {
	fset, all := parseAll(t)
	for _, s := range all {
		if s.test {
			continue
		}
		for _, d := range s.file.Decls {
			switch d := d.(type) {
			case *ast.FuncDecl:
				if d.Name.Name == "init" && d.Recv == nil {
					t.Errorf("%s: an init function: wiring belongs where it can be read", fset.Position(d.Pos()))
				}
			case *ast.GenDecl:
				if d.Tok == token.VAR {
					checkVars(t, fset, d)
				}
			}
		}
		if s.pkg != "cmd/cvlab" && s.pkg != "cmd/bench" {
			checkExits(t, fset, s)
		}
		if lines := fset.File(s.file.Pos()).LineCount(); lines > 600 {
			t.Errorf("%s has %d lines: is it one idea?", s.name, lines)
		}
	}
}

// checkVars allows package variables that nobody changes: sentinels, patterns, embedded files, compile-time assertions.
func checkVars(t *testing.T, fset *token.FileSet, d *ast.GenDecl) {
	embedded := d.Doc != nil && strings.Contains(fmt.Sprint(d.Doc.List[len(d.Doc.List)-1].Text), "go:embed")
	for _, spec := range d.Specs {
		v := spec.(*ast.ValueSpec)
		if v.Doc != nil && strings.Contains(v.Doc.List[len(v.Doc.List)-1].Text, "go:embed") {
			continue
		}
		for i, name := range v.Names {
			if name.Name == "_" || embedded {
				continue
			}
			call := ""
			if i < len(v.Values) {
				if c, ok := v.Values[i].(*ast.CallExpr); ok {
					call = types.ExprString(c.Fun)
				}
			}
			if !slices.Contains([]string{"errors.New", "fmt.Errorf", "regexp.MustCompile", "strings.NewReplacer"}, call) {
				t.Errorf("%s: package variable %s: pass it in, or make it a function", fset.Position(name.Pos()), name.Name)
			}
		}
	}
}

func checkExits(t *testing.T, fset *token.FileSet, s source) {
	ast.Inspect(s.file, func(n ast.Node) bool {
		c, ok := n.(*ast.CallExpr)
		if !ok {
			return true
		}
		name := types.ExprString(c.Fun)
		if name == "os.Exit" || strings.HasPrefix(name, "log.Fatal") || name == "panic" && s.pkg != "fsm" {
			t.Errorf("%s: %s: only main exits, and only a log that cannot be applied panics", fset.Position(c.Pos()), name)
		}
		return true
	})
}

func TestPackagesExplainThemselves(t *testing.T) {
	_, all := parseAll(t)
	commented := map[string]bool{}
	for _, s := range all {
		if !s.test {
			commented[s.pkg] = commented[s.pkg] || s.file.Doc != nil
		}
	}
	for pkg, ok := range commented {
		if !ok {
			t.Errorf("package %s has no comment that tells its user what it is for", pkg)
		}
	}
}

// TestFactsArePure keeps everything out of fsm/… that could make two replicas differ.
func TestFactsArePure(t *testing.T) {
	fset, all := parseAll(t)
	byPackage := map[string][]*ast.File{}
	for _, s := range all {
		if s.test || s.pkg != "fsm" && !strings.HasPrefix(s.pkg, "fsm/") {
			continue
		}
		byPackage[s.pkg] = append(byPackage[s.pkg], s.file)
		for _, imp := range s.file.Imports {
			p := strings.Trim(imp.Path.Value, `"`)
			if slices.Contains([]string{"os", "net", "math/rand", "math/rand/v2", "crypto/rand", "log/slog", "runtime", "unsafe", "syscall"}, p) || strings.HasPrefix(p, "os/") || strings.HasPrefix(p, "net/") && p != "net/url" && p != "net/netip" {
				t.Errorf("%s imports %s: facts know no clock, dice, files or network; the proposer puts such values into the command", s.name, p)
			}
		}
		ast.Inspect(s.file, func(n ast.Node) bool {
			if sel, ok := n.(*ast.SelectorExpr); ok {
				switch types.ExprString(sel) {
				case "time.Now", "time.Since", "time.Until", "time.Sleep", "time.After", "time.AfterFunc", "time.NewTimer", "time.NewTicker", "time.Local":
					t.Errorf("%s: %s: time comes from the command", fset.Position(sel.Pos()), types.ExprString(sel))
				}
			}
			return true
		})
	}
	if len(byPackage) < 3 {
		t.Fatalf("found only %d packages below fsm", len(byPackage))
	}
	imp := exportImporter(t, fset)
	for pkg, files := range byPackage {
		checkMapOrder(t, fset, imp, pkg, files)
	}
}

// checkMapOrder wants every walk over a map to be sorted, or to say why its order does not matter.
func checkMapOrder(t *testing.T, fset *token.FileSet, imp types.Importer, pkg string, files []*ast.File) {
	info := &types.Info{Types: map[ast.Expr]types.TypeAndValue{}}
	conf := types.Config{Importer: imp}
	if _, err := conf.Check(module+pkg, fset, files, info); err != nil {
		t.Fatalf("type-check %s: %v", pkg, err)
	}
	for _, f := range files {
		reasons := map[int]bool{}
		for _, g := range f.Comments {
			if strings.Contains(strings.ToLower(g.Text()), "any order") {
				reasons[fset.Position(g.End()).Line] = true
			}
		}
		sorted := map[ast.Node]bool{}
		ast.Inspect(f, func(n ast.Node) bool {
			switch n := n.(type) {
			case *ast.CallExpr:
				name := types.ExprString(n.Fun)
				if strings.HasPrefix(name, "slices.Sorted") {
					sorted[n.Args[0]] = true
				}
				if (name == "maps.Keys" || name == "maps.Values" || name == "maps.All") && !sorted[n] {
					t.Errorf("%s: %s without slices.Sorted: replicas would differ", fset.Position(n.Pos()), name)
				}
			case *ast.RangeStmt:
				if _, isMap := info.Types[n.X].Type.Underlying().(*types.Map); isMap {
					line := fset.Position(n.Pos()).Line
					if !reasons[line] && !reasons[line-1] {
						t.Errorf("%s: a walk over a map: sort its keys, or say above why it may be done in any order", fset.Position(n.Pos()))
					}
				}
			}
			return true
		})
	}
}

// exportImporter reads the types of dependencies from the compiler's own export data.
func exportImporter(t *testing.T, fset *token.FileSet) types.Importer {
	t.Helper()
	cmd := exec.Command("go", "list", "-export", "-deps", "-f", "{{.ImportPath}}\t{{.Export}}", "./fsm/...")
	cmd.Dir = ".."
	cmd.Stderr = os.Stderr
	out, err := cmd.Output()
	if err != nil {
		t.Fatalf("list export data: %v", err)
	}
	exports := map[string]string{}
	for line := range strings.Lines(string(out)) {
		if p, file, ok := strings.Cut(strings.TrimSpace(line), "\t"); ok {
			exports[p] = file
		}
	}
	return importer.ForCompiler(fset, "gc", func(p string) (io.ReadCloser, error) { return os.Open(exports[p]) })
}
