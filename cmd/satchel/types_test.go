package main

import (
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/satchel-sync/satchel/internal/pgtest"
)

func TestTypesOfTheBuiltInPackAndOfAnOrganisationThatBeganWithItAreTheSame(t *testing.T) {
	t.Parallel()
	env := production(t, pgtest.URL(t))
	must(t, env, "migrate")
	must(t, env, "org", "create", "acme")
	builtIn := must(t, nil, "types", "--lang=ts")
	if again := must(t, nil, "types", "--lang", "ts", "--schema", "../../schema/pack/field-sales.yaml"); again != builtIn {
		t.Error("the same pack gives another text")
	}
	if own := must(t, env, "types", "--lang=ts", "--org=acme"); own != builtIn {
		t.Errorf("of the organisation:\n%s", own)
	}
	for _, line := range []string{
		"/** 拜访 · Visit */\nexport interface Visit {\n",
		"  /** 客户 · Account · id of a record of kind account */\n  account: string;\n",
		`  outcome?: "interested" | "follow_up" | "won" | "lost" | "no_contact";`,
		"  place?: Geo;\n", "  tags?: string[];\n", "  deal_amount?: number;\n", "  evidence?: unknown;\n", "  opt_out?: boolean;\n",
		"export type Models = {\n", "  voice_note: VoiceNote;\n",
	} {
		if !strings.Contains(builtIn, line) {
			t.Errorf("there is no %q", line)
		}
	}
	_, stderr, status := invoke(t, env, "types", "--lang=ts", "--org=nobody")
	if status != 1 || !strings.Contains(stderr, "org create") {
		t.Errorf("of an organisation that is not there: %d, %s", status, stderr)
	}
}

func TestTypesSaysWhichLanguagesThereAreAndWhatIsWrongWithASchema(t *testing.T) {
	t.Parallel()
	bad := filepath.Join(t.TempDir(), "bad.yaml")
	if err := os.WriteFile(bad, []byte("version: 1\nkinds:\n  - {name: Visit}\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	for _, c := range []struct {
		args   []string
		status int
		says   string
	}{
		{[]string{"--lang=kotlin"}, 2, `must be one of "ts"`},
		{nil, 2, "--lang"},
		{[]string{"--lang=ts", "--schema=" + bad, "--org=acme"}, 2, "--schema"},
		{[]string{"--lang=ts", "--schema=" + bad + ".yaml"}, 2, "no such file"},
		{[]string{"--lang=ts", "--schema=" + bad}, 1, `the name "Visit" must be`},
		{[]string{"--lang=ts", "--org=acme"}, 2, "DATABASE_URL"},
	} {
		stdout, stderr, status := invoke(t, nil, append([]string{"types"}, c.args...)...)
		if status != c.status || !strings.Contains(stderr, c.says) || stdout != "" {
			t.Errorf("types %v: %d, %s%s", c.args, status, stderr, stdout)
		}
	}
}

func TestKindsWhoseNamesBecomeOneHaveTypesOfTheirOwn(t *testing.T) {
	t.Parallel()
	names := typeNames([]string{"a1", "a_1", "geo", "models", "voice_note"})
	for kind, want := range map[string]string{"a1": "A1", "a_1": "A1_", "geo": "Geo_", "models": "Models_", "voice_note": "VoiceNote"} {
		if names[kind] != want {
			t.Errorf("%s is %s, want %s", kind, names[kind], want)
		}
	}
	if got := comment("end */ here", "two\nlines"); got != "end * / here · two lines" {
		t.Errorf("in a comment: %q", got)
	}
}
