import type { Core } from "./core.js";
import { orderKey, readFields, recordKey, rows } from "./rows.js";
import type { ReadTx, Tx } from "./store.js";
import type { Fields, Media } from "./types.js";

// The files that a device keeps: their rows and pieces. What is done with them is in media.ts and upload.ts.

/** The size of a piece in the store, and the largest one that is sent. */
export const pieceBytes = 256 << 10;

/** Why a file is not sent whose bytes the store has lost; other reasons are the server's. */
export const lost = "LOST";

/** A file whose bytes this device keeps until the record says that they are stored. */
export interface MediaRow {
  kind: string;
  /** SHA-256 in hex. */
  blob: string;
  size: number;
  contentType: string;
  /** Bytes that the server has acknowledged; absent = none. */
  sent?: number;
  /** The server will never take these bytes. */
  refused?: string;
  /** attach has not finished: it is no file yet. */
  copying?: true;
}

/** The key of the piece that begins at from. */
export function pieceKey(id: string, from: number): string {
  return id + "/" + orderKey(Math.floor(from / pieceBytes)).slice(12);
}

/** The files that this device still keeps, oldest first. */
export function media(core: Core): Media[] {
  return core.view((tx) =>
    files(tx).map(([record, { kind, blob, size, contentType, sent = 0, refused = "" }]) => ({ record, kind, blob, size, contentType, sent, refused })),
  );
}

/** Drops the copies of files whose record, at the checkpoint, says that they are stored. */
export async function release(core: Core): Promise<number> {
  const stored = core.view((tx) =>
    files(tx).filter(([id, row]) => {
      const fields: Fields | undefined = readFields(tx.get("record", recordKey(row.kind, id))?.fields ?? "");
      // The state speaks of the blob that the record names, which somebody may have replaced.
      return fields?.["blob_state"] === "stored" && fields["blob"] === row.blob;
    }),
  );
  if (stored.length > 0) await core.update("release", (tx) => stored.forEach(([id]) => deleteMedia(tx, id)));
  return stored.length;
}

/** Counts the bytes that wait to be sent. */
export function mediaBytes(tx: ReadTx): number {
  return files(tx).reduce((sum, [, row]) => sum + (row.refused ? 0 : row.size), 0);
}

function files(tx: ReadTx): [string, MediaRow][] {
  return rows(tx, "media").map(([id, row]): [string, MediaRow] => [id, row as MediaRow]).filter(([, row]) => !row.copying);
}

export function putMedia(tx: Tx, id: string, row: MediaRow): void {
  tx.put("media", id, row);
}

/** Changes a row; one that was forgotten meanwhile stays so. */
export function changeMedia(tx: Tx, id: string, change: Partial<MediaRow>): void {
  const row = tx.get("media", id) as MediaRow | undefined;
  if (row) putMedia(tx, id, { ...row, ...change });
}

/** Removes a file or what was copied of it. */
export function deleteMedia(tx: Tx, id: string): void {
  tx.deleteBytes(id + "/");
  tx.delete("media", id);
}
