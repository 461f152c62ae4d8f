import { describe, expect, test } from "vitest";
import { difference, parse, typed } from "./fields.js";

describe("what a person types becomes what the schema's type wants", () => {
  test.each([
    ["text", " Autumn ", "Autumn"],
    ["integer", "12", 12],
    ["decimal", "1,234,567.50", 1234567.5],
    ["boolean", "false", false],
    ["set", "b，a, b;c", ["a", "b", "c"]],
    ["date", "2026-11-29", "2026-11-29"],
    ["reference", "019a9f00-0000-7000-8000-0000000000b1", "019a9f00-0000-7000-8000-0000000000b1"],
  ])("%s: %s", (type, text, value) => {
    expect(parse({ type }, text)).toEqual({ value });
  });

  test("an empty entry clears the field", () => {
    for (const type of ["text", "integer", "decimal", "set", "date", "datetime", "choice"]) expect(parse({ type }, "  ")).toEqual({});
  });

  test("what is no number is refused, and so is one that would be changed on the way", () => {
    expect(parse({ type: "integer" }, "1.5")).toEqual({ wrong: "edit.whole" });
    expect(parse({ type: "decimal" }, "about 5")).toEqual({ wrong: "edit.number" });
    expect(parse({ type: "decimal" }, "12345678901234.567")).toEqual({ wrong: "edit.number" });
  });

  test("a moment survives its way through the input, to the minute", () => {
    const value = "2026-11-29T01:05:00.000Z";
    expect(parse({ type: "datetime" }, typed({ type: "datetime" }, value))).toEqual({ value });
  });

  test("of a set, what was added and what was removed is sent", () => {
    expect(difference("tags", ["a", "b"], ["b", "c"])).toEqual({ field: "tags", add: ["c"], remove: ["a"] });
    expect(difference("tags", undefined, ["b"])).toEqual({ field: "tags", add: ["b"], remove: [] });
    expect(difference("tags", ["a"], undefined)).toEqual({ field: "tags", add: [], remove: ["a"] });
  });

  test("values are shown as they would be typed", () => {
    expect(typed({ type: "set" }, ["a", "b"])).toBe("a, b");
    expect(typed({ type: "decimal" }, 12.5)).toBe("12.5");
    expect(typed({ type: "text" }, undefined)).toBe("");
  });
});
