package expr

import (
	"encoding/json"
	"errors"
	"fmt"
	"strings"

	"github.com/google/cel-go/cel"
	"github.com/google/cel-go/common/ast"
)

// costLimit bounds one evaluation, in CEL's cost units; a condition over a record of 200 fields stays far below.
const costLimit = 100_000

// maxLength bounds a condition's source, in bytes.
const maxLength = 4_000

// Condition is a compiled boolean expression. It is immutable and safe for concurrent use.
type Condition struct {
	source  string
	program cel.Program
	fields  map[string][]string // by variable: the fields that it asks for; a variable that it uses as a whole is not in it
}

// Compile checks and compiles a condition over the named variables, each a map of field to value. The error says
// where the source is wrong.
func Compile(source string, variables ...string) (*Condition, error) {
	if len(source) > maxLength {
		return nil, fmt.Errorf("a condition has at most %d bytes, this one has %d", maxLength, len(source))
	}
	opts := []cel.EnvOption{cel.CrossTypeNumericComparisons(true)}
	for _, v := range variables {
		opts = append(opts, cel.Variable(v, cel.MapType(cel.StringType, cel.DynType)))
	}
	env, err := cel.NewEnv(opts...)
	if err != nil {
		return nil, fmt.Errorf("expr.Compile: %w", err)
	}
	tree, issues := env.Compile(source)
	if issues != nil && issues.Err() != nil {
		return nil, fmt.Errorf("condition %q: %w", source, issues.Err())
	}
	if t := tree.OutputType(); t != cel.BoolType && t != cel.DynType {
		return nil, fmt.Errorf("condition %q gives %s, it must give true or false", source, t)
	}
	program, err := env.Program(tree, cel.CostLimit(costLimit), cel.InterruptCheckFrequency(100))
	if err != nil {
		return nil, fmt.Errorf("condition %q: %w", source, err)
	}
	return &Condition{source: source, program: program, fields: selected(tree, variables)}, nil
}

// Source gives the text that was compiled.
func (c *Condition) Source() string { return c.source }

// True evaluates the condition. A field that the record does not have is an error in CEL unless the condition asks
// with has(); such a condition counts as false, since an empty field is a usual state of a record. Numbers may be
// json.Number.
func (c *Condition) True(variables map[string]map[string]any) (bool, error) {
	in := make(map[string]any, len(variables))
	for name, fields := range variables {
		asked, few := c.fields[name]
		m := make(map[string]any, len(asked))
		if few {
			for _, k := range asked {
				if v, has := fields[k]; has {
					m[k] = native(v)
				}
			}
		} else {
			for k, v := range fields {
				m[k] = native(v)
			}
		}
		in[name] = m
	}
	out, _, err := c.program.Eval(in)
	if err != nil {
		if strings.Contains(err.Error(), "no such key") {
			return false, nil
		}
		return false, fmt.Errorf("condition %q: %w", c.source, err)
	}
	b, ok := out.Value().(bool)
	if !ok {
		return false, errors.New("condition " + c.source + " did not give true or false")
	}
	return b, nil
}

// selected finds the fields that an expression asks for, of those variables of which it uses nothing but fields.
func selected(tree *cel.Ast, variables []string) map[string][]string {
	out := make(map[string][]string, len(variables))
	for _, v := range variables {
		out[v] = []string{}
	}
	idents := ast.MatchDescendants(ast.NavigateAST(tree.NativeRep()), ast.KindMatcher(ast.IdentKind))
	for _, e := range idents {
		name := e.AsIdent()
		fields, known := out[name]
		if !known {
			continue
		}
		if up, ok := e.Parent(); ok && up.Kind() == ast.SelectKind {
			out[name] = append(fields, up.AsSelect().FieldName())
			continue
		}
		delete(out, name)
	}
	return out
}

// native turns decoded JSON into the numbers that CEL knows.
func native(v any) any {
	switch v := v.(type) {
	case json.Number:
		if i, err := v.Int64(); err == nil {
			return i
		}
		f, _ := v.Float64()
		return f
	case []any:
		out := make([]any, len(v))
		for i := range v {
			out[i] = native(v[i])
		}
		return out
	case map[string]any:
		out := make(map[string]any, len(v))
		for k := range v {
			out[k] = native(v[k])
		}
		return out
	}
	return v
}
