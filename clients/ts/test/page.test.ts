import type { MessageInitShape } from "@bufbuild/protobuf";
import { Code, ConnectError } from "@connectrpc/connect";
import { describe, expect, test } from "vitest";
import { Reason } from "../src/gen/satchel/v1/errors_pb.js";
import { Status, type ChangeSchema, type PageSchema, type SyncResponseSchema, type VerdictSchema } from "../src/gen/satchel/v1/sync_pb.js";
import { Client } from "../src/index.js";
import { memoryDisk, memoryStore } from "../src/stores/memory.js";
import { anId, bytes, config, keysOf, shown, signedIn, text } from "./kit.js";
import { Fake, serverTime } from "./fake.js";

type Answer = MessageInitShape<typeof SyncResponseSchema>;
type Row = MessageInitShape<typeof ChangeSchema>;
type APage = MessageInitShape<typeof PageSchema>;
const day = 24 * 3600 * 1000;

/** A client whose server gives exactly the answers, and then none. */
async function scripted(...answers: Answer[]) {
  const f = new Fake();
  const give = (next: Answer[]) => (answers = next);
  f.script = () => answers.shift() ?? { serverTimeMs: BigInt(serverTime) };
  const disk = memoryDisk();
  return { f, disk, give, c: await signedIn(f, disk) };
}

function change(recordId: string, rev: number, fields: string, entered: number[], kind = "account"): Row {
  return { recordId, kind, rev: BigInt(rev), fields, entered: entered.map(BigInt) };
}

function page(cursor: string, checkpoint: boolean, seq: number, changes: Row[] = [], more: APage = {}): APage {
  return { cursor: bytes(cursor), changes, checkpoint, more: !checkpoint, seq: BigInt(seq), ...more };
}

function answer(p: APage | undefined, ...verdicts: MessageInitShape<typeof VerdictSchema>[]): Answer {
  return { ...(p && { page: p }), verdicts, serverTimeMs: BigInt(serverTime) };
}

function verdict(number: number, seq: number, status = Status.APPLIED): MessageInitShape<typeof VerdictSchema> {
  return { number: BigInt(number), seq: BigInt(seq), status };
}

