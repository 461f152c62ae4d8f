import { createHash } from "node:crypto";
import { expect, test } from "vitest";
import { memoryDisk } from "../src/stores/memory.js";
import { Fake, noSignal } from "./fake.js";
import { lina, withoutTurns } from "./kit.js";
import { damage, Killed, killer, open, signedIn, wantEmpty, type Phone } from "./phone.js";

/** Bytes that differ from piece to piece. */
function someBytes(size: number): Uint8Array {
  return Uint8Array.from({ length: size }, (_, i) => (i >> 16) ^ ((i >> 8) * 31) ^ i);
}

function attach(d: Phone, bytes: Uint8Array | Blob, contentType = "image/jpeg"): Promise<string> {
  return d.client.attach("photo", bytes, contentType, { taken_at: "2026-11-21T10:00:00Z" });
}

async function readAll(d: Phone, id: string): Promise<[Uint8Array, string]> {
  const blob = await d.client.open(id);
  return [new Uint8Array(await blob.arrayBuffer()), blob.type];
}

const same = (a: Uint8Array, b: Uint8Array) => Buffer.from(a).equals(b);

for (const [name, form] of [["bytes", (b: Uint8Array) => b], ["a Blob", (b: Uint8Array) => new Blob([b.slice()])]] as const) {
  test(`a record never waits for its bytes, and the copy goes when it says stored: ${name}`, async () => {
    const f = new Fake();
    f.chunk = 100_000;
    const d = await signedIn(f);
    const data = someBytes(700_000);
    const id = await attach(d, form(data));
    expect(d.client.get("photo", id)?.fields).toEqual({
      blob: createHash("sha256").update(data).digest("hex"), size: 700_000, content_type: "image/jpeg", taken_at: "2026-11-21T10:00:00Z",
    });
    await d.client.sync(); // before any byte was sent
    expect(f.requests.at(-1)?.outbox?.mediaBytes).toBe(700_000n);
    const [bytes, type] = await readAll(d, id);
    expect([same(bytes, data), type]).toEqual([true, "image/jpeg"]);
    expect(await d.client.upload()).toEqual({ uploaded: 1, refused: 0 });
    expect(f.puts).toBeGreaterThanOrEqual(7);
    expect(d.client.media()).toMatchObject([{ record: id, size: 700_000, sent: 700_000, refused: "" }]); // before the record says stored
    await d.client.sync();
    expect(d.client.media()).toEqual([]);
    expect(await d.store.bytes(id + "/0000")).toBeUndefined();
    expect(new TextDecoder().decode((await readAll(d, id))[0])).toBe("from the server");
    await expect(d.client.open("01890000-0000-7000-8000-000000000000")).rejects.toMatchObject({ code: "not_found" });
  });
}

test("a file whose tab slept while it was copied, and that another tab swept away, is refused and not half kept", async () => {
  const d = await signedIn(new Fake(), withoutTurns(memoryDisk()));
  const other = await open(d.fake, d.disk.tab());
  let wake = (): void => undefined;
  const asleep = new Promise<void>((resolve) => (wake = resolve));
  class Slow extends Blob {
    override slice(from = 0, to = 0): Blob {
      const piece = super.slice(from, to);
      return from === 0 ? piece : Object.assign(piece, { arrayBuffer: () => asleep.then(() => new ArrayBuffer(piece.size)) });
    }
  }
  const attached = attach(d, new Slow([new Uint8Array(400_000)]));
  await expect.poll(() => other.store.view((tx) => tx.count("media"))).toBe(1);
  await other.client.upload();
  wake();
  await expect(attached).rejects.toMatchObject({ code: "canceled" });
  expect(d.client.list("photo")).toEqual([]);
  wantEmpty(d, "media", "outbox");
});

test("a piece that takes too long goes in smaller ones, and bytes that do not come are given up by time and by close", async () => {
  const f = new Fake();
  let hang = /^$/;
  const late: typeof fetch = async (input, init) => {
    const big = init?.body instanceof Uint8Array && init.body.length > 70_000;
    if (!hang.test(String(input)) && !big) return f.fetch(input, init);
    return new Promise((_, reject) => init?.signal?.addEventListener("abort", () => reject(init.signal?.reason)));
  };
  const d = await open(f, memoryDisk(), { timeoutMs: 2_000, fetch: late });
  await d.client.signIn(lina);
  const id = await attach(d, someBytes(300_000));
  await d.client.sync();
  expect(await d.client.upload()).toEqual({ uploaded: 1, refused: 0 });
  await d.client.sync();
  hang = /blob/;
  f.blobBytes = new Uint8Array(20);
  await expect(d.client.open(id)).rejects.toMatchObject({ code: "unavailable" });
  const opening = expect(d.client.open(id)).rejects.toMatchObject({ code: "closed" });
  await d.client.close();
  await opening;
});

test("an upload goes on where it stopped, also after a new start", async () => {
  const f = new Fake();
  let d = await signedIn(f, memoryDisk());
  await attach(d, someBytes(600_000));
  await d.client.sync();
  f.onPut = () => {
    if (f.puts === 2) throw noSignal();
  };
  await expect(d.client.upload()).rejects.toMatchObject({ code: "unavailable" });
  expect(d.client.media()[0]?.sent).toBe(256 << 10);
  await d.client.close();
  d = await open(f, d.disk.tab());
  expect(await d.client.upload()).toEqual({ uploaded: 1, refused: 0 });
  expect(f.puts).toBe(4);
});

test("an upload follows the offset that the server expects", async () => {
  const f = new Fake();
  const d = await signedIn(f);
  await attach(d, someBytes(600_000));
  await d.client.sync();
  f.onPut = () => {
    if (f.puts === 2) f.uploads.clear(); // the replica's folder was lost
  };
  expect(await d.client.upload()).toEqual({ uploaded: 1, refused: 0 });
});

