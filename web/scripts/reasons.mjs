// Writes src/parts/reasons.ts, the sentences for people that go with the typed reasons of verdicts and calls, from
// docs/errors.md, which a Go test keeps as server/texts.go has it. `--check` only tells whether the file is up to date.
import { readFileSync, writeFileSync } from "node:fs";

const page = readFileSync(new URL("../../docs/errors.md", import.meta.url), "utf8");
const target = new URL("../src/parts/reasons.ts", import.meta.url);

/** The file as the page gives it. */
export function reasons() {
  const rows = [...page.matchAll(/^\| `([A-Z_]+)` \| \d+ \| [^|]* \| ([^|]+) \| ([^|]+) \|$/gm)];
  if (rows.length < 30) throw new Error("docs/errors.md has no table of reasons that could be read");
  const lines = rows.map(([, name, zh, en]) => `  ${name}: [${JSON.stringify(zh)}, ${JSON.stringify(en)}],`);
  return `// Written by web/scripts/reasons.mjs from docs/errors.md: do not edit.

/** The sentences of the typed reasons, in zh-CN and en. */
export const reasons: Readonly<Record<string, readonly [zh: string, en: string]>> = {
${lines.join("\n")}
};
`;
}

if (process.argv[1] && import.meta.url === new URL(process.argv[1], "file:").href) {
  const want = reasons();
  if (!process.argv.includes("--check")) writeFileSync(target, want);
  else if (readFileSync(target, "utf8") !== want) {
    console.error("web/src/parts/reasons.ts is not what docs/errors.md gives; run: node web/scripts/reasons.mjs");
    process.exit(1);
  }
}
