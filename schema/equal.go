package schema

import (
	"encoding/json"
	"math/big"
	"strconv"
	"strings"
)

// Equal tells whether two decoded JSON values mean the same: numbers by value (1.0, 1 and 10e-1 are equal, at any
// size and without rounding), objects without regard to the order of keys, arrays by position. Go's own integers and
// floats count as the numbers they are. Values of any other Go type equal nothing. It takes time in proportion to the
// size of the values.
func Equal(a, b any) bool {
	switch a := a.(type) {
	case nil:
		return b == nil
	case string:
		s, ok := b.(string)
		return ok && a == s
	case bool:
		t, ok := b.(bool)
		return ok && a == t
	case []any:
		l, ok := b.([]any)
		if !ok || len(a) != len(l) {
			return false
		}
		for i := range a {
			if !Equal(a[i], l[i]) {
				return false
			}
		}
		return true
	case map[string]any:
		m, ok := b.(map[string]any)
		if !ok || len(a) != len(m) {
			return false
		}
		for key, v := range a {
			w, ok := m[key]
			if !ok || !Equal(v, w) {
				return false
			}
		}
		return true
	}
	x, ok := number(a)
	if !ok {
		return false
	}
	y, ok := number(b)
	if !ok {
		return false
	}
	if x == y {
		return true
	}
	p, ok := parseNumeral(x)
	if !ok {
		return false
	}
	q, ok := parseNumeral(y)
	return ok && p.equal(q)
}

// number gives the JSON spelling of a number of any usual Go type.
func number(v any) (string, bool) {
	switch v := v.(type) {
	case json.Number:
		return string(v), true
	case int:
		return strconv.Itoa(v), true
	case int32:
		return strconv.FormatInt(int64(v), 10), true
	case int64:
		return strconv.FormatInt(v, 10), true
	case uint32:
		return strconv.FormatUint(uint64(v), 10), true
	case uint64:
		return strconv.FormatUint(v, 10), true
	case float64:
		return strconv.FormatFloat(v, 'g', -1, 64), true
	}
	return "", false
}

// numeral is a number as 0.DIGITS × 10^exponent, so that two spellings of one value are alike. Digits have no zeros at
// either end; zero has no digits. Nothing is ever multiplied out: 1e999999999 costs as little as 1.
type numeral struct {
	negative bool
	digits   string
	exponent *big.Int
}

func (n numeral) equal(m numeral) bool {
	return n.negative == m.negative && n.digits == m.digits && n.exponent.Cmp(m.exponent) == 0
}

// integral tells whether the number is whole.
func (n numeral) integral() bool { return n.exponent.Cmp(big.NewInt(int64(len(n.digits)))) >= 0 }

// plain writes the number out without an exponent. The exponent must be known to be small.
func (n numeral) plain() string {
	if n.digits == "" {
		return "0"
	}
	sign := ""
	if n.negative {
		sign = "-"
	}
	switch e := int(n.exponent.Int64()); {
	case e <= 0:
		return sign + "0." + strings.Repeat("0", -e) + n.digits
	case e < len(n.digits):
		return sign + n.digits[:e] + "." + n.digits[e:]
	default:
		return sign + n.digits + strings.Repeat("0", e-len(n.digits))
	}
}

// parseNumeral reads a number in JSON's grammar (RFC 8259 §6); anything else is refused.
func parseNumeral(s string) (numeral, bool) {
	n := numeral{exponent: new(big.Int)}
	s, n.negative = strings.CutPrefix(s, "-")
	mantissa, exp := s, ""
	if i := strings.IndexAny(s, "eE"); i >= 0 {
		mantissa, exp = s[:i], s[i+1:]
		if exp == "" {
			return n, false
		}
	}
	whole, frac, point := strings.Cut(mantissa, ".")
	if !allDigits(whole) || (len(whole) > 1 && whole[0] == '0') || (point && !allDigits(frac)) {
		return n, false
	}
	if exp != "" {
		e := strings.TrimPrefix(exp, "+")
		if !allDigits(strings.TrimPrefix(e, "-")) || len(exp)-len(e) == 1 && e[0] == '-' {
			return n, false
		}
		if len(e) > 400 {
			return n, false // a number that no field holds; parsing it would cost more than it says
		}
		n.exponent.SetString(e, 10)
	}
	digits := whole + frac
	point10 := len(whole)
	trimmed := strings.TrimLeft(digits, "0")
	point10 -= len(digits) - len(trimmed)
	n.digits = strings.TrimRight(trimmed, "0")
	if n.digits == "" {
		return numeral{exponent: new(big.Int)}, true
	}
	n.exponent.Add(n.exponent, big.NewInt(int64(point10)))
	return n, true
}

func allDigits(s string) bool {
	for i := range len(s) {
		if s[i] < '0' || s[i] > '9' {
			return false
		}
	}
	return s != ""
}
