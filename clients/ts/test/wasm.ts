import { rmSync } from "node:fs";
import { createRequire } from "node:module";
import type { Database, JSValue } from "node-sqlite3-wasm";
import type { Driver } from "../src/stores/sqlite.js";

const wasm: { Database: new (file: string) => Database } = createRequire(import.meta.url)("node-sqlite3-wasm");

/**
 * The adapter for node-sqlite3-wasm. It locks by a folder beside the file, which a killed process leaves behind: takeOver
 * removes it, for who knows that no other process lives.
 */
export function wasmDriver(file: string, takeOver = false): Driver {
  if (takeOver) rmSync(file + ".lock", { recursive: true, force: true });
  const db = new wasm.Database(file);
  return {
    exec: (sql, params: JSValue[]) => db.run(sql, params),
    all: (sql, params: JSValue[]) => db.all(sql, params),
    close: () => db.close(),
  };
}
