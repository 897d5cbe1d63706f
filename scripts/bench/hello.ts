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
import { leastAnswers } from "./least.ts";

const [, , port = "", file = "", how = ""] = process.argv;
const ADDRESS = Uint8Array.of(127, 0, 0, 1);
// Loaded only where it is used: the memory of the least server is measured as well.
const lookup = how === "identify" ? (await import("../../src/wiring/identities.ts")).systemLookup() : null;
const answer = leastAnswers(JSON.parse(readFileSync(file, "utf8")) as Record<string, string>);

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
    data: answer,
  },
});
