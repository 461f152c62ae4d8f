import { request as httpRequest } from "node:http";
import { runInContext, createContext, type Context } from "node:vm";
import type { Callbacks, FileSystem, RequestOptions, UploadOptions, Wx } from "../src/wx.js";

/** What a phone keeps of a mini-program while it is closed. */
export class Flash {
  readonly storage = new Map<string, { data: unknown; encrypted: boolean }>();
  readonly files = new Map<string, Buffer>();
  readonly folders = new Set<string>(["wxfile://usr"]);
  /** Bytes that other parts of the mini-program hold. */
  otherBytes = 0;

  clone(): Flash {
    const copy = new Flash();
    this.storage.forEach((v, k) => copy.storage.set(k, v));
    this.files.forEach((v, k) => copy.files.set(k, v));
    this.folders.forEach((f) => copy.folders.add(f));
    return copy;
  }
}

const MB = 1024 * 1024;
const bytesOf = (x: unknown): number => Buffer.byteLength(typeof x === "string" ? x : JSON.stringify(x));

/** How the phone behaves. */
export interface Habits {
  /** How header names come: as they were sent, in lower or in upper case. */
  headers?: "lower" | "upper";
  /** Milliseconds until what runs in the background is broken off; 5,000 on a phone. */
  backgroundMs?: number;
  /** The realm whose ArrayBuffers it makes; absent = this one. */
  context?: Context;
  /** Puts bytes around an answer's, in a view, as some phones did. */
  padded?: boolean;
  /** The person of wx.login, see internal/fakes. */
  user?: string;
  /** The answer of wx.requestSubscribeMessage to each template. */
  subscribe?: (template: string) => "accept" | "reject" | "ban" | "filter";
  /** Before wx.getRandomValues. */
  old?: boolean;
}

/** WeChat's runtime around a mini-program: `wx` with its real limits (../shared/reference/edge.md §2.1), on real HTTP. */
export class Phone {
  /** Requests and transfers under way now, and the most there ever were. */
  running = 0;
  most = 0;
  /** What WeChat itself had to queue, because there were more than it runs at once. */
  queuedByWeChat = 0;
  /** Every wx.request and wx.uploadFile that went out. */
  readonly sent: { url: string; how: "request" | "upload"; data: unknown; header: Record<string, string> }[] = [];
  /** No network: everything fails. */
  offline = false;
  /** Answers to lose: the server gets the request, the phone hears "fail". */
  lose = 0;
  /** Calls of storage and files so far; before call number dieAt the phone dies. */
  calls = 0;
  dieAt = Infinity;
  dead = false;
  /** The next calls of storage and files that fail, by a word in their name, and what they say. */
  readonly failures: { call: string; errMsg: string }[] = [];
  codes = 0;
  readonly wx: Wx;
  private frozen = false;
  private readonly onShow: (() => void)[] = [];
  private readonly onHide: (() => void)[] = [];
  private readonly onNetwork: ((r: { isConnected: boolean }) => void)[] = [];
  private readonly queue: (() => void)[] = [];
  private readonly flying = new Set<(errMsg: string) => void>();
  private timer: ReturnType<typeof setTimeout> | undefined;

  constructor(
    readonly flash: Flash = new Flash(),
    readonly habits: Habits = {},
  ) {
    this.wx = {
      request: (o) => this.request(o),
      uploadFile: (o) => this.upload(o),
      login: (o) => this.later(() => (this.offline ? o.fail?.({ errMsg: "login:fail" }) : o.success?.({ code: `code-${habits.user ?? "li"}-${Date.now()}-${this.codes++}` }))),
      requestSubscribeMessage: (o) =>
        this.later(() => {
          if (o.tmplIds.length > 5) return o.fail?.({ errMsg: "requestSubscribeMessage:fail Templates count out of max bounds" });
          o.success?.({ errMsg: "requestSubscribeMessage:ok", ...Object.fromEntries(o.tmplIds.map((t) => [t, (habits.subscribe ?? (() => "accept"))(t)])) });
        }),
      ...(habits.old ? {} : { getRandomValues: (o) => this.later(() => o.success?.({ randomValues: this.buffer(Buffer.from(crypto.getRandomValues(new Uint8Array(o.length)))) })) }),
      setStorage: (o) => this.disk("setStorage", o, () => this.setStorage(o.key, o.data, o.encrypt === true)),
      getStorage: (o) =>
        this.disk("getStorage", o, () => {
          const v = flash.storage.get(o.key);
          if (!v || v.encrypted !== (o.encrypt === true)) throw new Error("getStorage:fail data not found");
          return { data: v.data };
        }),
      removeStorage: (o) => this.disk("removeStorage", o, () => void flash.storage.delete(o.key)),
      getStorageInfo: (o) => this.disk("getStorageInfo", o, () => ({ keys: [...flash.storage.keys()], currentSize: Math.ceil(this.storageBytes() / 1024), limitSize: 10240 })),
      getFileSystemManager: () => this.fileSystem(),
      onAppShow: (fn) => void this.onShow.push(fn),
      onAppHide: (fn) => void this.onHide.push(fn),
      onNetworkStatusChange: (fn) => void this.onNetwork.push(fn),
      env: { USER_DATA_PATH: "wxfile://usr" },
    };
  }

