import { createInterface } from "node:readline";
import { bundle } from "../scripts/build.mjs";
import type { make as makeType } from "./driver-inside.js";
import { Flash, load, Phone, realm } from "./phone.js";

/** Answers lines from standard input until it ends. */
export async function main(): Promise<void> {
  const context = realm();
  const flashes = new Map<string, Flash>();
  const phones = new Map<string, Phone>();
  const flash = (name: string): Flash => {
    const f = flashes.get(name) ?? new Flash();
    flashes.set(name, f);
    return f;
  };
  const require = load(context, { "/driver.js": await bundle({ entry: "test/driver-inside.ts" }) }, { atob }); // atob is the driver's, not the package's
  const { make } = require("/driver.js") as { make: typeof makeType };
  const take = await make(new Phone(new Flash(), { context }).wx, {
    open(name) {
      const phone = new Phone(flash(name), { context });
      phones.set(name, phone);
      return phone.wx;
    },
    kill(name) {
      const phone = phones.get(name);
      if (phone) phone.dead = true;
    },
    copy: (from, to) => void flashes.set(to, flash(from).clone()),
    reset: () => flashes.clear(),
  });
  for await (const line of createInterface({ input: process.stdin })) {
    void take(line).then((text) => process.stdout.write(text + "\n"));
  }
}
