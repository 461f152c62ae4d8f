import type { MessageInitShape } from "@bufbuild/protobuf";
import { isUuid, type Core } from "./core.js";
import { SatchelError } from "./errors.js";
import { AuthService, type DeviceInfoSchema, type SignInResponse } from "./gen/satchel/v1/auth_pb.js";
import { renumber } from "./orders.js";
import { getIdentity, getMeta, putIdentity } from "./rows.js";
import { secrets } from "./session.js";
import { tables, type Tx } from "./store.js";
import type { Credentials, DeviceName } from "./types.js";

// Beginning and ending a session. Both need the network, and are seldom: see later in core.ts.

/** Opens a session by login and password. */
export function signIn(core: Core, who: Credentials, signal?: AbortSignal): Promise<void> {
  const { org = "", login, password } = who;
  return signInBy(core, who, (device) => core.bare(AuthService.method.signIn, { org, login, password, device }, "", signal), signal);
}

/**
 * Opens a session. The first one makes the store this person's; a later one of somebody else is refused and changes nothing,
 * for an outbox is never sent by another person. When the server gives this installation a new device id, pending mutations
 * are numbered anew. open makes the call.
 */
export function signInBy(core: Core, what: DeviceName, open: (device: MessageInitShape<typeof DeviceInfoSchema>) => Promise<SignInResponse>, signal?: AbortSignal): Promise<void> {
  const run = async (signal: AbortSignal) => {
    const before = core.view(getIdentity);
    const res = await open({
      deviceId: before.session, installation: before.installation, name: what.deviceName ?? "", platform: what.platform ?? "",
      appVersion: core.config.appVersion.slice(0, 32),
    });
    const { deviceId, personId, orgId, displayName } = res;
    if (![deviceId, personId, orgId].every(isUuid)) throw new SatchelError("refused", "the answer to SignIn cannot be read");
    if (before.person && (personId !== before.person || orgId !== before.org)) {
      // The session that was just opened is of no use here; if ending it fails, it runs out.
      await core.bare(AuthService.method.signOut, {}, res.tokens?.accessToken ?? "").catch(() => core.config.log("session left to run out", {}));
      throw new SatchelError("other_person", "the store belongs to another person; open another store");
    }
    await core.update("sign-in", (tx) => {
      // The same session's device goes on under the id that a fork gave it; renumbering would apply again what was taken.
      const moved = deviceId !== before.session;
      putIdentity(tx, { ...before, session: deviceId, person: personId, org: orgId, displayName, device: moved ? deviceId : before.device, ...secrets(res.tokens) });
      if (before.device && moved) renumber(tx, 1);
    });
    core.memory.person = personId;
  };
  return core.exclusive("sync", signal, (signal) => core.exclusive("refresh", signal, run));
}

/** Ends the session, and takes the data off the device. */
export function signOut(core: Core, signal?: AbortSignal): Promise<void> {
  return core.exclusive("sync", signal, async (signal) => {
    core.view(mayGo);
    try {
      await core.call(AuthService.method.signOut, {}, signal);
    } catch (e) {
      if (!(e instanceof SatchelError && e.code === "sign_in_again")) throw e;
    }
    await core.update("sign-out", (tx) => {
      try {
        mayGo(tx);
      } catch {
        return putIdentity(tx, { ...getIdentity(tx), ...secrets() }); // something was recorded meanwhile: it waits for the next session
      }
      forget(tx);
    });
    core.memory.person = core.view(getIdentity).person;
  });
}

/** Throws `unsent` while something is still to be sent. */
function mayGo(tx: Pick<Tx, "count" | "scan">): void {
  let unsent = tx.count("outbox");
  tx.scan("media", "", (_, row) => {
    if (!(row as { refused?: string }).refused) unsent++;
  });
  if (unsent > 0) throw new SatchelError("unsent", "some mutations or files were not sent yet; sync first");
}

/** Empties the store, but for what could not be sent: while there is such, the store stays this person's. */
function forget(tx: Tx): void {
  const id = getIdentity(tx);
  const numbers = getMeta(tx, "numbers");
  const theirs = tx.count("kept") + tx.count("media") > 0;
  for (const t of tables) if (!theirs || (t !== "kept" && t !== "media")) tx.clear(t);
  if (theirs) {
    putIdentity(tx, { ...id, ...secrets() });
    tx.put("meta", "numbers", numbers);
    return;
  }
  tx.deleteBytes("");
  putIdentity(tx, { ...getIdentity(tx), installation: id.installation });
}
