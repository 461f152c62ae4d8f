import "fake-indexeddb/auto"; // the pages of test/indexeddb.browser.test.ts have a real one
import { mkdirSync, mkdtempSync, readFileSync, rmSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { pathToFileURL } from "node:url";
import { build } from "esbuild";
import ts from "typescript";
import { afterAll, beforeAll, expect, test, vi } from "vitest";
import type { Client } from "../src/index.js";
import { startServer, type RealServer } from "./realserver.js";

const here = import.meta.dirname;
const scratch = join(here, "../../../var"); // ignored by git, and packages are found from there
mkdirSync(scratch, { recursive: true });
const folder = mkdtempSync(join(scratch, "readme-"));
const file = join(folder, "readme.ts");

let server: RealServer;
beforeAll(async () => {
  server = await startServer();
  const blocks = [...readFileSync(join(here, "../README.md"), "utf8").matchAll(/^```ts\n([\s\S]*?)^```/gm)].map((m) => m[1]);
  writeFileSync(file, blocks.join("\n").replaceAll("http://localhost:8080", server.url) + "\nexport { client, visit, leaving, running, end, openOrWarn, nodeStore };\n");
}, 300_000);
afterAll(async () => {
  await server?.stop();
  rmSync(folder, { recursive: true });
});

test("the README's TypeScript is sound", { timeout: 240_000 }, () => {
  const read = ts.readConfigFile(join(here, "../tsconfig.json"), (name) => ts.sys.readFile(name));
  const { options } = ts.convertCompilerOptionsFromJson(read.config.compilerOptions, join(here, ".."));
  const program = ts.createProgram([file], { ...options, noEmit: true, rootDir: join(here, "../../.."), module: ts.ModuleKind.ESNext, moduleResolution: ts.ModuleResolutionKind.Bundler });
  const wrong = ts.getPreEmitDiagnostics(program).filter((d) => d.file?.fileName === file);
  expect(wrong.map((d) => ts.flattenDiagnosticMessageText(d.messageText, "\n"))).toEqual([]);
});

test("the README's program signs in, records a visit with a photo, and the server takes them", { timeout: 240_000 }, async () => {
  const said: string[] = [];
  vi.spyOn(console, "log").mockImplementation((...parts) => void said.push(parts.join(" ")));
  const out = join(folder, "readme.mjs");
  await build({ entryPoints: [file], bundle: true, outfile: out, platform: "node", format: "esm", conditions: ["source"], external: ["node-sqlite3-wasm"] });
  const program: { client: Client; visit: string; leaving: AbortController; running: Promise<void>; end: () => void } = await import(/* @vite-ignore */ pathToFileURL(out).href);
  const { client, visit } = program;
  await expect.poll(() => client.get("visit", visit)?.pending, { timeout: 30_000 }).toBe(false);
  await expect.poll(() => client.media(), { timeout: 30_000 }).toEqual([]);
  expect(client.get("visit", visit)?.fields).toMatchObject({ subject: "Met the buyer 见了采购经理", outcome: "follow_up" });
  expect(client.settled(0, 100).map((s) => s.fate)).toEqual(["APPLIED", "APPLIED", "APPLIED"]);
  await expect.poll(() => said.some((line) => line === "Met the buyer 见了采购经理" || line.startsWith("Met the buyer 见了采购经理,"))).toBe(true);
  expect(said.some((line) => /^\d+ records, 0 to send, up to date$/.test(line))).toBe(true);
  program.leaving.abort();
  await program.running;
  program.end();
  await client.close();
  vi.restoreAllMocks();
});
