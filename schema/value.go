package schema

import (
	"encoding/json"
	"errors"
	"fmt"
	"math/big"
	"slices"
	"strconv"
	"strings"
	"time"
	"unicode"
	"unicode/utf8"

	satchel "github.com/satchel-sync/satchel"
)

// Limits of values.
const (
	maxText     = 500      // characters of a text
	maxLongText = 20_000   // characters of a long_text
	maxSet      = 500      // elements of a set
	maxElement  = 200      // characters of an element
	maxJSON     = 64 << 10 // bytes of a json value
	maxAccuracy = 1e6      // metres
	wholeDigits = 18       // of a decimal, before the point
	fracDigits  = 6        // of a decimal, after the point
)

// dateTime is the canonical form of a datetime: UTC with milliseconds, so that the order of texts is that of times.
const dateTime = "2006-01-02T15:04:05.000Z"

// Canonical checks a value (decoded JSON) against the field and gives the one form in which it is stored:
//
//   - integer and decimal: plain digits, without exponent, leading plus or trailing zeros (1.50e2 becomes 150)
//   - date: 2026-11-21; datetime: UTC with exactly three digits of milliseconds, 2026-11-21T08:00:00.000Z (finer parts
//     are cut off)
//   - reference: lower case
//   - set: sorted by bytes, each element once
//   - all others: as they are
//
// What is wrong is said without repeating the value. Null has no form: callers treat it before.
func Canonical(f *Field, v any) (any, error) {
	switch f.Type {
	case Text, LongText:
		return canonicalText(f, v)
	case Integer:
		return canonicalInteger(v)
	case Decimal:
		return canonicalDecimal(v)
	case Boolean:
		if _, ok := v.(bool); ok {
			return v, nil
		}
		return nil, errors.New("must be true or false")
	case Date:
		s, _ := v.(string)
		t, err := time.Parse(time.DateOnly, s)
		if err != nil || t.Year() < 1 {
			return nil, errors.New("must be a date such as 2026-11-21")
		}
		return v, nil
	case DateTime:
		s, _ := v.(string)
		t, err := time.Parse(time.RFC3339Nano, s)
		if t = t.UTC(); err != nil || t.Year() < 1 || t.Year() > 9999 {
			return nil, errors.New("must be RFC 3339 with a zone, such as 2026-11-21T08:00:00Z")
		}
		if out := t.AppendFormat(make([]byte, 0, len(dateTime)), dateTime); string(out) != s {
			return string(out), nil
		}
		return v, nil // as it stands: a value that is boxed already need not be boxed again
	case Choice:
		if s, ok := v.(string); ok && slices.Contains(f.Choices, s) {
			return v, nil
		}
		return nil, errors.New("must be one of " + strings.Join(f.Choices, ", "))
	case Set:
		return canonicalSet(v)
	case Reference:
		s, _ := v.(string)
		id, err := satchel.ParseID(s)
		if err != nil || id.IsZero() {
			return nil, errors.New("must be the id of a record, such as 01939f2c-0000-7000-8000-000000000000")
		}
		if text, err := id.MarshalText(); err == nil && string(text) == s {
			return v, nil
		}
		return id.String(), nil
	case Geo:
		return canonicalGeo(v)
	case JSON:
		return v, checkJSON(v)
	}
	return nil, fmt.Errorf("the schema has no type %s", f.Type)
}

// textLimit gives the most characters of a type; 0 = it is no text.
func textLimit(t Type) int {
	switch t {
	case Text:
		return maxText
	case LongText:
		return maxLongText
	}
	return 0
}

func canonicalText(f *Field, v any) (any, error) {
	s, ok := v.(string)
	if !ok {
		return nil, errors.New("must be a text")
	}
	limit := textLimit(f.Type)
	if f.MaxLength > 0 {
		limit = f.MaxLength
	}
	if err := checkText(s, limit); err != nil {
		return nil, err
	}
	if f.Type == Text && strings.ContainsFunc(s, unicode.IsControl) {
		return nil, errors.New("must be one line, without control characters")
	}
	return v, nil
}

// checkText refuses what Postgres cannot hold and what is too long.
func checkText(s string, limit int) error {
	switch {
	case !utf8.ValidString(s):
		return errors.New("must be UTF-8")
	case strings.IndexByte(s, 0) >= 0:
		return errors.New("must not hold the character NUL")
	case len(s) > limit && utf8.RuneCountInString(s) > limit:
		return fmt.Errorf("must have at most %d characters", limit)
	}
	return nil
}

var errInteger = errors.New("must be a whole number of 64 bits")

