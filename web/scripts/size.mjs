// Behind each build: writes every file of dist/app compressed beside it, prints what the first screen loads, and fails
// when that is more than the budget.
import { readdir, readFile, rm, writeFile } from "node:fs/promises";
import { join } from "node:path";
import { brotliCompressSync, constants, gzipSync } from "node:zlib";

/** Bytes after gzip of everything that the browser loads before the first screen can be used. */
const budget = 250 * 1024;
const app = new URL("../dist/app/", import.meta.url).pathname;

const manifest = JSON.parse(await readFile(join(app, ".vite/manifest.json"), "utf8"));
await rm(join(app, ".vite"), { recursive: true }); // for this script alone

const gzipped = new Map();
for (const entry of await readdir(app, { recursive: true, withFileTypes: true })) {
  if (!entry.isFile() || !/\.(html|js|css|svg|webmanifest|json)$/.test(entry.name)) continue;
  const path = join(entry.parentPath, entry.name);
  const bytes = await readFile(path);
  const gzip = gzipSync(bytes, { level: 9 });
  gzipped.set(path.slice(app.length), gzip.length);
  await writeFile(`${path}.gz`, gzip);
  await writeFile(`${path}.br`, brotliCompressSync(bytes, { params: { [constants.BROTLI_PARAM_QUALITY]: 11, [constants.BROTLI_PARAM_SIZE_HINT]: bytes.length } }));
}

/** The files of a chunk and of all that it imports at once. */
function files(key, seen = new Set()) {
  if (seen.has(key)) return [];
  seen.add(key);
  const chunk = manifest[key];
  return [chunk.file, ...(chunk.css ?? []), ...(chunk.imports ?? []).flatMap((k) => files(k, seen))];
}

const needed = new Set(["index.html", "icon.svg", ...files("index.html")]);
let most = 0;
for (const f of needed) most += gzipped.get(f) ?? 0;
console.log(`first load (${needed.size} files): ${(most / 1024).toFixed(1)} KB gzip of ${budget / 1024}`);
let all = 0;
for (const n of gzipped.values()) all += n;
console.log(`the whole app: ${(all / 1024).toFixed(1)} KB gzip`);
if (most > budget) {
  console.error(`the first load is over its budget of ${budget / 1024} KB`);
  process.exit(1);
}
