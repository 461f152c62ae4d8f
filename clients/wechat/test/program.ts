import { readFileSync } from "node:fs";
import { runInContext, type Context } from "node:vm";
import { bundle } from "../scripts/build.mjs";
import type * as Package from "../src/index.js";
import { Flash, load, Phone, realm, type Habits } from "./phone.js";

const sample = (path: string) => readFileSync(new URL("../sample/" + path, import.meta.url), "utf8");
let text: Promise<string> | undefined;

/** A page as a mini-program runs it. Its functions are called with it as `this`. */
export interface Page {
  data: Record<string, unknown>;
  setData(change: Record<string, unknown>): void;
  [handler: string]: unknown;
}

/** A mini-program on a phone, in a realm of its own. */
export interface Program {
  phone: Phone;
  context: Context;
  /** The bundle, loaded within WeChat's wrapper. */
  package: typeof Package;
  /** The sample's app and pages; open loads one and runs its onLoad. */
  app(): Record<string, unknown>;
  open(path: string): Promise<Page>;
  /** Runs a handler of a page. */
  tap(page: Page, handler: string, detail?: unknown): Promise<void>;
  /** What the sample did by wx.navigateTo, showToast, … */
  did: string[];
}

/** Loads the bundle and the sample; base is the server's address. */
export async function start(base: string, flash = new Flash(), habits: Habits & { bigInt?: boolean; minify?: boolean } = {}): Promise<Program> {
  text ??= bundle();
  const context = realm({ bigInt: habits.bigInt ?? true });
  const phone = new Phone(flash, { ...habits, context });
  const did: string[] = [];
  const note = (name: string) => (o: { url?: string; title?: string } = {}) => void did.push(`${name} ${o.url ?? o.title ?? ""}`.trim());
  const more = {
    navigateTo: note("navigateTo"), reLaunch: note("reLaunch"), navigateBack: note("navigateBack"), showToast: note("showToast"),
    chooseMedia: (o: { success(r: unknown): void }) => {
      flash.files.set("wxfile://tmp/photo.jpg", photo);
      o.success({ tempFiles: [{ tempFilePath: "wxfile://tmp/photo.jpg" }] });
    },
  };
  let app: Record<string, unknown> = {};
  let page: Page | undefined;
  const modules: Record<string, string> = { "/satchel.js": await text, "/config.js": `module.exports = ${JSON.stringify({ baseUrl: base, org: "", templates: ["tmpl-1", "tmpl-2"] })};`, "/app.js": sample("app.js") };
  const { pages } = JSON.parse(sample("app.json")) as { pages: string[] };
  for (const path of pages) modules[`/${path}.js`] = sample(path + ".js");
  const require = load(context, modules, {
    wx: { ...phone.wx, ...more },
    App: (definition: Record<string, unknown>) => {
      app = definition;
      (definition["onLaunch"] as () => void).call(definition);
    },
    Page: (definition: Page) => void (page = definition),
    getApp: () => app,
  });
  return {
    phone, context, did,
    package: require("/satchel.js") as typeof Package,
    app: () => {
      require("/app.js");
      return app;
    },
    async open(path) {
      require(`/pages/${path}/${path}.js`);
      const opened = page;
      if (!opened) throw new Error("no page");
      opened.setData = function (change) {
        this.data = { ...this.data, ...(JSON.parse(JSON.stringify(change)) as object) }; // as it crosses to the other thread
      };
      await (opened["onLoad"] as (() => Promise<void>) | undefined)?.call(opened);
      return opened;
    },
    async tap(p, handler, detail = {}) {
      await (p[handler] as (e: unknown) => unknown).call(p, { detail });
    },
  };
}

/** A JPEG: 1 by 1 pixel, and enough of a comment to make several pieces. */
export const photo: Buffer = (() => {
  const pixel = Buffer.from(
    "/9j/4AAQSkZJRgABAQEASABIAAD/2wBDAP//////////////////////////////////////////////////////////////////////////////////////wgALCAABAAEBAREA/8QAFBABAAAAAAAAAAAAAAAAAAAAAP/aAAgBAQABPxA=",
    "base64",
  );
  const comments = Array.from({ length: 10 }, (_, i) => Buffer.concat([Buffer.from([0xff, 0xfe, 0xff, 0xff]), Buffer.alloc(65_533, i + 1)]));
  return Buffer.concat([pixel.subarray(0, 2), ...comments, pixel.subarray(2)]);
})();

/** Evaluates in the mini-program's realm. */
export function inside(program: Program, code: string): unknown {
  return runInContext(code, program.context);
}

/** Waits until ok; at most 30 seconds. */
export async function until(what: string, ok: () => boolean): Promise<void> {
  for (const end = Date.now() + 30_000; !ok(); ) {
    if (Date.now() > end) throw new Error(`${what}: not within 30 s`);
    await new Promise((resolve) => setTimeout(resolve, 10));
  }
}
