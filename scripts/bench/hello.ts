/**
 * The least that a server by Bun can do, for `make bench` to compare with: it listens as the proxy does, finds the end of a head,
 * and writes the same bytes each time. It identifies nobody, parses nothing and limits nobody.
 *
 * `bun hello.ts PORT FILE [identify]`: FILE is JSON, the body for each path; any other path is 404. With `identify` it asks the kernel for
 * the peer's address and, by netlink, whose each connection is, and closes those of nobody: what it costs more then is what identity
 * costs.
 */
import { readFileSync } from "node:fs";
import { Listener } from "../../src/http/listener.ts";
import { monotonicMs } from "../../src/platform/clock.ts";
import { socketEnds } from "../../src/platform/listening-socket.ts";

const [, , port = "", file = "", how = ""] = process.argv;
const ADDRESS = Uint8Array.of(127, 0, 0, 1);
// Loaded only where it is used: the memory of the least server is measured as well.
const lookup = how === "identify" ? (await import("../../src/wiring/identities.ts")).systemLookup() : null;
const bodies = JSON.parse(readFileSync(file, "utf8")) as Record<string, string>;

const answerOf = (status: string, body: string, connection: string): Buffer =>
  Buffer.from(
    `HTTP/1.1 ${status}\r\nServer: hello\r\nDate: ${new Date().toUTCString()}\r\nContent-Type: text/plain\r\n` +
      `Content-Length: ${body.length}\r\nConnection: ${connection}\r\n\r\n${body}`,
    "latin1",
  );
const answers = new Map(
  Object.entries(bodies).map(([path, body]) => [
    path,
    { kept: answerOf("200 OK", body, "keep-alive"), last: answerOf("200 OK", body, "close") },
  ]),
);
const absent = answerOf("404 Not Found", "", "close");

new Listener<undefined>({
  address: ADDRESS,
  port: Number(port),
  backlog: 4_096,
  sharePort: false,
  inherited: null,
  monotonicMs,
  onFailure: (code) => console.error(code),
  handlers: {
    open(socket) {
      if (lookup === null) return;
      const ends = socketEnds((socket as unknown as { readonly fd: number }).fd, {
        localAddress: ADDRESS,
        localPort: Number(port),
      });
      if (ends === null || lookup.identify(ends).kind !== "owner") socket.terminate();
    },
    data(socket, bytes) {
      const head = bytes.toString("latin1");
      if (!head.endsWith("\r\n\r\n")) return;
      const path = head.slice(head.indexOf(" ") + 1, head.indexOf(" HTTP/"));
      const isLast = head.includes("Connection: close");
      const answer = answers.get(path);
      socket.write(answer === undefined ? absent : isLast ? answer.last : answer.kept);
      if (isLast || answer === undefined) socket.end();
    },
  },
});
