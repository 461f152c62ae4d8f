import { canceled, type Exclusive } from "./locks.js";

/** A holder that is asked so often, at such a distance in milliseconds, and says nothing, is frozen. */
const asks = 3;
const askMs = 4_000;

/** What tabs tell each other: who waits asks for the holder of a lock, and the holder answers. */
interface Said {
  key: string;
  here: boolean;
}

/**
 * Turns by the browser's locks, among all tabs. A tab that dies loses its own at once. One that the browser froze, as phones do
 * with a tab in the background, would keep it for as long as it lies there: who waits asks for it over a channel, and takes the
 * turn when there is no answer. A browser without BroadcastChannel waits.
 */
export function webLocks(store: string): Exclusive {
  return (name, signal, fn) =>
    new Promise((resolve, reject) => {
      const key = `satchel/${store}/${name}`;
      const lost = new AbortController();
      let state: "waiting" | "held" | "over" = "waiting";
      let unheard = 0;
      const channel = typeof BroadcastChannel === "undefined" ? undefined : new BroadcastChannel("satchel/turns");
      const say = (here: boolean): void => channel?.postMessage({ key, here } satisfies Said);
      const hear = ({ data }: MessageEvent<Said>): void => {
        if (data.key !== key) return;
        if (data.here) unheard = 0;
        else if (state === "held") say(true);
      };
      channel?.addEventListener("message", hear);
      const asking = channel && setInterval(() => {
        if (unheard++ < asks) return say(false);
        unheard = 0;
        request({ steal: true });
      }, askMs * (1 + Math.random() / 2)); // two that wait are not to take it from each other
      const end = (): void => {
        state = "over";
        clearInterval(asking);
        channel?.close();
        signal?.removeEventListener("abort", stop);
      };
      // Chromium does not hear of an abort that comes at once after the request: so we listen, too.
      const stop = (): void => {
        end();
        reject(canceled(signal?.reason));
      };
      const turn = async (): Promise<void> => {
        if (state !== "waiting") return; // given up, or the turn came by both requests
        state = "held";
        clearInterval(asking);
        signal?.removeEventListener("abort", stop);
        await fn(lost.signal).then(resolve, reject).finally(end);
      };
      const request = (options: LockOptions): void => {
        navigator.locks.request(key, options, turn).catch((e: unknown) => {
          if (state === "held") lost.abort(); // somebody took it
          else if (state === "waiting") {
            end();
            reject(e);
          }
        });
      };
      if (signal?.aborted) return stop();
      signal?.addEventListener("abort", stop);
      request(signal ? { signal } : {});
    });
}
