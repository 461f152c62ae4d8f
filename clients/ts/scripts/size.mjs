// Measures what an app pays for this package, minified and compressed by gzip, and fails above the limits:
//
//   core  what is written here and loaded at the start of a page        at most 15 KB
//   all   with the generated code of the contract and the dependencies  at most 55 KB
//
// What import() loads when it is needed is not in these two, and is printed beside them: repairs, sign-in, uploads, and what a
// server orders, all of which happen with a network only. A bundler that does not split puts it into the rest.
//
// A KB is 1,024 bytes. Stores come on top, each with what it needs. With --files: minified bytes of each file, before gzip.
import { gzipSync } from "node:zlib";
import { build } from "esbuild";

const limits = { core: 15, all: 55 };
const src = new URL("../src/", import.meta.url).pathname;

/** The generated code is left out. */
const withoutGen = { name: "without-gen", setup: (b) => b.onResolve({ filter: /\/gen\// }, (found) => ({ path: found.path, external: true })) };

/** What is loaded when it is needed is left out. */
const atStart = { name: "at-start", setup: (b) => b.onResolve({ filter: /.*/ }, (found) => (found.kind === "dynamic-import" ? { path: found.path, external: true } : undefined)) };

async function bundle(entry, options) {
  return build({
    entryPoints: [src + entry], bundle: true, minify: true, write: false, format: "esm", platform: "browser", target: "es2022", conditions: ["source"], legalComments: "none", metafile: true, ...options,
  });
}

async function kilobytes(entry, options = {}) {
  const out = await bundle(entry, options);
  return gzipSync(out.outputFiles[0].contents, { level: 9 }).length / 1024;
}

const core = await kilobytes("index.ts", { packages: "external", plugins: [atStart, withoutGen] });
const all = await kilobytes("index.ts", { plugins: [atStart] });
const lines = [
  ["core, as written here", core, limits.core],
  ["core and the generated contract", await kilobytes("index.ts", { packages: "external", plugins: [atStart] })],
  ["all, with its dependencies", all, limits.all],
  ["+ what is loaded when it is needed", (await kilobytes("index.ts")) - all],
];
for (const name of ["memory", "indexeddb", "sqlite"]) lines.push([`+ ${name} store, with what it needs`, await kilobytes(`stores/${name}.ts`)]);

let over = false;
for (const [what, kb, limit] of lines) {
  over ||= limit !== undefined && kb > limit;
  console.log(`${what.padEnd(46)}${kb.toFixed(1).padStart(6)} KB gzip${limit === undefined ? "" : `   (at most ${limit})`}${limit !== undefined && kb > limit ? "   TOO LARGE" : ""}`);
}
if (process.argv.includes("--files")) {
  const [output] = Object.values((await bundle("index.ts")).metafile.outputs);
  const files = Object.entries(output.inputs).sort(([, a], [, b]) => b.bytesInOutput - a.bytesInOutput);
  for (const [file, { bytesInOutput }] of files) console.log(String(bytesInOutput).padStart(8), file.replace(/^.*node_modules\//, ""));
}
process.exitCode = over ? 1 : 0;
