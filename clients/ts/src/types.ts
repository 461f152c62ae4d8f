import type { MessageInitShape } from "@bufbuild/protobuf";
import type { DeviceInfoSchema, SignInResponse } from "./gen/satchel/v1/auth_pb.js";
import type { Store, U64 } from "./store.js";

/** A record's values by field name. In a patch, null clears a field. */
export type Fields = Record<string, unknown>;

/** The typed models of an organisation: kind → fields. `satchel types --lang ts` writes it from a schema. */
export type Models = Record<string, object>;

/** How a client works. */
export interface Config {
  /** The server's address, such as "https://satchel.example.com". "" = where the page came from. */
  baseUrl: string;
  /** Keeps everything. Closing it is the client's. */
  store: Store;
  /** Makes the calls; absent = the platform's fetch. */
  fetch?: typeof globalThis.fetch;
  /** Protobuf's JSON form instead of binary: readable in a proxy, and what mini-programs send. */
  json?: boolean;
  /** Wall clock, milliseconds since 1970; absent = Date.now. */
  now?: () => number;
  /**
   * A random id of this boot and the milliseconds since it, sleep included; boot "" = there is no such clock. A clock that
   * stops while the device sleeps is worse than none. Absent = performance.now, under a new id whenever it and the wall clock
   * part by more than 5 seconds: the device slept, or its clock was set, and which of both is not known.
   */
  monotonic?: () => { boot: string; ms: number };
  /** Language of messages for people: "zh-CN" or "en"; absent = en. */
  language?: string;
  /** Shown to the office and sent with each call; at most 64 bytes. */
  appVersion?: string;
  /** By which the device follows fewer kinds and months, such as "phone" or "mini_program"; absent = everything. */
  profile?: string;
  /** The schema version that the app was built for; absent = the organisation's current one. */
  schemaVersion?: number;
  /** Bytes of one page, at most 4 MiB; absent = the server's default, 256 KiB. */
  maxBytes?: number;
  /** Mutations sent at once at most; absent = 200. Mini-programs send fewer, for they have 5 seconds in the background. */
  maxBatch?: number;
  /** Milliseconds of one call; absent = 30,000. */
  timeoutMs?: number;
  /** Bounds of run's pause after a failure, which doubles from one to the other; absent = 1,000 and 60,000 ms. */
  retryMinMs?: number;
  retryMaxMs?: number;
  /** Hears what run does and why it pauses: ids, counts and reasons, never what people wrote. */
  log?: (event: string, detail: Record<string, unknown>) => void;
  /** So many random bytes; absent = crypto.getRandomValues. For platforms without it, such as mini-programs. */
  random?: (bytes: number) => Uint8Array;
  /** For tests: called with the name of each point between which a kill must be harmless, as in clients/go. */
  step?: (point: string) => void;
}

/** What the person and the office see of a device. */
export interface DeviceName {
  /** Such as "Li Na's phone". */
  deviceName?: string;
  /** Such as "web" or "wechat". */
  platform?: string;
}

/** Who signs in. */
export interface Credentials extends DeviceName {
  /** The organisation's short name; absent = the only one on the server. */
  org?: string;
  login: string;
  password: string;
}

/** Who the device speaks for; "" before the first sign-in. */
export interface Identity {
  org: string;
  person: string;
  device: string;
  displayName: string;
  /** There is a session, as far as the device knows. */
  signedIn: boolean;
}

/** A record as the device shows it: the last checkpoint, with the person's own mutations on top until they are settled. */
export interface Rec<F extends object = Fields> {
  readonly id: string;
  readonly kind: string;
  /** Of the checkpoint; "0" = the server's version was never shown. */
  readonly rev: U64;
  /** Without the fields that this person may not read. Do not change it. */
  readonly fields: Readonly<F>;
  /** "" = the system. */
  readonly author: string;
  /** When the work took place, milliseconds since 1970; 0 = not known yet. */
  readonly eventMs: number;
  /** Own mutations are shown on top. */
  readonly pending: boolean;
}

/** Which records of a kind, and in which order. */
export interface Query<F extends object = Fields> {
  /** Absent = all. It must depend on the record alone. */
  where?: (record: Rec<F>) => boolean;
  /** Absent = by id, which is by time of creation. */
  order?: (a: Rec<F>, b: Rec<F>) => number;
  /** At most so many, from the first; absent = all. */
  limit?: number;
}

/** Elements added to and removed from a set field, or an amount added to a counter. */
export type Edit =
  | { field: string; add?: string[]; remove?: string[] }
  | { field: string; by: number };

/** A mutation that has no verdict yet. */
export interface PendingMutation {
  /** Its place among those recorded on this device, from 1. */
  order: number;
  /** Random id. */
  id: string;
  ops: readonly PendingOp[];
  /** By the device's clock, milliseconds since 1970. */
  recordedMs: number;
  /** It was sent at least once: the answer was lost, or did not come yet. */
  sent: boolean;
}

/** What one step of it does. */
export interface PendingOp {
  action: "create" | "patch" | "delete" | "command";
  kind: string;
  record: string;
  /** Of a create or patch; of a command its arguments. */
  fields: Fields;
  /** Of a command. */
  command: string;
}

