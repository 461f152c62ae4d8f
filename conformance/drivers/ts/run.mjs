// The driver of conformance around @satchel/client: see ../../README.md.
//
//   go run ./conformance/run -- node conformance/drivers/ts/run.mjs memory|sqlite|indexeddb [--json] [--folder=FILES]
//
// It bundles the sources beside it first. node_modules must be there (scripts/js deps).
import { build } from "esbuild";
import { mkdirSync, rmSync } from "node:fs";
import { dirname, join } from "node:path";
import { fileURLToPath, pathToFileURL } from "node:url";

const here = dirname(fileURLToPath(import.meta.url));
const cache = join(here, "../../../node_modules/.cache/satchel-conformance");
mkdirSync(cache, { recursive: true });
const outfile = join(cache, `${process.pid}.mjs`);
await build({
  entryPoints: [join(here, "main.ts")], outfile, bundle: true, platform: "node", format: "esm", target: "node20", conditions: ["source"],
  external: ["esbuild", "playwright-core", "node-sqlite3-wasm"], logLevel: "error",
});
const { main } = await import(pathToFileURL(outfile).href);
rmSync(outfile);
await main(process.argv.slice(2), here);
