package story

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os/exec"
	"time"

	client "github.com/satchel-sync/satchel/clients/go"
)

// Config is what the story needs.
type Config struct {
	// Out is where it is told.
	Out io.Writer
	// Child makes the command that runs [Child] in a process of its own.
	Child func(ctx context.Context, cfg ChildConfig) *exec.Cmd
	// OpenStore opens a phone's store; path is a file that it may use.
	OpenStore func(ctx context.Context, path string) (client.Store, error)
}

// storyTime bounds the whole story.
const storyTime = 3 * time.Minute

// Run tells the story and checks each step of it. The error is the first thing that is not as told.
func Run(ctx context.Context, cfg Config) error {
	ctx, cancel := context.WithTimeout(ctx, storyTime)
	defer cancel()
	t := &teller{out: cfg.Out}
	began := time.Now()
	s, err := raise(ctx, cfg)
	if s != nil {
		defer s.strike()
	}
	if err != nil {
		return fmt.Errorf("the stage could not be built: %w", err)
	}
	t.stage = s
	for i, c := range chapters {
		fmt.Fprintf(t.out, "\n%d. %s\n", i+1, c.title)
		if err := c.play(ctx, t); err != nil {
			fmt.Fprintf(t.out, "   ✗ %v\n", err)
			return fmt.Errorf("chapter %d: %w", i+1, err)
		}
	}
	fmt.Fprintf(t.out, "\nThe story is as told: %d things checked in %s.\n", t.checked, time.Since(began).Round(100*time.Millisecond))
	return nil
}

// chapter is a step of the story.
type chapter struct {
	title string
	play  func(ctx context.Context, t *teller) error
}

// teller tells, and keeps what later chapters need.
type teller struct {
	out     io.Writer
	stage   *stage
	checked int

	ann, ben, mei *phone
	props         props
}

// see tells what was seen; what was not ends the story.
func (t *teller) see(ok bool, told string, args ...any) error {
	told = fmt.Sprintf(told, args...)
	if !ok {
		return errors.New("this should be seen and is not: " + told)
	}
	t.checked++
	fmt.Fprintf(t.out, "   ✓ %s\n", told)
	return nil
}

// say tells what somebody does.
func (t *teller) say(told string, args ...any) { fmt.Fprintf(t.out, "     "+told+"\n", args...) }

// all gives the first error.
func all(errs ...error) error {
	for _, err := range errs {
		if err != nil {
			return err
		}
	}
	return nil
}
