// Serves `Conformance` until SIGTERM: `worker.ts QUEUE EVERYONE`, with the broker in `AMQP_URL`.
//
// Prints `ready` once both queues are served. Workers in other languages serve `EVERYONE` too.
import * as rpc from "rpc-runtime";

import { implementConformance } from "./conformance.js";
import { url } from "./context.js";
import { Reference } from "./reference.js";

const [, , ...queues] = process.argv;

const connection = await rpc.connect(url(), { maxSentBytes: 1024 * 1024 });
const implementation = implementConformance(new Reference());
const servers = await Promise.all(
  queues.map((queue) => rpc.serve(connection, implementation, { queue, concurrency: 32 })),
);
process.once("SIGTERM", () => servers.forEach((server) => void server.stop()));
console.log("ready");
await Promise.all(servers.map((server) => server.wait()));
await connection.close();
