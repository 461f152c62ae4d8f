package tests_test

import (
	"context"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

// modelsUse is what an app does with its models. Each line below a `@ts-expect-error` must be refused.
const modelsUse = `import type { ClientApi } from "SDK/src/types.js";
import type { Models } from "./models.js";

export async function use(client: ClientApi<Models>): Promise<string> {
  const account = await client.create("account", { name: "Orient", tags: ["a"], place: { lat: 30.2, lng: 120.1, datum: "wgs84" } });
  await client.create("visit", { account, subject: "Shelves", outcome: "won" });
  await client.patch("account", account, { level: null, deal_amount: 1200.5 }, [{ field: "tags", add: ["b"] }]);
  const visit = client.list("visit", { where: (v) => v.fields.account === account, limit: 1 })[0];
  const words: string | undefined = visit?.fields.summary;
  // @ts-expect-error a kind that there is not
  client.get("visits", account);
  // @ts-expect-error a choice that there is not
  await client.create("visit", { account, subject: "Shelves", outcome: "maybe" });
  // @ts-expect-error a number for a text
  await client.patch("account", account, { name: 1 });
  // @ts-expect-error a field that there is not
  client.watch("account", {}, (list) => list[0]?.fields.nickname);
  return (client.get("account", account)?.fields.name ?? "") + (words ?? "");
}
`

func TestTheTypedModelsOfTheBuiltInPackTypeAClient(t *testing.T) {
	t.Parallel()
	compiler, err := filepath.Abs(filepath.Join(root, "node_modules", "typescript", "bin", "tsc"))
	if err != nil {
		t.Fatal(err)
	}
	if _, err := os.Stat(compiler); err != nil {
		t.Fatalf("this test needs the npm packages of this repository: run `npm ci` at its root (%v)", err)
	}
	models := command(t, 5*time.Minute, root, nil, "go", "run", "-buildvcs=false", "./cmd/satchel", "types", "--lang=ts")
	sdk, err := filepath.Abs(filepath.Join(root, "clients", "ts"))
	if err != nil {
		t.Fatal(err)
	}
	check := func(models, use string) (string, error) {
		dir := t.TempDir()
		for name, text := range map[string]string{
			"models.ts": models, "use.ts": strings.ReplaceAll(use, "SDK", sdk), "package.json": `{"type": "module"}`,
			"tsconfig.json": `{"extends": "` + sdk + `/tsconfig.json", "compilerOptions": {"types": [], "noEmit": true, "rootDir": "/", "noUnusedLocals": true,
				"typeRoots": []}, "files": ["use.ts"], "include": []}`,
		} {
			if err := os.WriteFile(filepath.Join(dir, name), []byte(text), 0o600); err != nil {
				t.Fatal(err)
			}
		}
		ctx, cancel := context.WithTimeout(t.Context(), 2*time.Minute)
		defer cancel()
		out, err := exec.CommandContext(ctx, "node", compiler, "-p", dir).CombinedOutput()
		return string(out), err
	}
	if out, err := check(string(models), modelsUse); err != nil {
		t.Errorf("%v: %s", err, out)
	}
	if out, err := check(string(models), strings.Replace(modelsUse, "  // @ts-expect-error a choice that there is not\n", "", 1)); err == nil || !strings.Contains(out, "maybe") {
		t.Errorf("a wrong choice passes: %v, %s", err, out)
	}
}
