import { prove } from "./prove.js";

const driver = ["node", "conformance/drivers/ts/run.mjs"];

prove("in memory, speaking JSON:", [...driver, "memory", "--json"]);
prove("on SQLite:", [...driver, "sqlite"]);