  /** The person leaves the app. */
  hide(): void {
    this.onHide.forEach((fn) => fn());
    this.timer = setTimeout(() => {
      this.frozen = true;
      for (const fail of [...this.flying]) fail("fail interrupted");
    }, this.habits.backgroundMs ?? 5_000);
  }

  /** The person comes back. */
  show(): void {
    clearTimeout(this.timer);
    this.frozen = false;
    this.onShow.forEach((fn) => fn());
  }

  connect(isConnected: boolean): void {
    this.offline = !isConnected;
    this.onNetwork.forEach((fn) => fn({ isConnected }));
  }

  /** Bytes in the storage. */
  storageBytes(): number {
    let n = this.flash.otherBytes;
    this.flash.storage.forEach((v, k) => (n += k.length + bytesOf(v.data)));
    return n;
  }

  private setStorage(key: string, data: unknown, encrypted: boolean): void {
    const size = bytesOf(data);
    if (size > (encrypted ? 0.7 : 1) * MB) throw new Error("setStorage:fail entry size limit reached, exceed storage item max length");
    const before = this.flash.storage.get(key);
    this.flash.storage.set(key, { data: structuredClone(data), encrypted });
    if (this.storageBytes() > (encrypted ? 7.1 : 10) * MB) {
      if (before) this.flash.storage.set(key, before);
      else this.flash.storage.delete(key);
      throw new Error("setStorage:fail exceed storage max size 10Mb");
    }
  }

  private fileSystem(): FileSystem {
    const { files, folders } = this.flash;
    const folderOf = (path: string) => path.slice(0, path.lastIndexOf("/"));
    const there = (path: string) => {
      const b = files.get(path);
      if (!b) throw new Error(`open:fail no such file or directory, open ${path}`);
      return b;
    };
    return {
      mkdir: (o) => this.disk("mkdir", o, () => void folders.add(o.dirPath)),
      readdir: (o) =>
        this.disk("readdir", o, () => {
          if (!folders.has(o.dirPath)) throw new Error(`readdir:fail no such file or directory ${o.dirPath}`);
          return { files: [...files.keys()].filter((f) => folderOf(f) === o.dirPath).map((f) => f.slice(o.dirPath.length + 1)) };
        }),
      writeFile: (o) =>
        this.disk("writeFile", o, () => {
          if (!folders.has(folderOf(o.filePath))) throw new Error(`writeFile:fail no such file or directory, open ${o.filePath}`);
          if (typeof o.data !== "string" && Object.prototype.toString.call(o.data) !== "[object ArrayBuffer]") throw new Error("writeFile:fail data is neither a string nor an ArrayBuffer");
          const data = typeof o.data === "string" ? Buffer.from(o.data, o.encoding ?? "utf8") : Buffer.from(new Uint8Array(o.data));
          let all = data.length;
          files.forEach((b, f) => (all += f === o.filePath ? 0 : b.length));
          if (all > 200 * MB) throw new Error("writeFile:fail the maximum size of the file storage limit is exceeded");
          files.set(o.filePath, data);
        }),
      readFile: (o) => this.disk("readFile", o, () => ({ data: this.buffer(there(o.filePath)) })),
      unlink: (o) =>
        this.disk("unlink", o, () => {
          there(o.filePath);
          files.delete(o.filePath);
        }),
    };
  }

