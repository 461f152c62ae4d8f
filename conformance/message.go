package conformance

import (
	"encoding/base64"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"hash/fnv"
	"strconv"
	"strings"
	"unicode"
	"unicode/utf8"

	"google.golang.org/protobuf/encoding/protojson"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/reflect/protoreflect"

	"github.com/satchel-sync/satchel"
)

// tree gives a message in the form in which transcripts write it. What is not set is absent.
func tree(m protoreflect.Message) map[string]any {
	out := map[string]any{}
	m.Range(func(f protoreflect.FieldDescriptor, v protoreflect.Value) bool {
		if f.IsList() {
			list := []any{}
			for i := range v.List().Len() {
				list = append(list, leaf(f, v.List().Get(i)))
			}
			out[f.JSONName()] = list
		} else {
			out[f.JSONName()] = leaf(f, v)
		}
		return true
	})
	return out
}

func leaf(f protoreflect.FieldDescriptor, v protoreflect.Value) any {
	switch f.Kind() {
	case protoreflect.MessageKind:
		return tree(v.Message())
	case protoreflect.BytesKind:
		b := v.Bytes()
		if holdsIDs(f) && len(b)%16 == 0 {
			ids := []any{}
			for i := 0; i < len(b); i += 16 {
				ids = append(ids, satchel.ID(b[i:i+16]).String())
			}
			return ids
		}
		if utf8.Valid(b) && strings.IndexFunc(string(b), unicode.IsControl) < 0 {
			return string(b)
		}
		return "hex:" + hex.EncodeToString(b)
	case protoreflect.StringKind:
		if holdsJSON(f) {
			var object any
			if decode([]byte(v.String()), &object) == nil {
				return object
			}
		}
		return v.String()
	case protoreflect.BoolKind:
		return v.Bool()
	case protoreflect.EnumKind:
		if e := f.Enum().Values().ByNumber(v.Enum()); e != nil {
			return string(e.Name())
		}
		return json.Number(strconv.Itoa(int(v.Enum())))
	}
	return json.Number(v.String())
}

// holdsIDs tells whether a field of bytes holds ids of records, one after another.
func holdsIDs(f protoreflect.FieldDescriptor) bool {
	switch f.FullName() {
	case "satchel.v1.RepairRows.records", "satchel.v1.RecordRevs.records", "satchel.v1.RepairRevs.after":
		return true
	}
	return false
}

// holdsJSON tells whether a text holds a JSON object.
func holdsJSON(f protoreflect.FieldDescriptor) bool {
	return !f.IsList() && (f.Name() == "fields" || f.Name() == "args") && f.Kind() == protoreflect.StringKind
}

// message reads into m what a transcript says, whose names are filled.
func message(form any, m proto.Message) error {
	object, ok := form.(map[string]any)
	if !ok {
		return fmt.Errorf("%s is no message", text(form))
	}
	plain, err := unleafAll(m.ProtoReflect().Descriptor(), object)
	if err != nil {
		return err
	}
	b, err := json.Marshal(plain)
	if err != nil {
		return err
	}
	return protojson.Unmarshal(b, m)
}

func unleafAll(d protoreflect.MessageDescriptor, object map[string]any) (map[string]any, error) {
	if of, ok := object["of"]; ok && d.FullName() == "satchel.v1.Digest" {
		return digest(of)
	}
	out := map[string]any{}
	for name, v := range object {
		f := d.Fields().ByJSONName(name)
		if f == nil {
			return nil, fmt.Errorf("%s has no field %q", d.Name(), name)
		}
		if list, ok := v.([]any); ok && f.IsList() {
			plain := make([]any, len(list))
			for i, e := range list {
				var err error
				if plain[i], err = unleaf(f, e); err != nil {
					return nil, fmt.Errorf("%s: %w", name, err)
				}
			}
			out[name] = plain
			continue
		}
		plain, err := unleaf(f, v)
		if err != nil {
			return nil, fmt.Errorf("%s: %w", name, err)
		}
		out[name] = plain
	}
	return out, nil
}

func unleaf(f protoreflect.FieldDescriptor, v any) (any, error) {
	switch {
	case f.Kind() == protoreflect.MessageKind:
		object, ok := v.(map[string]any)
		if !ok {
			return nil, fmt.Errorf("%s is no message", text(v))
		}
		return unleafAll(f.Message(), object)
	case holdsJSON(f):
		if s, ok := v.(string); ok {
			return s, nil
		}
		return text(v), nil
	case f.Kind() == protoreflect.BytesKind:
		b, err := bytesOf(v)
		return base64.StdEncoding.EncodeToString(b), err
	}
	return v, nil
}

func bytesOf(v any) ([]byte, error) {
	switch v := v.(type) {
	case string:
		if digits, ok := strings.CutPrefix(v, "hex:"); ok {
			return hex.DecodeString(digits)
		}
		return []byte(v), nil
	case []any:
		var b []byte
		for _, e := range v {
			s, _ := e.(string)
			id, err := satchel.ParseID(s)
			if err != nil {
				return nil, err
			}
			b = append(b, id[:]...)
		}
		return b, nil
	}
	return nil, fmt.Errorf("%s is no text", text(v))
}

// digest computes a digest over pairs of record and rev, in the words of docs/protocol.md.
func digest(of any) (map[string]any, error) {
	list, ok := of.([]any)
	if !ok {
		return nil, errors.New("a digest is of a list")
	}
	var sum uint64
	for _, e := range list {
		pair, _ := e.([]any)
		if len(pair) != 2 {
			return nil, errors.New("a digest is of pairs of record and rev")
		}
		s, _ := pair[0].(string)
		id, err := satchel.ParseID(s)
		if err != nil {
			return nil, err
		}
		rev, err := strconv.ParseUint(strings.Trim(text(pair[1]), `"`), 10, 64)
		if err != nil {
			return nil, err
		}
		sum += hashOf(id, rev)
	}
	return map[string]any{"count": strconv.Itoa(len(list)), "sum": strconv.FormatUint(sum, 10)}, nil
}

func hashOf(id satchel.ID, rev uint64) uint64 {
	f := fnv.New32a()
	f.Write(id[:])
	f.Write(strconv.AppendUint(nil, rev, 10))
	h := f.Sum32()
	h ^= h >> 16
	h *= 0x85ebca6b
	h ^= h >> 13
	h *= 0xc2b2ae35
	h ^= h >> 16
	return uint64(h)
}
