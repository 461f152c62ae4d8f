import { createServer } from "node:http";
import { build } from "esbuild";
import { chromium, type BrowserContext, type Page } from "playwright-core";
import { mkdtempSync, rmSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";

/** A real Chromium with a profile of its own, and pages that hold a bundle of ours. */
export interface Browser {
  context: BrowserContext;
  /** A tab with the script, whose exports are in `window.it`. https-like: 127.0.0.1 is a secure context. */
  tab(): Promise<Page>;
  end(): Promise<void>;
}

/** Starts Chromium and a server on 127.0.0.1 that serves one page with entry, bundled from its sources. */
export async function browser(entry: string, ...args: string[]): Promise<Browser> {
  const bundle = await build({ entryPoints: [entry], bundle: true, write: false, format: "iife", globalName: "it", conditions: ["source"], target: "es2022", logLevel: "silent" });
  const script = bundle.outputFiles[0]?.text ?? "";
  const server = createServer((request, response) => {
    const page = request.url === "/";
    response.setHeader("content-type", page ? "text/html; charset=utf-8" : "text/javascript; charset=utf-8");
    response.end(page ? '<!doctype html><meta charset="utf-8"><title>test</title><script src="/it.js"></script>' : script);
  });
  await new Promise<void>((resolve) => server.listen(0, "127.0.0.1", resolve));
  const address = server.address();
  const port = typeof address === "object" && address ? address.port : 0;
  const profile = mkdtempSync(join(tmpdir(), "satchel-chromium-"));
  const context = await chromium.launchPersistentContext(profile, { executablePath: process.env["SATCHEL_CHROMIUM"] ?? "/usr/bin/chromium", args: ["--no-sandbox", ...args] });
  context.setDefaultTimeout(90_000); // the machine may be busy
  return {
    context,
    tab: async () => {
      const page = await context.newPage();
      await page.goto(`http://127.0.0.1:${port}/`);
      return page;
    },
    end: async () => {
      await context.close();
      server.close();
      rmSync(profile, { recursive: true, force: true, maxRetries: 10, retryDelay: 200 }); // its processes end one after the other
    },
  };
}
