package schema

import (
	_ "embed"
	"encoding/json"
	"errors"
	"fmt"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"time"
	"unicode/utf8"

	"github.com/goccy/go-yaml"
	"github.com/goccy/go-yaml/ast"
	"github.com/goccy/go-yaml/parser"
)

//go:embed pack/field-sales.yaml
var fieldSales []byte

// DefaultPack gives a copy of the field-sales pack, the YAML that a new organisation starts with.
func DefaultPack() []byte { return slices.Clone(fieldSales) }

// Default parses [DefaultPack].
func Default() (*Schema, error) { return Parse(fieldSales) }

// Limits of a pack.
const (
	maxPack     = 512 << 10 // bytes
	maxKinds    = 200
	maxFields   = 200 // of one kind
	maxBuckets  = 8   // of one kind
	maxProfiles = 20
	maxMonths   = 1200
	maxTemplate = 200 // characters
	maxProblems = 20  // reported at once
)

// The YAML form of a pack.
type (
	packFile struct {
		Version   int                    `yaml:"version"`
		Kinds     []packKind             `yaml:"kinds"`
		Roles     []packRole             `yaml:"roles"`
		Profiles  map[string]packProfile `yaml:"profiles"`
		Rules     []packRule             `yaml:"rules"`
		Flows     []packFlow             `yaml:"flows"`
		Templates map[string]packText    `yaml:"templates"`
	}
	packProfile struct {
		Kinds  *[]string `yaml:"kinds"`
		Months *int      `yaml:"months"`
	}
	packText struct {
		ZH string `yaml:"zh"`
		EN string `yaml:"en"`
	}
	packKind struct {
		Name    string       `yaml:"name"`
		Label   packText     `yaml:"label"`
		Fact    bool         `yaml:"fact"`
		Delete  DeletePolicy `yaml:"delete"`
		Owner   string       `yaml:"owner"`
		Parent  string       `yaml:"parent"`
		Buckets []string     `yaml:"buckets"`
		Copies  bool         `yaml:"copies"`
		Fields  []packField  `yaml:"fields"`
		Checks  []packCheck  `yaml:"checks"`
	}
	packField struct {
		Name      string   `yaml:"name"`
		Type      Type     `yaml:"type"`
		Label     packText `yaml:"label"`
		Merge     Policy   `yaml:"merge"`
		Group     string   `yaml:"group"`
		Required  bool     `yaml:"required"`
		Choices   []string `yaml:"choices"`
		Target    string   `yaml:"target"`
		MaxLength int      `yaml:"max_length"`
		Default   any      `yaml:"default"`
	}
	packCheck struct {
		Condition string   `yaml:"condition"`
		Fields    []string `yaml:"fields"`
	}
	packRole struct {
		Name   string               `yaml:"name"`
		Rights []string             `yaml:"rights"`
		Kinds  map[string]packGrant `yaml:"kinds"`
	}
	packGrant struct {
		Read   Scope                 `yaml:"read"`
		Create bool                  `yaml:"create"`
		Update Scope                 `yaml:"update"`
		Delete Scope                 `yaml:"delete"`
		Fields map[string]FieldRight `yaml:"fields"`
	}
	packRule struct {
		Name     string `yaml:"name"`
		Kind     string `yaml:"kind"`
		Anchor   string `yaml:"anchor"`
		Offset   string `yaml:"offset"`
		When     string `yaml:"when"`
		Notify   string `yaml:"notify"`
		Template string `yaml:"template"`
	}
	packFlow struct {
		Name        string   `yaml:"name"`
		Kind        string   `yaml:"kind"`
		AmountField string   `yaml:"amount_field"`
		Limit       string   `yaml:"limit"`
		Node        string   `yaml:"node"`
		Approver    string   `yaml:"approver"`
		Role        string   `yaml:"role"`
		FormFields  []string `yaml:"form_fields"`
		StateField  string   `yaml:"state_field"`
	}
)

