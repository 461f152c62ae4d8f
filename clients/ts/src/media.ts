import { maxMediaBytes, uuid, type Core } from "./core.js";
import { SatchelError } from "./errors.js";
import { MediaService, type BeginResponse } from "./gen/satchel/v1/media_pb.js";
import { createOp, recordIn } from "./mutation.js";
import { getAged, orderKey, readFields, recordKey, rows, u64 } from "./rows.js";
import { hex, sha256 } from "./sha256.js";
import type { ReadTx, Tx } from "./store.js";
import type { Fields, Media } from "./types.js";

/** The size of a piece in the store, and the largest one that is sent. */
const pieceBytes = 256 << 10;

/** Why a file is not sent whose bytes the store has lost; other reasons are the server's. */
const lost = "LOST";

/** A file whose bytes this device keeps until the record says that they are stored. */
interface MediaRow {
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
      tx.putBytes(pieceKey(id, from), piece);
    });
  }
  return hex(hash.digest());
}

async function slice(bytes: Blob | Uint8Array, from: number, to: number): Promise<Uint8Array> {
  if (bytes instanceof Uint8Array) return bytes.slice(from, to);
  try {
    return new Uint8Array(await bytes.slice(from, to).arrayBuffer());
  } catch (cause) {
    throw new SatchelError("invalid", "the file cannot be read: nothing was recorded", cause);
  }
}

function pieceKey(id: string, from: number): string {
  return id + "/" + orderKey(Math.floor(from / pieceBytes)).slice(12);
}

/** The files that this device still keeps, oldest first. */
export function media(core: Core): Media[] {
  return core.view((tx) =>
    files(tx).map(([record, { kind, blob, size, contentType, sent = 0, refused = "" }]) => ({ record, kind, blob, size, contentType, sent, refused })),
  );
}

/** Drops the device's copy of a file that a person does not want sent any more. */
export function forgetMedia(core: Core, record: string): Promise<void> {
  const id = uuid(record, "record");
  return core.update("forget-media", (tx) => deleteMedia(tx, id));
}

/**
 * Sends queued files, oldest first, each going on where it stopped. A file stays queued, and is asked about again, until its
 * record says that it is stored: only then does its copy go; or, when the record is kept at the office, as soon as the server
 * says that it has the bytes. One that the server does not take is marked and does not hold up the others; any other error
 * ends the call and keeps everything.
 */
export function upload(core: Core, signal?: AbortSignal): Promise<{ uploaded: number; refused: number }> {
  return core.exclusive("upload", signal, async () => {
    await sweep(core, signal);
    await release(core);
    const r = { uploaded: 0, refused: 0 };
    for (const m of media(core)) {
      if (m.refused) continue;
      try {
        if (!(await send(core, m, signal))) continue;
      } catch (e) {
        const refused = e instanceof SatchelError ? e.reason : "";
        if (!["UNSUPPORTED_MEDIA", "TOO_LARGE", lost].includes(refused)) throw e;
        await core.update("refused", (tx) => changeMedia(tx, m.record, { refused }));
        r.refused++;
        continue;
      }
      r.uploaded++;
      await releaseAtOffice(core, m.record);
    }
    return r;
  });
}

/** Removes what a kill left of files that were being attached. */
async function sweep(core: Core, signal: AbortSignal | undefined): Promise<void> {
  const copying = (tx: ReadTx) => rows(tx, "media").filter(([, row]) => (row as MediaRow).copying);
  if (core.view(copying).length === 0) return;
  await core.exclusive("attach", signal, () =>
    core.update("sweep", (tx) => {
      for (const [id] of copying(tx)) deleteMedia(tx, id);
    }),
  );
}

/** Drops the copy of a file that the server has, when its record is kept at the office and so will never say here that it is. */
async function releaseAtOffice(core: Core, id: string): Promise<void> {
  const row = core.view((tx) => getAged(tx, "office", id));
  if (row && !row.dead) await core.update("release", (tx) => deleteMedia(tx, id));
}

