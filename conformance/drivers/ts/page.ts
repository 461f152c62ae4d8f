import { indexedDBStore } from "@satchel/client/indexeddb";
import { answer, Driver, type Stores } from "./driver.js";

/** Where all tabs find which transcript is played: its stores' names begin with it. */
const scene = "scene";

const stores: Stores = {
  open: (name) => indexedDBStore(full(name)),
  kill: () => undefined, // the tab is killed
  copy: (from, to) => copy(full(from), full(to)),
  reset: async () => {
    localStorage.setItem(scene, crypto.randomUUID());
    for (const { name } of await indexedDB.databases()) if (name !== undefined) indexedDB.deleteDatabase(name);
  },
};

function full(name: string): string {
  return `${localStorage.getItem(scene) ?? ""}-${name}`;
}

let driver: Driver | undefined;

/** Answers a line of the runner. */
export function answerInPage(line: string, json: boolean): Promise<string> {
  driver ??= new Driver(stores, json ? { json } : {});
  return answer(driver, line);
}

/** Copies a database that nobody has open, as a phone's backup would. */
async function copy(from: string, to: string): Promise<void> {
  await done(indexedDB.deleteDatabase(to));
  const source = await done(indexedDB.open(from));
  const opening = indexedDB.open(to, source.version);
  const tables = [...source.objectStoreNames];
  opening.onupgradeneeded = () => tables.forEach((t) => opening.result.createObjectStore(t));
  const target = await done(opening);
  for (const table of tables) {
    const store = source.transaction(table).objectStore(table);
    const [keys, values] = await Promise.all([done(store.getAllKeys()), done(store.getAll())]);
    const out = target.transaction(table, "readwrite");
    keys.forEach((key, i) => out.objectStore(table).put(values[i], key));
    await new Promise((resolve, reject) => {
      out.oncomplete = resolve;
      out.onabort = reject;
    });
  }
  source.close();
  target.close();
}

function done<T>(request: IDBRequest<T>): Promise<T> {
  return new Promise((resolve, reject) => {
    request.onsuccess = () => resolve(request.result);
    request.onerror = () => reject(request.error ?? new Error("the browser's database does not answer"));
  });
}
