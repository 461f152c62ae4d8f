import { create } from "@bufbuild/protobuf";
import { Code } from "@connectrpc/connect";
import { randomUUID } from "node:crypto";
import { describe, expect, test } from "vitest";
import { Reason } from "../src/gen/satchel/v1/errors_pb.js";
import { FormsSchema } from "../src/gen/satchel/v1/sync_pb.js";
import { fail, Fake, noSignal } from "./fake.js";
import { damage, reopened, shown, signedIn, syncs, wantSame, type Phone } from "./phone.js";

/** A device in step with a server that has n accounts and states digests. */
async function filled(n: number): Promise<{ f: Fake; d: Phone; ids: string[] }> {
  const f = new Fake();
  f.digests = true;
  const ids = Array.from({ length: n }, () => randomUUID());
  ids.forEach((id, i) => f.put("account", id, { n: i }));
  const d = await signedIn(f);
  expect(await d.client.sync()).toMatchObject({ repaired: 0, checkpoint: true });
  return { f, d, ids };
}

const key = (id: string) => "account/" + id;

test("a store that lost rows is repaired, and only what differs travels", async () => {
  const was = await filled(20);
  const { f, ids } = was;
  const [id3 = "", id5 = "", id7 = "", lost = ""] = [ids[3], ids[5], ids[7], ids[12]];
  await damage(was.d, (tx) => {
    tx.delete("record", key(id3));
    tx.put("record", key(id7), { id: id7, kind: "account", rev: "0", entered: ["1"], fields: '{"n":"of yesterday"}', author: "", eventMs: 0 });
  });
  f.rows.delete(lost); // the device has what the server has not
  const pending = await was.d.client.create("account", { mine: 1 });
  const d = await reopened(was.d);
  f.put("account", id5, { n: "new" }); // any change gives a checkpoint
  expect(await d.client.sync()).toMatchObject({ repaired: 1, settled: [{}] });
  wantSame(d, "account");
  expect(shown(d, "account", lost)).toBe("none");
  expect(shown(d, "account", pending)).toBe('{"mine":1}');
  const got = f.travelled();
  expect(got.length).toBeLessThanOrEqual(3); // perhaps that which was pending
  expect(got).toEqual(expect.arrayContaining([id3, id7]));
  expect(await d.client.sync()).toMatchObject({ repaired: 0 });
});

test("the digest is the device's own through all that changes rows", async () => {
  const first = await filled(10);
  const { f, ids } = first;
  let d = first.d;
  for (let i = 0; i < 12; i++) {
    const account = ids[i % 10] ?? "";
    f.pageRows = 1 + (i % 3);
    f.put("account", account, { i });
    const row = f.rows.get(account);
    if (i % 4 === 0 && row) row.change.entered = [1n, 2n];
    const id = await d.client.create("visit", { i });
    await d.client.sync();
    if (i % 3 === 0) await d.client.delete("visit", id);
    if (i === 6) d = await reopened(d);
    expect(await d.client.sync()).toMatchObject({ repaired: 0 });
  }
  f.script = () => {
    f.script = undefined;
    throw fail(Code.InvalidArgument, Reason.MALFORMED_CURSOR);
  };
  expect(await d.client.sync()).toMatchObject({ repaired: 0, checkpoint: true }); // filled anew
  expect(f.repairs).toEqual([]);
  wantSame(d, "account", "visit");
});

test("a digest that is never right ends in one repair and one fill, and no loop", async () => {
  const { f, d, ids } = await filled(3);
  const [a = "", b = "", c = ""] = ids;
  f.answer = (_, res) => {
    if (res.page?.digest) res.page.digest.sum++;
  };
  f.put("account", a, { n: 9 });
  expect(await d.client.sync()).toMatchObject({ repaired: 1 });
  const before = f.requests.length + f.repairs.length;
  for (let i = 0; i < 3; i++) {
    f.put("account", b, { n: 10 + i });
    expect(await d.client.sync()).toMatchObject({ repaired: 0, calls: 1 });
  }
  expect(f.requests.length + f.repairs.length).toBe(before + 3);
  wantSame(d, "account");
  f.answer = undefined; // right again, and then wrong again: that is another doubt
  f.put("account", b, { n: "right" });
  await d.client.sync();
  f.rows.delete(c);
  f.put("account", b, { n: "wrong" });
  expect(await d.client.sync()).toMatchObject({ repaired: 1 });
  wantSame(d, "account");
});