// Parse reads and checks a pack. The form is that of pack/field-sales.yaml; keys that it does not know are errors, and
// so is everything that could not work at run time. The error lists up to 20 problems, each with its place (line and
// column, or a path such as kinds.visit.fields.account) and what to do about it.
func Parse(pack []byte) (*Schema, error) {
	if len(pack) > maxPack {
		return nil, fmt.Errorf("schema: a pack has at most %d bytes, this one has %d", maxPack, len(pack))
	}
	p, err := readPack(pack)
	if err != nil {
		return nil, err
	}
	b := builder{schema: &Schema{Version: p.Version, kinds: map[string]*Kind{}, roles: map[string]*Role{}, profiles: map[string]*Profile{},
		Templates: map[string]Template{}}}
	b.build(p)
	if len(b.problems) > 0 {
		return nil, fmt.Errorf("schema: %w", errors.Join(b.problems...))
	}
	return b.schema, nil
}

// readPack reads the YAML. The library was seen to panic on a tag in a wrong place; tags are refused before, and where
// it panics on something else, that is an error like any other, since it keeps nothing beyond the call.
func readPack(pack []byte) (p *packFile, err error) {
	defer func() {
		if recover() != nil {
			p, err = nil, errors.New("schema: the pack is not YAML that can be read; look for stray !, ? and : at the begin of lines")
		}
	}()
	if !utf8.Valid(pack) {
		return nil, errors.New("schema: the pack is not UTF-8")
	}
	file, err := parser.ParseBytes(pack, 0)
	if err != nil {
		return nil, fmt.Errorf("schema: the pack is not YAML: %s", yaml.FormatError(err, false, false))
	}
	if len(file.Docs) != 1 || file.Docs[0].Body == nil {
		return nil, errors.New("schema: a pack is one YAML document with version and kinds")
	}
	var a anchors
	ast.Walk(&a, file.Docs[0].Body)
	if a.line > 0 {
		return nil, fmt.Errorf("schema: line %d: anchors, aliases and tags are not read; write the plain value", a.line)
	}
	p = &packFile{}
	if err := yaml.NodeToValue(file.Docs[0].Body, p, yaml.Strict()); err != nil {
		return nil, fmt.Errorf("schema: %s", yaml.FormatError(err, false, false))
	}
	return p, nil
}

// anchors finds the first anchor, alias, merge key or tag: a few lines of aliases can stand for gigabytes.
type anchors struct{ line int }

func (a *anchors) Visit(n ast.Node) ast.Visitor {
	switch n.(type) {
	case *ast.AnchorNode, *ast.AliasNode, *ast.MergeKeyNode, *ast.TagNode:
		if a.line == 0 {
			a.line = n.GetToken().Position.Line
		}
		return nil
	}
	return a
}

// builder turns a pack into a Schema and collects what is wrong with it.
type builder struct {
	schema   *Schema
	problems []error
}

// bad notes a problem at a place.
func (b *builder) bad(place, format string, args ...any) {
	switch {
	case len(b.problems) < maxProblems:
		b.problems = append(b.problems, fmt.Errorf("%s: %s", place, fmt.Sprintf(format, args...)))
	case len(b.problems) == maxProblems:
		b.problems = append(b.problems, errors.New("and more; mend these first"))
	}
}

var nameForm = regexp.MustCompile(`^[a-z][a-z0-9_]{0,62}$`)

// named checks the form of a name and that it is new; i is its position where there is no name.
func (b *builder) named(place, name string, i int, known bool) bool {
	switch {
	case !nameForm.MatchString(name):
		b.bad(fmt.Sprintf("%s[%d]", place, i), "the name %q must be 1 to 63 of a-z, 0-9 and _, and begin with a letter", name)
	case known:
		b.bad(place+"."+name, "the name stands twice; take one out")
	default:
		return true
	}
	return false
}

func (b *builder) label(place string, l packText) {
	if strings.TrimSpace(l.ZH) == "" || strings.TrimSpace(l.EN) == "" {
		b.bad(place, "needs label: {zh: …, en: …}")
	}
}

