export { Client } from "./client.js";
export { SatchelError, StorageFull, StoreClosed, type Code } from "./errors.js";
export type * from "./types.js";
export type { Base64, Batch, ChangeRow, Disk, MutationRow, OpRow, ReadTx, Store, Table, Tables, Touched, Tx, U64, VerdictRow } from "./store.js";
