import { Code, ConnectError } from "@connectrpc/connect";
import { describe, expect, test } from "vitest";
import { Reason } from "../src/gen/satchel/v1/errors_pb.js";
import { Client } from "../src/index.js";
import { memoryDisk, memoryStore } from "../src/stores/memory.js";
import { anId, config, failing, keysOf, last, lina, metaOf, network, numbers, rejection, shown, signedIn, withoutTurns } from "./kit.js";
import { Fake, fail } from "./fake.js";

describe.concurrent("a session", () => {
  test("a wrong password is told apart from an ended session", async () => {
    const f = new Fake();
    const c = await Client.open(config(f, memoryStore()));
    expect(await rejection(c.signIn({ login: "lina", password: "wrong" }), "bad_credentials")).toMatchObject({ reason: "BAD_CREDENTIALS", requestId: "r1" });
    await c.create("visit", {}); // works before anybody has signed in
    await rejection(c.sync(), "sign_in_again");
    expect(c.status().pending).toBe(1);
  });

  test("many calls with an expired token refresh once, in all tabs", async () => {
    const f = new Fake();
    const disk = memoryDisk();
    const tabs = [await signedIn(f, disk), await signedIn(f, disk.tab())];
    f.access = "expired";
    const whole = (headers: Headers) => (headers.get("Authorization") === "Bearer " + f.access ? "whole" : undefined);
    const calls = Array.from({ length: 16 }, (_, i) =>
      tabs[i % 2]?.call(async (headers) => whole(headers) ?? Promise.reject(fail(Code.Unauthenticated, Reason.TOKEN_EXPIRED))),
    );
    expect(new Set(await Promise.all(calls))).toEqual(new Set(["whole"]));
    expect(f.refreshes).toBe(1);
  });

  test("a session that ended asks for a sign-in and keeps the outbox", async () => {
    const f = new Fake();
    const disk = memoryDisk();
    const c = await signedIn(f, disk);
    const id = await c.create("visit", {});
    f.access = f.refresh = "revoked";
    for (let i = 0; i < 2; i++) await rejection(c.sync(), "sign_in_again");
    expect(f.refreshes).toBe(1);
    expect(c.identity()).toMatchObject({ signedIn: false, person: f.person });
    expect(c.status()).toMatchObject({ pending: 1, error: { code: "sign_in_again" } });
    await c.close();
    const again = await signedIn(f, disk.tab());
    await again.sync();
    expect(again.status().pending).toBe(0);
    expect(shown(again, "visit", id)).toEqual({});
  });

  test("what answers in the server's place ends no session", async () => {
    const f = new Fake();
    let portal = 0;
    const c = await signedIn({ fetch: (input, init) => (portal ? Promise.resolve(new Response("<html>log in</html>", { status: portal, headers: { "Content-Type": "text/html" } })) : f.fetch(input, init)) });
    f.access = "expired";
    for (portal of [200, 401, 403, 407, 500, 511]) await rejection(c.sync(), "unavailable");
    expect(c.identity().signedIn).toBe(true);
    portal = 0;
    await c.sync();
  });

  test("another person is refused and their session ended", async () => {
    const f = new Fake();
    const c = await signedIn(f);
    const before = c.identity();
    await c.create("visit", {});
    f.person = anId();
    await rejection(c.signIn({ login: "wang", password: "right" }), "other_person");
    expect(c.identity()).toEqual(before);
    expect(f.signOuts).toBe(1);
    expect(c.status().pending).toBe(1);
  });

  test("a new device id at the sign-in numbers anew", async () => {
    const f = new Fake();
    const c = await signedIn(f);
    await c.create("visit", {});
    await c.sync();
    await c.create("visit", {});
    f.device = anId();
    await c.signIn(lina);
    await c.sync();
    expect(numbers(f)).toEqual([1]);
  });

  test("a sign-in after a fork is that of the same device", async () => {
    const f = new Fake();
    const c = await signedIn(f);
    const fork = anId();
    f.script = () => ({ directives: [{ order: { case: "fork", value: { deviceId: fork } } }] });
    await c.create("visit", {});
    expect(await c.syncOnce()).toMatchObject({ forked: 1 });
    const sent: number[] = [];
    f.script = () => {
      sent.push(...numbers(f));
      return {}; // as if the answer were lost
    };
    await c.syncOnce();
    await c.signIn(lina); // by which the server gives the device of the session again
    expect(c.identity().device).toBe(fork);
    await c.syncOnce();
    expect(sent).toEqual([1, 1]);
  });

  test("a device that is told its own id again numbers anew", async () => {
    const f = new Fake();
    const store = memoryStore();
    const c = await Client.open(config(f, store));
    await c.signIn(lina);
    const sent: number[] = [];
    f.script = () => {
      sent.push(...numbers(f));
      return { directives: [{ order: { case: "fork", value: { deviceId: c.identity().device } } }] };
    };
    await c.create("visit", {});
    await c.create("visit", {});
    await c.syncOnce();
    await store.update((tx) => tx.delete("outbox", "0000000000000001")); // the first row is lost
    await c.syncOnce();
    expect(sent).toEqual([1, 2, 1]);
  });

  test("signing out waits for the outbox, then takes the data away", async () => {
    const f = new Fake();
    const disk = memoryDisk();
    const c = await signedIn(f, disk);
    const id = await c.create("visit", {});
    await rejection(c.signOut(), "unsent");
    await c.sync();
    const installation = await metaOf(disk, "identity");
    await c.signOut();
    expect(f.signOuts).toBe(1);
    expect(c.identity()).toEqual({ org: "", person: "", device: "", displayName: "", signedIn: false });
    expect(shown(c, "visit", id)).toBe("none");
    expect(c.settled(0, 10)).toEqual([]);
    expect((await disk.tab().load()).rows).toHaveLength(1);
    expect(installation).toMatchObject({ installation: expect.any(String) });
    f.person = anId(); // a phone that is handed on
    f.device = anId();
    await c.signIn(lina);
    await c.create("visit", {});
    expect(await c.sync()).toMatchObject({ settled: [{ fate: "APPLIED" }], forked: 0 });
  });

  test("what could not be sent stays for the same person", async () => {
    const f = new Fake();
    const disk = memoryDisk();
    const store = memoryStore(disk);
    const c = await Client.open(config(f, store));
    await c.signIn(lina);
    await c.create("visit", { note: "kept" });
    await store.update((tx) => {
      const row = tx.get("outbox", "0000000000000001") ?? expect.fail("no row");
      tx.put("outbox", "0000000000000001", { ...row, id: "damaged" });
    });
    await c.sync();
    expect(c.kept()).toMatchObject([{ text: expect.stringContaining("kept") }]);
    await c.signOut();
    expect(await keysOf(disk, "record")).toEqual([]);
    expect(c.kept()).toHaveLength(1);
    const lis = f.person;
    f.person = anId();
    await rejection(c.signIn({ login: "wang", password: "right" }), "other_person");
    f.person = lis;
    await c.signIn(lina);
    const id = await c.create("visit", {});
    expect(await c.sync()).toMatchObject({ settled: [{ fate: "APPLIED" }], forked: 0 });
    expect(shown(c, "visit", id)).toEqual({});
  });

  test("errors are of the classes that an app branches on", async () => {
    const f = new Fake();
    const net = network(f);
    const c = await signedIn(net);
    const cases: [Code, Reason, string][] = [
      [Code.Unavailable, Reason.DATABASE_DOWN, "unavailable"],
      [Code.Unauthenticated, Reason.SESSION_ENDED, "sign_in_again"],
      [Code.Unauthenticated, Reason.DEVICE_REVOKED, "device_revoked"],
      [Code.FailedPrecondition, Reason.CLIENT_TOO_OLD, "upgrade_app"],
      [Code.PermissionDenied, Reason.NOT_ALLOWED, "refused"],
      [Code.NotFound, Reason.NOT_FOUND, "not_found"],
      [Code.Internal, Reason.INTERNAL, "refused"],
    ];
    for (const [code, reason, want] of cases) {
      f.script = () => {
        throw fail(code, reason);
      };
      expect(await rejection(c.sync(), want)).toMatchObject({ reason: Reason[reason], requestId: "r1" });
    }
    f.script = () => {
      throw failing(Code.ResourceExhausted, Reason.RATE_LIMITED, { retryAfterMs: 1500, message: "slowly" });
    };
    expect(await rejection(c.sync(), "refused")).toMatchObject({ retryAfterMs: 1500, userMessage: "slowly", less: false });
    net.down = true;
    await rejection(c.sync(), "unavailable");
    net.down = false;
    f.script = () => {
      throw new ConnectError("a plain one", Code.Aborted);
    };
    await rejection(c.sync(), "refused");
  });

  test("a call that gets no answer ends after its time", async () => {
    const f = new Fake();
    const disk = memoryDisk();
    await signedIn(f, disk); // which may take its time
    let hang = false;
    const c = await signedIn(
      { fetch: (input, init) => (hang ? new Promise((_, reject) => init?.signal?.addEventListener("abort", () => reject(init.signal?.reason))) : f.fetch(input, init)) },
      disk.tab(),
      { timeoutMs: 30 },
    );
    hang = true;
    expect(await rejection(c.syncOnce(), "unavailable")).toMatchObject({ less: true });
    const call = c.wait(); // nothing is known yet: there is something to pull
    expect(await call).toBe(true);
  });

  test("closing ends what waits, and what comes after is refused", async ({ expect }) => {
    const f = new Fake();
    const c = await signedIn(f);
    await c.sync();
    const waiting = c.wait();
    await expect.poll(() => f.waiting).toBe(1);
    await c.close();
    await rejection(waiting, "closed");
    await rejection(c.create("visit", {}), "closed");
    await c.close();
  });
});