describe.concurrent("a page", () => {
  test("nothing of it is shown before the checkpoint", async () => {
    const f = new Fake();
    f.pageRows = 2;
    const c = await signedIn(f);
    const ids = Array.from({ length: 5 }, anId);
    ids.forEach((id, n) => f.put("account", id, { n }));
    for (let calls = 1; ; calls++) {
      const r = await c.syncOnce();
      if (r.checkpoint) {
        expect(calls).toBe(3);
        break;
      }
      expect(c.list("account")).toEqual([]);
      expect(r.more).toBe(true);
      expect(c.status().staged).toBeGreaterThan(0);
      if (calls === 1) f.put("account", ids[0] ?? "", { n: 100 }); // changed again while it is staged
    }
    expect(c.list("account")).toHaveLength(5);
    expect(shown(c, "account", ids[0] ?? "")).toEqual({ n: 100 });
  });

  test("a record goes when its last bucket does", async () => {
    const id = anId();
    const leave = (rev: number, left: number): Row => ({ recordId: id, kind: "account", rev: BigInt(rev), left: [BigInt(left)] });
    const { c } = await scripted(
      answer(page("1", true, 1, [change(id, 1, '{"a":1}', [1, 2])])),
      answer(page("2", true, 2, [leave(1, 1)])),
      answer(page("3", false, 0, [leave(2, 2)])),
      answer(page("4", true, 4)),
    );
    await c.syncOnce();
    await c.syncOnce();
    expect(shown(c, "account", id)).toEqual({ a: 1 });
    await c.syncOnce(); // staged
    expect(shown(c, "account", id)).toEqual({ a: 1 });
    await c.syncOnce();
    expect(shown(c, "account", id)).toBe("none");
  });

  test("a dropped bucket goes at once, shown and staged", async () => {
    const [only, both, staged, visit] = [anId(), anId(), anId(), anId()];
    const drop = { droppedBuckets: [1n], droppedKinds: [{ bucket: 2n, kind: "visit" }] };
    const { c } = await scripted(
      answer(page("1", true, 1, [change(only, 1, '{"a":1}', [1]), change(both, 1, '{"b":1}', [1, 2]), change(visit, 1, "{}", [2], "visit")])),
      answer(page("2", false, 0, [change(staged, 1, '{"c":1}', [1]), change(only, 2, '{"a":2}', [])])),
      answer(page("3", false, 0, [change(anId(), 1, "{}", [2])], drop)),
      answer(page("4", true, 4)),
    );
    await c.syncOnce();
    await c.syncOnce();
    expect(shown(c, "account", only)).toEqual({ a: 1 });
    await c.syncOnce();
    expect(shown(c, "account", only)).toBe("none"); // at once, no checkpoint yet
    expect(shown(c, "visit", visit)).toBe("none");
    expect(shown(c, "account", both)).toEqual({ b: 1 });
    await c.syncOnce();
    expect(shown(c, "account", only)).toBe("none");
    expect(shown(c, "account", staged)).toBe("none");
    expect(shown(c, "account", both)).toEqual({ b: 1 });
  });

  test("a bucket dropped and given on the same page stays", async () => {
    const id = anId();
    const { c } = await scripted(
      answer(page("1", true, 1, [change(id, 1, '{"a":1}', [1])])),
      answer(page("2", true, 2, [change(id, 1, '{"a":1}', [7])], { droppedBuckets: [1n] })),
    );
    await c.syncOnce();
    await c.syncOnce();
    expect(shown(c, "account", id)).toEqual({ a: 1 });
  });

  test("a narrowed field goes at once, shown and staged", async () => {
    const [a, b] = [anId(), anId()];
    const { c } = await scripted(
      answer(page("1", true, 1, [change(a, 1, '{"name":"x","phone":"1"}', [1])])),
      answer(page("2", false, 0, [change(b, 1, '{"name":"y","phone":"2"}', [1])])),
      answer(page("3", false, 0, [], { narrowed: [{ kind: "account", fields: ["phone"] }] })),
      answer(page("4", true, 4)),
    );
    for (let i = 0; i < 3; i++) await c.syncOnce();
    expect(shown(c, "account", a)).toEqual({ name: "x" });
    expect(shown(c, "account", b)).toBe("none");
    await c.syncOnce();
    expect(shown(c, "account", b)).toEqual({ name: "y" });
  });

  test("narrowed takes copies in attentions too", async () => {
    const id = anId();
    const items = [
      { kind: "account", field: "phone", value: "1" }, { kind: "account", field: "name", value: "x" }, { kind: "account", field: "tags/key", value: true },
      { kind: "account", field: "", value: "all" }, { kind: "visit", field: "phone", value: 12345 },
    ];
    const { c } = await scripted(
      answer(page("1", true, 1, [change(id, 1, JSON.stringify({ items, open: true }), [1], "attention")])),
      answer(page("2", false, 0, [], { narrowed: [{ kind: "account", fields: ["phone", "tags"] }] })),
    );
    await c.syncOnce();
    await c.syncOnce();
    expect(shown(c, "attention", id)).toEqual({
      items: [
        { kind: "account", field: "phone", withheld: true }, { kind: "account", field: "name", value: "x" }, { kind: "account", field: "tags/key", withheld: true },
        { kind: "account", field: "", withheld: true }, { kind: "visit", field: "phone", value: 12345 },
      ],
      open: true,
    });
  });

  test("a tombstone deletes and a revival begins anew", async () => {
    const id = anId();
    const dead: Row = { recordId: id, kind: "account", rev: 2n, deleted: true };
    const { c } = await scripted(
      answer(page("1", true, 1, [change(id, 1, '{"a":1}', [1, 2])])),
      answer(page("2", false, 0, [dead])),
      answer(page("3", true, 3, [change(id, 3, '{"a":3}', [2])])),
      answer(page("4", true, 4, [{ recordId: id, kind: "account", rev: 3n, left: [2n] }])),
      answer(page("5", true, 5, [change(id, 4, "{}", [1])])),
      answer(page("6", true, 6, [dead])),
    );
    for (let i = 0; i < 3; i++) await c.syncOnce();
    expect(shown(c, "account", id)).toEqual({ a: 3 });
    await c.syncOnce();
    expect(shown(c, "account", id)).toBe("none"); // the buckets from before its death do not count
    await c.syncOnce();
    expect(shown(c, "account", id)).toEqual({});
    await c.syncOnce();
    expect(shown(c, "account", id)).toBe("none");
  });

  test("an answer that is cut short or strange changes nothing", async () => {
    const id = anId();
    const { c, give } = await scripted(answer(page("1", true, 1, [change(id, 1, '{"a":1}', [1])])));
    await c.syncOnce();
    give([answer(page("2", true, 2, [change(id, 2, '{"a":2}', [1]), change("no id", 1, "{}", [1])]))]);
    await expect(c.syncOnce()).rejects.toMatchObject({ code: "refused" });
    expect(shown(c, "account", id)).toEqual({ a: 1 });
    expect(c.status().seq).toBe("1");
  });
});