  /** A call of storage or files: later, and never in a phone that is dead. */
  private disk<T>(call: string, o: Callbacks<T>, fn: () => unknown): void {
    this.later(() => {
      if (this.dead) return;
      this.dead = ++this.calls >= this.dieAt;
      if (this.dead) return;
      const at = this.failures.findIndex((f) => f.call === call);
      const [failure] = at < 0 ? [] : this.failures.splice(at, 1);
      let result: unknown;
      try {
        if (failure) throw new Error(failure.errMsg);
        result = fn() ?? {};
      } catch (e) {
        return o.fail?.({ errMsg: (e as Error).message });
      }
      o.success?.(result as T);
    });
  }

  private later(fn: () => void): void {
    setImmediate(fn);
  }

  /** An ArrayBuffer of the mini-program's realm. */
  private buffer(b: Buffer): ArrayBuffer {
    const make = this.habits.context ? (runInContext("ArrayBuffer", this.habits.context) as ArrayBufferConstructor) : ArrayBuffer;
    const out = new make(b.length);
    new Uint8Array(out).set(b);
    return out;
  }

  private request(o: RequestOptions): { abort(): void } {
    if (!["OPTIONS", "GET", "HEAD", "POST", "PUT", "DELETE", "TRACE", "CONNECT"].includes(o.method)) throw new Error(`request:fail method ${o.method}`);
    const header = this.headers(o.header);
    let body: Buffer | undefined;
    if (typeof o.data === "string") body = Buffer.from(o.data);
    else if (o.data !== undefined) {
      if (Object.prototype.toString.call(o.data) !== "[object ArrayBuffer]") throw new Error("request: WeChat sends an object as a form: not what was meant");
      body = Buffer.from(new Uint8Array(o.data));
    }
    this.sent.push({ url: o.url, how: "request", data: o.data, header });
    return this.fly(o, o.method, header, body, (status, head, bytes) => {
      const text = bytes.toString("utf8");
      const data = o.responseType === "arraybuffer" ? this.answerBytes(bytes) : o.dataType === "json" ? safeParse(text) : text;
      o.success?.({ statusCode: status, header: head, data });
    });
  }

  private upload(o: UploadOptions): { abort(): void } {
    const file = this.flash.files.get(o.filePath);
    const header = this.headers(o.header);
    this.sent.push({ url: o.url, how: "upload", data: file, header });
    const boundary = "wxform" + Math.random().toString(36).slice(2);
    const fields = Object.entries(o.formData).map(([name, value]) => `--${boundary}\r\nContent-Disposition: form-data; name="${name}"\r\n\r\n${value}\r\n`);
    const head = `--${boundary}\r\nContent-Disposition: form-data; name="${o.name}"; filename="piece"\r\nContent-Type: application/octet-stream\r\n\r\n`;
    const body = Buffer.concat([Buffer.from(fields.join("") + head), file ?? Buffer.alloc(0), Buffer.from(`\r\n--${boundary}--\r\n`)]);
    if (!file) {
      this.later(() => o.fail?.({ errMsg: "uploadFile:fail file not found" }));
      return { abort: () => undefined };
    }
    return this.fly(o, "POST", { ...header, "content-type": `multipart/form-data; boundary=${boundary}` }, body, (status, _, bytes) =>
      o.success?.({ statusCode: status, data: bytes.toString("utf8") }),
    );
  }

  private headers(given: Record<string, string>): Record<string, string> {
    for (const name of Object.keys(given)) if (/^(user-agent|referer)$/i.test(name)) throw new Error(`${name} cannot be set`);
    return { ...given };
  }

  private answerBytes(bytes: Buffer): unknown {
    if (!this.habits.padded) return this.buffer(bytes);
    const wide = this.buffer(Buffer.concat([Buffer.from("junk before"), bytes, Buffer.from("junk behind")]));
    return new Uint8Array(wide, "junk before".length, bytes.length);
  }

