package conformance

import (
	"context"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"maps"
	"strings"
	"time"
)

const serverMs = 1_790_000_000_000

// Config of a [Runner]: one of Command and Connect.
type Config struct {
	// Command starts the driver as a child process.
	Command []string
	// Connect gives a driver within this process: what it answers and where its commands go.
	Connect func() (answers io.Reader, commands io.Writer)
	// Sigkill kills the process, and starts it again, where a transcript kills the client. Only with Command.
	Sigkill bool
	// Timeout of each command; 0 = 20 seconds.
	Timeout time.Duration
	// Log hears each command and call, and what a process writes to its standard error; nil = nobody.
	Log io.Writer
}

// Result is what became of one transcript.
type Result struct {
	Transcript Transcript
	Failure    string // "" = passed
	NotAsked   bool   // the driver cannot do what it needs, and need not
	Took       time.Duration
}

// Runner plays transcripts with one driver, one after another. Its methods are not for concurrent use.
type Runner struct {
	cfg    Config
	server *server
	lines  *lines
	child  *process
	ctx    context.Context
	cancel context.CancelFunc
}

// New starts the server and the driver.
func New(cfg Config) (*Runner, error) {
	if (len(cfg.Command) == 0) == (cfg.Connect == nil) {
		return nil, errors.New("conformance: one of Config.Command and Config.Connect is required")
	}
	if cfg.Sigkill && cfg.Connect != nil {
		return nil, errors.New("conformance: only a process can be killed")
	}
	if cfg.Timeout == 0 {
		cfg.Timeout = 20 * time.Second
	}
	s, err := newServer()
	if err != nil {
		return nil, err
	}
	r := &Runner{cfg: cfg, server: s}
	r.ctx, r.cancel = context.WithCancel(context.Background())
	if cfg.Connect != nil {
		r.lines = newLines(cfg.Connect())
		return r, nil
	}
	if err := r.startChild(); err != nil {
		r.cancel()
		return nil, errors.Join(err, s.close())
	}
	return r, nil
}

func (r *Runner) startChild() (err error) {
	if r.child, err = startProcess(r.ctx, r.cfg.Command, r.cfg.Log); err == nil {
		r.lines = r.child.lines
	}
	return err
}

// Close ends the driver and the server.
func (r *Runner) Close() error {
	if r.child != nil {
		r.child.stop()
	}
	r.cancel()
	return r.server.close()
}

func (r *Runner) log(line string) {
	if r.cfg.Log != nil {
		fmt.Fprintln(r.cfg.Log, line)
	}
}

// errNotAsked: the driver does not have an optional command.
var errNotAsked = errors.New("conformance: the driver does not have this command")

// Play plays one transcript.
func (r *Runner) Play(t Transcript) Result {
	begun := time.Now()
	r.log("=== " + t.Name + ": " + t.Title)
	sc := newScene(r.server.validator, r.log)
	p := &player{Runner: r, scene: sc, url: r.server.play(sc)}
	err := p.play(t)
	res := Result{Transcript: t, Took: time.Since(begun)}
	switch {
	case errors.Is(err, errNotAsked):
		res.NotAsked = true
	case err != nil:
		res.Failure = err.Error()
	}
	if errors.Is(err, errDriverGone) && r.child != nil { // the next transcript gets another
		r.child.stop()
		if err := r.startChild(); err != nil {
			res.Failure += "; " + err.Error()
		}
	}
	return res
}

// player is the runner while it plays one transcript.
type player struct {
	*Runner
	scene *scene
	url   string
}

func (p *player) play(t Transcript) error {
	if _, err := p.command(map[string]any{"do": "reset"}); err != nil {
		return fmt.Errorf("reset: %w", err)
	}
	for i, s := range t.Steps {
		for range max(s.Times, 1) {
			steps := []Step{s}
			if s.Do == "start" {
				var err error
				if steps, err = start(s); err != nil {
					return fmt.Errorf("step %d: %w", i+1, err)
				}
			}
			for _, s := range steps {
				if err := p.step(s); err != nil {
					return fmt.Errorf("step %d, %s: %w", i+1, s.Do, err)
				}
			}
		}
	}
	return nil
}

// step does one command and checks what comes of it.
func (p *player) step(s Step) error {
	if s.Do == "kill" && p.cfg.Sigkill {
		return p.killClient()
	}
	command, err := p.fill(s)
	if err != nil {
		return err
	}
	p.scene.begin(s.Calls, s.AnyWay)
	answer, err := p.command(command)
	if err != nil {
		if why := p.failure(); why != "" {
			return errors.New(why)
		}
		if errors.Is(err, errKilled) {
			p.scene.end()
			return p.asError()
		}
		return err
	}
	p.scene.end()
	if err := p.asError(); err != nil {
		return err
	}
	delete(answer, "id")
	failed := answer["error"]
	switch {
	case answer["unknown"] == true && s.Do == "damage":
		return errNotAsked
	case answer["unknown"] == true:
		return errors.New("the driver does not have this command")
	case s.Fails == nil && failed != nil:
		return fmt.Errorf("it failed: %s", text(failed))
	case s.Fails != nil && failed == nil:
		return fmt.Errorf("it did not fail; want %s", text(s.Fails))
	case s.Fails != nil:
		return p.compare("error", s.Fails, failed)
	case s.Gives != nil:
		return p.compare("", s.Gives, answer)
	}
	return nil
}

