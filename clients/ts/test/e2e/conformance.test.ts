import { mkdtempSync, rmSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { afterAll } from "vitest";
import { prove } from "../prove.js";

const files = mkdtempSync(join(tmpdir(), "satchel-conformance-"));
afterAll(() => rmSync(files, { recursive: true, force: true }));

prove("on SQLite, its process killed:", ["node", "conformance/drivers/ts/run.mjs", "sqlite", `--folder=${files}`], ["-sigkill"]);
