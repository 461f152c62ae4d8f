import { sdk, useList } from "./satchel.js";
import { text } from "./words.js";

/** Gives a function that names records of a kind by their ids: reactive, "" for what is not here. */
export function useNames(kind: string): (id: string) => string {
  // What a list shows changes when the kind does; the record itself is looked up, also one that was merged into another.
  const all = useList(kind);
  return (id) => (id === "" || all.value.length === 0 ? "" : text(sdk().get(kind, id), "name"));
}
