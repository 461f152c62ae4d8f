import type { Core } from "./core.js";
import { SatchelError } from "./errors.js";
import { AuthService, type Tokens } from "./gen/satchel/v1/auth_pb.js";
import { getIdentity, putIdentity, type IdentityRow } from "./rows.js";
import { attempt } from "./transport.js";
import type { Identity } from "./types.js";

/** Who the device speaks for. */
export function identity(core: Core): Identity {
  const { org, person, device, displayName, access } = core.view(getIdentity);
  return { org, person, device, displayName, signedIn: access !== "" };
}

/** Runs fn with the session's token, and once more with a fresh one when it had expired. */
export async function withSession<T>(core: Core, fn: (headers: Headers, signal: AbortSignal) => Promise<T>, signal?: AbortSignal, timeoutMs = core.config.timeoutMs): Promise<T> {
  let token = core.view(getIdentity).access;
  for (let again = false; ; again = true) {
    if (!token) throw noSession();
    try {
      return await attempt(core, token, fn, signal, timeoutMs);
    } catch (e) {
      if (again || !(e instanceof SatchelError) || e.reason !== "TOKEN_EXPIRED") throw e;
    }
    token = await refreshed(core, token, signal);
  }
}

/**
 * A token newer than old. Of many callers at once, in all tabs, one asks the server and all get what it got. When the session
 * has ended, it rejects with `sign_in_again`, and the outbox is kept.
 */
function refreshed(core: Core, old: string, signal?: AbortSignal): Promise<string> {
  return core.exclusive("refresh", signal, async (signal) => {
    const id = core.view(getIdentity);
    if (id.access && id.access !== old) return id.access;
    if (!id.refresh) throw noSession();
    const put = (step: string, tokens?: Tokens) =>
      core.update(step, (tx) => {
        const now = getIdentity(tx); // a fork may have changed its other fields meanwhile, a wipe all
        if (now.refresh === id.refresh) putIdentity(tx, { ...now, ...secrets(tokens) });
      });
    let tokens: Tokens | undefined;
    try {
      tokens = (await core.bare(AuthService.method.refresh, { refreshToken: id.refresh }, "", signal)).tokens;
    } catch (e) {
      if (e instanceof SatchelError && e.code === "sign_in_again") await put("session-ended");
      throw e;
    }
    await put("refresh", tokens);
    return tokens?.accessToken ?? "";
  });
}

function noSession(): SatchelError {
  return new SatchelError("sign_in_again", "sign in again; everything recorded is kept");
}

export function secrets(t?: Tokens): Pick<IdentityRow, "access" | "refresh" | "refreshExpiresMs"> {
  return { access: t?.accessToken ?? "", refresh: t?.refreshToken ?? "", refreshExpiresMs: Number(t?.refreshExpiresMs ?? 0) };
}
