package schema

import (
	"encoding/json"
	"errors"
	"fmt"
	"math/big"
	"strings"
	"unicode/utf16"
	"unicode/utf8"

	satchel "github.com/satchel-sync/satchel"
)

// Limits of the fields of one create or patch.
const (
	maxRaw     = 256 << 10 // bytes
	maxDepth   = 16        // levels of objects and lists, the outermost counted
	maxNumber  = 60        // characters of a number
	maxExpand  = 60        // digits that a number has when it is written without an exponent
	errBadJSON = "the fields must be one JSON object"
)

// DecodeFields reads the JSON object of a create or patch. It is stricter than encoding/json, since what it lets
// through is stored, compared and sent on: no key twice, nothing after the object, at most 256 KiB, 16 levels and 200
// fields; no NUL, no half of a surrogate pair and no bytes that are not UTF-8 (which would become U+FFFD unseen); no
// number that would fill a page when written out. Numbers stay as they are spelt, as json.Number. Empty input means no
// fields. The error is a *[satchel.Error] of kind Invalid with the reason TOO_LARGE or BAD_VALUE, without values.
func DecodeFields(raw []byte) (map[string]any, error) {
	if len(raw) == 0 {
		return map[string]any{}, nil
	}
	if len(raw) > maxRaw {
		return nil, satchel.E(satchel.Invalid, satchel.ReasonTooLarge, "the fields have %d bytes, they may have %d", len(raw), maxRaw)
	}
	if !utf8.Valid(raw) {
		return nil, badJSON(errors.New("must be UTF-8"), 0)
	}
	d := decoder{in: string(raw)} // one copy, of which the texts are parts
	d.space()
	if d.peek() != '{' {
		return nil, badJSON(errors.New(errBadJSON), 0)
	}
	v, err := d.object(1)
	if err == nil {
		if d.space(); d.at < len(raw) {
			err = errors.New("something follows the object")
		}
	}
	if err != nil {
		return nil, badJSON(err, d.at)
	}
	if len(v) > maxFields {
		return nil, satchel.E(satchel.Invalid, satchel.ReasonTooLarge, "%d fields, there may be %d", len(v), maxFields)
	}
	return v, nil
}

func badJSON(err error, at int) error {
	return satchel.E(satchel.Invalid, satchel.ReasonBadValue, "fields, at byte %d: %v", at, err)
}

// DecodeStored reads a JSON object that was stored: as [DecodeFields], without its limits, for what is stored was within
// those of its day.
func DecodeStored(raw []byte) (map[string]any, error) {
	d := decoder{in: string(raw), stored: true}
	if d.space(); d.peek() != '{' {
		return nil, badJSON(errors.New(errBadJSON), 0)
	}
	v, err := d.object(1)
	if err != nil {
		return nil, badJSON(err, d.at)
	}
	return v, nil
}

// decoder reads JSON (RFC 8259) from a text that is UTF-8.
type decoder struct {
	in     string
	at     int
	stored bool // levels and numbers are not looked at
}

// peek gives the next byte, or 0 at the end; a 0 in the input is no JSON either.
func (d *decoder) peek() byte {
	if d.at < len(d.in) {
		return d.in[d.at]
	}
	return 0
}

func (d *decoder) space() {
	for d.at < len(d.in) {
		switch d.in[d.at] {
		case ' ', '\t', '\n', '\r':
			d.at++
		default:
			return
		}
	}
}

func (d *decoder) value(depth int) (any, error) {
	switch c := d.peek(); {
	case c == '{':
		return d.object(depth)
	case c == '[':
		return d.list(depth)
	case c == '"':
		return d.text()
	case c == '-' || (c >= '0' && c <= '9'):
		return d.number()
	case d.word("true"):
		return true, nil
	case d.word("false"):
		return false, nil
	case d.word("null"):
		return nil, nil
	}
	return nil, errors.New("a value was expected")
}

// word reads a literal, if it stands here. What follows it is for the caller to judge.
func (d *decoder) word(w string) bool {
	if !strings.HasPrefix(d.in[d.at:], w) {
		return false
	}
	d.at += len(w)
	return true
}

func (d *decoder) object(depth int) (map[string]any, error) {
	out := map[string]any{}
	err := d.members(depth, '}', func() error {
		if d.peek() != '"' {
			return errors.New("a key in quotes was expected")
		}
		key, err := d.text()
		if err != nil {
			return err
		}
		if _, twice := out[key]; twice {
			return errors.New("a key stands twice")
		}
		if d.space(); d.peek() != ':' {
			return errors.New("a colon was expected")
		}
		d.at++
		d.space()
		out[key], err = d.value(depth + 1)
		return err
	})
	return out, err
}

func (d *decoder) list(depth int) ([]any, error) {
	out := []any{}
	err := d.members(depth, ']', func() error {
		v, err := d.value(depth + 1)
		out = append(out, v)
		return err
	})
	return out, err
}

