package conformance

import (
	"bytes"
	"embed"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"path"
	"strings"
)

//go:embed transcripts/*.json
var embedded embed.FS

// Transcript is one scene between a client and its server.
type Transcript struct {
	Name   string   // the file's, without its ending
	Title  string   // a sentence: what holds
	States []string // the properties S1 to S21 that it is about
	Text   []string // why
	Steps  []Step
}

// Step is a command to the driver and what must come of it.
type Step struct {
	Do      string
	Members map[string]any // of the command, as they stand in the transcript
	Calls   []Call         // that must come meanwhile, in this order
	Gives   any            // pattern of the answer; nil = any but an error
	Fails   any            // pattern of the error that it must be instead; nil = none
	Times   int            // how often it is done; 0 = once
	AnyWay  bool           // the calls may come in any order
}

// Call is a call that must come and what happens to it.
type Call struct {
	Call    string     `json:"call"`    // the method, such as "Sync"
	Request any        `json:"request"` // pattern; nil = any
	Token   any        `json:"token"`   // pattern of the access token; nil = any
	Answer  any        `json:"answer"`  // message, or "media"
	Error   *CallError `json:"error"`
	Lost    bool       `json:"lost"`   // no answer
	Cut     bool       `json:"cut"`    // half of the answer
	Page    int        `json:"page"`   // HTTP status of a page that comes in place of an answer
	Kill    bool       `json:"kill"`   // the client is killed before the answer
	Newer   bool       `json:"newer"`  // the answer is of a newer server: it has what the contract does not describe
	Repeat  bool       `json:"repeat"` // once or more often
	Maybe   bool       `json:"maybe"`  // or not at all
}

// CallError is the Connect error that a call is answered with.
type CallError struct {
	Code         string `json:"code"`           // such as "unavailable"
	Reason       string `json:"reason"`         // such as "DRAINING"; "" = no detail
	RetryAfterMs uint32 `json:"retry_after_ms"` // 0 = unknown
	Expected     uint64 `json:"expected"`       // of UNEXPECTED_OFFSET
}

// Transcripts gives all transcripts, by name.
func Transcripts() ([]Transcript, error) {
	files, err := fs.Glob(embedded, "transcripts/*.json")
	if err != nil {
		return nil, err
	}
	var all []Transcript
	for _, file := range files {
		b, err := embedded.ReadFile(file)
		if err != nil {
			return nil, err
		}
		t, err := parse(strings.TrimSuffix(path.Base(file), ".json"), b)
		if err != nil {
			return nil, fmt.Errorf("%s: %w", file, err)
		}
		all = append(all, t)
	}
	return all, nil
}

func parse(name string, text []byte) (Transcript, error) {
	var raw struct {
		Title  string           `json:"title"`
		States []string         `json:"states"`
		Text   []string         `json:"text"`
		Steps  []map[string]any `json:"steps"`
	}
	if err := decode(text, &raw); err != nil {
		return Transcript{}, err
	}
	t := Transcript{Name: name, Title: raw.Title, States: raw.States, Text: raw.Text}
	if t.Title == "" || len(t.States) == 0 || len(raw.Steps) == 0 {
		return t, errors.New("a transcript has a title, states and steps")
	}
	for i, members := range raw.Steps {
		s, err := parseStep(maps.Clone(members))
		if err != nil {
			return t, fmt.Errorf("step %d: %w", i+1, err)
		}
		t.Steps = append(t.Steps, s)
	}
	return t, nil
}

func parseStep(members map[string]any) (s Step, err error) {
	take := func(name string, into any) {
		v, ok := members[name]
		delete(members, name)
		if !ok || err != nil {
			return
		}
		var b []byte
		if b, err = json.Marshal(v); err == nil {
			if err = decode(b, into); err != nil {
				err = fmt.Errorf("%s: %w", name, err)
			}
		}
	}
	take("do", &s.Do)
	take("calls", &s.Calls)
	take("gives", &s.Gives)
	take("fails", &s.Fails)
	take("times", &s.Times)
	take("any_order", &s.AnyWay)
	s.Members = members
	if err == nil && s.Do == "" {
		err = errors.New("a step has a command in do")
	}
	for i, c := range s.Calls {
		if _, ok := methods[c.Call]; !ok {
			return s, fmt.Errorf("call %d: there is no method %q", i+1, c.Call)
		}
		ends := 0
		for _, b := range []bool{c.Answer != nil, c.Error != nil, c.Lost, c.Page > 0, c.Kill} {
			if b {
				ends++
			}
		}
		if ends != 1 {
			return s, fmt.Errorf("call %d: one of answer, error, lost, page and kill happens to it", i+1)
		}
	}
	return s, err
}

// decode reads JSON strictly, and keeps numbers as their text.
func decode(text []byte, into any) error {
	d := json.NewDecoder(bytes.NewReader(text))
	d.UseNumber()
	d.DisallowUnknownFields()
	return d.Decode(into)
}
