// Serves the user directory until SIGTERM, and then finishes the requests that it has.
import * as rpc from "rpc-runtime";
import {
  DirectoryError,
  implementUserDirectory,
  type UserDirectoryWorker,
} from "./user_directory.js";

const emails = new Map([
  ["user:12345", "alice@example.com"],
  ["user:67890", "bob@example.com"],
]);

class Directory implements UserDirectoryWorker {
  getEmail(id: string): string {
    const email = emails.get(id);
    if (email === undefined) throw new DirectoryError({ kind: "UnknownUser", value: { id } });
    return email;
  }

  count(): bigint {
    return BigInt(emails.size);
  }
}

const connection = await rpc.connect(process.env.AMQP_URL ?? "amqp://localhost");
const server = await rpc.serve(connection, implementUserDirectory(new Directory()));
process.once("SIGTERM", () => server.stop());
await server.wait();
await connection.close();
