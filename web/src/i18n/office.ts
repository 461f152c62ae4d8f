import { texts } from "./index.js";
import en from "./en/office.js";
import zh from "./zh/office.js";

/** The texts of the office's half: inbox, approvals, attentions, what is unsent, devices. */
export const t = texts(zh, en);
