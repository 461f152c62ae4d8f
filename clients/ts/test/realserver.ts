import { execFileSync, spawn } from "node:child_process";
import { mkdtempSync, rmSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";

/** A real server with the demo company on a Postgres of its own. */
export interface RealServer {
  url: string;
  /** Ends it, and removes what it made. */
  stop(): Promise<void>;
}

const root = new URL("../../..", import.meta.url).pathname;

/** Starts it: the binary that SATCHEL_BIN names, else one that is built here. more: further variables of its environment. */
export async function startServer(more: Record<string, string> = {}): Promise<RealServer> {
  const dir = mkdtempSync(join(tmpdir(), "satchel-ts-"));
  let bin = process.env["SATCHEL_BIN"];
  if (!bin) {
    bin = join(dir, "satchel");
    execFileSync("go", ["build", "-o", bin, "./cmd/satchel"], { cwd: root, stdio: "inherit" });
  }
  const env = { PATH: process.env["PATH"] ?? "", HOME: process.env["HOME"] ?? dir, SATCHEL_LISTEN: "127.0.0.1:0", SATCHEL_DEMO_DATA: "small", SATCHEL_DATA_DIR: dir, ...more };
  const server = spawn(bin, ["serve", "--dev"], { cwd: dir, env, stdio: ["ignore", "pipe", "pipe"] });
  let said = "";
  const ended = new Promise<void>((resolve) => server.once("exit", () => resolve()));
  const url = await new Promise<string>((resolve, reject) => {
    const read = (chunk: Buffer) => {
      said += chunk.toString();
      const found = /serves on (\S+?)\/?\n[\s\S]*Log-ins/.exec(said)?.[1];
      if (found) resolve(found);
    };
    server.stdout.on("data", read);
    server.stderr.on("data", read);
    void ended.then(() => reject(new Error("the server ended:\n" + said)));
  });
  return {
    url,
    stop: async () => {
      server.kill("SIGTERM");
      await ended;
      rmSync(dir, { recursive: true, force: true, maxRetries: 10, retryDelay: 200 });
    },
  };
}
