import { computed, onScopeDispose, shallowRef, toValue, watchEffect, type ComputedRef, type MaybeRefOrGetter, type ShallowRef } from "vue";
import { Client, SatchelError, type ClientApi, type Code, type Credentials, type Identity, type Kind, type Query, type Rec, type Status, type Template } from "@satchel/client";
import { indexedDBStore } from "@satchel/client/indexeddb";
import { memoryStore } from "@satchel/client/memory";
import { language } from "./i18n/index.js";

/** The version that the office sees beside the device. */
export const appVersion = "web 0.1.0";

let client: ClientApi | undefined;

/** Who is signed in here; reactive. */
export const identity = shallowRef<Identity>({ org: "", person: "", device: "", displayName: "", signedIn: false });

/** The organisation's schema as this person may see it, by kind; reactive, empty before the first fetch. */
export const schema = shallowRef<Map<string, Kind>>(new Map());

/** What the organisation's notices say, by template; reactive, empty before the first fetch. */
export const templates = shallowRef<Map<string, Template>>(new Map());

/** Why the device no longer syncs, until somebody does something about it; "" = it does, or nobody is signed in. */
export const halted = shallowRef<Code | "">("");

/** False: this browser keeps nothing (a private window), and what is recorded is lost with the window. */
export const keeps = shallowRef(true);

const status = shallowRef<Status>();
let stop: AbortController | undefined;

/** The SDK. It throws before {@link open} has resolved, which the router waits for. */
export function sdk(): ClientApi {
  if (!client) throw new Error("the store is not open yet");
  return client;
}

let opening: Promise<void> | undefined;

/**
 * Opens the store and goes on where the last visit of this page stopped. Further calls wait for the first. Where the browser
 * keeps nothing, as in a private window, it is a store in memory, and {@link keeps} says so.
 */
export function open(): Promise<void> {
  return (opening ??= reallyOpen());
}

async function reallyOpen(): Promise<void> {
  const config = { baseUrl: "", language: language(), appVersion, profile: "phone" };
  try {
    client = await Client.open({ ...config, store: indexedDBStore("satchel") });
  } catch (err) {
    // A browser that has kept something before has it still, and only cannot get at it now: a new start may.
    if (!(err instanceof SatchelError) || err.code !== "no_storage" || wasUsed()) throw err;
    keeps.value = false;
    client = await Client.open({ ...config, store: memoryStore() });
  }
  client.watchStatus((now) => {
    status.value = now;
    refresh();
  });
  refresh();
  if (identity.value.signedIn) start();
  addEventListener("online", poke);
  document.addEventListener("visibilitychange", () => {
    if (document.visibilityState === "visible") poke();
  });
}

const used = "satchel.used";

/** Somebody signed in here before, in a store that lasts. */
function wasUsed(): boolean {
  try {
    return localStorage.getItem(used) !== null;
  } catch {
    return false;
  }
}

function markUsed(): void {
  try {
    localStorage.setItem(used, "1");
  } catch {
    // Then a store that does not open later looks like a private window.
  }
}

/** Reads what the SDK does not announce by itself. */
function refresh(): void {
  identity.value = sdk().identity();
  schema.value = sdk().schema();
  templates.value = sdk().templates();
}

/** Has the device try to sync now. */
export function poke(): void {
  if (halted.value === "") client?.poke();
}

/** Keeps the device in step from now on. */
function start(): void {
  stop?.abort();
  const mine = (stop = new AbortController());
  halted.value = "";
  sdk()
    .run(mine.signal)
    .catch((err: unknown) => {
      if (mine.signal.aborted) return;
      halted.value = err instanceof SatchelError ? err.code : "invalid";
      refresh();
      if (!(err instanceof SatchelError)) throw err;
    });
}

/** Opens a session and begins to sync. Rejects with what {@link ClientApi.signIn} rejects with. */
export async function signIn(who: Credentials): Promise<void> {
  await sdk().signIn(who);
  if (keeps.value) markUsed();
  refresh();
  start();
}

/** Ends the session; the data go from this browser. Rejects with `unsent` while something is not sent. */
export async function signOut(): Promise<void> {
  stop?.abort();
  try {
    await sdk().signOut();
  } catch (err) {
    if (sdk().identity().signedIn) start();
    throw err;
  } finally {
    refresh();
  }
}

/** The records of a kind as the device shows them, kept up to date while the component lives. */
export function useList(kind: string, query: MaybeRefOrGetter<Query> = {}): Readonly<ShallowRef<readonly Rec[]>> {
  const list = shallowRef<readonly Rec[]>([]);
  watchEffect((cleanup) => {
    cleanup(
      sdk().watch(kind, toValue(query), (records) => {
        list.value = records;
      }),
    );
  });
  return list;
}

/** One record as the device shows it, kept up to date; undefined = it is not here. Of a merged one: what it became. */
export function useRecord(kind: string, id: MaybeRefOrGetter<string>): Readonly<ShallowRef<Rec | undefined>> {
  const record = shallowRef<Rec>();
  watchEffect((cleanup) => {
    const wanted = toValue(id);
    cleanup(
      sdk().watch(kind, { where: (r) => r.id === wanted }, () => {
        // A link may have been cut off on its way here: then it names nothing.
        record.value = /^[0-9a-f-]{36}$/i.test(wanted) ? sdk().get(kind, wanted) : undefined;
      }),
    );
  });
  return record;
}

/** How far the device is; undefined before the store is open. */
export function useStatus(): Readonly<ShallowRef<Status | undefined>> {
  return status;
}

/** A kind of the schema; undefined before the first fetch, and where this person sees nothing of it. */
export function useKind(name: string): ComputedRef<Kind | undefined> {
  return computed(() => schema.value.get(name));
}

/** The time, renewed every minute: what "today" and "an hour ago" depend on. */
export function useNow(): Readonly<ShallowRef<number>> {
  const now = shallowRef(Date.now());
  const timer = setInterval(() => (now.value = Date.now()), 60_000);
  onScopeDispose(() => clearInterval(timer));
  return now;
}

/** Whether the browser believes that there is a network. */
export function useOnline(): Readonly<ShallowRef<boolean>> {
  const online = shallowRef(navigator.onLine);
  const look = (): void => void (online.value = navigator.onLine);
  addEventListener("online", look);
  addEventListener("offline", look);
  onScopeDispose(() => {
    removeEventListener("online", look);
    removeEventListener("offline", look);
  });
  return online;
}