describe.concurrent("own work", () => {
  test("my own write is shown until a full checkpoint at or past its seq", async () => {
    const id = anId();
    const { c } = await scripted(
      answer(page("1", true, 5, [change(id, 1, '{"a":"old"}', [1])])),
      answer(page("2", true, 9), verdict(1, 10)),
      answer(page("3", true, 10, [change(id, 2, '{"a":"theirs"}', [])], { settledPriority: 1 })),
      answer(page("4", false, 0, [change(id, 3, `{"a":"server's"}`, [])])),
      answer(page("5", true, 10)),
    );
    await c.syncOnce();
    await c.patch("account", id, { a: "mine" });
    for (let call = 2; call <= 4; call++) {
      await c.syncOnce();
      expect(shown(c, "account", id)).toEqual({ a: "mine" });
    }
    await c.syncOnce();
    expect(shown(c, "account", id)).toEqual({ a: "server's" });
  });

  test("an answer without a page at a checkpoint ends the overlay too", async () => {
    const { c } = await scripted(answer(page("1", true, 5)), answer(undefined, verdict(1, 6)));
    await c.syncOnce();
    const id = await c.create("account", { a: 1 });
    expect(shown(c, "account", id)).toEqual({ a: 1 });
    await c.syncOnce(); // it is in no bucket of this person's
    expect(shown(c, "account", id)).toBe("none");
    expect(c.settled(0, 10)).toHaveLength(1);
  });

  test("what was refused is no longer shown and is kept with its verdict", async () => {
    const f = new Fake();
    const c = await signedIn(f);
    f.refuse = (m) => (m.ops[0]?.action.case === "patch" && m.ops[0].action.value.fields.includes("forbidden") ? [Status.REJECTED, Reason.FIELD_FORBIDDEN] : undefined);
    const id = await c.create("visit", { note: "a" });
    for (const note of ["forbidden", "b"]) await c.patch("visit", id, { note, [note]: 1 });
    expect(shown(c, "visit", id)).toEqual({ b: 1, forbidden: 1, note: "b" });
    await c.sync();
    expect(shown(c, "visit", id)).toEqual({ b: 1, note: "b" });
    expect(c.settled(1, 10)).toMatchObject([
      { order: 2, fate: "REJECTED", reason: "FIELD_FORBIDDEN", serverMs: serverTime, ops: [{ action: "patch", record: id, fields: { note: "forbidden", forbidden: 1 } }] },
      { order: 3, fate: "APPLIED" },
    ]);
  });

  test("sets, counters, clears and deletes are shown on top", async () => {
    const id = anId();
    const { c } = await scripted(answer(page("1", true, 1, [change(id, 1, '{"tags":["a","b"],"n":40,"x":1,"name":"z"}', [1])])));
    await c.syncOnce();
    const b = c.batch();
    b.patch("account", id, { x: null }, [{ field: "tags", add: ["c", "a"] }, { field: "tags", remove: ["b"] }, { field: "n", by: 2 }]);
    b.patch("account", id, {}, [{ field: "fresh", add: ["1"] }, { field: "zero", by: -1 }, { field: "name", add: ["no set"] }, { field: "name", by: 1 }]);
    const child = b.create("task", { of: id });
    await c.record(b);
    expect(shown(c, "account", id)).toEqual({ fresh: ["1"], n: 42, name: "z", tags: ["a", "c"], zero: -1 });
    expect(shown(c, "task", child)).toEqual({ of: id });
    await c.command("account", id, "account.claim", { why: "mine" });
    expect(c.pending().at(-1)?.ops).toMatchObject([{ action: "command", command: "account.claim", fields: { why: "mine" } }]);
    await c.delete("account", id);
    expect(shown(c, "account", id)).toBe("none");
    await c.patch("account", anId(), { a: 1 }); // an edit of what is not here shows nothing
    expect(c.list("account")).toEqual([]);
  });

  test("a refusal ends the overlay before any checkpoint", async () => {
    const { c } = await scripted(answer(page("1", false, 0), verdict(1, 9), verdict(2, 9, Status.STALE)));
    const id = await c.create("visit", { a: 1 });
    await c.patch("visit", id, { a: 2 });
    expect(shown(c, "visit", id)).toEqual({ a: 2 });
    await c.syncOnce();
    expect(shown(c, "visit", id)).toEqual({ a: 1 });
  });

  test("an own creation that the device does not follow is listed as kept at the office", async () => {
    let now = serverTime;
    const { f, c } = await scripted();
    let answers: Answer[] = [];
    f.script = () => ({ ...(answers.shift() ?? {}), serverTimeMs: BigInt(now) });
    const a = await c.create("photo", {});
    const refused = await c.create("photo", {});
    const deleted = await c.create("photo", {});
    await c.delete("photo", deleted);
    const dead = await c.create("photo", {});
    answers = [
      answer(page("1", false, 0, [{ recordId: dead, kind: "photo", rev: 2n, deleted: true }]), verdict(1, 5), verdict(2, 5, Status.REJECTED), verdict(3, 5), verdict(4, 5), verdict(5, 5)),
      answer(page("2", true, 4)),
      answer(page("3", true, 5)),
    ];
    await c.syncOnce();
    await c.syncOnce();
    expect(shown(c, "photo", a)).toEqual({}); // before its seq
    expect(c.atOffice()).toEqual([]);
    await c.syncOnce();
    expect(shown(c, "photo", a)).toBe("none");
    expect(shown(c, "photo", refused)).toBe("none");
    expect(c.atOffice()).toEqual([{ kind: "photo", id: a, serverMs: serverTime }]);

    answers = [answer(page("4", true, 6, [change(a, 1, "{}", [1], "photo")]))]; // handed back
    await c.syncOnce();
    expect(c.atOffice()).toEqual([]);
    expect(shown(c, "photo", a)).toEqual({});

    const b = await c.create("photo", {});
    answers = [answer(undefined, verdict(6, 7))];
    await c.syncOnce();
    expect(c.atOffice()).toMatchObject([{ id: b }]);
    now += 36 * day;
    const d = await c.create("photo", {});
    answers = [answer(undefined, verdict(7, 8))];
    await c.syncOnce();
    expect(c.atOffice()).toMatchObject([{ id: d }]);
  });

  test("a merged record leads to the one that it became", async () => {
    const [loser, root, end] = [anId(), anId(), anId()];
    const merged = (recordId: string, mergedInto: string): Row => ({ recordId, kind: "account", rev: 2n, deleted: true, mergedInto });
    const { f, c } = await scripted(
      answer(page("1", true, 1, [change(loser, 1, '{"name":"a"}', [1]), change(root, 1, '{"name":"b"}', [1])])),
      answer(page("2", true, 2, [merged(loser, root)])),
      answer(page("3", true, 3, [merged(root, end), change(end, 1, '{"name":"c"}', [1])])),
      answer(page("4", true, 4, [change(loser, 3, '{"name":"alone again"}', [1])])),
    );
    await c.syncOnce();
    await c.record(c.batch().patch("account", loser, { phone: "1" }).delete("account", loser));
    await c.syncOnce();
    expect(f.requests.at(-1)?.mutations[0]?.ops[0]?.recordId).toBe(loser);
    expect(c.get("account", loser)).toMatchObject({ id: root, fields: { name: "b", phone: "1" }, pending: true });
    expect(shown(c, "account", root)).toEqual({ name: "b", phone: "1" });
    expect(c.list("account")).toMatchObject([{ id: root, fields: { name: "b", phone: "1" } }]);
    await c.syncOnce();
    expect(shown(c, "account", loser)).toEqual({ name: "c", phone: "1" });
    await c.syncOnce();
    expect(shown(c, "account", root)).toEqual({ name: "c" });
    expect(shown(c, "account", loser)).toBe("none"); // its own ops stand again, and delete it
  });

  test("merged records are forgotten in time", async () => {
    let now = serverTime;
    let n = 0;
    const f = new Fake();
    f.script = () => ({ ...answer(page(String(++n), true, n, [{ recordId: anId(), kind: "account", rev: 2n, deleted: true, mergedInto: anId() }])), serverTimeMs: BigInt(now) });
    const disk = memoryDisk();
    const c = await signedIn(f, disk);
    for (let i = 0; i < 3; i++) await c.syncOnce();
    expect(await keysOf(disk, "merged")).toHaveLength(3);
    now += 36 * day;
    await c.syncOnce();
    expect(await keysOf(disk, "merged")).toHaveLength(1);
  });

  test("a creation that stands as it was sent comes without its fields", async () => {
    const f = new Fake();
    f.digests = true;
    let lose = false;
    let asSent = 0;
    f.answer = (req, res) => {
      for (const ch of res.page?.changes ?? []) {
        const sent = req.mutations.some((m) => m.ops[0]?.recordId === ch.recordId);
        if (!(req.completesRows && (lose ? ch.kind === "visit" : sent))) continue;
        asSent++;
        ch.asSent = true;
        ch.fields = '{"owner":"li","draft":null}';
      }
    };
    const c = await signedIn(f);
    const visit = await c.create("visit", { n: 1, draft: true });
    expect(await c.sync()).toMatchObject({ repaired: 0 });
    expect(asSent).toBe(1);
    expect(shown(c, "visit", visit)).toEqual({ n: 1, owner: "li" });

    // What must not happen: the creation is not here. Then the row is brought.
    const other = anId();
    f.put("visit", other, { other: 1 });
    lose = true;
    expect(await c.sync()).toMatchObject({ repaired: 1 });
    expect(shown(c, "visit", other)).toEqual({ other: 1 });
  });

  test("a first sync killed between priorities goes on and shows what was settled", async () => {
    const [hot, cold, own] = [anId(), anId(), anId()];
    const cursors: string[] = [];
    let killed = false;
    const f = new Fake();
    f.script = (req) => {
      const cursor = text(req.cursor);
      cursors.push(cursor);
      if (cursor === "") return answer(page("1", true, 7, [change(hot, 1, '{"hot":1}', [1])], { settledPriority: 1, more: true }), verdict(1, 6));
      if (cursor === "1" && !killed) {
        killed = true;
        throw new ConnectError("killed", Code.Unavailable);
      }
      if (cursor === "1") return answer(page("2", false, 0, [change(cold, 1, '{"cold":1}', [2])]));
      if (cursor === "2") return answer(page("3", true, 7, [], { followedMonths: 2, token: bytes("proof") }));
      return answer(undefined);
    };
    const disk = memoryDisk();
    const first = await signedIn(f, disk);
    await first.record(first.batch().createAs("account", own, { own: 1 }));
    await expect(first.sync()).rejects.toMatchObject({ code: "unavailable" });
    await first.close();
    const c = await Client.open(config(f, memoryStore(disk.tab())));
    expect(shown(c, "account", hot)).toEqual({ hot: 1 });
    expect(shown(c, "account", own)).toEqual({ own: 1 }); // only all priorities end the overlay
    expect(c.status()).toMatchObject({ complete: false, settledPriority: 1 });
    expect(await c.sync()).toMatchObject({ settledPriority: 0 });
    expect(shown(c, "account", cold)).toEqual({ cold: 1 });
    expect(shown(c, "account", own)).toBe("none");
    expect(c.status()).toMatchObject({ complete: true, settledPriority: 0, followedMonths: 2, seq: "7" });
    expect(cursors).toEqual(["", "1", "1", "2"]);
  });
});

