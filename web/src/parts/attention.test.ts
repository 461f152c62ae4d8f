import { describe, expect, it } from "vitest";
import type { Fields, Kind, KindField, Rec } from "@satchel/client";
import { setLanguage } from "../i18n/index.js";
import { choicesOf, read, refusedOf, resend, restore } from "./attention.js";
import { writerText } from "./attentionWords.js";

const field = (name: string, more: Partial<KindField> = {}): KindField => ({
  name, type: "text", labelZh: name, labelEn: name, merge: "last_write", group: "", required: false, choices: [], target: "", canWrite: true, masked: false, ...more,
});
const kind = (name: string, fields: KindField[]): Kind => ({ name, labelZh: name, labelEn: name, fact: false, canCreate: true, canUpdate: true, canDelete: true, fields });
const schema = new Map([
  ["account", kind("account", [field("name"), field("level", { merge: "ask" }), field("stage", { group: "deal" }), field("deal_amount", { type: "decimal", group: "deal" }),
    field("tags", { type: "set", merge: "set" }), field("visit_count", { type: "integer", merge: "counter" })])],
  ["visit", kind("visit", [field("subject"), field("satisfaction", { type: "integer" })])],
  ["photo", kind("photo", [field("visit")])],
]);
const shown = (fields: Fields): Rec => ({ id: "a1", kind: "account", rev: "4", fields, author: "", eventMs: 0, pending: false });
const found = (fields: Fields) => (k: string, id: string): Rec | undefined => (k === "account" && id === "a1" ? shown(fields) : undefined);
const nothing = (): undefined => undefined;
const lost = (path: string, value: unknown, more: Fields = {}): Fields => ({ record: "a1", kind: "account", field: path, action: "patch", value, policy: "ask", at: 1_700_000_000_000, ...more });
const refused = (record: string, k: string, action: string, name: string, value: unknown, mutation = "d/1"): Fields => ({ record, kind: k, field: name, action, value, mutation });
const choose = (items: Fields[], standing: Fields) => choicesOf(read({ items }).items, schema, found(standing));

describe("a conflict", () => {
  it("shows the newest of what lost beside what stands", () => {
    const [c, ...others] = choose([lost("level", "c"), lost("level", "d", { by: "mei", at: "1700000000001" })], { level: "a" });
    expect(others).toEqual([]);
    expect(c).toMatchObject({ key: "a1/level", by: "mei", atMs: 1_700_000_000_001, settled: false, gone: false });
    expect(c?.sides).toEqual([{ field: "level", edit: undefined, mine: "d", standing: "a", withheld: false }]);
  });

  it("is chosen as one where the fields are settled as one, and mine is recorded by one change", () => {
    const all = choose([lost("stage", "won"), lost("deal_amount", 500), lost("level", "c")], { stage: "lost", deal_amount: 500, level: "a" });
    expect(all.map((c) => c.key)).toEqual(["a1/group deal", "a1/level"]);
    expect(restore(all, new Set(["a1/group deal", "a1/level"]))).toMatchObject([{ action: "patch", record: "a1", fields: { stage: "won", level: "c" } }]);
    expect(restore(all, new Set())).toEqual([]);
  });

  it("of a set is restored element by element, the last word on each", () => {
    const all = choose([lost("tags/key", "key"), lost("tags/old", null), lost("tags/new", "new"), lost("tags/key", null)], { tags: ["key", "old"] });
    expect(restore(all, new Set(["a1/tags"]))).toMatchObject([{ fields: {}, edits: [{ field: "tags", add: ["new"], remove: ["old", "key"] }] }]);
  });

  it("of a counter adds what did not count", () => {
    const all = choose([lost("visit_count", { by: 2 }), lost("visit_count", { by: 3 })], { visit_count: 7 });
    expect(restore(all, new Set(["a1/visit_count"]))).toMatchObject([{ edits: [{ field: "visit_count", by: 5 }] }]);
  });

  it("leaves nothing to choose where both became alike, or where mine may not be seen any more", () => {
    const all = choose([lost("level", "a"), { record: "a1", kind: "account", field: "name", action: "patch", withheld: true, at: 1 }], { level: "a", name: "x" });
    expect(all.map((c) => c.settled)).toEqual([true, true]);
    expect(restore(all, new Set(all.map((c) => c.key)))).toEqual([]);
  });

  it("about a deletion deletes again", () => {
    const all = choose([{ record: "a1", kind: "account", field: "", action: "delete", value: null, policy: "", at: 1 }], { name: "x" });
    expect(all).toMatchObject([{ deletion: true, settled: false }]);
    expect(restore(all, new Set([all[0]?.key ?? ""]))).toMatchObject([{ action: "delete", record: "a1" }]);
  });

  it("about a record that was merged is settled on the one that it became", () => {
    const [c] = choicesOf(read({ items: [lost("level", "c")] }).items, schema, () => ({ ...shown({ level: "a" }), id: "a2" }));
    expect(c && restore([c], new Set([c.key]))).toMatchObject([{ record: "a2" }]);
  });

  it("about a record that is gone says so", () => {
    expect(choicesOf(read({ items: [lost("level", "c")] }).items, schema, nothing)).toMatchObject([{ gone: true, settled: false }]);
  });

  it("tells who wrote what stands, the newest word of it", () => {
    const by = (...items: Fields[]) => choose(items, { level: "a" }).map((c) => c.by);
    expect(by(lost("level", "c", { by: "mei" }), lost("level", "d", { by: "" }))).toEqual([""]);
    expect(by(lost("level", "c", { by: "mei" }), lost("level", "d"))).toEqual(["mei"]); // kept by a server that did not tell
    expect(by(lost("level", "c"))).toEqual([undefined]);
    setLanguage("en");
    const words = ["mei", "ann", "gone", "", undefined].map((who) => writerText(who, "ann", (id) => (id === "mei" ? "Mei Lin" : "")));
    expect(words).toEqual(["By Mei Lin", "By you", "By somebody else", "By a rule or the office", ""]);
  });
});

