import { afterAll, beforeAll, describe, expect, test } from "bun:test";
import { answerHops } from "../../src/platform/hop-limit.ts";

/** Answers each connection with packets of a TTL, as EC2's service does with the instance's hop limit. */
const SERVER = `
import socket, sys
listener = socket.create_server(("127.0.0.1", 0))
print(listener.getsockname()[1], flush=True)
while True:
    connection, _ = listener.accept()
    connection.setsockopt(socket.IPPROTO_IP, socket.IP_TTL, int(sys.argv[1]))
    try:
        connection.recv(1024)
        connection.sendall(b"HTTP/1.1 200 OK\\r\\nContent-Length: 5\\r\\n\\r\\ntoken")
    except OSError:
        pass
    connection.close()
`;
/** For what hangs alone. */
const LONG_MS = 40_000;

describe("answerHops()", () => {
  const servers: Bun.Subprocess[] = [];
  const ports: Record<number, number> = {};
  beforeAll(async () => {
    for (const ttl of [1, 64]) {
      const server = Bun.spawn(["/usr/bin/python3", "-c", SERVER, String(ttl)], { stdout: "pipe" });
      servers.push(server);
      const { value } = await server.stdout.getReader().read();
      ports[ttl] = Number(Buffer.from(value ?? []).toString());
    }
  });
  afterAll(async () => {
    for (const server of servers) server.kill();
    await Promise.all(servers.map(({ exited }) => exited));
  });
  const hops = (ttl: number, limitMs: number) =>
    answerHops({ address: "127.0.0.1", port: ports[ttl] ?? 0 }, limitMs);

  test("is 2 where the answer may travel on, and 1 where it may not", () => {
    expect(hops(64, LONG_MS)).toBe(2);
    // The answer with TTL 1 is waited for in vain first. Then it may be late on a busy machine: null, and it is asked for again.
    let found = hops(1, 500);
    for (let tries = 0; found === null && tries < 60; tries++) found = hops(1, 500);
    expect(found).toBe(1);
  });

  test("is null where nothing answers", () => {
    expect(answerHops({ address: "127.0.0.1", port: 1 }, LONG_MS)).toBeNull();
  });
});
