import "./shims.js"; // first: the others take it for granted
import { Client, SatchelError, type Config, type DeviceName, type Fields, type Models } from "@satchel/client";
import { AuthService } from "@satchel/client/gen/satchel/v1/auth_pb";
import { DeviceService } from "@satchel/client/gen/satchel/v1/device_pb";
import { Mirror } from "@satchel/client/mirror";
import { WxDisk, type Budget } from "./disk.js";
import { wxFetch } from "./fetch.js";
import { AbortController } from "./shims.js";
import { seededRandom } from "./random.js";
import { Schedule } from "./schedule.js";
import { createConnectTransport } from "./transport.js";
import { ask, type Wx } from "./wx.js";

export { SatchelError, StorageFull, type ClientApi, type Media, type PendingMutation, type Rec, type Status } from "@satchel/client";
export { Schedule, Rank } from "./schedule.js";
export { WxDisk, type Budget } from "./disk.js";
export { wxFetch } from "./fetch.js";
export type { Wx } from "./wx.js";

/** How a mini-program works with Satchel. Besides these: everything of the client's Config but store, fetch and random. */
export interface Options extends Partial<Omit<Config, "baseUrl" | "store" | "fetch" | "json" | "random">> {
  /** The server's address, such as "https://satchel.example.com": on the mini-program's lists of request and uploadFile domains. */
  baseUrl: string;
  /** Absent = the platform's. */
  wx?: Wx;
  /** Of the store, letters and digits; each person of a shared phone gets one. Absent = "main". */
  store?: string;
  /** WeChat encrypts the storage: slower, and it holds less. Files are not encrypted. */
  encrypt?: boolean;
  /**
   * false: pieces of files go by wx.request, as text a third larger, and the server's address need not be on the list of
   * uploadFile domains. Absent = by wx.uploadFile.
   */
  uploadFile?: boolean;
  /** How much the store may hold; absent = what leaves WeChat's limits some room. */
  budget?: Partial<Budget>;
}

/** Who signs in by WeChat. */
export interface WeChatCredentials extends DeviceName {
  /** The organisation's short name; absent = the only one on the server. */
  org?: string;
  /** Proves who the WeChat user is, and binds the two. Absent = they are bound already. */
  bind?: { login: string; password: string };
}

/** A client in a mini-program. */
export interface Satchel<M extends Models = Record<string, Fields>> {
  client: Client<M>;
  /**
   * Signs in by wx.login. Rejects with the reason WECHAT_NOT_BOUND when the server does not know the WeChat user yet: then ask
   * for login and password and call it with bind, once. Other reasons: docs/wechat.md.
   */
  signIn(who?: WeChatCredentials, signal?: AbortSignal): Promise<void>;
  /**
   * Asks the person to allow one message of each template, and tells the server which were accepted. Call it in the handler of
   * a tap, as WeChat demands, and before any await there; at most 5 templates. Gives how many messages of each template the
   * server may send now. Where WeChat refuses to ask, it rejects with `refused` and WeChat's words.
   */
  grants(templates: string[], signal?: AbortSignal): Promise<Record<string, number>>;
  /**
   * Keeps the device in step until it is closed; the promise is Client.run's. It is woken when the app is shown again, which
   * tries what the background broke off, and when there is a network again.
   */
  run(): Promise<void>;
  /** Ends run and gives the storage back. */
  close(): Promise<void>;
}

declare const wx: Wx;

/** Opens the store and the client on it. Call it once, in app.js; it makes no call to the server. */
export async function createSatchel<M extends Models = Record<string, Fields>>(options: Options): Promise<Satchel<M>> {
  const { wx: given, store = "main", encrypt = false, uploadFile, budget, baseUrl, ...config } = options;
  const platform = given ?? wx;
  const fetch = wxFetch(platform, new Schedule(platform), uploadFile);
  const random = await seededRandom(platform);
  const client = await Client.open<M>({
    profile: "mini_program",
    maxBatch: 50, // what goes through, over a slow network, in the 5 seconds that the background leaves
    ...config, baseUrl, json: true, fetch, random, store: new Mirror(new WxDisk(platform, store, encrypt, budget)),
  });
  const transport = createConnectTransport({ baseUrl, fetch });
  const end = new AbortController();
  const poke = () => {
    if (!end.signal.aborted) client.poke();
  };
  platform.onAppShow(poke);
  platform.onNetworkStatusChange(({ isConnected }) => isConnected && poke());

  return {
    client,
    async signIn(who = {}, signal) {
      const { org = "", bind } = who;
      const once = async () => {
        const { code } = await ask<{ code: string }>((c) => platform.login(c)).catch((e: unknown) => {
          throw new SatchelError("unavailable", "wx.login: " + String(e), e);
        });
        await client.signInBy({ platform: "wechat", ...who }, async (device, headers, until) => {
          const call = () => transport.unary(AuthService.method.signInWeChat, until, undefined, headers, { code, org, device, ...(bind ? { bind } : {}) });
          // The answer may have been lost after WeChat took the code: the server knows it for 5 minutes.
          const { message } = await call().catch((e: unknown) => (until.aborted || answered(e) ? Promise.reject(e) : call()));
          if (!message.session) throw new SatchelError("refused", "the answer to SignInWeChat cannot be read");
          return message.session;
        }, signal);
      };
      // A code may have been used up on the way; a new one is not asked of the person.
      await once().catch((e: unknown) => (e instanceof SatchelError && e.reason === "WECHAT_CODE" ? once() : Promise.reject(e)));
    },
    async grants(templates, signal) {
      const answer = await ask<Record<string, unknown>>((c) => platform.requestSubscribeMessage({ tmplIds: templates, ...c })).catch((e: unknown) => {
        throw new SatchelError("refused", "wx.requestSubscribeMessage: " + String(e), e);
      });
      const accepted = templates.filter((t) => answer[t] === "accept");
      if (accepted.length === 0) return {};
      const key = uuid(random(16));
      const report = () => client.call((headers, until) => transport.unary(DeviceService.method.addGrants, until, undefined, headers, { key, templates: accepted }), signal);
      const { message } = await report().catch((e: unknown) => (e instanceof SatchelError && e.code === "unavailable" ? report() : Promise.reject(e)));
      return Object.fromEntries(message.grants.map((g) => [g.template, g.count]));
    },
    run: () => client.run(end.signal),
    async close() {
      end.abort();
      await client.close();
    },
  };
}

/** Tells whether the server itself said no. */
function answered(e: unknown): boolean {
  return (e as { isWireError?: boolean }).isWireError === true;
}

function uuid(bytes: Uint8Array): string {
  const hex = Array.from(bytes, (b) => (b < 16 ? "0" : "") + b.toString(16)).join("");
  return `${hex.slice(0, 8)}-${hex.slice(8, 12)}-4${hex.slice(13, 16)}-8${hex.slice(17, 20)}-${hex.slice(20)}`;
}
