// Before all files: the app is built, and a server runs with the demo company, on a Postgres and in a folder of its own.
import { execFileSync, spawn } from "node:child_process";
import { mkdirSync, mkdtempSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import type { TestProject } from "vitest/node";

declare module "vitest" {
  interface ProvidedContext {
    /** Where the server is, without a slash at its end. */
    url: string;
    /** A folder that goes with the run, with voice.wav for the microphone. */
    folder: string;
  }
}

const root = new URL("../..", import.meta.url).pathname;
/** Milliseconds in which the server has its database and the demo company. */
const startMs = 200_000;

export default async function (project: TestProject): Promise<() => Promise<void>> {
  const folder = mkdtempSync(join(tmpdir(), "satchel-e2e-"));
  const gone = (): void => rmSync(folder, { recursive: true, force: true, maxRetries: 10, retryDelay: 200 });
  try {
    writeFileSync(join(folder, "voice.wav"), tone());
    const data = join(folder, "server");
    mkdirSync(data);
    const server = await serve(binary(folder), data);
    project.provide("url", server.url);
    project.provide("folder", folder);
    return async () => {
      await server.stop();
      gone();
    };
  } catch (err) {
    gone();
    throw err;
  }
}

/** The binary with the app in it: the one that SATCHEL_BIN names, else one that is built from what is here. */
function binary(folder: string): string {
  const given = process.env["SATCHEL_BIN"];
  if (given) return given;
  execFileSync("sh", ["scripts/js", "web"], { cwd: root, stdio: "inherit" });
  const bin = join(folder, "satchel");
  execFileSync("go", ["build", "-o", bin, "./cmd/satchel"], { cwd: root, stdio: "inherit" });
  return bin;
}

async function serve(bin: string, folder: string): Promise<{ url: string; stop(): Promise<void> }> {
  const env = { PATH: process.env["PATH"] ?? "", HOME: process.env["HOME"] ?? folder, SATCHEL_LISTEN: "127.0.0.1:0", SATCHEL_DEMO_DATA: "small", SATCHEL_DATA_DIR: folder };
  const server = spawn(bin, ["serve", "--dev"], { cwd: folder, env, stdio: ["ignore", "pipe", "pipe"] });
  let said = "";
  const ended = new Promise<void>((resolve) => server.once("exit", () => resolve()));
  const end = (): void => void server.kill("SIGTERM");
  process.once("exit", end); // where a run is broken off
  const stop = async (): Promise<void> => {
    end();
    await ended;
    process.off("exit", end);
  };
  let timer: NodeJS.Timeout | undefined;
  try {
    const url = await new Promise<string>((resolve, reject) => {
      const read = (chunk: Buffer): void => {
        said = (said + chunk.toString()).slice(-100_000);
        const found = /serves on (\S+?)\/?\n[\s\S]*Log-ins/.exec(said)?.[1];
        if (found) resolve(found);
      };
      server.stdout.on("data", read);
      server.stderr.on("data", read);
      timer = setTimeout(() => reject(new Error(`the server was not there after ${startMs} ms:\n${said}`)), startMs);
      server.once("error", reject);
      void ended.then(() => reject(new Error("the server ended:\n" + said)));
    });
    return { url, stop };
  } catch (err) {
    await stop();
    throw err;
  } finally {
    clearTimeout(timer);
  }
}

/** Two seconds of a tone as a WAV file, for a microphone that is not there. */
function tone(): Buffer {
  const rate = 16_000;
  const samples = 2 * rate;
  const wav = Buffer.alloc(44 + 2 * samples);
  wav.write("RIFF", 0);
  wav.writeUInt32LE(36 + 2 * samples, 4);
  wav.write("WAVEfmt ", 8);
  wav.writeUInt32LE(16, 16); // of the format
  wav.writeUInt16LE(1, 20); // PCM
  wav.writeUInt16LE(1, 22); // channels
  wav.writeUInt32LE(rate, 24);
  wav.writeUInt32LE(2 * rate, 28);
  wav.writeUInt16LE(2, 32);
  wav.writeUInt16LE(16, 34);
  wav.write("data", 36);
  wav.writeUInt32LE(2 * samples, 40);
  for (let i = 0; i < samples; i++) wav.writeInt16LE(Math.round(12_000 * Math.sin((2 * Math.PI * 440 * i) / rate)), 44 + 2 * i);
  return wav;
}
