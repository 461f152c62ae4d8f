import { SatchelError, StorageFull, StoreClosed } from "../errors.js";
import { tables, type Disk, type Store, type Table } from "../store.js";
import { Mirror } from "./mirror.js";

/** The user_version of files that this package writes. */
const version = 1;

/** What SQLite takes and gives. */
export type SqlValue = string | number | Uint8Array | null;

/**
 * A connection to one SQLite file, version 3.38 or newer, as the platform's library gives it; see the package's README for
 * adapters. It may answer at once or by promises. Only this store uses the connection.
 */
export interface Driver {
  /** Runs a statement that gives no rows. */
  exec(sql: string, params: SqlValue[]): unknown;
  /** Runs a statement and gives its rows, each by column name. */
  all(sql: string, params: SqlValue[]): Record<string, unknown>[] | Promise<Record<string, unknown>[]>;
  /** Closes the connection. */
  close(): unknown;
}

/**
 * A store in a SQLite file, for Node and React Native. The file belongs to one process, and in it to one store: opening it
 * twice rejects with `invalid`. Each commit is synced to the disk before it is acknowledged (a rollback journal that is
 * truncated, synchronous = FULL; on Apple's systems with fullfsync). Keep the file out of backups where the platform can: a
 * restored one makes the server give the device a new id. open rejects with `upgrade_app` for a file of a newer version.
 */
export function sqliteStore(driver: Driver): Store {
  return new Mirror(sqliteDisk(driver));
}

/** The disk of {@link sqliteStore}. */
export function sqliteDisk(db: Driver): Disk {
  let tail: Promise<unknown> = Promise.resolve();
  let closed = false;

  /** One after the other: there is one connection, and a transaction is not to be looked into. */
  const serially = <T>(fn: () => Promise<T>): Promise<T> => {
    const done = tail.then(() => {
      if (closed) throw new StoreClosed();
      return fn();
    });
    tail = done.catch(() => undefined);
    return done;
  };

  const transaction = async <T>(fn: () => Promise<T>): Promise<T> => {
    try {
      await db.exec("BEGIN IMMEDIATE", []);
      const result = await fn();
      await db.exec("COMMIT", []);
      return result;
    } catch (e) {
      try {
        await db.exec("ROLLBACK", []);
      } catch {
        // SQLite had rolled back by itself, or never begun
      }
      throw told(e);
    }
  };

  const one = async (sql: string, column: string): Promise<unknown> => (await db.all(sql, []))[0]?.[column];
  const generationOf = async (): Promise<number> => Number(await one("SELECT n FROM state WHERE name = 'generation'", "n"));

  return {
    load: () =>
      serially(async () => {
        try {
          for (const pragma of ["locking_mode = EXCLUSIVE", "journal_mode = TRUNCATE", "synchronous = FULL", "fullfsync = ON", "secure_delete = ON"]) await db.all("PRAGMA " + pragma, []);
        } catch (e) {
          throw told(e);
        }
        return transaction(async () => {
          const has = Number(await one("PRAGMA user_version", "user_version"));
          if (has > version) throw new SatchelError("upgrade_app", "a newer version of the app wrote the file");
          if (has < version) {
            await db.exec("CREATE TABLE line (tab TEXT NOT NULL, key TEXT NOT NULL, row TEXT NOT NULL, PRIMARY KEY (tab, key)) WITHOUT ROWID", []);
            await db.exec("CREATE TABLE piece (key TEXT PRIMARY KEY NOT NULL, bytes BLOB NOT NULL)", []);
            await db.exec("CREATE TABLE state (name TEXT PRIMARY KEY NOT NULL, n INTEGER NOT NULL)", []);
            await db.exec("INSERT INTO state (name, n) VALUES ('generation', 0)", []);
            await db.exec(`PRAGMA user_version = ${version}`, []);
          }
          const rows = [];
          for (const r of await db.all("SELECT tab, key, row FROM line ORDER BY tab, key", [])) {
            const table = String(r["tab"]);
            if (isTable(table)) rows.push({ table, key: String(r["key"]), row: JSON.parse(String(r["row"])) as unknown });
          }
          return { generation: await generationOf(), rows };
        });
      }),

    generation: () => serially(generationOf),

    commit: (generation, batch) =>
      serially(() =>
        transaction(async () => {
          if ((await generationOf()) !== generation) return false;
          for (const table of batch.clear) await db.exec("DELETE FROM line WHERE tab = ?", [table]);
          const gone = batch.rows.filter((r) => r.row === null).map((r) => [r.table, r.key]);
          const put = batch.rows.filter((r) => r.row !== null).map((r) => [r.table, r.key, JSON.stringify(r.row)]);
          if (gone.length > 0) {
            const sql = "DELETE FROM line WHERE (tab, key) IN (SELECT json_extract(value, '$[0]'), json_extract(value, '$[1]') FROM json_each(?))";
            await db.exec(sql, [JSON.stringify(gone)]);
          }
          if (put.length > 0) {
            const sql = "INSERT INTO line (tab, key, row) SELECT json_extract(value, '$[0]'), json_extract(value, '$[1]'), json_extract(value, '$[2]') FROM json_each(?) WHERE true ON CONFLICT (tab, key) DO UPDATE SET row = excluded.row";
            await db.exec(sql, [JSON.stringify(put)]);
          }
          // Keys are ASCII: what begins with a prefix lies before the prefix and the greatest character.
          for (const prefix of batch.deleteBytes) await db.exec("DELETE FROM piece WHERE key >= ? AND key < ?", [prefix, prefix + "\uffff"]);
          for (const { key, bytes } of batch.bytes) await db.exec("INSERT INTO piece (key, bytes) VALUES (?, ?) ON CONFLICT (key) DO UPDATE SET bytes = excluded.bytes", [key, bytes]);
          await db.exec("UPDATE state SET n = n + 1 WHERE name = 'generation'", []);
          return true;
        }),
      ),

    bytes: (key) =>
      serially(async () => {
        const found = (await db.all("SELECT bytes FROM piece WHERE key = ?", [key]))[0]?.["bytes"];
        return found instanceof Uint8Array ? found : found instanceof ArrayBuffer ? new Uint8Array(found) : undefined;
      }),

    close: async () => {
      if (closed) return;
      await serially(async () => void (closed = true));
      await db.close();
    },
  };
}

const known: ReadonlySet<string> = new Set(tables);

function isTable(name: string): name is Table {
  return known.has(name);
}

/** What a caller can do something about, as its own error: libraries give SQLite's sentence, some with its code. */
function told(e: unknown): unknown {
  const text = String(e);
  if (/database or disk is full|SQLITE_FULL/i.test(text)) return new StorageFull(e);
  if (/database is locked|SQLITE_BUSY/i.test(text)) return new SatchelError("invalid", "the file is open elsewhere: another process or another store has it", e);
  return e;
}
