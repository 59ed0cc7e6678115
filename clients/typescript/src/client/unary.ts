import { decodeValue } from "../codec/values.js";
import { BadReply, RpcError } from "../errors.js";
import type { AnyMethod } from "../method.js";
import type { Caller } from "./caller.js";
import type { CallPlan } from "./call-plan.js";
import { readResult, replyOf } from "./method-call.js";
import type { CodecName } from "./options.js";

/** Calls a method that replies once. */
export function callUnary(
  caller: Caller,
  method: AnyMethod,
  plan: CallPlan & { readonly codec: CodecName },
): Promise<unknown> {
  return new Promise((resolve, reject) => {
    const call = caller.start(plan, {
      failed: reject,
      message: (message) => {
        call.finish();
        try {
          const reply = replyOf(message, plan.codec);
          resolve(
            readResult(reply, method, call, ({ codec, body }) =>
              decodeValue(codec, method.result, body),
            ),
          );
        } catch (error) {
          reject(error instanceof RpcError ? error : new BadReply(error, "maybe"));
        }
      },
    });
  });
}
