import { execFileSync, spawnSync } from "node:child_process";
import { mkdtempSync, rmSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { afterAll, beforeAll, expect, test } from "vitest";

const root = new URL("../../..", import.meta.url).pathname;
const dir = mkdtempSync(join(tmpdir(), "satchel-wechat-"));
beforeAll(() => execFileSync("go", ["build", "-o", join(dir, "run"), "./conformance/run"], { cwd: root, stdio: "inherit" }));
afterAll(() => rmSync(dir, { recursive: true, force: true }));

test("every transcript passes with WeChat's storage and requests, in a mini-program's realm", () => {
  const ran = spawnSync(join(dir, "run"), ["-timeout", "60s", "--", process.execPath, "clients/wechat/test/driver.mjs"], { cwd: root, encoding: "utf8", timeout: 240_000 });
  expect(ran.stdout.split("\n").filter((line) => /fail|FAIL/.test(line)).join("\n") + ran.stderr.slice(-3_000)).toMatch(/\b0 failed/);
  expect(ran.status).toBe(0);
}, 300_000);
