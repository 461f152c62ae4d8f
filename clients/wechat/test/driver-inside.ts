import "../src/shims.js";
import { Mirror } from "@satchel/client/mirror";
import { answer, Driver, type Stores } from "../../../conformance/drivers/ts/driver.js";
import { WxDisk } from "../src/disk.js";
import { wxFetch } from "../src/fetch.js";
import { seededRandom } from "../src/random.js";
import { Schedule } from "../src/schedule.js";
import type { Wx } from "../src/wx.js";

/** What the phones around the realm do for the driver's stores. */
export interface Phones {
  /** A phone with what the store of that name kept. */
  open(name: string): Wx;
  kill(name: string): void;
  copy(from: string, to: string): void;
  reset(): void;
}

/** The driver of conformance, to be run in a mini-program's realm. */
export async function make(net: Wx, phones: Phones): Promise<(line: string) => Promise<string>> {
  const stores: Stores = {
    open: (name) => new Mirror(new WxDisk(phones.open(name), "main")),
    kill: (name) => phones.kill(name),
    copy: (from, to) => phones.copy(from, to),
    reset: () => phones.reset(),
  };
  // The runner's server knows the calls of the contract, not the form of /media/v1/chunk: program.test.ts has that.
  const driver = new Driver(stores, { json: true, fetch: wxFetch(net, new Schedule(net), false), random: await seededRandom(net) });
  return (line) => answer(driver, line);
}
