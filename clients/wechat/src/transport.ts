import { create, fromJson, toJson, type JsonValue } from "@bufbuild/protobuf";
import { Code, ConnectError, type Transport } from "@connectrpc/connect";
import { errorFromJson } from "@connectrpc/connect/protocol-connect";
import { Headers } from "./shims.js";

/**
 * Connect's unary calls in JSON, which is all that a mini-program can and needs: in the bundle it stands for
 * @connectrpc/connect-web's transport (scripts/build.mjs), whose other half, binary and streams, weighs 8 KB. The text goes to
 * wx.request as text. Time-outs are the caller's; timeoutMs only tells the server.
 */
export function createConnectTransport({ baseUrl, fetch }: { baseUrl: string; fetch: typeof globalThis.fetch }): Transport {
  return {
    async unary(method, signal, timeoutMs, init, message) {
      const headers = new Headers(init);
      headers.set("Content-Type", "application/json");
      headers.set("Connect-Protocol-Version", "1");
      if (timeoutMs !== undefined && timeoutMs > 0) headers.set("Connect-Timeout-Ms", String(Math.ceil(timeoutMs)));
      const body = JSON.stringify(toJson(method.input, create(method.input, message)));
      const url = `${baseUrl.replace(/\/+$/, "")}/${method.parent.typeName}/${method.name}`;
      const response = await fetch(url, { method: "POST", headers, body, ...(signal ? { signal } : {}) });
      // Only an answer in JSON is the server's: a hotel's log-in page also says 200.
      const ours = /^application\/json/i.test(response.headers.get("Content-Type") ?? "");
      const fallback = new ConnectError(`HTTP ${response.status}`, response.status === 404 && !ours ? Code.Unimplemented : Code.Unavailable);
      if (!ours) throw fallback;
      const json = (await response.json().catch(() => Promise.reject(fallback))) as JsonValue; // JSON it is
      if (response.status !== 200) throw errorFromJson(json, response.headers, fallback);
      return {
        stream: false, service: method.parent, method, header: response.headers, trailer: new Headers(),
        message: fromJson(method.output, json, { ignoreUnknownFields: true }),
      };
    },
    stream: () => Promise.reject(new ConnectError("a mini-program has no streams", Code.Unimplemented)),
  };
}
