import { later, maxMediaBytes, uuid, type Core } from "./core.js";
import { SatchelError } from "./errors.js";
import { deleteMedia, pieceBytes, pieceKey, putMedia, type MediaRow } from "./files.js";
import { createOp, recordIn } from "./mutation.js";
import { hex, sha256 } from "./sha256.js";
import type { Tx } from "./store.js";

/**
 * Keeps the bytes, queues them for upload, and records the creation of the record that names them. The record syncs without
 * waiting for the bytes. A kill on the way leaves neither record nor file.
 */
export async function attach(core: Core, kind: string, bytes: Blob | Uint8Array, contentType: string, fields: object): Promise<string> {
  const size = bytes instanceof Uint8Array ? bytes.length : bytes.size;
  if (size === 0) throw new SatchelError("invalid", "the file is empty");
  if (size > maxMediaBytes) throw new SatchelError("too_large", `a file has at most ${maxMediaBytes} bytes, not ${size}`);
  const id = core.newId();
  // So that no other tab takes what is copied for what a kill left.
  return core.exclusive("attach", undefined, async () => {
    try {
      const blob = await copyIn(core, id, bytes, size);
      await core.update("attach", (tx) => {
        still(tx, id);
        putMedia(tx, id, { kind, blob, size, contentType });
        recordIn(core, tx, [createOp(kind, id, { ...fields, blob, size, content_type: contentType })]);
      });
    } catch (e) {
      await core.update("attach-undone", (tx) => deleteMedia(tx, id)).catch(() => undefined); // then upload sweeps it away
      throw e;
    }
    return id;
  });
}

/** Stores the bytes piece by piece, so that a big file neither fills the memory nor holds up the page, and gives their hash. */
async function copyIn(core: Core, id: string, bytes: Blob | Uint8Array, size: number): Promise<string> {
  const hash = sha256();
  for (let from = 0; from < size; from += pieceBytes) {
    const piece = await slice(bytes, from, Math.min(size, from + pieceBytes));
    hash.update(piece);
    await core.update("piece", (tx) => {
      if (from === 0) putMedia(tx, id, { kind: "", blob: "", size, contentType: "", copying: true });
      else still(tx, id);
      tx.putBytes(pieceKey(id, from), piece);
    });
  }
  return hex(hash.digest());
}

/** Another tab sweeps away what is copied by one that sleeps: see upload.ts. */
function still(tx: Tx, id: string): void {
  if (!tx.get("media", id)) throw new SatchelError("canceled", "the device slept; nothing was recorded");
}

async function slice(bytes: Blob | Uint8Array, from: number, to: number): Promise<Uint8Array> {
  if (bytes instanceof Uint8Array) return bytes.slice(from, to);
  try {
    return new Uint8Array(await bytes.slice(from, to).arrayBuffer());
  } catch (cause) {
    throw new SatchelError("invalid", "the file cannot be read: nothing was recorded", cause);
  }
}

/** Drops the device's copy of a file that a person does not want sent any more. */
export function forgetMedia(core: Core, record: string): Promise<void> {
  const id = uuid(record, "record");
  return core.update("forget-media", (tx) => deleteMedia(tx, id));
}

/** See upload.ts. */
export async function upload(core: Core, signal?: AbortSignal): Promise<{ uploaded: number; refused: number }> {
  if (core.view((tx) => tx.count("media")) === 0) return { uploaded: 0, refused: 0 };
  return (await later(() => import("./upload.js"))).upload(core, signal);
}

/** The bytes of a photo or voice note: the device's own copy while it keeps one, else the server's, which the person must be allowed to see. */
export async function open(core: Core, record: string, signal?: AbortSignal): Promise<Blob> {
  const id = uuid(record, "record");
  const row = core.view((tx) => tx.get("media", id)) as MediaRow | undefined;
  if (row && !row.copying) {
    const pieces: BlobPart[] = [];
    for (let from = 0; from < row.size; from += pieceBytes) {
      const piece = await core.store.bytes(pieceKey(id, from));
      if (!piece) break; // released meanwhile: the server has it
      pieces.push(piece.slice());
    }
    const blob = new Blob(pieces, { type: row.contentType });
    if (blob.size === row.size) return blob;
  }
  return (await later(() => import("./upload.js"))).download(core, id, signal);
}
