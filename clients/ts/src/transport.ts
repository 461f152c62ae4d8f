import type { DescEnum } from "@bufbuild/protobuf";
import { Code, ConnectError, type Transport } from "@connectrpc/connect";
import { createConnectTransport } from "@connectrpc/connect-web";
import { joined, protocolVersion, type Core, type Settings } from "./core.js";
import { SatchelError, StoreClosed, type Code as SatchelCode } from "./errors.js";
import { ErrorDetailSchema, Reason, ReasonSchema } from "./gen/satchel/v1/errors_pb.js";

/** Connect over the platform's fetch, or the config's. */
export function makeTransport({ baseUrl, json, fetch }: Settings): Transport {
  return createConnectTransport({ baseUrl, useBinaryFormat: !json, fetch: zipped(fetch ?? ((input, init) => globalThis.fetch(input, init))) });
}

/** A request of a few mutations is mostly JSON text, and 2G uplinks are slow: it is compressed where the platform can. */
function zipped(fetch: typeof globalThis.fetch): typeof globalThis.fetch {
  return async (input, init) => {
    const body = init?.body;
    // Pieces of media are compressed already.
    if (!(body instanceof Uint8Array) || body.length < 1024 || typeof CompressionStream === "undefined" || /PutChunk$/.test(String(input))) return fetch(input, init);
    const headers = new Headers(init?.headers);
    headers.set("Content-Encoding", "gzip");
    return fetch(input, { ...init, headers, body: await new Response(new Blob([body as BlobPart]).stream().pipeThrough(new CompressionStream("gzip"))).arrayBuffer() });
  };
}

/**
 * Runs fn with the headers of a call, under a signal that ends with the caller's, the client's, and after the time-out. What it
 * rejects with becomes a SatchelError.
 */
export async function attempt<T>(core: Core, token: string, fn: (headers: Headers, signal: AbortSignal) => Promise<T>, signal: AbortSignal | undefined, timeoutMs: number): Promise<T> {
  const headers = new Headers({ "Satchel-Protocol": protocolVersion });
  if (token) headers.set("Authorization", "Bearer " + token);
  if (core.config.language) headers.set("Accept-Language", core.config.language);
  const limit = joined(signal, core.closing.signal);
  let late = false;
  const timer = setTimeout(() => {
    late = true;
    limit.abort();
  }, timeoutMs);
  try {
    return await fn(headers, limit.signal);
  } catch (e) {
    if (core.closing.signal.aborted) throw new StoreClosed();
    if (signal?.aborted) throw canceled(e);
    throw e instanceof SatchelError ? e : failure(late ? new ConnectError("no answer in time", Code.DeadlineExceeded) : ConnectError.from(e));
  } finally {
    clearTimeout(timer);
    limit.end();
  }
}

/** The error of a call that its caller gave up. */
export function canceled(cause: unknown): SatchelError {
  return new SatchelError("canceled", "the call was cancelled", cause);
}

/** The name of an enum's value; "" = unspecified, or a newer server's. The descriptor has the names, so no second table is shipped. */
export function nameOf(of: DescEnum, n: number): string {
  return n ? (of.value[n]?.localName ?? "") : "";
}

/** What only the server can say: another code that this side chose says no more than that no answer of the server's came. */
const chosen = new Set([Code.DeadlineExceeded, Code.Unimplemented]);
const final = new Set([Code.InvalidArgument, Code.NotFound, Code.FailedPrecondition, Code.Unimplemented, Code.PermissionDenied]);
const byReason: Partial<Record<Reason, SatchelCode>> = {
  [Reason.DEVICE_REVOKED]: "device_revoked",
  [Reason.BAD_CREDENTIALS]: "bad_credentials",
  [Reason.CLIENT_TOO_OLD]: "upgrade_app",
  [Reason.TOO_LARGE]: "too_large",
  [Reason.NOT_FOUND]: "not_found",
};

/**
 * Turns what a call rejected with into a SatchelError. The connection was cut, or something on the way answered in the
 * server's place, as a hotel's log-in page: `unavailable`.
 */
function failure(e: ConnectError): SatchelError {
  const detail = e.findDetails(ErrorDetailSchema)[0];
  const reason = detail?.reason ?? Reason.UNSPECIFIED;
  const code = e.isWireError || chosen.has(e.code) ? e.code : Code.Unavailable;
  const late = code === Code.DeadlineExceeded || reason === Reason.DEADLINE;
  const kind = byReason[reason] ?? (code === Code.Unauthenticated ? "sign_in_again" : code === Code.Unavailable || late ? "unavailable" : "refused");
  const err = new SatchelError(kind, [e.message, nameOf(ReasonSchema, reason), detail?.requestId].filter(Boolean).join(" · "), e);
  if (detail) {
    err.reason = nameOf(ReasonSchema, reason);
    err.userMessage = detail.message;
    err.requestId = detail.requestId;
    err.retryAfterMs = detail.retryAfterMs;
    err.expected = Number(detail.expected);
  }
  err.less = late || reason === Reason.TOO_LARGE || (code === Code.ResourceExhausted && err.retryAfterMs === 0);
  err.final = (reason === Reason.TOO_LARGE && err.retryAfterMs === 0) || (final.has(code) && kind !== "device_revoked" && kind !== "upgrade_app");
  return err;
}