describe("a refusal", () => {
  const collect = (items: Fields[], root: string, standing: Fields = {}) => refusedOf(read({ items }).items, root, schema, found(standing));

  it("of a creation keeps its values and id, and names what waits for it", () => {
    const r = collect([
      refused("v1", "visit", "create", "satisfaction", 9), refused("v1", "visit", "create", "subject", "Shelves"),
      refused("p1", "photo", "create", "visit", "v1", "d/2")], "v1");
    expect(r.drafts).toMatchObject([{ action: "create", record: "v1", fields: { satisfaction: 9, subject: "Shelves" } }]);
    expect(r.drafts).toHaveLength(1);
    expect(r.waiting.map((d) => d.record)).toEqual(["p1"]);
    const step = resend(r.drafts[0]!, { satisfaction: 5, subject: "Shelves" }, schema, nothing);
    expect(step).toMatchObject({ action: "create", record: "v1", fields: { satisfaction: 5, subject: "Shelves" } });
  });

  it("of a creation has in its form what was changed of the record since, but no count twice", () => {
    const r = collect([
      refused("v1", "visit", "create", "satisfaction", 9), refused("v1", "visit", "patch", "subject", "one", "d/2"),
      refused("v1", "visit", "create", "satisfaction", 8, "e/1"), refused("v1", "visit", "create", "subject", "two", "e/1"),
      refused("v1", "visit", "patch", "satisfaction", 4, "d/3"), refused("v1", "visit", "patch", "visits", { by: 1 }, "d/3")], "v1");
    expect(r).toMatchObject({ drafts: [{ action: "create", fields: { satisfaction: 4, subject: "two" }, edits: [] }], waiting: [] });
  });

  it("of a creation that was refused once more counts as it was sent last, without the closing of the attention", () => {
    const r = collect([refused("v1", "visit", "create", "satisfaction", 9), refused("v1", "visit", "create", "satisfaction", 8, "d/2"),
      { record: "att", kind: "attention", field: "open", action: "patch", value: false, mutation: "d/2" }], "v1");
    expect(r).toMatchObject({ drafts: [{ record: "v1", fields: { satisfaction: 8 } }], waiting: [] });
    expect(r.drafts).toHaveLength(1);
  });

  it("of several changes is one form with the last values, and only what differs is sent", () => {
    const r = collect([refused("a1", "account", "patch", "name", "x"), refused("a1", "account", "patch", "name", "y", "d/2"),
      refused("a1", "account", "patch", "tags", { add: ["b"], remove: ["a"] }, "d/2"), refused("a1", "account", "patch", "level", "b")], "a1", { tags: ["a", "k"], level: "b" });
    expect(r.drafts).toMatchObject([{ action: "patch", fields: { name: "y", tags: ["b", "k"], level: "b" } }]);
    expect(resend(r.drafts[0]!, { name: "y", tags: ["b", "k"], level: "b" }, schema, found({ tags: ["a", "k"], level: "b" }))).toMatchObject(
      { fields: { name: "y" }, edits: [{ field: "tags", add: ["b"], remove: ["a"] }] });
  });

  it("of a command and a deletion keeps them as they were", () => {
    const r = collect([refused("q1", "quote", "command", "", { command: "approval.submit", args: {} }), refused("a1", "account", "delete", "", null, "d/2")], "q1");
    expect(r.drafts).toMatchObject([{ action: "command", command: "approval.submit" }, { action: "delete", record: "a1" }]);
  });

  it("says which values may not be seen any more, and what cannot be shown at all", () => {
    const r = collect([{ record: "a1", kind: "account", field: "name", action: "patch", withheld: true, mutation: "d/1" },
      { record: "a1", kind: "account", field: "", action: "patch", encoding: "base64", value: "AA==", mutation: "d/2" }], "a1");
    expect(r).toMatchObject({ drafts: [{ withheld: ["name"], fields: {} }], bytes: true });
    expect(read({ items: [{ from: 3, to: 5, why: "x" }, { size: 300_000, sha256: "00" }, { encoding: "base64", value: "AA==" }, "nonsense"] }).lost).toEqual(
      [{ what: "damaged", from: 3, to: 5 }, { what: "large", bytes: 300_000 }, { what: "bytes" }]);
  });

  it("stands beside a conflict of the same record without being mixed up with it", () => {
    const items = [lost("level", "c"), refused("a1", "account", "patch", "name", "x")];
    expect(choose(items, { level: "a" })).toHaveLength(1);
    expect(collect(items, "a1").drafts).toMatchObject([{ fields: { name: "x" } }]);
  });
});
