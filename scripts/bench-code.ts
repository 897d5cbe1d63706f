/**
 * `make bench-code`: what our own code takes of a request, without the kernel, STS and a client: the server and the handler with scripted
 * sockets and the kernel's answers at hand. The fastest 2 % of batches of 64 requests hardly know of other programs on the machine,
 * so that two builds of the code can be compared where `make bench` cannot. `bun scripts/bench-code.ts KIND…`: new, kept, … Before each
 * kind it does the same with the least that a server can do (bench/least.ts), and exits 1 where ours takes more than BOUNDS times that.
 */
import { createConnection, createServer } from "node:net";
import type { Socket, SocketHandler, TCPSocketListener } from "bun";
import { limitsFor, Server } from "../src/http/server.ts";
import { type NetlinkChannel, SocketLookup } from "../src/identity/lookup.ts";
import { encodeConnectionRequest } from "../src/identity/netlink/conntrack.ts";
import { encodeSocketRequest } from "../src/identity/netlink/inet-diag.ts";
import { Handler, SERVER_NAME } from "../src/imds/handler.ts";
import { RecentCallers } from "../src/imds/recent-callers.ts";
import { TokenMint } from "../src/imds/tokens.ts";
import { monotonicMs, systemClock } from "../src/platform/clock.ts";
import { NO_STORE } from "../src/platform/socket-store.ts";
import { SessionBroker } from "../src/sessions/broker.ts";
import { Audit } from "../src/telemetry/audit.ts";
import { createLog } from "../src/telemetry/log.ts";
import { MetadataCache } from "../src/upstream/cache.ts";
import { eventSinks } from "../src/wiring/events.ts";
import { GivenSessions } from "../src/wiring/given-sessions.ts";
import { Status } from "../src/wiring/status.ts";
import { identityOf, policyOf, ROLE } from "../test/imds/support.ts";
import { FakeKernel } from "../test/support/fake-kernel.ts";
import { listenAnywhere } from "../test/support/listen-anywhere.ts";
import { idleMetrics } from "./bench/idle-metrics.ts";
import { leastAnswers } from "./bench/least.ts";

const REQUESTS = Number(process.env["REQUESTS"] ?? 150_000);
const BATCH = 64;
const ALICE = 2001;
const HOUR_MS = 3_600_000;

/** A connection whose descriptor every scripted socket has: both of its ends are what the kernel is asked about. */
const real = await new Promise<{ fd: number; localPort: number; peerPort: number }>((resolve) => {
  const server = createServer((socket) => {
    const { _handle, localPort, remotePort } = socket as unknown as {
      _handle: { fd: number };
      localPort: number;
      remotePort: number;
    };
    resolve({ fd: _handle.fd, localPort, peerPort: remotePort });
  });
  server.listen(0, "127.0.0.1", () => {
    createConnection((server.address() as { port: number }).port, "127.0.0.1");
  });
});

/** A netlink channel that always has the same answer, with the request's sequence number. */
class Canned implements NetlinkChannel {
  readonly portId: number;
  readonly #answer: DataView;
  #isAsked = false;

  constructor(channel: NetlinkChannel, request: Uint8Array) {
    this.portId = channel.portId;
    channel.send(request);
    const answer = channel.receive();
    if (answer === null) throw new Error("the kernel of the tests does not answer");
    const { buffer, byteOffset, byteLength } = answer;
    this.#answer = new DataView(buffer.slice(byteOffset, byteOffset + byteLength));
  }

  send(request: Uint8Array): void {
    const sequence = new DataView(request.buffer, request.byteOffset).getUint32(8, true);
    this.#answer.setUint32(8, sequence, true);
    this.#isAsked = true;
  }