/** Sends one file and tells whether the server has it; false: it was forgotten meanwhile. */
async function send(core: Core, m: Media, signal: AbortSignal | undefined): Promise<boolean> {
  for (let again = false; ; again = true) {
    // Begin gives the same upload again, so nothing about it needs to be kept.
    const begun = await core.call(MediaService.method.begin, { sha256: m.blob, size: u64(m.size), contentType: m.contentType }, signal);
    try {
      if (!begun.stored) {
        if (!(await sendPieces(core, m, begun, signal))) return false;
        await core.call(MediaService.method.complete, { uploadId: begun.uploadId }, signal);
      }
      await acknowledge(core, m, m.size);
      return true;
    } catch (e) {
      // Garbled on the way, or forgotten meanwhile: once more from the beginning.
      if (again || !(e instanceof SatchelError) || (e.reason !== "HASH_MISMATCH" && e.reason !== "NOT_FOUND")) throw e;
    }
  }
}

async function sendPieces(core: Core, m: Media, begun: BeginResponse, signal: AbortSignal | undefined): Promise<boolean> {
  const limit = begun.chunkSize > 0 ? Math.min(pieceBytes, begun.chunkSize) : pieceBytes;
  let corrected = 0;
  for (let offset = Number(begun.offset); offset < m.size; ) {
    const piece = await core.store.bytes(pieceKey(m.record, offset));
    if (!core.view((tx) => tx.get("media", m.record))) return false;
    const from = offset % pieceBytes;
    const data = piece?.subarray(from, from + limit);
    if (!data?.length) {
      const e = new SatchelError("not_found", `the bytes of a file end at ${offset} instead of ${m.size}`);
      e.reason = lost;
      throw e;
    }
    let next: number;
    try {
      const res = await core.call(MediaService.method.putChunk, { uploadId: begun.uploadId, offset: u64(offset), data }, signal);
      next = Number(res.offset);
      if (next <= offset || next > m.size) throw new SatchelError("unavailable", `the server acknowledged ${next} after a piece at ${offset} of ${m.size} bytes`);
    } catch (e) {
      if (!(e instanceof SatchelError) || e.reason !== "UNEXPECTED_OFFSET" || e.expected > m.size || corrected++ >= 10) throw e;
      next = e.expected;
    }
    offset = next;
    await acknowledge(core, m, offset);
  }
  return true;
}

/** Notes how far a file has come, for who looks. A full disk must not keep it from being sent: that makes room. */
async function acknowledge(core: Core, m: Media, sent: number): Promise<void> {
  try {
    await core.update("sent", (tx) => changeMedia(tx, m.record, { sent }));
  } catch (e) {
    if (!(e instanceof SatchelError) || e.code !== "storage_full") throw e;
  }
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
  const link = await core.call(MediaService.method.link, { recordId: id }, signal);
  // An address of its own or, with a slash, one of the server, whose address may have a path; no URL class in mini-programs.
  const url = link.url.startsWith("/") ? core.config.baseUrl.replace(/^(\w+:\/\/[^/]*).*$/, "$1") + link.url : link.url;
  try {
    const res = await (core.config.fetch ?? globalThis.fetch)(url, signal ? { signal } : {});
    if (res.ok) return new Blob([await res.arrayBuffer()], { type: link.contentType });
    const code = res.status === 404 ? "not_found" : res.status === 429 || res.status >= 500 ? "unavailable" : "refused"; // of the link, not the session
    throw new SatchelError(code, `opening the bytes: ${res.status}`);
  } catch (e) {
    if (e instanceof SatchelError) throw e;
    throw signal?.aborted ? new SatchelError("canceled", "the call was cancelled", e) : new SatchelError("unavailable", "opening the bytes: no answer", e);
  }
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

function putMedia(tx: Tx, id: string, row: MediaRow): void {
  tx.put("media", id, row);
}

/** Changes a row; one that was forgotten meanwhile stays so. */
function changeMedia(tx: Tx, id: string, change: Partial<MediaRow>): void {
  const row = tx.get("media", id) as MediaRow | undefined;
  if (row) putMedia(tx, id, { ...row, ...change });
}

/** Removes a file or what was copied of it. */
function deleteMedia(tx: Tx, id: string): void {
  tx.deleteBytes(id + "/");
  tx.delete("media", id);
}