func (b *builder) build(p *packFile) {
	if p.Version < 1 {
		b.bad("version", "must be a whole number from 1 on")
	}
	if len(p.Kinds) == 0 || len(p.Kinds) > maxKinds {
		b.bad("kinds", "a pack has 1 to %d kinds, this one has %d", maxKinds, len(p.Kinds))
		return
	}
	for key, t := range p.Templates {
		b.named("templates", key, 0, false)
		if t.ZH == "" || t.EN == "" || len([]rune(t.ZH)) > maxTemplate || len([]rune(t.EN)) > maxTemplate {
			b.bad("templates."+key, "needs zh and en, each of 1 to %d characters", maxTemplate)
		}
		b.schema.Templates[key] = Template(t)
	}
	for i := range p.Kinds {
		if b.named("kinds", p.Kinds[i].Name, i, b.schema.kinds[p.Kinds[i].Name] != nil) {
			k := b.kind(&p.Kinds[i])
			b.schema.kinds[k.Name] = k
			b.schema.names = append(b.schema.names, k.Name)
		}
	}
	slices.Sort(b.schema.names)
	checked := map[string]bool{}
	for i := range p.Kinds {
		if k := b.schema.kinds[p.Kinds[i].Name]; k != nil && !checked[k.Name] {
			checked[k.Name] = true
			b.links(k)
			b.groups(k)
			b.checks(k, p.Kinds[i].Checks)
		}
	}
	for i := range p.Roles {
		if b.named("roles", p.Roles[i].Name, i, b.schema.roles[p.Roles[i].Name] != nil) {
			b.role(&p.Roles[i])
		}
	}
	if len(p.Profiles) > maxProfiles {
		b.bad("profiles", "a pack has at most %d profiles, this one has %d", maxProfiles, len(p.Profiles))
	}
	for name, f := range p.Profiles {
		b.profile(name, f)
	}
	names := map[string]bool{}
	for i := range p.Rules {
		if b.named("rules", p.Rules[i].Name, i, names[p.Rules[i].Name]) {
			names[p.Rules[i].Name] = true
			b.rule(&p.Rules[i])
		}
	}
	names = map[string]bool{}
	for i := range p.Flows {
		if b.named("flows", p.Flows[i].Name, i, names[p.Flows[i].Name]) {
			names[p.Flows[i].Name] = true
			b.flow(&p.Flows[i])
		}
	}
	slices.SortFunc(b.problems, func(x, y error) int { return strings.Compare(x.Error(), y.Error()) })
}

var offsetForm = regexp.MustCompile(`^([+-]?)(\d{1,4}d)?((?:\d{1,5}h)?(?:\d{1,6}m)?(?:\d{1,7}s)?)$`)

// parseOffset reads a signed duration of days, hours, minutes and seconds, such as "-1h", "2d" or "1d12h"; "" is 0. A
// day is 24 hours.
func parseOffset(s string) (time.Duration, error) {
	if s == "" || s == "0" {
		return 0, nil
	}
	m := offsetForm.FindStringSubmatch(s)
	if m == nil || m[2]+m[3] == "" {
		return 0, fmt.Errorf(`%q must look like "-1h", "30m" or "2d"`, s)
	}
	var d time.Duration
	if m[2] != "" {
		days, _ := strconv.Atoi(strings.TrimSuffix(m[2], "d"))
		d = time.Duration(days) * 24 * time.Hour
	}
	if m[3] != "" {
		rest, err := time.ParseDuration(m[3])
		if err != nil {
			return 0, err
		}
		d += rest
	}
	if m[1] == "-" {
		d = -d
	}
	return d, nil
}

// jsonValue turns a decoded YAML value into decoded JSON.
func jsonValue(v any) any {
	switch v := v.(type) {
	case int64:
		return json.Number(strconv.FormatInt(v, 10))
	case uint64:
		return json.Number(strconv.FormatUint(v, 10))
	case float64:
		return json.Number(strconv.FormatFloat(v, 'f', -1, 64))
	case []any:
		out := make([]any, len(v))
		for i := range v {
			out[i] = jsonValue(v[i])
		}
		return out
	case map[string]any:
		out := make(map[string]any, len(v))
		for key := range v {
			out[key] = jsonValue(v[key])
		}
		return out
	}
	return v
}
