import { prove } from "./prove.js";

prove("on IndexedDB in Chromium, its tab killed:", ["node", "conformance/drivers/ts/run.mjs", "indexeddb"]);
