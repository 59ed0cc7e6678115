/** The runtime of clients and workers that `rpc generate typescript` writes. */
export * as t from "./types/index.js";
export { ValueError, type Type, type TypeOf } from "./types/type.js";
export { connect, Connection, type ConnectOptions } from "./connection.js";
export type { LogLevel, LogSink } from "./log.js";
export { Client } from "./client/client.js";
export type { FoundWorker } from "./client/discovery.js";
export type { Answer, Gather } from "./client/gather.js";
export type {
  BroadcastOptions,
  CallOptions,
  ClientOptions,
  CodecName,
  SendOptions,
  StreamOptions,
} from "./client/options.js";
export type { ItemStream } from "./client/stream.js";
export {
  BadItem,
  BadReply,
  BrokerFailed,
  Cancelled,
  EncodeFailed,
  Fault,
  IncomingFailed,
  MethodError,
  NoServer,
  NoWorkers,
  Refused,
  RpcError,
  ServerFailed,
  TimedOut,
  TooLarge,
  TooManyCalls,
  type ErrorClass,
  type Executed,
} from "./errors.js";
export { method, type Method, type MethodSpec, type Retry } from "./method.js";
export type { WorkerInfo } from "./protocol/reply.js";
export {
  implement,
  service,
  type Awaitable,
  type Handlers,
  type Implementation,
  type Items,
  type Service,
} from "./service.js";
export { context, type Context } from "./worker/context.js";
export type { QueueOptions } from "./worker/queues.js";
export { serve, Server, type ServeOptions } from "./worker/server.js";
