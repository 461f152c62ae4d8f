import { execFile } from "node:child_process";
import { mkdtempSync, readdirSync, readFileSync, rmSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { promisify } from "node:util";
import { beforeAll, describe, expect, test } from "vitest";

const root = new URL("../../..", import.meta.url).pathname;
const folder = join(root, "conformance/transcripts");
const run = promisify(execFile);

/**
 * A test for each transcript of conformance/, played by its runner with the driver that command starts in the repository's
 * folder. It needs Go.
 */
export function prove(title: string, command: string[], flags: string[] = []): void {
  describe(title, () => {
    let lines = new Map<string, string>();
    beforeAll(async () => {
      const dir = mkdtempSync(join(tmpdir(), "satchel-prove-"));
      try {
        const runner = join(dir, "run");
        await run("go", ["build", "-o", runner, "./conformance/run"], { cwd: root });
        // It exits with 1 where a transcript failed, and says which.
        const said = await run(runner, ["-timeout", "60s", ...flags, "--", ...command], { cwd: root, maxBuffer: 64 << 20 }).catch((e: { stdout?: string; stderr?: string }) => e);
        if (!/\d+ passed, \d+ failed\n$/.test(said.stdout ?? "")) throw new Error(`the runner: ${said.stdout}\n${said.stderr}`);
        lines = read(said.stdout ?? "");
      } finally {
        rmSync(dir, { recursive: true, force: true });
      }
    }, 480_000);
    for (const file of readdirSync(folder)) {
      const transcript: { title: string } = JSON.parse(readFileSync(join(folder, file), "utf8"));
      test(transcript.title, () => expect(lines.get(file.replace(/\.json$/, ""))).toMatch(/^ok /));
    }
  });
}

/** What the runner says of each transcript, by name. */
function read(said: string): Map<string, string> {
  const all = new Map<string, string>();
  for (const part of said.split(/^(?=ok |FAIL |- )/m)) {
    const name = /^\S+ +(\S+)/.exec(part)?.[1];
    if (name !== undefined) all.set(name, part);
  }
  return all;
}
