import { SatchelError } from "../errors.js";

/** As Store.exclusive. */
export type Exclusive = <T>(name: string, signal: AbortSignal | undefined, fn: (lost?: AbortSignal) => Promise<T>) => Promise<T>;

/** What a wait that was given up rejects with. */
export function canceled(cause?: unknown): SatchelError {
  return new SatchelError("canceled", "the call was cancelled", cause);
}

/** Locks among those that share this function: one page, one process. First come, first served. */
export function localLocks(): Exclusive {
  const queues = new Map<string, (() => void)[]>(); // by name, who waits; none = free
  return async (name, signal, fn) => {
    if (signal?.aborted) throw canceled(signal.reason);
    const queue = queues.get(name);
    if (queue) {
      await new Promise<void>((resolve, reject) => {
        const give = (): void => {
          signal?.removeEventListener("abort", stop);
          resolve();
        };
        const stop = (): void => {
          queue.splice(queue.indexOf(give), 1);
          reject(canceled(signal?.reason));
        };
        signal?.addEventListener("abort", stop, { once: true });
        queue.push(give);
      });
    } else {
      queues.set(name, []);
    }
    try {
      return await fn();
    } finally {
      const next = queues.get(name)?.shift();
      if (next) next();
      else queues.delete(name);
    }
  };
}
