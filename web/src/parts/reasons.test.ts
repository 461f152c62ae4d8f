import { readFileSync } from "node:fs";
import { expect, it } from "vitest";
import { reasons } from "./reasons.js";

it("the sentences of reasons are those that the server has", () => {
  const source = readFileSync(new URL("../../../docs/errors.md", import.meta.url), "utf8");
  const rows = [...source.matchAll(/^\| `([A-Z_]+)` \| \d+ \|(?:[^|]*)\| ([^|]+) \| ([^|]+) \|$/gm)].map(([, name, zh, en]) => [name, [zh, en]]);
  expect(rows.length).toBeGreaterThan(40);
  expect(reasons, "run: node web/scripts/reasons.mjs").toEqual(Object.fromEntries(rows));
  // The page is kept in step with the server by a Go test; one sentence of the server's own file shows that they are the same.
  const texts = readFileSync(new URL("../../../server/texts.go", import.meta.url), "utf8");
  for (const [zh, en] of Object.values(reasons)) expect(texts).toContain(`words{${JSON.stringify(zh)}, ${JSON.stringify(en)}}`);
});
