package syncengine_test

import (
	satchel "github.com/satchel-sync/satchel"
	"github.com/satchel-sync/satchel/schema"
)

func sets(field, element string) []schema.SetEdit {
	return []schema.SetEdit{{Field: field, Add: []string{element}, Remove: []string{element + "x"}}}
}

func increment(field string, by int64) []schema.Increment {
	return []schema.Increment{{Field: field, By: by}}
}

// keptIn tells whether an attention on the phone keeps the value of the field.
func keptIn(p *phone, attention satchel.ID, field string, value any) bool {
	items, _ := p.field(attention, "items").([]any)
	for _, it := range items {
		if m, _ := it.(map[string]any); m["field"] == field && m["value"] == value {
			return true
		}
	}
	return false
}