/** The fate of a mutation. */
export type Fate = "APPLIED" | "MERGED" | "CONFLICTED" | "REJECTED" | "STALE" | "SEEN" | "UNSUPPORTED";

/** What became of a mutation. */
export interface Settled {
  order: number;
  /** Random id of the mutation. */
  id: string;
  ops: readonly PendingOp[];
  fate: Fate;
  /** Typed cause unless APPLIED, such as "NOT_ALLOWED"; "" = none. */
  reason: string;
  /** What lost or was refused. */
  paths: readonly { record: string; path: string }[];
  /** "POSSIBLE_DOUBLE", "CLOCK_OFF", "PARENT_MOVED", "OVER_TIMEOUT". */
  notes: readonly string[];
  /** The attention that keeps what did not stand; "" = none. */
  attention: string;
  /** When the server answered, by its clock. */
  serverMs: number;
}

/** How far the device is. */
export interface Status {
  /** Commit of the last checkpoint with all priorities settled; "0" = there was none. */
  seq: U64;
  /** What the last answer brought is shown, and that was all. */
  complete: boolean;
  /** How many priorities are shown completely; 0 = all, or none yet. */
  settledPriority: number;
  /** Months of facts that the device follows, this one included; 0 = all. */
  followedMonths: number;
  /** Mutations that have no verdict. */
  pending: number;
  /** Files that are not uploaded yet, and their bytes. */
  media: number;
  mediaBytes: number;
  repairing: boolean;
  /** Records on the device, and rows that came and are not shown yet: for a progress bar of the first sync. */
  records: number;
  staged: number;
  /** A sync is under way in this tab. */
  syncing: boolean;
  /** When a sync last came to its end, by the device's clock; 0 = never. */
  lastSyncMs: number;
  /** Why the last one failed; absent = it did not. */
  error?: { code: string; reason: string; message: string };
}

/** What one sync did. Counts of several calls are added up. */
export interface Result {
  calls: number;
  /** Mutations sent; one that was sent again counts again. */
  sent: number;
  settled: Settled[];
  /** Mutations that still have no verdict. */
  pending: number;
  /** Changes of records that came. */
  changes: number;
  /** What is shown was brought up to date. */
  checkpoint: boolean;
  /** There is more to pull (of syncOnce). */
  more: boolean;
  forked: number;
  repaired: number;
  restored: number;
  skipped: number;
  /** Not 0: the server asks for a newer app, that speaks at least this protocol. */
  minProtocol: number;
  settledPriority: number;
}

/** A file that is not uploaded yet. */
export interface Media {
  record: string;
  kind: string;
  /** SHA-256 in hex. */
  blob: string;
  size: number;
  contentType: string;
  /** Bytes that the server has, as far as known. */
  sent: number;
  /** Why the server will not take it; "" = it will. */
  refused: string;
}

/** What could not be sent: kept for the person, word for word. */
export interface Kept {
  key: string;
  /** JSON. */
  text: string;
}

/** An own creation that the server has and that this device does not follow. */
export interface OfficeRecord {
  kind: string;
  id: string;
  /** When the server took it, milliseconds since 1970. */
  serverMs: number;
}

/** A kind of the organisation's schema, as this person may see it (satchel.v1.KindInfo), kept on the device. */
export interface Kind {
  name: string;
  labelZh: string;
  labelEn: string;
  fact: boolean;
  canCreate: boolean;
  canUpdate: boolean;
  canDelete: boolean;
  fields: KindField[];
}

/** One of its fields (satchel.v1.FieldInfo). */
export interface KindField {
  name: string;
  /** text, long_text, integer, decimal, boolean, date, datetime, choice, set, reference, geo, json */
  type: string;
  labelZh: string;
  labelEn: string;
  merge: string;
  group: string;
  required: boolean;
  choices: string[];
  target: string;
  canWrite: boolean;
  masked: boolean;
}

/** What a notice says whose field "template" has its name (satchel.v1.TemplateInfo). It holds no customer data. */
export interface Template {
  name: string;
  textZh: string;
  textEn: string;
}

/**
 * A device's side of the protocol. Safe to use from anywhere in a page: at most one sync, one refresh and one upload run at
 * a time among all tabs of a store; reading is immediate and never waits for the network, recording waits for the disk
 * only. Made by Client.open.
 */
export interface ClientApi<M extends Models = Record<string, Fields>> {
  identity(): Identity;
  /** Opens a session. The first one makes the store this person's; a later one of somebody else is refused (`other_person`). */
  signIn(who: Credentials, signal?: AbortSignal): Promise<void>;
  /**
   * As signIn, where a platform has a way of its own to prove who somebody is, such as WeChat: open makes that call, with what
   * the server is to know of the device.
   */
  signInBy(what: DeviceName, open: (device: MessageInitShape<typeof DeviceInfoSchema>, headers: Headers, signal: AbortSignal) => Promise<SignInResponse>, signal?: AbortSignal): Promise<void>;
  /**
   * Ends the session. With mutations or files unsent it is refused (`unsent`). The data goes from the device, but for what
   * could not be sent ({@link ClientApi.kept}, refused files): that stays for the same person.
   */
  signOut(signal?: AbortSignal): Promise<void>;

