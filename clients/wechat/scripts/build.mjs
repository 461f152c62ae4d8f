// Bundles the package, with everything that it takes, for mini-programs: one CommonJS file, as WeChat's "npm build" and a
// plain require take it. Prints its size and fails above the limit.
import { mkdirSync, readFileSync, writeFileSync } from "node:fs";
import { dirname, join } from "node:path";
import { fileURLToPath } from "node:url";
import { gzipSync } from "node:zlib";
import { build } from "esbuild";

const root = join(dirname(fileURLToPath(import.meta.url)), "..");
const limit = 60 * 1024;

/** What the client loads when it first needs it, by import(), stands in the bundle: a mini-program loads no module later. */
const eager = {
  name: "eager",
  setup: (b) =>
    b.onLoad({ filter: /clients[\\/]ts[\\/]src[\\/]\w+\.ts$/ }, ({ path }) => {
      const modules = [];
      const contents = readFileSync(path, "utf8").replace(/=> import\(("\.\/\w+\.js")\)/g, (_, from) => `=> Promise.resolve(later${modules.push(from) - 1})`);
      return { contents: modules.map((from, i) => `import * as later${i} from ${from};`).join("") + contents, loader: "ts" };
    }),
};

/**
 * protobuf-es carries the description of all descriptors, of which it reads these fields when it loads ours; the others, most
 * of them options of other languages' generators, are passed over like any field that a program does not know. 2 KB.
 */
const described = {
  FileDescriptorProto: ["name", "package", "dependency", "public_dependency", "message_type", "enum_type", "service", "extension", "options", "syntax", "edition"],
  DescriptorProto: ["name", "field", "nested_type", "enum_type", "extension", "options", "oneof_decl"],
  FieldDescriptorProto: ["name", "extendee", "number", "label", "type", "type_name", "default_value", "options", "oneof_index", "json_name", "proto3_optional"],
  OneofDescriptorProto: ["name"],
  EnumDescriptorProto: ["name", "value", "options"],
  EnumValueDescriptorProto: ["name", "number", "options"],
  ServiceDescriptorProto: ["name", "method", "options"],
  MethodDescriptorProto: ["name", "input_type", "output_type", "options", "client_streaming", "server_streaming"],
  FileOptions: ["features"],
  MessageOptions: ["message_set_wire_format", "map_entry", "features"],
  FieldOptions: ["packed", "jstype", "features"],
  EnumOptions: ["features"],
  EnumValueOptions: ["features"],
  ServiceOptions: ["features"],
  MethodOptions: ["idempotency_level"],
  FeatureSet: ["field_presence", "enum_type", "repeated_field_encoding", "utf8_validation", "message_encoding", "json_format", "enforce_naming_style", "default_symbol_visibility"],
};

const descriptors = {
  name: "descriptors",
  setup: (b) =>
    b.onLoad({ filter: /wkt[\\/]google[\\/]protobuf[\\/]descriptor_pb\.js$/ }, ({ path }) => {
      const parts = /^([^]*\bboot\()(\{.*\})(\)[^]*)$/.exec(readFileSync(path, "utf8"));
      if (!parts) throw new Error("protobuf-es describes descriptors in another way now: look at scripts/build.mjs");
      const file = JSON.parse(parts[2]);
      const read = new Set(["Type", "Label", "JSType", "IdempotencyLevel", "Edition", ...described.FeatureSet.map((f) => f.replace(/(^|_)./g, (c) => c.slice(-1).toUpperCase()))]);
      const enums = (all = []) => all.map(({ name, value }) => ({ name, value: read.has(name) ? value : value.slice(0, 1) })); // a value that is not there would be passed over
      const message = ({ name, field = [], nestedType = [], enumType }) => ({
        name,
        field: field.filter((f) => described[name]?.includes(f.name)).map(({ options, ...f }) => (options?.packed === undefined ? f : { ...f, options: { packed: options.packed } })),
        nestedType: nestedType.map(message),
        enumType: enums(enumType),
      });
      const less = { name: file.name, package: file.package, messageType: file.messageType.map(message), enumType: enums(file.enumType) };
      return { contents: parts[1] + JSON.stringify(less, (_, v) => (Array.isArray(v) && v.length === 0 ? undefined : v)) + parts[3], loader: "js" };
    }),
};

/** The bundle's text. entry: relative to the package. */
export async function bundle({ minify = true, entry = "src/index.ts" } = {}) {
  const out = await build({
    entryPoints: [join(root, entry)],
    bundle: true,
    write: false,
    minify,
    format: "cjs",
    platform: "neutral",
    mainFields: ["module", "main"],
    conditions: ["source"],
    target: "es2020", // iOS 13.4 and every XWeb; older phones get what DevTools compiles ("es6": true)
    alias: { "@connectrpc/connect-web": join(root, "src/transport.ts") },
    inject: [join(root, "src/shims.ts")],
    plugins: [eager, descriptors],
    legalComments: "none",
    logLevel: "warning",
  });
  const text = out.outputFiles[0].text;
  if (!minify) return text;
  const terser = await import("terser");
  const { code } = await terser.minify(text, { compress: { passes: 3, unsafe_arrows: true, unsafe_methods: true, pure_getters: true }, mangle: { toplevel: true }, toplevel: true, ecma: 2020 });
  return code ?? text;
}

if (process.argv[1] === fileURLToPath(import.meta.url)) {
  const text = await bundle();
  mkdirSync(join(root, "dist"), { recursive: true });
  writeFileSync(join(root, "dist/satchel.js"), text);
  writeFileSync(join(root, "dist/package.json"), '{ "type": "commonjs" }\n'); // the package's own sources are modules
  const packed = gzipSync(text, { level: 9 }).length;
  console.log(`@satchel/wechat: ${text.length} bytes, ${packed} gzip (at most ${limit})`);
  if (packed > limit) {
    console.error("the bundle is too large");
    process.exit(1);
  }
}
