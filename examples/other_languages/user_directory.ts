// The service `UserDirectory`, from TypeScript.
//
// Looks users up.
//
// Written by `rpc generate typescript`: do not edit it. Its format is that of prettier with a
// `printWidth` of 100.
import * as rpc from "rpc-runtime";
import { t } from "rpc-runtime";

/** Why the directory could not answer. */
export type DirectoryErrorValue =
  /** No user has this id. */
  {
    kind: "UnknownUser";
    value: {
      /** The requested id. */
      id: string;
    };
  };

/** Why the directory could not answer. */
export class DirectoryError extends rpc.MethodError<DirectoryErrorValue> {
  static readonly type: rpc.Type<DirectoryErrorValue> = t.variants({
    UnknownUser: t.struct({ id: t.string }),
  });
}

const methods = {
  getEmail: rpc.method({
    name: "get_email",
    args: { id: t.string },
    result: t.string,
    error: DirectoryError,
    isDefault: true,
    idempotent: true,
  }),
  count: rpc.method({ name: "count", result: t.u64, idempotent: true }),
};

/** The service `UserDirectory`. */
export const userDirectory = rpc.service({
  name: "UserDirectory",
  queue: "rpc_queue",
  methods,
  description:
    '{"name":"UserDirectory","queue":"rpc_queue","docs":"Looks users up.","methods":[{"name":"g' +
    'et_email","docs":"Returns the e-mail address of one user.","arguments":[{"name":"id","type' +
    '":"&str","schema":{"type":"string"}}],"returns":"String","error":"DirectoryError","default' +
    '":true,"idempotent":true,"result_schema":{"type":"string"},"error_schema":{"$ref":"#/defin' +
    'itions/DirectoryError"}},{"name":"count","docs":"Returns the number of users.","returns":"' +
    'u64","idempotent":true,"result_schema":{"format":"uint64","minimum":0,"type":"integer"}}],' +
    '"definitions":{"DirectoryError":{"description":"Why the directory could not answer.","oneO' +
    'f":[{"additionalProperties":false,"description":"No user has this id.","properties":{"Unkn' +
    'ownUser":{"properties":{"id":{"description":"The requested id.","type":"string"}},"require' +
    'd":["id"],"type":"object"}},"required":["UnknownUser"],"type":"object"}]}}}',
});

/** Calls the service `UserDirectory`. */
export class UserDirectoryClient extends rpc.Client {
  constructor(connection: rpc.Connection, options: rpc.ClientOptions = {}) {
    super(connection, userDirectory, options);
  }

  /** Returns the e-mail address of one user. */
  getEmail(id: string, options?: rpc.CallOptions): Promise<string> {
    return this.$.call(methods.getEmail, { id }, options);
  }

  /** Returns the number of users. */
  count(options?: rpc.CallOptions): Promise<bigint> {
    return this.$.call(methods.count, {}, options);
  }
}

/** What serves the service `UserDirectory`. */
export interface UserDirectoryWorker {
  /** Returns the e-mail address of one user. */
  getEmail(id: string, context: rpc.Context): rpc.Awaitable<string>;
  /** Returns the number of users. */
  count(context: rpc.Context): rpc.Awaitable<bigint>;
}

/** Makes an implementation ready for `rpc.serve`. */
export function implementUserDirectory(worker: UserDirectoryWorker): rpc.Implementation {
  return rpc.implement(userDirectory, {
    getEmail: (args, context) => worker.getEmail(args.id, context),
    count: (_, context) => worker.count(context),
  });
}