  /** Records a creation and gives the record's id. Durable and shown when it resolves; sent when there is a signal. */
  create<K extends keyof M & string>(kind: K, fields: Partial<M[K]>): Promise<string>;
  /** Records a change. null clears a field. */
  patch<K extends keyof M & string>(kind: K, id: string, fields: { [F in keyof M[K]]?: M[K][F] | null }, edits?: Edit[]): Promise<void>;
  /** Records a deletion for all. */
  delete(kind: keyof M & string, id: string): Promise<void>;
  /** Records a command about a record, such as "approval.decide". */
  command(kind: keyof M & string, id: string, name: string, args: Fields): Promise<void>;
  /** An empty batch. */
  batch(): BatchApi;
  /** Records several ops that take effect together or not at all, and gives the mutation's random id. */
  record(batch: BatchApi): Promise<string>;

  /** A record as the device shows it, or undefined. Of one that was merged into another: that one. */
  get<K extends keyof M & string>(kind: K, id: string): Rec<M[K]> | undefined;
  /** Records of a kind as the device shows them. */
  list<K extends keyof M & string>(kind: K, query?: Query<M[K]>): Rec<M[K]>[];
  /**
   * Calls fn with the list now and after each commit that changed it, once per commit, also of another tab. Records that
   * did not change are the same objects as before. Gives the function that ends it.
   */
  watch<K extends keyof M & string>(kind: K, query: Query<M[K]>, fn: (records: Rec<M[K]>[]) => void): () => void;

  status(): Status;
  /** Calls fn with the status now and whenever it changed. */
  watchStatus(fn: (status: Status) => void): () => void;
  /** What is not settled yet, in order. */
  pending(): PendingMutation[];
  /** Up to limit lines of the log of verdicts, oldest first, whose order is greater than after. Kept for 35 days. */
  settled(after: number, limit: number): Settled[];
  atOffice(): OfficeRecord[];
  kept(): Kept[];

  /** Sends what is pending and brings what changed, until the device is at a checkpoint and nothing more can be sent. */
  sync(signal?: AbortSignal): Promise<Result>;
  /** Exactly one call, for tests. */
  syncOnce(signal?: AbortSignal): Promise<Result>;
  /** Resolves true as soon as there is something to pull, false when the server's time (25 s) ran out. */
  wait(signal?: AbortSignal): Promise<boolean>;
  /**
   * Keeps the device in step until the signal: syncs when the server says that there is something and when something was
   * recorded, uploads media beside that, pauses after failures. Rejects with what only the app can mend: `sign_in_again`,
   * `device_revoked`, `upgrade_app`, `wiped`, `closed`. One tab of a store does the work; the others wait to take over.
   */
  run(signal: AbortSignal): Promise<void>;
  /** Has run try again at once, as when the platform says that there is a network or the app came to the front. */
  poke(): void;

  /**
   * Keeps the bytes, queues them for upload, and records the record that names them: kind "photo" with visit and taken_at,
   * or "voice_note" with visit and duration_ms; blob, size and content_type are added. At most 100 MiB.
   */
  attach<K extends keyof M & string>(kind: K, bytes: Blob | Uint8Array, contentType: string, fields: Partial<M[K]>): Promise<string>;
  /** Files that are not uploaded yet. */
  media(): Media[];
  /** Gives up a file: its record stays. */
  forgetMedia(record: string): Promise<void>;
  /** Sends what is queued, piece by piece, going on where it stopped. */
  upload(signal?: AbortSignal): Promise<{ uploaded: number; refused: number }>;
  /** The bytes of a photo or voice note: from the device while it has them, else from the server. */
  open(record: string, signal?: AbortSignal): Promise<Blob>;

  /** The organisation's schema as last fetched, by name; empty before the first fetch. */
  schema(): Map<string, Kind>;
  /** The texts of notices, fetched with the schema, by name. One that is not there belongs to another version of the schema. */
  templates(): Map<string, Template>;
  /** Fetches the schema if it changed. run does it after a sync that brought another version. */
  fetchSchema(signal?: AbortSignal): Promise<Map<string, Kind>>;

  /** Calls of other services under this session, such as DeviceService: gives the headers and renews the token. */
  call<T>(fn: (headers: Headers, signal: AbortSignal) => Promise<T>, signal?: AbortSignal): Promise<T>;
  /** Gives the store back. What was recorded is kept. */
  close(): Promise<void>;
}

/** Collects ops: one mutation of at most 100 ops and 256 KiB. */
export interface BatchApi {
  /** Adds a creation and gives the new id, which later ops may refer to. */
  create(kind: string, fields: Fields): string;
  /** The same with an id that was minted before, as when a refused creation is mended and sent again. */
  createAs(kind: string, id: string, fields: Fields): this;
  patch(kind: string, id: string, fields: Fields, edits?: Edit[]): this;
  delete(kind: string, id: string): this;
  command(kind: string, id: string, name: string, args: Fields): this;
}
