// Runs all cases: `caller.ts QUEUE EVERYONE CODEC`, with the broker in `AMQP_URL`.
//
// Prints a line for each case, and exits with 1 if one of them failed.
import { setTimeout as delay } from "node:timers/promises";

import * as rpc from "rpc-runtime";

import { Caller, reasonOf, url, type Case } from "./context.js";
import { errors } from "./errors.js";
import { requests } from "./requests.js";
import { streams } from "./streams.js";
import { values } from "./values.js";

const AT_ONCE = 4;
const CASE_LIMIT_MS = 60_000;

/** Runs a case, and says how it went. */
async function run(name: string, test: Case, caller: Caller): Promise<boolean> {
  const timer = new AbortController();
  const limit = delay(CASE_LIMIT_MS, undefined, { signal: timer.signal }).then(() => {
    throw new Error(`it takes longer than ${CASE_LIMIT_MS} ms`);
  });
  limit.catch(() => {});
  try {
    await Promise.race([test(caller), limit]);
  } catch (error) {
    console.log(`failed ${name}: ${reasonOf(error)}`);
    return false;
  } finally {
    timer.abort();
  }
  console.log(`ok ${name}`);
  return true;
}

const [, , queue = "", everyone = "", codec = ""] = process.argv;
const connection = await rpc.connect(url());
const caller = new Caller(connection, queue, everyone, codec as rpc.CodecName);
const cases = Object.entries({ ...values, ...errors, ...requests, ...streams }).values();
let isOk = true;
const turns = Array.from({ length: AT_ONCE }, async () => {
  for (const [name, test] of cases) isOk = (await run(name, test, caller)) && isOk;
});
await Promise.all(turns);
await connection.close();
process.exitCode = isOk ? 0 : 1;