test("garbled bytes are sent once more", async () => {
  const f = new Fake();
  const d = await signedIn(f);
  await attach(d, someBytes(1000));
  await d.client.sync();
  f.onPut = (req) => {
    if (f.puts === 1) req.data[0] = (req.data[0] ?? 0) ^ 1;
  };
  expect(await d.client.upload()).toEqual({ uploaded: 1, refused: 0 });
  expect(f.puts).toBe(2);
});

test("a refused file holds up no other, and stays", async () => {
  const f = new Fake();
  const d = await signedIn(f);
  const bad = await attach(d, new TextEncoder().encode("<html>"), "text/html");
  await attach(d, someBytes(1000));
  await d.client.sync();
  expect(await d.client.upload()).toEqual({ uploaded: 1, refused: 1 });
  expect(d.client.media()).toContainEqual(expect.objectContaining({ record: bad, refused: "UNSUPPORTED_MEDIA" }));
  expect(new TextDecoder().decode((await readAll(d, bad))[0])).toBe("<html>");
  expect(await d.client.upload()).toMatchObject({ refused: 0 }); // it is not tried again
  await d.client.forgetMedia(bad);
  await d.client.sync();
  expect(d.client.media()).toEqual([]);
});

test("a file whose bytes are lost holds up no other", async () => {
  const f = new Fake();
  const d = await signedIn(f);
  const lost = await attach(d, someBytes(300_000));
  await attach(d, someBytes(1000));
  await d.client.sync();
  await damage(d, (tx) => tx.deleteBytes(lost + "/0001"));
  expect(await d.client.upload()).toEqual({ uploaded: 1, refused: 1 });
  expect(d.client.media()).toContainEqual(expect.objectContaining({ record: lost, refused: "LOST" }));
  expect(d.client.media()).toContainEqual(expect.objectContaining({ refused: "", sent: 1000 }));
});

test("a file that cannot be read, is empty or too large leaves nothing", async () => {
  const d = await signedIn(new Fake());
  const broken = new Blob([someBytes(300_000).slice()]);
  broken.slice = () => {
    throw new DOMException("the file has changed", "NotReadableError");
  };
  await expect(attach(d, broken)).rejects.toMatchObject({ code: "invalid" });
  await expect(attach(d, new Uint8Array())).rejects.toMatchObject({ code: "invalid" });
  await expect(attach(d, { size: (100 << 20) + 1 } as Blob)).rejects.toMatchObject({ code: "too_large" });
  expect(d.client.status()).toMatchObject({ pending: 0, media: 0, mediaBytes: 0 });
  wantEmpty(d, "media", "outbox");
});

test("a copy goes at once when its record is kept at the office", async () => {
  const f = new Fake();
  const d = await signedIn(f);
  const id = await attach(d, someBytes(1000));
  f.answer = (_, res) => {
    if (res.page) res.page.changes = []; // it lies in no bucket that this device follows
  };
  await d.client.sync();
  expect(d.client.atOffice()).toMatchObject([{ id }]);
  expect(await d.client.upload()).toEqual({ uploaded: 1, refused: 0 });
  expect(d.client.media()).toEqual([]);
});

test("what another tab is attaching is not swept away", async () => {
  const f = new Fake();
  const one = await signedIn(f, memoryDisk());
  let go = () => {};
  const gate = new Promise<void>((resolve) => (go = resolve));
  const slow = new Blob([someBytes(600_000).slice()]);
  const slice = slow.slice.bind(slow);
  slow.slice = (from, to) => Object.assign(slice(from, to), { arrayBuffer: async () => (from ? await gate : undefined, slice(from, to).arrayBuffer()) });
  const attaching = attach(one, slow);
  await expect.poll(() => one.store.view((tx) => tx.count("media"))).toBe(1);
  const two = await open(f, one.disk.tab());
  await two.client.sync();
  const uploading = two.client.upload(); // waits, for it cannot know
  go();
  const id = await attaching;
  await uploading;
  expect(two.client.media()).toMatchObject([{ record: id }]);
  expect(same((await readAll(two, id))[0], someBytes(600_000))).toBe(true);
});

test("a kill at any step of attaching and uploading loses nothing and leaves nothing", async () => {
  const live = async (kill: number): Promise<number> => {
    const f = new Fake();
    let d = await signedIn(f, memoryDisk());
    await d.client.close();
    const data = someBytes(300_000);
    const k = killer(kill);
    let id = "";
    try {
      d = await open(f, d.disk.tab(), { step: k.step });
      id = await attach(d, data);
      await d.client.sync();
      await d.client.upload();
      await d.client.sync();
    } catch (e) {
      if (!(e instanceof Killed)) throw e;
    }
    if (k.point()) {
      d.disk.kill();
      d = await open(f, d.disk.tab());
      await d.client.sync();
      await d.client.upload();
      await d.client.sync();
    }
    const at = `killed at ${k.point()}`;
    const photos = d.client.list("photo");
    expect([at, d.client.media(), d.client.status().pending]).toEqual([at, [], 0]);
    wantEmpty(d, "media");
    expect(photos.length).toBeLessThanOrEqual(1);
    if (id) expect(photos.map((r) => r.id)).toEqual([id]);
    for (const photo of photos) expect([at, photo.fields["blob_state"]]).toEqual([at, "stored"]);
    expect([at, await d.store.bytes((photos[0]?.id ?? id) + "/0000")]).toEqual([at, undefined]);
    return k.steps();
  };
  const steps = await live(0);
  expect(steps).toBeGreaterThan(15);
  for (let kill = 1; kill <= steps; kill++) await live(kill);
}, 180_000);
