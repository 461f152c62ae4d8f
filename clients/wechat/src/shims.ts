/**
 * What Connect and protobuf-es take for granted and a mini-program does not have. Importing this module puts each on the
 * global object where it is absent, and the bundle's free names (`Headers`, …) are bound to the exports (scripts/build.mjs),
 * for WeChat's define() wrapper hides some globals. It must run before @bufbuild/protobuf, which decodes descriptors while
 * it loads. The classes do what those two packages and this one use, no more.
 */

type Listener = ((event: { type: "abort" }) => void) | { handleEvent(event: { type: "abort" }): void };

class Header {
  private readonly values = new Map<string, string>();

  constructor(init?: Header | Iterable<readonly [string, string]> | Record<string, string>) {
    if (!init) return;
    if (init instanceof Header) init.forEach((value, name) => this.append(name, value));
    else if (Symbol.iterator in init) for (const [name, value] of init as Iterable<readonly [string, string]>) this.append(name, value);
    else for (const name of Object.keys(init)) this.append(name, (init as Record<string, string>)[name] ?? "");
  }
  append(name: string, value: string): void {
    const before = this.get(name);
    this.set(name, before === null ? value : before + ", " + value);
  }
  delete(name: string): void {
    this.values.delete(name.toLowerCase());
  }
  get(name: string): string | null {
    return this.values.get(name.toLowerCase()) ?? null;
  }
  has(name: string): boolean {
    return this.values.has(name.toLowerCase());
  }
  set(name: string, value: string): void {
    this.values.set(name.toLowerCase(), String(value).trim());
  }
  forEach(fn: (value: string, name: string, all: Header) => void): void {
    this.values.forEach((value, name) => fn(value, name, this));
  }
  entries(): IterableIterator<[string, string]> {
    return this.values.entries();
  }
  keys(): IterableIterator<string> {
    return this.values.keys();
  }
  [Symbol.iterator](): IterableIterator<[string, string]> {
    return this.entries();
  }
}

class Signal {
  aborted = false;
  reason: unknown;
  onabort: Listener | null = null;
  private readonly listeners = new Map<Listener, boolean>();

  addEventListener(type: string, fn: Listener, options?: boolean | { once?: boolean }): void {
    if (type === "abort" && !this.listeners.has(fn)) this.listeners.set(fn, typeof options === "object" && options.once === true);
  }
  removeEventListener(_type: string, fn: Listener): void {
    this.listeners.delete(fn);
  }
  throwIfAborted(): void {
    if (this.aborted) throw this.reason;
  }
  /** Of the controller. */
  fire(reason: unknown): void {
    if (this.aborted) return;
    this.aborted = true;
    this.reason = reason;
    const all = [...this.listeners];
    if (this.onabort) all.push([this.onabort, true]);
    for (const [fn, once] of all) {
      if (once) this.listeners.delete(fn);
      if (typeof fn === "function") fn.call(this, { type: "abort" });
      else fn.handleEvent({ type: "abort" });
    }
  }
}

class Controller {
  readonly signal = new Signal();
  abort(reason?: unknown): void {
    this.signal.fire(reason === undefined ? Object.assign(new Error("This operation was aborted"), { name: "AbortError" }) : reason);
  }
}

class Encoder {
  readonly encoding = "utf-8";
  encode(text = ""): Uint8Array {
    const out = new Uint8Array(text.length * 3);
    let n = 0;
    for (let i = 0; i < text.length; i++) {
      let c = text.charCodeAt(i);
      if (c >= 0xd800 && c < 0xe000) {
        const low = text.charCodeAt(i + 1); // NaN behind the end
        if (c < 0xdc00 && low >= 0xdc00 && low < 0xe000) {
          c = 0x10000 + ((c - 0xd800) << 10) + (low - 0xdc00);
          i++;
        } else c = 0xfffd;
      }
      if (c < 0x80) out[n++] = c;
      else {
        if (c < 0x800) out[n++] = 0xc0 | (c >> 6);
        else {
          if (c < 0x10000) out[n++] = 0xe0 | (c >> 12);
          else {
            out[n++] = 0xf0 | (c >> 18);
            out[n++] = 0x80 | ((c >> 12) & 63);
          }
          out[n++] = 0x80 | ((c >> 6) & 63);
        }
        out[n++] = 0x80 | (c & 63);
      }
    }
    return out.slice(0, n);
  }
}

