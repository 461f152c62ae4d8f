package story

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"os"
	"os/exec"
	"testing"

	client "github.com/satchel-sync/satchel/clients/go"
	"github.com/satchel-sync/satchel/clients/go/sqlitestore"
)

// childEnv carries the child's configuration to this test binary when it runs as the story's server.
const childEnv = "SATCHEL_STORY_CHILD"

func TestMain(m *testing.M) {
	if raw := os.Getenv(childEnv); raw != "" {
		var cfg ChildConfig
		err := json.Unmarshal([]byte(raw), &cfg)
		if err == nil {
			err = Child(context.Background(), cfg, os.Stdin, os.Stdout)
		}
		if err != nil {
			fmt.Fprintln(os.Stderr, err)
			os.Exit(1)
		}
		os.Exit(0)
	}
	os.Exit(m.Run())
}

func TestTheStoryIsAsTold(t *testing.T) {
	var told bytes.Buffer
	onDisk := func(ctx context.Context, path string) (client.Store, error) { return sqlitestore.Open(ctx, path) }
	err := Run(t.Context(), Config{Out: &told, OpenStore: onDisk, Child: func(ctx context.Context, cfg ChildConfig) *exec.Cmd {
		raw, err := json.Marshal(cfg)
		if err != nil {
			t.Fatal(err)
		}
		cmd := exec.CommandContext(ctx, os.Args[0])
		cmd.Env = append(os.Environ(), childEnv+"="+string(raw))
		return cmd
	}})
	t.Log(told.String())
	if err != nil {
		t.Fatal(err)
	}
}
