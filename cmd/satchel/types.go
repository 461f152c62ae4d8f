package main

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"os"
	"strings"

	"github.com/satchel-sync/satchel/internal/app"
	"github.com/satchel-sync/satchel/schema"
)

// typesCmd is `satchel types`.
type typesCmd struct {
	databaseFlags `embed:""`
	Lang          string `required:"" enum:"ts" help:"The language: ts (TypeScript)."`
	Schema        string `type:"existingfile" xor:"source" placeholder:"FILE" help:"A schema pack in YAML, such as schema/pack/field-sales.yaml."`
	Org           string `xor:"source" placeholder:"NAME" help:"The organisation's current schema, by its short name. Needs the database."`
}

// Help tells more.
func (*typesCmd) Help() string {
	return "It prints an interface for each kind, and `Models`, which types a client, as `ClientApi<Models>` in TypeScript. Without --schema and --org it is " +
		"the built-in field-sales pack, with which each organisation begins. The same schema gives the same text: keep the file in the app's repository " +
		"and make it anew when the schema changes.\n\nExample: satchel types --lang=ts > src/models.ts"
}

// maxPack bounds a pack that is read, in bytes.
const maxPack = 4 << 20

// Run prints them.
func (c *typesCmd) Run(ctx context.Context, std streams) error {
	if c.Org != "" {
		return c.operateAll(ctx, std, func(tools *app.Tools) error {
			org, err := tools.Identity.OrgBySlug(ctx, c.Org)
			if err != nil {
				return err
			}
			s, _, err := tools.Engine.Org(ctx, org)
			if err != nil {
				return err
			}
			return typescript(std.out, s)
		})
	}
	pack := schema.DefaultPack()
	if c.Schema != "" {
		f, err := os.Open(c.Schema)
		if err != nil {
			return err
		}
		defer f.Close() // read only: nothing can be lost
		if pack, err = io.ReadAll(io.LimitReader(f, maxPack+1)); err != nil {
			return err
		}
		if len(pack) > maxPack {
			return usagef("--schema: %s is longer than %d bytes: it is no schema pack", c.Schema, maxPack)
		}
	}
	s, err := schema.Parse(pack)
	if err != nil {
		return fmt.Errorf("the schema cannot be used:\n%w", err)
	}
	return typescript(std.out, s)
}

// typescriptHead begins the file. Models is a type, for an interface is not assignable to what a client takes.
const typescriptHead = `// Made by ` + "`satchel types --lang=ts`" + `: do not edit, make it anew.
//
// Fields without "?" have a value in every valid record. A field that the signed-in person may not read is absent all the
// same: where roles of your schema hide fields, read those with "?.".

/** A place on the earth, in degrees. */
export interface Geo {
  lat: number;
  lng: number;
  /** In which coordinates: phones say wgs84, maps in China gcj02 or bd09. */
  datum: "wgs84" | "gcj02" | "bd09";
  accuracy_m?: number;
}
`

// typescript writes the models of a schema, in the order of the schema.
func typescript(w io.Writer, s *schema.Schema) error {
	names := typeNames(s.Kinds())
	var b strings.Builder
	b.WriteString(typescriptHead)
	for _, kind := range s.Kinds() {
		k := s.Kind(kind)
		fmt.Fprintf(&b, "\n/** %s */\nexport interface %s {\n", comment(k.LabelZH, k.LabelEN), names[kind])
		for _, f := range k.Fields() {
			mark := "?"
			if f.Required {
				mark = ""
			}
			fmt.Fprintf(&b, "  /** %s */\n  %s%s: %s;\n", comment(append([]string{f.LabelZH, f.LabelEN}, fieldNotes(f)...)...), f.Name, mark, fieldType(f))
		}
		b.WriteString("}\n")
	}
	b.WriteString("\n/** Every kind, by its name. */\nexport type Models = {\n")
	for _, kind := range s.Kinds() {
		fmt.Fprintf(&b, "  %s: %s;\n", kind, names[kind])
	}
	b.WriteString("};\n")
	_, err := io.WriteString(w, b.String())
	return err
}

// typeNames gives each kind the name of its interface: voice_note is VoiceNote. One that is taken gets a "_" behind it.
func typeNames(kinds []string) map[string]string {
	taken, names := map[string]bool{"Geo": true, "Models": true}, map[string]string{}
	for _, kind := range kinds {
		var b strings.Builder
		for word := range strings.SplitSeq(kind, "_") {
			if word != "" {
				b.WriteString(strings.ToUpper(word[:1]) + word[1:])
			}
		}
		name := b.String()
		for taken[name] {
			name += "_"
		}
		taken[name], names[kind] = true, name
	}
	return names
}

// fieldType is a field's type in TypeScript, as the SDK hands it out.
func fieldType(f *schema.Field) string {
	switch f.Type {
	case schema.Integer, schema.Decimal:
		return "number"
	case schema.Boolean:
		return "boolean"
	case schema.Set:
		return "string[]"
	case schema.Geo:
		return "Geo"
	case schema.JSON:
		return "unknown"
	case schema.Choice:
		choices := make([]string, len(f.Choices))
		for i, c := range f.Choices {
			choices[i] = quote(c)
		}
		return strings.Join(choices, " | ")
	case schema.Text, schema.LongText, schema.Date, schema.DateTime, schema.Reference:
	}
	return "string"
}

// fieldNotes says what the type does not.
func fieldNotes(f *schema.Field) (notes []string) {
	switch f.Type {
	case schema.Reference:
		notes = append(notes, "id of a record of kind "+f.Target)
	case schema.Date:
		notes = append(notes, "2026-11-21")
	case schema.DateTime:
		notes = append(notes, "RFC 3339, such as 2026-11-21T08:00:00Z")
	case schema.Decimal:
		notes = append(notes, "JavaScript keeps 15 digits of it")
	case schema.Text, schema.LongText, schema.Integer, schema.Boolean, schema.Choice, schema.Set, schema.Geo, schema.JSON:
	}
	if f.Merge == schema.ServerOnly {
		notes = append(notes, "set by the server")
	}
	if f.Merge == schema.Immutable {
		notes = append(notes, "set once")
	}
	return notes
}

// quote writes a text as a literal.
func quote(s string) string {
	b, err := json.Marshal(s)
	if err != nil {
		return `""` // no text fails
	}
	return string(b)
}

// comment joins texts for a comment that they cannot end.
func comment(texts ...string) string {
	return strings.ReplaceAll(strings.Join(strings.Fields(strings.Join(texts, " · ")), " "), "*/", "* /")
}