func (p *player) compare(what string, pattern, got any) error {
	return p.scene.with(func(names scope) error {
		diffs := names.fits(pattern, got, -1)
		if len(diffs) == 0 {
			return nil
		}
		return errors.New("the answer is not as it should be\n  " + strings.TrimPrefix(what+" ", " ") + strings.Join(diffs, "\n  ") + "\n  it was " + text(got))
	})
}

func (p *player) failure() string {
	p.scene.mu.Lock()
	defer p.scene.mu.Unlock()
	return p.scene.failure
}

func (p *player) asError() error {
	if why := p.failure(); why != "" {
		return errors.New(why)
	}
	return nil
}

// errKilled: the client was killed while the command was under way.
var errKilled = errors.New("conformance: killed")

// command sends a command and waits for its answer; meanwhile it kills the client if a call says so.
func (p *player) command(command map[string]any) (map[string]any, error) {
	p.log("  " + text(command))
	ch, err := p.lines.send(command)
	if err != nil {
		return nil, err
	}
	timer := time.NewTimer(p.cfg.Timeout)
	defer timer.Stop()
	select {
	case answer := <-ch:
		p.log("  " + text(answer))
		return answer, nil
	case <-p.scene.kill:
		if err := p.killClient(); err != nil {
			return nil, err
		}
		return nil, errKilled
	case <-p.lines.gone:
		return nil, errDriverGone
	case <-timer.C:
		// The driver may never answer again: what follows must not wait for it.
		if p.child != nil {
			p.child.kill() //nolint:errcheck // it may be gone
			return nil, fmt.Errorf("no answer within %v; %w", p.cfg.Timeout, errDriverGone)
		}
		return nil, fmt.Errorf("no answer within %v", p.cfg.Timeout)
	}
}

// killClient kills the client, or the driver with it.
func (p *player) killClient() error {
	if p.cfg.Sigkill {
		p.log("  SIGKILL")
		if err := p.child.kill(); err != nil {
			return err
		}
		return p.startChild()
	}
	ch, err := p.lines.send(map[string]any{"do": "kill"})
	if err != nil {
		return err
	}
	answer, err := p.lines.await(ch, p.cfg.Timeout)
	if err == nil && answer["error"] != nil {
		err = errors.New(text(answer["error"]))
	}
	if err != nil {
		return fmt.Errorf("kill: %w", err)
	}
	return nil
}

// fill makes the command of a step.
func (p *player) fill(s Step) (map[string]any, error) {
	members := map[string]any{}
	if s.Do == "open" {
		members = map[string]any{"base_url": p.url, "store": "phone", "config": map[string]any{}, "clock": deviceClock()}
	}
	maps.Copy(members, s.Members)
	if b, ok := members["bytes"]; ok {
		content, err := repeated(b)
		if err != nil {
			return nil, err
		}
		delete(members, "bytes")
		members["base64"] = base64.StdEncoding.EncodeToString([]byte(content))
	}
	var filled any
	err := p.scene.with(func(names scope) (err error) {
		filled, err = names.fill(members)
		return err
	})
	if err != nil {
		return nil, err
	}
	command, _ := filled.(map[string]any)
	command["do"] = s.Do
	return command, nil
}

// repeated gives the text that {"repeat": text, "times": n} stands for.
func repeated(v any) (string, error) {
	object, _ := v.(map[string]any)
	word, _ := object["repeat"].(string)
	n, _ := object["times"].(json.Number)
	times, err := n.Int64()
	if err != nil || word == "" || times < 1 || times > 4<<20 {
		return "", fmt.Errorf("%s is not a text to repeat and how many times", text(v))
	}
	return strings.Repeat(word, int(times)), nil
}

func deviceClock() map[string]any {
	return map[string]any{"boot": "b1", "ms": 1000, "wall_ms": serverMs}
}

// start writes the step of that name out: see README.md.
func start(s Step) ([]Step, error) {
	open := map[string]any{}
	for _, name := range []string{"config", "clock"} {
		if v, ok := s.Members[name]; ok {
			open[name] = v
		}
	}
	steps := []Step{
		{Do: "open", Members: open},
		{Do: "sign_in", Members: map[string]any{"login": "ann", "password": "open sesame 42"}, Calls: []Call{{
			Call:    "SignIn",
			Request: map[string]any{"login": "ann", "password": "open sesame 42", "device": map[string]any{"deviceId": nil}},
			Answer: map[string]any{"tokens": map[string]any{"accessToken": "access-1", "refreshToken": "refresh-1", "accessExpiresMs": serverMs + 900_000, "refreshExpiresMs": serverMs + 2_592_000_000},
				"deviceId": "@d1", "personId": "@fe", "orgId": "@fd", "displayName": "Ann"},
		}}},
		{Do: "identity", Members: map[string]any{}, Gives: map[string]any{"person": "$person", "org": "$org", "device": "$device", "signed_in": true}},
	}
	holds, ok := s.Members["holds"].([]any)
	if !ok {
		return steps, nil
	}
	return append(steps, Step{Do: "sync_once", Members: map[string]any{}, Gives: map[string]any{"more": false}, Calls: []Call{{
		Call: "Sync", Request: map[string]any{"cursor": nil, "mutations": nil}, Token: "access-1",
		Answer: map[string]any{"page": map[string]any{"changes": holds, "cursor": "c0", "checkpoint": true, "seq": 10, "token": "t0", "schemaVersion": 3}},
	}}}), nil
}