class Decoder {
  readonly encoding = "utf-8";
  private readonly fatal: boolean;
  constructor(_label = "utf-8", options?: { fatal?: boolean }) {
    this.fatal = options?.fatal === true;
  }
  decode(input?: ArrayBuffer | ArrayBufferView): string {
    if (!input) return "";
    const bytes = ArrayBuffer.isView(input) ? new Uint8Array(input.buffer, input.byteOffset, input.byteLength) : new Uint8Array(input);
    let text = "";
    let units: number[] = [];
    for (let i = bytes[0] === 0xef && bytes[1] === 0xbb && bytes[2] === 0xbf ? 3 : 0; i < bytes.length; ) {
      const first = bytes[i++] ?? 0;
      let c = first;
      let more = first < 0x80 ? 0 : first >= 0xc2 && first < 0xe0 ? 1 : first >= 0xe0 && first < 0xf0 ? 2 : first >= 0xf0 && first < 0xf5 ? 3 : -1;
      if (more > 0) {
        c = first & (0x3f >> more);
        // The second byte's bounds leave out what has a shorter form, surrogates, and what is beyond Unicode.
        let low = first === 0xe0 ? 0xa0 : first === 0xf0 ? 0x90 : 0x80;
        let high = first === 0xed ? 0x9f : first === 0xf4 ? 0x8f : 0xbf;
        for (; more > 0; more--) {
          const next = bytes[i];
          if (next === undefined || next < low || next > high) break;
          c = (c << 6) | (next & 63);
          i++;
          low = 0x80;
          high = 0xbf;
        }
      }
      if (more !== 0) {
        if (this.fatal) throw new TypeError("not UTF-8");
        c = 0xfffd;
      }
      if (c >= 0x10000) units.push(0xd7c0 + (c >> 10), 0xdc00 | (c & 0x3ff));
      else units.push(c);
      if (units.length > 4096) {
        text += String.fromCharCode(...units);
        units = [];
      }
    }
    return text + String.fromCharCode(...units);
  }
}

type Part = Uint8Array | ArrayBuffer | string | Bytes;

class Bytes {
  readonly type: string;
  readonly size: number;
  private readonly data: Uint8Array;

  constructor(parts: readonly Part[] = [], options: { type?: string } = {}) {
    const all = parts.map((p) =>
      typeof p === "string" ? new Encoder().encode(p) : p instanceof Bytes ? p.data : ArrayBuffer.isView(p) ? p : new Uint8Array(p),
    );
    this.size = all.reduce((n, p) => n + p.length, 0);
    this.data = new Uint8Array(this.size);
    let at = 0;
    for (const p of all) {
      this.data.set(p, at);
      at += p.length;
    }
    this.type = (options.type ?? "").toLowerCase();
  }
  slice(from = 0, to = this.size, type = ""): Bytes {
    return new Bytes([this.data.slice(from, to)], { type });
  }
  async arrayBuffer(): Promise<ArrayBuffer> {
    return this.data.slice().buffer as ArrayBuffer; // slice makes no shared one
  }
  async text(): Promise<string> {
    return new Decoder().decode(this.data);
  }
}

/** For tests: the classes themselves, also where the platform has its own. */
export const shims = { Headers: Header, AbortController: Controller, TextEncoder: Encoder, TextDecoder: Decoder, Blob: Bytes };

const there = globalThis as unknown as Record<string, unknown>; // a mini-program's has no type that says what it lacks
for (const [name, shim] of Object.entries(shims)) there[name] ??= shim;
there["queueMicrotask"] ??= (fn: () => void) => void Promise.resolve().then(fn);

// From here on each is there; the shims are the platform's as far as anybody here asks.
export const Headers = there["Headers"] as typeof globalThis.Headers;
export const AbortController = there["AbortController"] as typeof globalThis.AbortController;
export const TextEncoder = there["TextEncoder"] as typeof globalThis.TextEncoder;
export const TextDecoder = there["TextDecoder"] as typeof globalThis.TextDecoder;
export const Blob = there["Blob"] as typeof globalThis.Blob;
export const queueMicrotask = there["queueMicrotask"] as typeof globalThis.queueMicrotask;
