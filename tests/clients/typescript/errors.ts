// Calls that fail, and whether their methods ran.
import assert from "node:assert/strict";

import * as rpc from "rpc-runtime";

import * as api from "./conformance.js";
import { entry, fails, isFault, type Case } from "./context.js";
import { shapes, TEXTS } from "./values.js";

/** The errors of `refuse`, by number. */
export const REFUSALS: api.RefusalValue[] = [
  { kind: "UnknownUser", value: { id: 2n ** 64n - 1n } },
  { kind: "Closed" },
  { kind: "TooMany", value: 4_294_967_295 },
  { kind: "NotBetween", value: [-(2n ** 63n), 2n ** 63n - 1n] },
];

export const errors: Record<string, Case> = {
  refusal: async ({ client }) => {
    assert.equal(await client.refuse(2n ** 64n - 1n, null), 2n ** 64n - 1n);
    for (const [number, expected] of REFUSALS.entries()) {
      const error = await fails(client.refuse(1n, number), api.Refusal);
      assert.deepEqual(error.value, expected);
      assert.deepEqual([error.executed, error.isRetryable], ["yes", false]);
    }
  },

  rejection: async ({ client }) => {
    await client.reject(0);
    const error = await fails(client.reject(65_535), api.Rejection);
    assert.deepEqual(error.value, { code: 65_535, reason: "code 65535" });
  },

  complaint: async ({ client }) => {
    assert.equal(await client.complain(""), 0n);
    for (const text of TEXTS.slice(1)) {
      const error = await fails(client.complain(text), api.ComplainFailed);
      assert.equal(error.value, text);
    }
  },

  shape_as_error: async ({ client }) => {
    await client.failWithShape(null);
    for (const shape of shapes()) {
      const error = await fails(client.failWithShape(shape), api.FailWithShapeFailed);
      assert.deepEqual(error.value, shape);
    }
  },

  panic: ({ client }) => isFault(client.panic(), "panicked", "yes"),

  unknown_method: ({ foreign }) => isFault(foreign.unknown(), "unknown_method", "no"),

  argument_of_another_type: ({ foreign }) => isFault(foreign.echoU8("seven"), "bad_request", "no"),

  missing_argument: ({ foreign }) => isFault(foreign.echoI16(), "bad_request", "no"),

  invalid_argument: async ({ client }) => {
    // The compiler would refuse some of these.
    const any = <T>(value: unknown) => value as T;
    const calls = [
      () => client.echoU8(256),
      () => client.echoU8(-1),
      () => client.echoU8(any(true)),
      () => client.echoU8(1.5),
      () => client.echoI64(2n ** 63n),
      () => client.echoU128(2n ** 128n),
      () => client.echoText(any(7)),
      () => client.echoChar("ab"),
      () => client.echoChar(""),
      () => client.echoText("\ud800"),
      () => client.echoColor(any("blue")),
      () => client.echoTuple(any([1n, "b", 2])),
    ];
    for (const [number, call] of calls.entries()) {
      try {
        const error = await fails(call(), rpc.EncodeFailed);
        assert.equal(error.executed, "no");
      } catch (error) {
        throw new Error(`call ${number}: ${String(error)}`);
      }
    }
  },

  no_server: async ({ connection }) => {
    const queue = entry("missing");
    const missing = new api.ConformanceClient(connection, { queue });
    const error = await fails(missing.double(1), rpc.NoServer);
    assert.deepEqual([error.queue, error.executed, error.isRetryable], [queue, "no", true]);
  },

  request_too_large: async ({ client }) => {
    const error = await fails(client.echoText("x".repeat(2 ** 24)), rpc.TooLarge);
    assert.deepEqual([error.limit, error.executed], [2 ** 24, "no"]);
  },

  reply_too_large: ({ client }) => {
    const part = new Uint8Array(600 * 1024);
    return isFault(client.concat(2 ** 32 - 1, [part, part]), "reply_too_large", "yes");
  },
};
