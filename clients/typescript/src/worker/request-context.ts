import type { AnyMethod } from "../method.js";
import { failedAttempts } from "../protocol/jobs.js";
import { iteratorOf, type Items } from "../service.js";
import type { Delivery } from "../transport/consumer.js";
import { textOf, type Headers } from "../transport/message.js";
import { runInContext, type Context } from "./context.js";

const MAX_ATTEMPT = 2 ** 31;

/** What the context of a request says, without its deadline and what ends it. */
export function contextOf(
  method: AnyMethod,
  { properties, redelivered }: Delivery,
): Omit<Context, "timeLeftMs" | "signal"> {
  return {
    method: method.name,
    requestId: properties.correlationId ?? "",
    headers: ownHeaders(properties.headers),
    appId: properties.appId ?? null,
    userId: properties.userId ?? null,
    isRedelivered: redelivered,
    attempt: Math.min(failedAttempts(properties.headers), MAX_ATTEMPT) + 1,
  };
}

/** The caller's own headers as text, without those of this protocol and of RabbitMQ. */
function ownHeaders(headers: Headers): Readonly<Record<string, string>> {
  const isOthers =
    /^(rpc-|x-death$|x-first-death|x-last-death|x-delivery-count$|x-acquired-count$)/i;
  const own = Object.entries(headers).flatMap(([name, value]): [string, string][] => {
    const text = textOf(value);
    return text === undefined || isOthers.test(name) ? [] : [[name, text]];
  });
  return Object.fromEntries(own);
}

/** Runs each step of a method's iterator in the method's context. */
export function iterateInContext(items: Items<unknown>, context: Context): AsyncIterator<unknown> {
  const iterator = runInContext(context, () => iteratorOf(items));
  return {
    next: async () => await runInContext(context, () => iterator.next()),
    return: async () => {
      await runInContext(context, () => iterator.return?.());
      return { done: true, value: undefined };
    },
  };
}
