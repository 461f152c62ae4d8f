import { readdirSync, readFileSync } from "node:fs";
import { dirname, join } from "node:path";
import { expect, test } from "vitest";

const src = join(import.meta.dirname, "../src");

/** What a file imports of this package, types too; what is loaded late (import()) does not count. */
function imports(file: string): string[] {
  const text = readFileSync(join(src, file), "utf8");
  return [...text.matchAll(/^(?:import|export)\b[^;]*?from "(\.[^"]+)\.js";/gms)].map(([, to]) => join(dirname(file), to ?? "") + ".ts");
}

test("imports of the sources run in no circle", () => {
  const files = readdirSync(src, { recursive: true, encoding: "utf8" }).filter((f) => f.endsWith(".ts") && !f.endsWith(".test.ts") && !f.startsWith("gen/"));
  expect(files.length).toBeGreaterThan(25);
  const done = new Set<string>();
  let arrows = 0;
  const walk = (file: string, way: string[]): void => {
    if (way.includes(file)) throw new Error([...way.slice(way.indexOf(file)), file].join(" → "));
    if (done.has(file) || file.startsWith("gen/")) return;
    for (const next of imports(file)) {
      arrows++;
      walk(next, [...way, file]);
    }
    done.add(file);
  };
  files.forEach((f) => walk(f, []));
  expect(arrows).toBeGreaterThan(80);
});
