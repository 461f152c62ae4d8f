import type { Core } from "./core.js";
import { SatchelError } from "./errors.js";
import { MediaService, type BeginResponse } from "./gen/satchel/v1/media_pb.js";
import { changeMedia, deleteMedia, lost, media, pieceBytes, pieceKey, release, type MediaRow } from "./files.js";
import { getAged, rows, u64 } from "./rows.js";
import type { ReadTx } from "./store.js";
import { attempt } from "./transport.js";
import type { Media } from "./types.js";

/** The smallest piece that is tried on a slow network. */
const minPieceBytes = 16 << 10;

/**
 * Sends queued files, oldest first, each going on where it stopped. A file stays queued, and is asked about again, until its
 * record says that it is stored: only then does its copy go; or, when the record is kept at the office, as soon as the server
 * says that it has the bytes. One that the server does not take is marked and does not hold up the others; any other error
 * ends the call and keeps everything.
 */
export function upload(core: Core, signal?: AbortSignal): Promise<{ uploaded: number; refused: number }> {
  return core.exclusive("upload", signal, async (signal) => {
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
  let limit = begun.chunkSize > 0 ? Math.min(pieceBytes, begun.chunkSize) : pieceBytes;
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
      if (!(e instanceof SatchelError)) throw e;
      if (e.less && limit > minPieceBytes) {
        limit >>= 1; // a piece that takes longer than a call may would never get through
        continue;
      }
      if (e.reason !== "UNEXPECTED_OFFSET" || e.expected > m.size || corrected++ >= 10) throw e;
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

/** Gets the bytes that a record names from the server, which the person must be allowed to see. */
export async function download(core: Core, id: string, signal?: AbortSignal): Promise<Blob> {
  const link = await core.call(MediaService.method.link, { recordId: id }, signal);
  // An address of its own or, with a slash, one of the server, whose address may have a path; no URL class in mini-programs.
  const url = link.url.startsWith("/") ? core.config.baseUrl.replace(/^(\w+:\/\/[^/]*).*$/, "$1") + link.url : link.url;
  const get = async (_: Headers, until: AbortSignal) => {
    const res = await (core.config.fetch ?? globalThis.fetch)(url, { signal: until, cache: "no-store" }); // each link is new, and signing out leaves nothing behind
    if (res.ok) return new Blob([await res.arrayBuffer()], { type: link.contentType });
    const code = res.status === 404 ? "not_found" : res.status === 429 || res.status >= 500 ? "unavailable" : "refused"; // of the link, not the session
    throw new SatchelError(code, `opening the bytes: ${res.status}`);
  };
  return attempt(core, "", get, signal, core.config.timeoutMs + Number(link.size)); // at least 1 KB a second
}
