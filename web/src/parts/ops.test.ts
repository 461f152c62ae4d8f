import { beforeEach, describe, expect, it, vi } from "vitest";

vi.stubGlobal("navigator", { language: "en" });
const { mutationText, opText, sizeText } = await import("./ops.js");
const { setLanguage } = await import("../i18n/index.js");

const names = {
  kind: (k: string) => ({ visit: "Visit", account: "Account", approval: "Approval", photo: "Photo" })[k] ?? k,
  field: (_: string, f: string) => f.toUpperCase(),
  title: (_: string, id: string) => ({ a1: "Orient Ltd", q1: "Lathe" })[id] ?? "",
};
const op = (action: "create" | "patch" | "delete" | "command", kind: string, record: string, fields = {}, command = "") => ({ action, kind, record, fields, command });

describe("a step in words", () => {
  beforeEach(() => setLanguage("en"));

  it("names what was made, changed and deleted", () => {
    expect(opText(op("create", "visit", "v1", { subject: "Autumn shelves" }), names)).toBe("New Visit: Autumn shelves");
    expect(opText(op("create", "photo", "p1", { visit: "v1" }), names)).toBe("New Photo");
    expect(opText(op("patch", "account", "a1", { level: "b", remark: null }), names)).toBe("Account Orient Ltd: LEVEL · REMARK");
    expect(opText(op("patch", "account", "a9", { level: "b" }), names)).toBe("Account: LEVEL");
    expect(opText(op("patch", "account", "a1"), names)).toBe("Account Orient Ltd");
    expect(opText(op("delete", "account", "a1"), names)).toBe("Account deleted: Orient Ltd");
  });

  it("says which command it is, and the name of one that the app does not know", () => {
    expect(opText(op("command", "approval", "q1", {}, "approval.decide"), names)).toBe("Decision on an approval: Lathe");
    expect(opText(op("command", "approval", "q1", { decision: "reject" }, "approval.decide"), names)).toBe("Rejected: Lathe");
    expect(opText(op("command", "account", "a1", {}, "lead.claim"), names)).toBe("lead.claim: Orient Ltd");
  });

  it("speaks Chinese, too", () => {
    setLanguage("zh-CN");
    expect(opText(op("create", "visit", "v1", { subject: "秋季货架" }), names)).toBe("新建Visit：秋季货架");
    expect(opText(op("patch", "account", "a9", { level: "b" }), names)).toBe("Account：LEVEL");
  });
});

describe("a mutation in words", () => {
  it("is told by its chief step, however many others there are", () => {
    setLanguage("en");
    const close = op("patch", "attention", "t1", { open: false });
    expect(mutationText({ ops: [close, op("patch", "account", "a1", { level: "b" }), op("create", "photo", "p1")] }, names)).toEqual({ text: "Account Orient Ltd: LEVEL", more: 1 });
    expect(mutationText({ ops: [close] }, names)).toEqual({ text: "Settled: attention", more: 0 });
    expect(mutationText({ ops: [] }, names)).toEqual({ text: "", more: 0 });
  });
});

it("a size is told in units that people know", () => {
  expect([10, 820 * 1024, 3_600_000].map(sizeText)).toEqual(["1 KB", "820 KB", "3.4 MB"]);
});
