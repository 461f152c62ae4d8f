// The driver of conformance (../../../conformance/README.md) around this package, in a mini-program's realm:
//
//   go run ./conformance/run -- node clients/wechat/test/driver.mjs
import { mkdirSync, rmSync } from "node:fs";
import { dirname, join } from "node:path";
import { fileURLToPath, pathToFileURL } from "node:url";
import { build } from "esbuild";

const here = dirname(fileURLToPath(import.meta.url));
const outfile = join(here, `../scripts/.driver-${process.pid}.mjs`); // beside build.mjs, which knows its own place
await build({ entryPoints: [join(here, "driver-main.ts")], outfile, bundle: true, platform: "node", format: "esm", target: "node20", external: ["esbuild"], logLevel: "error" });
try {
  const { main } = await import(pathToFileURL(outfile).href);
  rmSync(outfile);
  await main();
} finally {
  rmSync(outfile, { force: true });
}