describe.concurrent("reading", () => {
  test("what did not change is the same object again", async () => {
    const f = new Fake();
    const c = await signedIn(f);
    const [a, b] = [anId(), anId()];
    f.put("account", a, { n: 1 });
    f.put("account", b, { n: 2 });
    await c.sync();
    const before = new Map(c.list("account").map((r) => [r.id, r]));
    f.put("account", b, { n: 3 });
    await c.sync();
    expect(c.get("account", a)).toBe(before.get(a));
    expect(c.get("account", b)).not.toBe(before.get(b));
  });

  test("a list is filtered, ordered and cut", async () => {
    const c = await signedIn(new Fake());
    for (const n of [3, 1, 2, 5, 4]) await c.create("visit", { n });
    const n = (r: { fields: Record<string, unknown> }) => Number(r.fields["n"]);
    const ids = c.list("visit").map((r) => r.id);
    expect(ids).toEqual([...ids].sort());
    expect(c.list("visit", { where: (r) => n(r) > 1, order: (a, b) => n(b) - n(a), limit: 3 }).map(n)).toEqual([5, 4, 3]);
  });

  test("a damaged row counts as one that is not there, and a repair brings it", async () => {
    const f = new Fake();
    f.digests = true;
    const disk = memoryDisk();
    const c = await signedIn(f, disk);
    const id = anId();
    f.put("account", id, { a: 1 });
    await c.sync();
    await c.close();
    const store = memoryStore(disk.tab());
    const again = await Client.open(config(f, store));
    await store.update((tx) => {
      const row = tx.get("record", "account/" + id) ?? expect.fail("no row");
      tx.put("record", "account/" + id, { ...row, fields: '{"a":' });
    });
    expect(shown(again, "account", id)).toBe("none");
    f.put("account", anId(), {});
    expect(await again.sync()).toMatchObject({ repaired: 1 });
    expect(shown(again, "account", id)).toEqual({ a: 1 });
  });
});

