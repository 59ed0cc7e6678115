// What a peer sends that knows the service `Conformance` differently.
import * as rpc from "rpc-runtime";
import { t } from "rpc-runtime";

const methods = {
  unknown: rpc.method({ name: "unknown", result: t.u32 }),
  echoU8: rpc.method({ name: "echo_u8", args: { value: t.string }, result: t.u8 }),
  echoI16: rpc.method({ name: "echo_i16", result: t.i16 }),
  double: rpc.method({ name: "double", args: { value: t.u32, by: t.u32 }, result: t.u64 }),
  join: rpc.method({ name: "words.join", args: { first: t.string }, result: t.string }),
};

const foreign = rpc.service({
  name: "Foreign",
  queue: "conformance",
  methods,
  description: '{"name":"Foreign","queue":"conformance","methods":[]}',
});

/** Methods of `Conformance` with other arguments, and methods that it does not have. */
export class ForeignClient extends rpc.Client {
  constructor(connection: rpc.Connection, options: rpc.ClientOptions = {}) {
    super(connection, foreign, options);
  }

  /** Does not exist. */
  unknown(): Promise<number> {
    return this.$.call(methods.unknown, {});
  }

  /** Has an argument of another type. */
  echoU8(value: string): Promise<number> {
    return this.$.call(methods.echoU8, { value });
  }

  /** Has no argument. */
  echoI16(): Promise<number> {
    return this.$.call(methods.echoI16, {});
  }

  /** Has an argument more. */
  double(value: number, by: number): Promise<bigint> {
    return this.$.call(methods.double, { value, by });
  }

  /** Has only the first argument, by its other name. */
  join(first: string): Promise<string> {
    return this.$.call(methods.join, { first });
  }
}