test("a repair takes away at once what is no longer the person's, and asks for stale kinds", async () => {
  const { f, d, ids } = await filled(6);
  const [first = ""] = ids;
  const secret = randomUUID();
  f.put("plan", secret, { a: 1 });
  await d.client.sync();
  for (const r of f.rows.values()) {
    if (r.change.kind !== "account") continue;
    r.fields["m"] = r.fields["n"];
    delete r.fields["n"];
    r.change.rev--; // the rev stays
    f.touch(r);
  }
  f.rows.delete(secret);
  f.plan = (p) => {
    p.staleKinds = ["account"];
    p.narrowed = [{ $typeName: "satchel.v1.Narrowed", kind: "account", fields: ["n"] }];
    p.forms = create(FormsSchema, { forms: [{ kind: "account", form: 7n }] });
  };
  f.orderRepair(false);
  await d.client.syncOnce(); // the order
  await d.client.syncOnce(); // the plan
  expect(shown(d, "plan", secret)).toBe("none");
  expect(shown(d, "account", first)).toBe("{}");
  expect(d.client.status().repairing).toBe(true);
  await d.client.syncOnce(); // rows: staged
  expect(shown(d, "account", first)).toBe("{}");
  await d.client.sync();
  expect(shown(d, "account", first)).toBe('{"m":0}');
  wantSame(d, "account");
  expect(f.travelled()).toHaveLength(6);
  f.orderRepair(false);
  await d.client.sync();
  expect(f.repairs[0]?.step).toMatchObject({ case: "start", value: { forms: { forms: [{ kind: "account", form: 7n }] } } });
});

test("salvage is sent before anything is removed", async () => {
  const was = await filled(6);
  const { f } = was;
  const [, gone = "", older = ""] = was.ids;
  const dropped = randomUUID();
  f.put("account", older, { n: "newer" });
  f.put("plan", dropped, { p: 1 });
  await was.d.client.sync();
  f.rows.delete(gone);
  f.rows.delete(dropped);
  const row = f.rows.get(older);
  if (row) Object.assign(row.change, { rev: 1n, fields: '{"n":2}' });
  f.onRepair = (req) => {
    if (req.step.case !== "salvage") return;
    expect(shown(was.d, "account", gone)).not.toBe("none");
    f.onRepair = undefined;
    throw noSignal();
  };
  f.orderRepair(true);
  await expect(was.d.client.sync()).rejects.toMatchObject({ code: "unavailable" });
  const d = await reopened(was.d);
  await d.client.sync();
  wantSame(d, "account", "plan");
  expect(f.salvaged.size).toBe(3);
  expect(f.salvaged.get(gone)?.fields).toBe('{"n":1}');
  expect(f.salvaged.get(older)?.rev).toBe(2n);
  expect(f.salvaged.get(dropped)?.kind).toBe("plan");
});

test("a row that the server does not take as salvage stays on the device", async () => {
  const { f, d, ids } = await filled(4);
  const [bad = "", good = ""] = ids;
  f.rows.delete(bad);
  f.rows.delete(good);
  f.onRepair = ({ step }) => {
    if (step.case === "salvage" && step.value.rows.some((ch) => ch.recordId === bad)) throw fail(Code.InvalidArgument, Reason.INVALID);
  };
  f.orderRepair(true);
  expect(await syncs(d, 5)).toBeDefined();
  wantSame(d, "account");
  expect(d.client.kept()).toEqual([{ key: "row/" + bad, text: expect.stringContaining('{\\"n\\":0}') as string }]);
  expect([...f.salvaged.keys()]).toEqual([good]);
});

