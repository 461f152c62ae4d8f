import { SatchelError } from "@satchel/client";

/**
 * What this package uses of WeChat's `wx`. The real one fits (src/wx.test-d.ts proves it with WeChat's own typings), and a
 * test gives another.
 */
export interface Wx {
  request(options: RequestOptions): { abort(): void };
  uploadFile(options: UploadOptions): { abort(): void };
  login(options: Callbacks<{ code: string }>): void;
  requestSubscribeMessage(options: { tmplIds: string[] } & Callbacks<Record<string, unknown>>): void;
  /** Since base library 2.19.0. */
  getRandomValues?(options: { length: number } & Callbacks<{ randomValues: ArrayBuffer }>): void;
  setStorage(options: { key: string; data: string; encrypt?: boolean } & Callbacks<unknown>): void;
  getStorage(options: { key: string; encrypt?: boolean } & Callbacks<{ data: unknown }>): void;
  removeStorage(options: { key: string } & Callbacks<unknown>): void;
  getStorageInfo(options: Callbacks<{ keys: string[] }>): void;
  getFileSystemManager(): FileSystem;
  onAppShow(fn: () => void): void;
  onAppHide(fn: () => void): void;
  onNetworkStatusChange(fn: (result: { isConnected: boolean }) => void): void;
  readonly env: { readonly USER_DATA_PATH: string };
}

/** Every call of WeChat's answers by one of the two. */
export interface Callbacks<T> {
  success?(result: T): void;
  fail?(error: { errMsg: string }): void;
}

/** Of wx.request. */
export interface RequestOptions extends Callbacks<{ data: unknown; statusCode: number; header: object }> {
  url: string;
  method: "GET" | "POST" | "PUT" | "DELETE";
  data?: string | ArrayBuffer;
  header: Record<string, string>;
  /** Anything but "json" leaves the answer as it is. */
  dataType: string;
  responseType: "text" | "arraybuffer";
  /** Milliseconds. */
  timeout: number;
}

/** Of wx.uploadFile. */
export interface UploadOptions extends Callbacks<{ data: string; statusCode: number }> {
  url: string;
  filePath: string;
  name: string;
  formData: Record<string, string>;
  header: Record<string, string>;
  /** Milliseconds. */
  timeout: number;
}

/** Of wx.getFileSystemManager. */
export interface FileSystem {
  mkdir(options: { dirPath: string; recursive: boolean } & Callbacks<unknown>): void;
  readdir(options: { dirPath: string } & Callbacks<{ files: string[] }>): void;
  writeFile(options: { filePath: string; data: string | ArrayBuffer; encoding?: "base64" } & Callbacks<unknown>): void;
  readFile(options: { filePath: string } & Callbacks<{ data: string | ArrayBuffer }>): void;
  unlink(options: { filePath: string } & Callbacks<unknown>): void;
}

/** A call of WeChat's that failed, with its words: as a rule the storage's, which then keeps nothing. */
export class WxError extends SatchelError {
  constructor(errMsg: string) {
    super("no_storage", errMsg);
  }
}

/** Makes a call a promise. */
export function ask<T>(start: (callbacks: Required<Callbacks<T>>) => void): Promise<T> {
  return new Promise((resolve, reject) => start({ success: resolve, fail: (e) => reject(new WxError(e.errMsg)) }));
}
