import { createServer } from "node:http";
import type { AddressInfo } from "node:net";
import { startServer, type RealServer } from "../../ts/test/realserver.js";

/** Satchel with the demo company, and a scripted WeChat behind it: as internal/fakes, "code-NAME-…" is the user NAME, once. */
export interface World extends RealServer {
  /** Codes that WeChat's server was asked about. */
  readonly asked: string[];
  /** A call as a curl would make it; throws for any status but 200. */
  call(method: string, body: object, token?: string): Promise<Record<string, unknown>>;
}

export async function startWorld(): Promise<World> {
  const asked: string[] = [];
  const wechat = createServer((req, res) => {
    const q = new URL(req.url ?? "/", "http://x").searchParams;
    const code = q.get("js_code") ?? "";
    const user = /^code-([^-]+)-/.exec(code)?.[1];
    const known = asked.includes(code);
    asked.push(code);
    const ok = q.get("appid") === "wx-test" && q.get("secret") === "the secret" && user && !known;
    res.end(JSON.stringify(ok ? { openid: "openid-" + user, session_key: "never to be seen", unionid: "u" } : { errcode: known ? 40163 : 40029, errmsg: "scripted" }));
  });
  await new Promise<void>((resolve) => wechat.listen(0, "127.0.0.1", resolve));
  const server = await startServer({
    SATCHEL_WECHAT_APP_ID: "wx-test",
    SATCHEL_WECHAT_SECRET: "the secret",
    SATCHEL_WECHAT_API: `http://127.0.0.1:${(wechat.address() as AddressInfo).port}`,
  });
  return {
    ...server,
    asked,
    async call(method, body, token) {
      const res = await fetch(`${server.url}/satchel.v1.${method}`, { method: "POST", headers: { "Content-Type": "application/json", ...(token ? { Authorization: "Bearer " + token } : {}) }, body: JSON.stringify(body) });
      const json = (await res.json()) as Record<string, unknown>;
      if (res.status !== 200) throw new Error(JSON.stringify(json));
      return json;
    },
    async stop() {
      await server.stop();
      wechat.closeAllConnections();
      await new Promise((resolve) => wechat.close(resolve));
    },
  };
}
