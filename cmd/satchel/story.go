package main

import (
	"context"
	"os"
	"os/exec"
	"time"

	client "github.com/satchel-sync/satchel/clients/go"
	"github.com/satchel-sync/satchel/clients/go/memstore"
	"github.com/satchel-sync/satchel/internal/story"
)

// demoCmd is `satchel demo`.
type demoCmd struct{}

// Help tells more.
func (demoCmd) Help() string {
	return "It starts a Postgres and a server of its own, which go when it ends; a server that runs meanwhile is left alone. " +
		"It needs the Postgres programs and espeak-ng (`make demo` installs them). The exit status is 1 if anything is not as told."
}

// Run tells the story.
func (demoCmd) Run(ctx context.Context, std streams) error {
	self, err := os.Executable()
	if err != nil {
		return err
	}
	inMemory := func(context.Context, string) (client.Store, error) { return memstore.New(), nil }
	return story.Run(ctx, story.Config{Out: std.out, OpenStore: inMemory, Child: func(ctx context.Context, c story.ChildConfig) *exec.Cmd {
		return exec.CommandContext(ctx, self, "story-server",
			"--database-url="+c.DatabaseURL, "--blob-url="+c.BlobURL, "--fcm-url="+c.FCMURL,
			"--listen="+c.Listen, "--offset="+c.Offset.String())
	}})
}

// storyServerCmd is the server that the story kills; it is for `satchel demo` alone.
type storyServerCmd struct {
	DatabaseURL string
	BlobURL     string
	FCMURL      string `name:"fcm-url"`
	Listen      string
	Offset      time.Duration
}

// Run serves until the standard input ends.
func (c storyServerCmd) Run(ctx context.Context, std streams) error {
	return story.Child(ctx, story.ChildConfig{
		DatabaseURL: c.DatabaseURL, BlobURL: c.BlobURL, FCMURL: c.FCMURL, Listen: c.Listen, Offset: c.Offset,
	}, std.in, std.out)
}
