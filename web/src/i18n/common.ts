import { texts } from "./index.js";
import en from "./en/common.js";
import zh from "./zh/common.js";

/** The texts of the frame, and of accounts and visits. */
export const t = texts(zh, en);
