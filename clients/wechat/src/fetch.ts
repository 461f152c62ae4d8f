import { Code, ConnectError } from "@connectrpc/connect";
import { Headers, TextDecoder } from "./shims.js";
import { Rank, type Schedule } from "./schedule.js";
import { ask, type Wx } from "./wx.js";

/** WeChat's own limit of a request, milliseconds. Calls have shorter ones of the client's. */
const timeoutMs = 60_000;

/** What came back, whatever it came by. */
interface Answer {
  status: number;
  header: object;
  data: unknown;
}

/**
 * The platform's fetch for Connect's transport: unary calls in JSON, and plain GETs of bytes, by wx.request; pieces of files
 * by wx.uploadFile, unless uploadFile is false. Requests wait for their turn. What fails is a ConnectError: `deadline_exceeded` when WeChat gave up
 * waiting, `canceled` when the signal did, else `unavailable`, also when WeChat broke off what ran in the background.
 */
export function wxFetch(wx: Wx, schedule: Schedule, uploadFile = true): typeof globalThis.fetch {
  let pieces = 0;
  const fetch = async (input: unknown, init: RequestInit = {}): Promise<Answer & { url: string; text: boolean }> => {
    const url = String(input);
    const header: Record<string, string> = {};
    new Headers(init.headers).forEach((value, name) => (header[name] = value));
    const text = /json/.test(header["content-type"] ?? "");
    const data = bodyOf(init.body, text);
    const rank = rankOf(url, data);
    if (uploadFile && text && typeof data === "string" && /\/satchel\.v1\.MediaService\/PutChunk$/.test(url)) {
      const answer = await byFile(url, data, header, init.signal);
      if (answer) return { ...answer, url, text };
    }
    const method = init.method === "POST" || init.method === "PUT" || init.method === "DELETE" ? init.method : "GET";
    const done = await schedule.turn(rank, false, init.signal);
    const answer = await abortable<Answer>(init.signal, done, (success, fail) =>
      wx.request({
        url, method, header, timeout: timeoutMs, dataType: "text", responseType: text ? "text" : "arraybuffer", ...(data === undefined ? {} : { data }),
        success: (r) => success({ status: r.statusCode, header: r.header, data: r.data }), fail,
      }),
    );
    return { ...answer, url, text };
  };

  /** Sends a piece as a form's file; undefined = there is no room for the file. */
  const byFile = async (url: string, body: string, header: Record<string, string>, signal: AbortSignal | null | undefined): Promise<Answer | undefined> => {
    const { uploadId = "", offset = "0", data = "" } = JSON.parse(body) as { uploadId?: string; offset?: string; data?: string }; // PutChunkRequest
    const fs = wx.getFileSystemManager();
    const filePath = `${wx.env.USER_DATA_PATH}/satchel-piece-${pieces++ % 16}`;
    const done = await schedule.turn(Rank.media, true, signal);
    try {
      await ask((c) => fs.writeFile({ filePath, data, encoding: "base64", ...c }));
    } catch {
      done();
      return undefined;
    }
    const { "content-type": _, ...rest } = header; // WeChat writes the form's own
    return abortable<Answer>(
      signal,
      () => {
        done();
        fs.unlink({ filePath }); // what is left is written over
      },
      (success, fail) =>
        wx.uploadFile({
          url: url.replace(/\/satchel\.v1\..*$/, "/media/v1/chunk/") + uploadId, filePath, name: "file", formData: { offset: String(offset) }, header: rest,
          timeout: timeoutMs, success: (r) => success({ status: r.statusCode, header: { "content-type": "application/json" }, data: r.data }), fail,
        }),
    );
  };

  const platform = async (input: unknown, init?: RequestInit) => response(await fetch(input, init));
  // Connect's transport and the client use of fetch and Response what response() has.
  return platform as unknown as typeof globalThis.fetch;
}

/** Runs a task that the signal breaks off; release is called when WeChat is through with it. */
function abortable<T>(signal: AbortSignal | null | undefined, release: () => void, start: (success: (r: T) => void, fail: (e: { errMsg: string }) => void) => { abort(): void }): Promise<T> {
  return new Promise((resolve, reject) => {
    const end = () => {
      signal?.removeEventListener("abort", abort);
      release();
    };
    const abort = () => {
      reject(new ConnectError("the request was given up", Code.Canceled));
      task?.abort();
    };
    let task: { abort(): void } | undefined;
    if (signal?.aborted) {
      end();
      return abort();
    }
    signal?.addEventListener("abort", abort);
    const fail = ({ errMsg }: { errMsg: string }) => {
      end();
      reject(new ConnectError(errMsg, /timeout|time out/i.test(errMsg) ? Code.DeadlineExceeded : /abort/i.test(errMsg) ? Code.Canceled : Code.Unavailable));
    };
    try {
      task = start((result) => {
        end();
        resolve(result);
      }, fail);
    } catch (e) {
      fail({ errMsg: String(e) }); // WeChat throws for what it cannot read
    }
  });
}

/** Text as text, for WeChat sends an ArrayBuffer with what lies around a view of it. */
function bodyOf(body: unknown, text: boolean): string | ArrayBuffer | undefined {
  if (body === undefined || body === null || typeof body === "string") return body ?? undefined;
  const bytes = isBuffer(body) ? new Uint8Array(body) : ArrayBuffer.isView(body) ? new Uint8Array(body.buffer, body.byteOffset, body.byteLength) : undefined;
  if (!bytes) throw new TypeError("the body is neither text nor bytes");
  return text ? new TextDecoder().decode(bytes) : (bytes.slice().buffer as ArrayBuffer); // slice makes no shared one
}

/** What people wait for goes first. */
function rankOf(url: string, body: unknown): Rank {
  const text = typeof body === "string" ? body : "";
  if (/\.(Approval|Auth)Service\//.test(url) || text.includes('"approval.')) return Rank.decide;
  if (/\/Sync$/.test(url) && text.includes('"mutations":[')) return Rank.send;
  return /\.MediaService\/|\/media\//.test(url) ? Rank.media : Rank.pull;
}

/** WeChat gives header names as the server or the phone spells them, and every status as a success. */
function response({ status, header, data, url }: Answer & { url: string }) {
  const headers = new Headers();
  for (const [name, value] of Object.entries(header)) headers.set(name, Array.isArray(value) ? value.join(", ") : String(value));
  const bytes = () => {
    if (isBuffer(data)) return data;
    if (ArrayBuffer.isView(data)) return data.buffer.slice(data.byteOffset, data.byteOffset + data.byteLength);
    throw new ConnectError("the answer has no bytes", Code.Unavailable);
  };
  const isBytes = isBuffer(data) || ArrayBuffer.isView(data);
  const text = () => (typeof data === "string" ? data : isBytes ? new TextDecoder().decode(bytes()) : JSON.stringify(data));
  return {
    url, status, headers, ok: status >= 200 && status < 300,
    text: async () => text(),
    json: async (): Promise<unknown> => (typeof data === "object" && !isBytes ? data : JSON.parse(text())),
    arrayBuffer: async () => bytes(),
  };
}

/** Also of one that WeChat made outside the app's own realm. */
function isBuffer(x: unknown): x is ArrayBuffer {
  return Object.prototype.toString.call(x) === "[object ArrayBuffer]";
}
