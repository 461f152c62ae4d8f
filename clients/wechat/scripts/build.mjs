// Bundles the package, with everything that it takes, for mini-programs: one CommonJS file, as WeChat's "npm build" and a
// plain require take it. Prints its size and fails above the limit.
import { mkdirSync, writeFileSync } from "node:fs";
import { dirname, join } from "node:path";
import { fileURLToPath } from "node:url";
import { gzipSync } from "node:zlib";
import { build } from "esbuild";

const root = join(dirname(fileURLToPath(import.meta.url)), "..");
const limit = 60 * 1024;

/** The bundle's text. */
export async function bundle({ minify = true, entry = "src/index.ts" } = {}) {
  const out = await build({
    entryPoints: [join(root, entry)],
    bundle: true,
    write: false,
    minify,
    format: "cjs",
    platform: "neutral",
    mainFields: ["module", "main"],
    conditions: ["source"],
    target: "es2018", // what WeChat's own compiler takes as it is
    alias: { "@connectrpc/connect-web": join(root, "src/transport.ts") },
    inject: [join(root, "src/shims.ts")],
    legalComments: "none",
    logLevel: "warning",
  });
  return out.outputFiles[0].text;
}

if (process.argv[1] === fileURLToPath(import.meta.url)) {
  const text = await bundle();
  mkdirSync(join(root, "dist"), { recursive: true });
  writeFileSync(join(root, "dist/satchel.js"), text);
  const packed = gzipSync(text, { level: 9 }).length;
  console.log(`@satchel/wechat: ${text.length} bytes, ${packed} gzip (at most ${limit})`);
  if (packed > limit) {
    console.error("the bundle is too large");
    process.exit(1);
  }
}