// members reads what stands between two brackets, separated by commas.
func (d *decoder) members(depth int, end byte, member func() error) error {
	if depth > maxDepth && !d.stored {
		return fmt.Errorf("more than %d levels", maxDepth)
	}
	d.at++
	if d.space(); d.peek() == end {
		d.at++
		return nil
	}
	for {
		d.space()
		if err := member(); err != nil {
			return err
		}
		d.space()
		switch d.peek() {
		case ',':
			d.at++
		case end:
			d.at++
			return nil
		default:
			return errors.New("a comma or the closing bracket was expected")
		}
	}
}

// text reads a string. encoding/json is not asked, since it would replace half a surrogate pair silently.
func (d *decoder) text() (string, error) {
	var out []byte // what stands before from, where there was an escape
	d.at++
	from := d.at
	for d.at < len(d.in) {
		switch c := d.in[d.at]; {
		case c == '"':
			d.at++
			if out == nil {
				return d.in[from : d.at-1], nil
			}
			return string(append(out, d.in[from:d.at-1]...)), nil
		case c < 0x20:
			return "", errors.New("a control character stands in a text; escape it")
		case c == '\\':
			if out == nil {
				out = make([]byte, 0, max(2*(d.at-from), 64))
			}
			out = append(out, d.in[from:d.at]...)
			var err error
			if out, err = d.escape(out); err != nil {
				return "", err
			}
			from = d.at
		default:
			d.at++
		}
	}
	return "", errors.New("a text does not end")
}

// escape resolves the escape at the position, and leaves the position behind it.
func (d *decoder) escape(out []byte) ([]byte, error) {
	d.at++
	c := d.peek()
	d.at++
	switch c {
	case '"', '\\', '/':
		return append(out, c), nil
	case 'b':
		return append(out, '\b'), nil
	case 'f':
		return append(out, '\f'), nil
	case 'n':
		return append(out, '\n'), nil
	case 'r':
		return append(out, '\r'), nil
	case 't':
		return append(out, '\t'), nil
	case 'u':
	default:
		return out, errors.New("a text has a wrong escape")
	}
	r := d.hex(d.at)
	switch {
	case r < 0:
		return out, errors.New("a text has a wrong escape")
	case r == 0:
		return out, errors.New("a text must not hold the character NUL")
	case utf16.IsSurrogate(rune(r)):
		low := -1
		if strings.HasPrefix(d.in[min(d.at+4, len(d.in)):], `\u`) {
			low = d.hex(d.at + 6)
		}
		pair := utf16.DecodeRune(rune(r), rune(low))
		if pair == utf8.RuneError {
			return out, errors.New("a text holds half of a surrogate pair")
		}
		d.at += 10
		return utf8.AppendRune(out, pair), nil
	}
	d.at += 4
	return utf8.AppendRune(out, rune(r)), nil
}

// hex reads four hexadecimal digits; -1 = there are none.
func (d *decoder) hex(at int) int {
	if at+4 > len(d.in) {
		return -1
	}
	r := 0
	for _, c := range []byte(d.in[at : at+4]) {
		switch {
		case c >= '0' && c <= '9':
			c -= '0'
		case c >= 'a' && c <= 'f':
			c -= 'a' - 10
		case c >= 'A' && c <= 'F':
			c -= 'A' - 10
		default:
			return -1
		}
		r = r<<4 | int(c)
	}
	return r
}

func (d *decoder) number() (json.Number, error) {
	start := d.at
	for d.at < len(d.in) {
		switch c := d.in[d.at]; {
		case c >= '0' && c <= '9', c == '-', c == '+', c == '.', c == 'e', c == 'E':
			d.at++
			continue
		}
		break
	}
	s := d.in[start:d.at]
	if d.stored || plainNumber(s) {
		return json.Number(s), nil
	}
	return json.Number(s), checkNumber(s)
}

// plainNumber tells whether a text is a short number without an exponent, as nearly all are.
func plainNumber(s string) bool {
	if len(s) > 18 {
		return false
	}
	whole, frac, point := strings.Cut(strings.TrimPrefix(s, "-"), ".")
	return allDigits(whole) && (len(whole) == 1 || whole[0] != '0') && (!point || allDigits(frac))
}

// checkNumber refuses what is no number and what Postgres, which writes numbers out, would make long: 1e9000 is six
// bytes here and nine thousand there.
func checkNumber(s string) error {
	if len(s) > maxNumber {
		return fmt.Errorf("a number has more than %d characters", maxNumber)
	}
	n, ok := parseNumeral(s)
	if !ok {
		return errors.New("a number has a wrong form")
	}
	if n.exponent.CmpAbs(big.NewInt(maxExpand)) > 0 {
		return errors.New("a number is too large or too small")
	}
	return nil
}