func canonicalInteger(v any) (any, error) {
	wrong := errInteger
	s, ok := number(v)
	if !ok {
		return nil, wrong
	}
	if _, spelt := v.(json.Number); spelt && plainNumber(s) && s != "-0" && !strings.Contains(s, ".") {
		return v, nil
	}
	n, ok := parseNumeral(s)
	if !ok || !n.integral() || n.exponent.Cmp(big.NewInt(19)) > 0 {
		return nil, wrong
	}
	i, err := strconv.ParseInt(n.plain(), 10, 64)
	if err != nil {
		return nil, wrong
	}
	return json.Number(strconv.FormatInt(i, 10)), nil
}

func canonicalDecimal(v any) (any, error) {
	s, ok := number(v)
	if !ok {
		return nil, errors.New("must be a number")
	}
	if _, spelt := v.(json.Number); spelt && plainNumber(s) && s != "-0" {
		if _, frac, point := strings.Cut(s, "."); !point || len(frac) <= fracDigits && frac[len(frac)-1] != '0' {
			return v, nil
		}
	}
	n, ok := parseNumeral(s)
	if !ok {
		return nil, errors.New("must be a number")
	}
	// 0.DIGITS × 10^e has e digits before the point and len(DIGITS)-e after it.
	if n.exponent.Cmp(big.NewInt(wholeDigits)) > 0 || n.exponent.Cmp(big.NewInt(int64(len(n.digits)-fracDigits))) < 0 {
		return nil, fmt.Errorf("must have at most %d digits before and %d after the point", wholeDigits, fracDigits)
	}
	return json.Number(n.plain()), nil
}

func canonicalSet(v any) (any, error) {
	list, ok := v.([]any)
	if !ok {
		return nil, errors.New("must be a list of texts")
	}
	if len(list) > maxSet {
		return nil, fmt.Errorf("must have at most %d elements", maxSet)
	}
	texts := make([]string, len(list))
	for i, e := range list {
		s, ok := e.(string)
		if !ok || s == "" {
			return nil, errors.New("every element must be a text that is not empty")
		}
		if err := checkText(s, maxElement); err != nil {
			return nil, fmt.Errorf("an element %w", err)
		}
		texts[i] = s
	}
	slices.Sort(texts)
	texts = slices.Compact(texts)
	out := make([]any, len(texts))
	for i := range texts {
		out[i] = texts[i]
	}
	return out, nil
}

func canonicalGeo(v any) (any, error) {
	m, ok := v.(map[string]any)
	if !ok {
		return nil, errors.New(`must be an object {"lat", "lng", "datum", "accuracy_m"}`)
	}
	within := func(key string, low, high float64) bool {
		s, ok := number(m[key])
		x, err := strconv.ParseFloat(s, 64)
		return ok && err == nil && x >= low && x <= high
	}
	for key := range m {
		if !slices.Contains([]string{"lat", "lng", "datum", "accuracy_m"}, key) {
			return nil, errors.New("a place has lat, lng, datum and accuracy_m only")
		}
	}
	datum, _ := m["datum"].(string)
	_, hasAccuracy := m["accuracy_m"]
	switch {
	case !within("lat", -90, 90):
		return nil, errors.New("lat must be a number from -90 to 90")
	case !within("lng", -180, 180):
		return nil, errors.New("lng must be a number from -180 to 180")
	case !slices.Contains([]string{"wgs84", "gcj02", "bd09"}, datum):
		return nil, errors.New("datum must be wgs84, gcj02 or bd09")
	case hasAccuracy && !within("accuracy_m", 0, maxAccuracy):
		return nil, errors.New("accuracy_m must be metres from 0 to 1,000,000")
	}
	return m, nil
}

// checkJSON bounds a value that means nothing to the server.
func checkJSON(v any) error {
	size := 0
	return measure(v, 1, &size)
}

// measure adds up about what v takes as JSON, and stops where it is too much.
func measure(v any, depth int, size *int) error {
	if *size > maxJSON {
		return fmt.Errorf("must have at most %d bytes", maxJSON)
	}
	if depth > maxDepth {
		return fmt.Errorf("must have at most %d levels", maxDepth)
	}
	switch v := v.(type) {
	case nil, bool:
		*size += 5
	case string:
		*size += len(v) + 2
		if err := checkText(v, maxJSON); err != nil {
			return err
		}
	case []any:
		*size += 2
		for i := range v {
			*size++
			if err := measure(v[i], depth+1, size); err != nil {
				return err
			}
		}
	case map[string]any:
		*size += 2
		for key := range v {
			*size += len(key) + 4
			if err := checkText(key, maxJSON); err != nil {
				return err
			}
			if err := measure(v[key], depth+1, size); err != nil {
				return err
			}
		}
	default:
		s, ok := number(v)
		if !ok {
			return errors.New("must be JSON")
		}
		*size += len(s)
		if err := checkNumber(s); err != nil {
			return err
		}
	}
	if *size > maxJSON {
		return fmt.Errorf("must have at most %d bytes", maxJSON)
	}
	return nil
}