test("a repair that fails does not hold up the outbox, nor the outbox the repair", async () => {
  const { f, d, ids } = await filled(4);
  f.rows.delete(ids[0] ?? "");
  f.onRepair = () => {
    throw noSignal();
  };
  f.orderRepair(false);
  await d.client.syncOnce();
  await d.client.create("visit", {});
  await syncs(d, 2); // fails in the repair, which may come first
  expect(d.client.status()).toMatchObject({ pending: 0, repairing: true });
  await d.client.create("visit", {});
  f.onRepair = undefined;
  f.script = (req) => {
    if (req.mutations.length > 0) throw noSignal();
    return undefined;
  };
  expect(await syncs(d, 6)).toBeUndefined(); // fails in what goes up
  expect(d.client.status()).toMatchObject({ pending: 1, repairing: false });
  f.script = undefined;
  await d.client.sync();
  expect(d.client.status().pending).toBe(0);
  wantSame(d, "account", "visit");
});

test("a server that cannot repair is pulled from anew", async () => {
  const { f, d, ids } = await filled(4);
  f.rows.delete(ids[0] ?? "");
  f.onRepair = () => {
    throw fail(Code.Unimplemented, Reason.UNSPECIFIED);
  };
  f.orderRepair(false);
  expect(await syncs(d, 5)).toBeDefined();
  await d.client.sync();
  wantSame(d, "account");
});

// The last word about a repair's rows is the page behind its cursor; when there is none, nothing changed since.
test("what a repair brought is shown also when nothing changed since", async () => {
  const { f, d, ids } = await filled(4);
  const row = f.rows.get(ids[0] ?? "");
  if (row) {
    row.fields["n"] = "other";
    f.touch(row);
  }
  f.answer = (_, res) => {
    if (res.page?.changes.length === 0) delete res.page;
  };
  f.orderRepair(false);
  await d.client.sync();
  wantSame(d, "account");
  expect(d.client.status()).toMatchObject({ complete: true, repairing: false });
});

test("answers that make no sense are refused, and change nothing", async () => {
  const { f, d } = await filled(4);
  f.plan = (p) => {
    p.cursor = new Uint8Array();
  };
  f.orderRepair(false);
  await expect(d.client.sync()).rejects.toMatchObject({ code: "unavailable" });
  wantSame(d, "account");
  f.plan = undefined;
  await d.client.sync();
  wantSame(d, "account");
});

describe("what cannot be read in the store is brought again and holds nothing up:", () => {
  const spoilt: Record<string, (d: Phone, id: string) => Promise<void>> = {
    "a record's fields": (d, id) =>
      damage(d, (tx) => tx.put("record", key(id), { id, kind: "account", rev: "99", entered: ["1"], fields: '{"items":', author: "", eventMs: 0 })),
    "a record that is not there": (d, id) => damage(d, (tx) => tx.delete("record", key(id))),
    "a record that is staged and is none": (d, id) =>
      damage(d, (tx) => tx.put("staging", key(id), { id, kind: "account", rev: "99", entered: ["1"], fields: "junk", author: "", eventMs: 0 })),
  };
  for (const [name, spoil] of Object.entries(spoilt)) {
    test(name, async () => {
      const { f, d: was, ids } = await filled(5);
      const mine = await was.client.create("account", { mine: 1 });
      await spoil(was, ids[2] ?? "");
      const d = await reopened(was);
      f.put("account", ids[4] ?? "", { n: "new" });
      expect(await d.client.sync()).toMatchObject({ settled: [{}] });
      wantSame(d, "account");
      expect(shown(d, "account", mine)).toBe('{"mine":1}');
      expect(await d.client.sync()).toMatchObject({ repaired: 0 });
    });
  }
});
