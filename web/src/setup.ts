import { language } from "./i18n/index.js";
import { SatchelError } from "@satchel/client";

/** What the first organisation needs: satchel.v1.SetUpRequest. */
export interface SetUp {
  code: string;
  org: string;
  orgName: string;
  login: string;
  displayName: string;
  password: string;
}

/** Creates the first organisation and its administrator. There is no session yet, so it is a plain call in JSON. */
export async function setUp(request: SetUp): Promise<void> {
  let answer: Response;
  try {
    answer = await fetch("/satchel.v1.AuthService/SetUp", {
      method: "POST",
      headers: { "Content-Type": "application/json", "Accept-Language": language(), "Satchel-Protocol": "1" },
      body: JSON.stringify(request),
      signal: AbortSignal.timeout(30_000),
    });
  } catch (err) {
    throw new SatchelError("unavailable", "no answer", err);
  }
  if (answer.ok) return;
  const body: unknown = await answer.json().catch(() => undefined);
  const err = new SatchelError(answer.status >= 500 ? "unavailable" : "refused", "set-up was refused");
  err.userMessage = userMessage(body);
  throw err;
}

/** The sentence for people in an answer of Connect: its detail's debug form. */
function userMessage(body: unknown): string {
  const details = record(body)["details"];
  for (const detail of Array.isArray(details) ? details : []) {
    const message = record(record(detail)["debug"])["message"];
    if (typeof message === "string") return message;
  }
  const message = record(body)["message"];
  return typeof message === "string" ? message : "";
}

function record(value: unknown): Record<string, unknown> {
  return typeof value === "object" && value !== null ? (value as Record<string, unknown>) : {};
}
