import type { Message } from "@bufbuild/protobuf";
import type { Core } from "./core.js";
import { SchemaService } from "./gen/satchel/v1/schema_pb.js";
import { getIdentity, getMeta, getPlace } from "./rows.js";
import type { ReadTx } from "./store.js";
import type { Kind, Template } from "./types.js";

/** What "meta" keeps of the schema. */
interface SchemaRow {
  kinds: Kind[];
  /** Absent = an older version of this package fetched it. */
  templates?: Template[];
  /** For what it was fetched: see standing. */
  standing: string;
  /** When, by the device's clock. */
  ms: number;
}

/** How often the schema is fetched again although its version stands: rights belong to it, and have none. */
const freshMs = 24 * 3600 * 1000;

/** The organisation's schema as last fetched, by name; empty before the first fetch. */
export function schema(core: Core): Map<string, Kind> {
  return new Map(core.view(stored)?.kinds.map((kind) => [kind.name, kind]));
}

/** The texts of notices, fetched with the schema, by name. */
export function templates(core: Core): Map<string, Template> {
  return new Map(core.view(stored)?.templates?.map((template) => [template.name, template]));
}

/** Fetches the schema as this person may see it. */
export async function fetchSchema(core: Core, signal?: AbortSignal): Promise<Map<string, Kind>> {
  const now = core.view(standing);
  const res = await core.call(SchemaService.method.getSchema, {}, signal);
  const row: SchemaRow = { kinds: res.kinds.map((kind) => ({ ...plain(kind), fields: kind.fields.map(plain) })), templates: res.templates.map(plain), standing: now, ms: core.config.now() };
  await core.update("schema", (tx) => {
    if (standing(tx).split(" ")[0] === now.split(" ")[0]) tx.put("meta", "schema", row); // else somebody else's, or wiped meanwhile
  });
  return schema(core);
}

/** Tells whether there is reason to fetch the schema: a new session, another version, other masks, or a day passed. */
export function schemaIsOld(core: Core): boolean {
  const row = core.view(stored);
  return row?.standing !== core.view(standing) || Math.abs(core.config.now() - row.ms) > freshMs;
}

function stored(tx: ReadTx): SchemaRow | undefined {
  return getMeta<SchemaRow>(tx, "schema");
}

/** What tells that the schema, or what this person may see of it, may be another. */
function standing(tx: ReadTx): string {
  const { person, session } = getIdentity(tx);
  const { schema, forms } = getPlace(tx);
  return `${person} ${session} ${schema} ${JSON.stringify(forms)}`;
}

/** A message as a row: no more than its fields. Kind, KindField and Template are the contract's, word for word. */
function plain<T extends Message>({ $typeName: _, $unknown: __, ...row }: T): Omit<T, keyof Message> {
  return row;
}
