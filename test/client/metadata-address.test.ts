import { expect, test } from "bun:test";
import { createServer, type Socket } from "node:net";
import { send } from "../../src/client/metadata-address.ts";
import { ImdsProxyError } from "../../src/errors.ts";

/** Asks a service that sends half of an answer, and then does something with the connection. @returns what send() throws. */
async function errorOf(then: (connection: Socket) => void): Promise<unknown> {
  const server = createServer((connection) => {
    connection.on("error", () => {});
    connection.once("data", () =>
      connection.write("HTTP/1.1 200 OK\r\nContent-Length: 100\r\n\r\nhalf", () => then(connection)),
    );
  });
  await new Promise<void>((listening) => server.listen(0, "127.0.0.1", listening));
  const { port } = server.address() as { port: number };
  try {
    return await send("GET", "/latest/meta-data/", {}, { address: "127.0.0.1", port }, 40_000).then(
      () => null,
      (error: unknown) => error,
    );
  } finally {
    server.close();
  }
}

test.each<[string, (connection: Socket) => void]>([
  ["closes the connection", (connection) => connection.end()],
  ["resets it", (connection) => connection.resetAndDestroy()],
])("a service that %s within its answer is an error with its remedy", async (_, then) => {
  const error = await errorOf(then);
  expect(error).toBeInstanceOf(ImdsProxyError);
  expect((error as ImdsProxyError).code).toBe("unhealthy");
});