  /** Sends, 10 at once at most, and breaks off as WeChat does. */
  private fly(o: RequestOptions | UploadOptions, method: string, header: Record<string, string>, body: Buffer | undefined, done: (status: number, header: object, body: Buffer) => void): { abort(): void } {
    let over = false;
    let started = false;
    let cut: () => void = () => undefined;
    const name = "filePath" in o ? "uploadFile" : "request";
    const timer = setTimeout(() => fail("fail timeout"), o.timeout);
    const end = (): boolean => {
      if (over) return false;
      over = true;
      clearTimeout(timer);
      this.flying.delete(fail);
      if (started) this.running--;
      cut();
      this.queue.shift()?.();
      return true;
    };
    const fail = (errMsg: string): void => {
      if (end()) this.later(() => o.fail?.({ errMsg: `${name}:${errMsg}` }));
    };
    this.flying.add(fail);
    const start = (): void => {
      if (over) return void this.queue.shift()?.();
      started = true;
      this.most = Math.max(this.most, ++this.running);
      if (this.offline) return fail("fail network error");
      const req = httpRequest(o.url, { method, headers: { ...header, ...(body ? { "content-length": String(body.length) } : {}) } }, (res) => {
        const pieces: Buffer[] = [];
        res.on("data", (p: Buffer) => pieces.push(p));
        res.on("error", () => fail("fail"));
        res.on("end", () => {
          if (this.lose > 0) {
            this.lose--;
            return fail("fail errcode:-118");
          }
          const spell = (n: string) => (this.habits.headers === "lower" ? n.toLowerCase() : this.habits.headers === "upper" ? n.toUpperCase() : n);
          const all: Record<string, string> = {};
          for (let i = 0; i + 1 < res.rawHeaders.length; i += 2) all[spell(res.rawHeaders[i] ?? "")] = res.rawHeaders[i + 1] ?? "";
          if (end()) done(res.statusCode ?? 0, all, Buffer.concat(pieces));
        });
      });
      req.on("error", () => fail("fail"));
      cut = () => req.destroy();
      req.end(body);
    };
    if (this.frozen) this.later(() => fail("fail interrupted"));
    else if (this.running >= 10) {
      this.queuedByWeChat++;
      this.queue.push(start);
    } else this.later(start);
    return { abort: () => fail("fail abort") };
  }
}

function safeParse(text: string): unknown {
  try {
    return JSON.parse(text);
  } catch {
    return text;
  }
}

/** Names that WeChat's wrapper hides from a module, whatever the global object has. */
const hidden =
  "window,document,frames,self,location,navigator,localStorage,history,Caches,screen,alert,confirm,prompt,fetch,XMLHttpRequest,WebSocket,webkit,WeixinJSCore," +
  "Reporter,print,URL,DOMParser,upload,preview,build,showDecryptedInfo,cleanAppCache,syncMessage,checkProxy,showSystemInfo,openVendor,openToolsLog,showRequestInfo,help," +
  "showDebugInfoTable,closeDebug,showDebugInfo,__global,loadBabelMod,WeixinJSBridge";

/** A mini-program's JavaScript: only what the language itself has, timers and a console. */
export function realm(options: { bigInt?: boolean } = {}): Context {
  const context = createContext({ setTimeout, clearTimeout, setInterval, clearInterval, console });
  // A vm's global has none of Node's; what V8 itself adds and WeChat has not, goes.
  runInContext("delete globalThis.WebAssembly; delete globalThis.SharedArrayBuffer; delete globalThis.Atomics; delete globalThis.escape;", context);
  if (options.bigInt === false) runInContext("delete globalThis.BigInt; delete globalThis.BigInt64Array; delete globalThis.BigUint64Array; delete DataView.prototype.getBigInt64; delete DataView.prototype.setBigInt64; delete DataView.prototype.getBigUint64; delete DataView.prototype.setBigUint64;", context);
  return context;
}

/** Loads modules as WeChat does, each in its wrapper. paths: "/app.js" → text. */
export function load(context: Context, modules: Record<string, string>, globals: Record<string, unknown>): (path: string) => unknown {
  Object.assign(context, globals);
  const defined = new Map<string, (...args: unknown[]) => void>();
  const cache = new Map<string, { exports: unknown }>();
  Object.assign(context, { define: (path: string, fn: (...args: unknown[]) => void) => void defined.set(path, fn) });
  for (const [path, text] of Object.entries(modules)) {
    runInContext(`define(${JSON.stringify(path)}, function(require, module, exports, ${hidden}){\n"use strict";\n${text}\n});`, context, { filename: path });
  }
  const require = (from: string) => (path: string): unknown => {
    const parts = (path.startsWith("/") ? path : from.slice(0, from.lastIndexOf("/") + 1) + path).split("/");
    const full: string[] = [];
    for (const p of parts) if (p === "..") full.pop(); else if (p !== "." && p !== "") full.push(p);
    const name = "/" + full.join("/").replace(/(\.js)?$/, ".js");
    const known = cache.get(name);
    if (known) return known.exports;
    const fn = defined.get(name);
    if (!fn) throw new Error(`module '${name}' is not defined, require of ${path} in ${from}`);
    const module = { exports: runInContext("({})", context) as unknown };
    cache.set(name, module);
    fn(require(name), module, module.exports);
    return module.exports;
  };
  return require("/");
}
