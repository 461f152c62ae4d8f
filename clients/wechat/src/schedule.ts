import { Code, ConnectError } from "@connectrpc/connect";
import type { Wx } from "./wx.js";

/** WeChat runs so many requests and transfers of files at once. */
const most = 10;
/** So many of them may be requests: the rest is for files, which take long. */
const mostRequests = 8;
/** How long what a person does may still begin after the app went to the background: WeChat breaks it off after 5 seconds. */
const lastMs = 2_000;
/** How many may wait for their turn. */
const mostWaiting = 200;

/** What a request is for; less goes first. */
export const Rank = { decide: 0, send: 1, pull: 2, media: 3 } as const;
export type Rank = (typeof Rank)[keyof typeof Rank];

interface Waiting {
  rank: Rank;
  transfer: boolean;
  go(): void;
}

/**
 * Hands out turns for wx.request, wx.uploadFile and wx.downloadFile, which WeChat counts together. In the background nothing
 * begins but, for a moment, what a person did; the rest waits for the app to be shown again.
 */
export class Schedule {
  private readonly waiting: Waiting[] = [];
  private requests = 0;
  private transfers = 0;
  private hidden: number | undefined;

  /** now: milliseconds. */
  constructor(wx: Pick<Wx, "onAppShow" | "onAppHide">, private readonly now: () => number = Date.now) {
    wx.onAppHide(() => (this.hidden = this.now()));
    wx.onAppShow(() => {
      this.hidden = undefined;
      this.next();
    });
  }

  /** Waits for a turn and gives the function that ends it. Rejects when the signal is aborted before. */
  turn(rank: Rank, transfer: boolean, signal?: AbortSignal | null): Promise<() => void> {
    return new Promise((resolve, reject) => {
      const gone = () => {
        this.waiting.splice(this.waiting.indexOf(w), 1);
        reject(new ConnectError("the request was given up", Code.Canceled));
      };
      const w: Waiting = {
        rank,
        transfer,
        go: () => {
          signal?.removeEventListener("abort", gone);
          let over = false;
          resolve(() => {
            if (over) return;
            over = true;
            if (transfer) this.transfers--;
            else this.requests--;
            this.next();
          });
        },
      };
      if (this.waiting.length >= mostWaiting) return reject(new ConnectError("too many requests wait", Code.ResourceExhausted));
      this.waiting.push(w);
      if (signal?.aborted) return gone();
      signal?.addEventListener("abort", gone);
      this.next();
    });
  }

  private next(): void {
    for (;;) {
      let first = -1;
      this.waiting.forEach((w, i) => {
        if (this.may(w) && (first < 0 || w.rank < (this.waiting[first]?.rank ?? 0))) first = i;
      });
      const [w] = first < 0 ? [] : this.waiting.splice(first, 1);
      if (!w) return;
      if (w.transfer) this.transfers++;
      else this.requests++;
      w.go();
    }
  }

  private may(w: Waiting): boolean {
    if (this.hidden !== undefined && (w.rank > Rank.send || this.now() - this.hidden > lastMs)) return false;
    return this.requests + this.transfers < most && (w.transfer || this.requests < mostRequests);
  }
}
