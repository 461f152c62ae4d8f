import { copyFileSync, existsSync, mkdtempSync, readdirSync, rmSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { createInterface } from "node:readline";
import type { Config } from "@satchel/client";
import { memoryDisk, memoryStore, type MemoryDisk } from "@satchel/client/memory";
import { sqliteStore } from "@satchel/client/sqlite";
import { browser } from "../../../clients/ts/test/page.js";
import { wasmDriver } from "../../../clients/ts/test/wasm.js";
import { answer, Driver, type Command, type Stores } from "./driver.js";

/** Answers lines from standard input until it ends. here = the folder of this file. */
export async function main(args: string[], here: string): Promise<void> {
  const [kind = "", ...options] = args;
  const json = options.includes("--json");
  const folder = options.find((o) => o.startsWith("--folder="))?.slice("--folder=".length);
  const more: Partial<Config> = json ? { json } : {};
  if (kind === "memory") await serve(lineDriver(new Driver(memory(), more)));
  else if (kind === "sqlite") {
    const files = folder ?? mkdtempSync(join(tmpdir(), "satchel-conformance-"));
    await serve(lineDriver(new Driver(sqlite(files), more)));
    if (!folder) rmSync(files, { recursive: true, force: true });
  } else if (kind === "indexeddb") {
    const chromium = await browser(join(here, "page.ts"));
    try {
      await serve(await tabDriver(chromium, json));
    } finally {
      await chromium.end();
    }
  } else throw new Error("usage: run.mjs memory|sqlite|indexeddb [--json] [--folder=FILES]");
}

/** Gives the answer to a line; undefined = none, for what asked for it is gone. */
type Answer = (line: string) => Promise<string | undefined>;

async function serve(take: Answer): Promise<void> {
  const under = new Set<Promise<void>>();
  for await (const line of createInterface({ input: process.stdin })) {
    const task = take(line).then((text) => void (text !== undefined && process.stdout.write(text + "\n")));
    under.add(task);
    void task.finally(() => under.delete(task));
  }
  await Promise.allSettled(under);
}

function lineDriver(driver: Driver): Answer {
  return (line) => answer(driver, line);
}

/** The driver lives in a tab. kill crashes it, and the next command comes to a new one. */
async function tabDriver(chromium: Awaited<ReturnType<typeof browser>>, json: boolean): Promise<Answer> {
  let tab = await chromium.tab();
  return async (line) => {
    const command: Command = JSON.parse(line);
    if (command.do === "kill") {
      const dying = tab;
      const session = await chromium.context.newCDPSession(dying);
      session.send("Page.crash").catch(() => undefined); // its process dies without a word
      await new Promise((resolve) => dying.once("crash", resolve));
      await dying.close();
      tab = await chromium.tab();
      return JSON.stringify({ id: command.id });
    }
    try {
      return await tab.evaluate(({ line, json }) => it.answerInPage(line, json), { line, json });
    } catch (e) {
      if (tab.isClosed()) return undefined;
      return JSON.stringify({ id: command.id, error: { code: "closed", reason: "", retry_after_ms: 0, message: String(e) } });
    }
  };
}
declare const it: typeof import("./page.js"); // in the tab

function memory(): Stores {
  const disks = new Map<string, MemoryDisk>();
  const tabs = new Map<string, MemoryDisk>();
  return {
    open: (name) => {
      const disk = disks.get(name) ?? memoryDisk();
      disks.set(name, disk);
      const tab = disk.tab();
      tabs.set(name, tab);
      return memoryStore(tab);
    },
    kill: (name) => tabs.get(name)?.kill(),
    copy: (from, to) => {
      const disk = disks.get(from);
      if (disk) disks.set(to, disk.clone());
    },
    reset: () => disks.clear(),
  };
}

/** Files in a folder that holds nothing else. Closing the client is a kill for what is under way. */
function sqlite(folder: string): Stores {
  const file = (name: string) => join(folder, name + ".db");
  return {
    open: (name) => sqliteStore(wasmDriver(file(name), true)),
    kill: () => undefined,
    copy: (from, to) => {
      for (const end of ["", "-journal"]) {
        rmSync(file(to) + end, { force: true });
        if (existsSync(file(from) + end)) copyFileSync(file(from) + end, file(to) + end);
      }
    },
    reset: () => {
      for (const name of readdirSync(folder)) rmSync(join(folder, name), { recursive: true, force: true });
    },
  };
}
