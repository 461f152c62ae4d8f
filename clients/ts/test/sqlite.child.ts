// A process that records one mutation after the other until it is killed: node, bundled by sqlite.test.ts.
import { sqliteStore } from "../src/stores/sqlite.js";
import { wasmDriver } from "./wasm.js";

const store = sqliteStore(wasmDriver(process.argv[2] ?? ""));
await store.open();
for (let n = 1; ; n++) {
  await store.update((tx) => {
    tx.put("meta", "n", n);
    tx.put("kept", String(n).padStart(16, "0"), { text: "x".repeat(500) });
    tx.putBytes("piece/" + (n % 10), new Uint8Array(20_000).fill(n));
  });
  process.stdout.write(n + "\n");
}