  receive(): DataView | null {
    if (!this.#isAsked) return null;
    this.#isAsked = false;
    return new DataView(this.#answer.buffer, 0, this.#answer.byteLength);
  }
}

/** @param port where the server listens: its end of the connections that it accepts. */
function cannedLookup(port: number): SocketLookup {
  const [here, metadata] = [Uint8Array.of(127, 0, 0, 1), Uint8Array.of(169, 254, 169, 254)];
  const original = {
    sourceAddress: here,
    sourcePort: real.peerPort,
    destinationAddress: metadata,
    destinationPort: 80,
  };
  const reply = {
    sourceAddress: here,
    sourcePort: port,
    destinationAddress: here,
    destinationPort: real.peerPort,
  };
  const kernel = new FakeKernel();
  kernel.entries.push({ original, reply });
  kernel.sockets.push({ tuple: original, uid: ALICE, inode: 5, cgroupId: 77n });
  return new SocketLookup({
    conntrack: new Canned(kernel.conntrack, Uint8Array.from(encodeConnectionRequest(reply, 1))),
    diag: new Canned(kernel.diag, Uint8Array.from(encodeSocketRequest(original, 1))),
  });
}

type Handlers = Required<Pick<SocketHandler<unknown>, "open" | "data" | "end" | "close">>;
const tokens = new TokenMint(new Uint8Array(32).fill(7));
const identity = identityOf({ uid: ALICE, cgroupId: null, redirected: true });
const policy = policyOf({ role: ROLE }, () => identity);
const recent = new RecentCallers();
const broker = new SessionBroker({
  sts: {
    assumeRole: async () => ({
      accessKeyId: "ASIAXXXXXXXXXXXXXXXX",
      secretAccessKey: "s".repeat(40),
      sessionToken: "t".repeat(1_200),
      expiresAtMs: systemClock.now() + HOUR_MS,
      obtainedAtMs: systemClock.now(),
    }),
  },
  clock: systemClock,
  monotonicMs,
  random: Math.random,
});
const metrics = idleMetrics(broker, () => ({ journal: 0, stderr: 0, suppressed: 0 }));
// What the running proxy does for each request; see wiring/serve.ts.
const log = createLog({ level: "warn", format: "json" });
const audit = new Audit({
  log: { record() {}, line: () => "" },
  journal: null,
  identify: null,
  clock: systemClock,
  monotonicMs,
});
const events = eventSinks(log, audit);
events.attach(metrics);
const given = new GivenSessions({ broker, clock: systemClock, hasCgroup: async () => true });
const status = new Status({ now: () => systemClock.now() });
const handler = new Handler({
  clock: systemClock,
  monotonicMs,
  tokens,
  metadata: new MetadataCache({
    clock: systemClock,
    source: { read: async () => ({ kind: "found", body: "us-west-2", lastModifiedMs: null }) },
  }),
  broker,
  policy: () => policy,
  tokensRequired: () => false,
  onRequest(event) {
    given.note(event);
    events.request(event);
    status.request(event);
  },
  health: { document: async () => ({}), ownFailure: () => null },
  lagMs: () => 0,
  onAsked: (owner, user, nowMs) => recent.note(owner, user, nowMs),
});
let lookup: SocketLookup | null = null;
const server = new Server({
  handler,
  serverName: SERVER_NAME,
  lookup: {
    identify(accepted) {
      lookup ??= cannedLookup(accepted.localPort);
      const startedMs = monotonicMs();
      const found = lookup.identify(accepted);
      events.lookedUp(found.kind, monotonicMs() - startedMs);
      return found;
    },
  },
  monotonicMs,
  limits: limitsFor(65_536),
  sharePort: true,
  store: NO_STORE,
  shareOfUid: (uid) => uid,
  isContainer: () => false,
  onUnidentified: (why) => {
    throw new Error(why);
  },
});
let handlers: Handlers | null = null;
const originalListen = Bun.listen;
listenAnywhere((port) => {
  // The server's listener gets no connections: its handlers are called by us.
  Object.assign(Bun, {
    listen: (options: { socket: Handlers }): Pick<TCPSocketListener<unknown>, "stop"> => {
      handlers = options.socket;
      return { stop() {} };
    },
  });
  try {
    server.listen({ address: "127.0.0.1", port });
  } finally {
    Object.assign(Bun, { listen: originalListen });
  }
});
if (handlers === null) throw new Error("the server does not listen");
const { open, data, end, close } = handlers as Handlers;

let written = 0;
const aSocket = (): Socket<unknown> =>
  ({
    fd: real.fd,
    write(bytes: Buffer) {
      if (bytes.subarray(0, 12).toString("latin1") !== "HTTP/1.1 200")
        throw new Error(bytes.toString("latin1"));
      written++;
      return bytes.length;
    },
    pause() {},
    resume() {},
    shutdown() {},
    end() {},
    close() {},
    terminate() {},
  }) as unknown as Socket<unknown>;

const ROLE_PATH = "/latest/meta-data/iam/security-credentials/ImdsProxyTestRole";
const TOKEN = `X-aws-ec2-metadata-token: ${tokens.issue(ALICE, 21_600, systemClock.now())}`;
const get = (path: string, ...headers: string[]): string =>
  [`GET ${path} HTTP/1.1`, "Host: 169.254.169.254", "User-Agent: Boto3/1.26", "Accept: */*", ...headers].join(
    "\r\n",
  );
const KINDS: Readonly<Record<string, string>> = {
  new: get(ROLE_PATH, TOKEN, "Connection: close"),
  kept: get(ROLE_PATH, TOKEN),
  "kept-without-token": get(ROLE_PATH),
  metadata: get("/latest/meta-data/placement/region", TOKEN),
  token: get("/latest/api/token", "X-aws-ec2-metadata-token-ttl-seconds: 21600").replace("GET", "PUT"),
};

/**
 * How much more than the least each kind may take: about three times what stands in docs/benchmarks.md, so that a busy machine exceeds it
 * by no chance, and a step that makes text or promises for each request does.
 */
const BOUNDS: Readonly<Record<string, number>> = {
  new: 40,
  kept: 12,
  "kept-without-token": 12,
  metadata: 12,
  token: 18,
};
const least = leastAnswers({ [ROLE_PATH]: "x".repeat(1_600) });

const nextIteration = () => new Promise<void>((resolve) => setImmediate(resolve));
type Handling = Pick<Handlers, "data"> & Partial<Handlers>;

/** What a request takes, in microseconds, in each batch; the least first. @param isNew a connection for each request. */
async function timesOf(handling: Handling, bytes: Buffer, isNew: boolean): Promise<number[]> {
  const took: number[] = [];
  let sockets: Socket<unknown>[] = [];
  const connect = () => {
    sockets = Array.from({ length: BATCH }, aSocket);
    for (const socket of sockets) handling.open?.(socket);
  };
  if (!isNew) connect();
  for (let done = 0; done < REQUESTS; done += BATCH) {
    const startedMs = monotonicMs();
    if (isNew) connect();
    for (const socket of sockets) handling.data(socket, bytes);
    await nextIteration();
    if (isNew) {
      for (const socket of sockets) {
        handling.end?.(socket);
        handling.close?.(socket);
      }
    }
    took.push(((monotonicMs() - startedMs) * 1_000) / BATCH);
  }
  if (!isNew) for (const socket of sockets) handling.close?.(socket);
  return took.sort((a, b) => a - b);
}

const at = (took: readonly number[], share: number): number =>
  took[Math.floor(took.length * share)] ?? Number.NaN;
const wanted = process.argv.slice(2);
for (const [kind, head] of Object.entries(KINDS)) {
  if (wanted.length > 0 && !wanted.includes(kind)) continue;
  const bytes = Buffer.from(`${head}\r\n\r\n`, "latin1");
  const isNew = kind === "new";
  const yardstick = await timesOf({ data: least }, Buffer.from(`${get(ROLE_PATH, TOKEN)}\r\n\r\n`), isNew);
  written = 0;
  const took = await timesOf({ open, data, end, close }, bytes, isNew);
  const show = (share: number): string => at(took, share).toFixed(2).padStart(6);
  const ratio = at(took, 0.02) / at(yardstick, 0.02);
  console.log(
    `${kind.padEnd(20)} us a request: 2 % ${show(0.02)}  10 % ${show(0.1)}  half ${show(0.5)}  ` +
      `by the least server's: ${ratio.toFixed(2)}  (${written} answers)`,
  );
  const bound = BOUNDS[kind] ?? Number.POSITIVE_INFINITY;
  if (ratio <= bound) continue;
  console.error(
    `bench-code: ${kind} takes ${ratio.toFixed(2)} of the least server's, at most ${bound} is wanted`,
  );
  process.exitCode = 1;
}
process.exit(process.exitCode);