describe.concurrent("two tabs", () => {
  test("what both record at once is all sent, once, by one of them", async ({ expect }) => {
    const f = new Fake();
    const disk = memoryDisk();
    const a = await signedIn(f, disk);
    const b = await signedIn(f, disk.tab());
    const made = await Promise.all(Array.from({ length: 20 }, (_, i) => (i % 2 ? a : b).create("visit", { i })));
    expect(new Set(made).size).toBe(20);
    const [one, two] = await Promise.all([a.sync(), b.sync()]);
    expect(one.sent + two.sent).toBe(20);
    expect(f.rows.size).toBe(20);
    expect([...f.applied.values()].every((n) => n === 1)).toBe(true);
    await expect.poll(() => [a, b].map((c) => [c.status().pending, c.list("visit").filter((r) => !r.pending).length])).toEqual([[0, 20], [0, 20]]);
    expect(f.lanes.size).toBe(1);
  });

  test("a page is not taken by a tab that slept and had lost its turn, nor shown", async ({ expect }) => {
    const f = new Fake();
    const disk = withoutTurns(memoryDisk());
    let go = (): void => undefined;
    const gate = new Promise<void>((resolve) => (go = resolve));
    let asleep = false;
    const slow: typeof fetch = async (input, init) => {
      const res = await f.fetch(input, init);
      if (asleep) await gate;
      return res;
    };
    const a = await signedIn({ fetch: slow }, disk);
    const b = await signedIn(f, disk.tab());
    const id = anId();
    f.put("account", id, { n: 1 });
    asleep = true;
    const sync = a.sync();
    await expect.poll(() => f.requests.length).toBe(1);
    f.put("account", id, { n: 2 });
    const mine = await b.create("visit", { by: "b" });
    await b.sync();
    const seen: unknown[] = [];
    b.watch("account", {}, (all) => seen.push(all.map((r) => r.fields["n"])));
    b.watch("visit", {}, (all) => seen.push(all.length));
    go();
    await sync;
    expect(seen).toEqual([[2], 1]);
    expect([shown(a, "account", id), shown(a, "visit", mine)]).toEqual([{ n: 2 }, { by: "b" }]);
  });

  test("what is recorded in a tab whose person signed out in another is nobody's, and refused", async () => {
    const f = new Fake();
    const disk = memoryDisk();
    const a = await signedIn(f, disk);
    const b = await signedIn(f, disk.tab());
    await a.signOut();
    await rejection(b.create("visit", {}), "sign_in_again");
    await a.create("visit", { before: "the next person" }); // as before anybody signed in
    f.person = anId();
    await a.signIn(lina);
    await rejection(b.create("visit", {}), "other_person");
    await a.create("visit", {});
    await a.sync();
    expect(f.rows.size).toBe(2);
    expect(b.status().pending).toBe(0);
  });

  test("a sign-out in one is seen in the other", async () => {
    const f = new Fake();
    const disk = memoryDisk();
    const a = await signedIn(f, disk);
    const b = await signedIn(f, disk.tab());
    await a.signOut();
    await rejection(b.sync(), "sign_in_again");
    expect(b.identity().person).toBe("");
  });

  test("a page that was fetched before the other tab's is not taken after it", async ({ expect }) => {
    const f = new Fake();
    const disk = memoryDisk();
    const a = await signedIn(f, disk);
    const b = await signedIn(f, disk.tab());
    const id = anId();
    f.put("account", id, { n: 1 });
    f.answer = () => {
      f.answer = undefined;
      f.put("account", id, { n: 2 }); // after the page was made
    };
    await Promise.all([a.sync(), b.sync()]);
    await expect.poll(() => [shown(a, "account", id), shown(b, "account", id)]).toEqual([{ n: 2 }, { n: 2 }]);
    expect(last(f).cursor).not.toHaveLength(0);
  });
});
