/**
 * Sends attacks over real sockets, as whoever runs it, and looks at every byte that comes back. One line of JSON on
 * standard input says what (the secrets' marker must be in no argument list); one line on standard output says what came.
 */
import type { Socket } from "bun";
import fc from "fast-check";
import { type Attack, attacks, TOKEN_PLACE } from "./spelling-requests.ts";

/** What to send, and where. */
export interface Orders {
  /** Connections go to these in turn. */
  readonly to: readonly { readonly address: string; readonly port: number }[];
  readonly roleName: string;
  readonly seed: number;
  readonly attacks: number;
  /** Connections at once. */
  readonly workers: number;
  /** No answer may hold one of these, in whatever case. */
  readonly secrets: readonly string[];
  /** What an honest request gets; null where nobody answers those. */
  readonly honestBody: string | null;
}

/** An answer that must not be. */
export interface Finding {
  readonly family: string;
  /** What was sent on the connection up to then, the last 4,000 characters of it, as JSON text of Latin-1. */
  readonly sent: string;
  readonly received: string;
}

/** What came of it. */
export interface Report {
  readonly seed: number;
  readonly sent: number;
  readonly connections: number;
  readonly honest: number;
  /** Answers by status. */
  readonly statuses: Readonly<Record<string, number>>;
  /** Attacks that got no answer, not even a closed connection, in a second. */
  readonly unanswered: number;
  readonly leaks: readonly Finding[];
  readonly leakyFamilies: Readonly<Record<string, number>>;
  readonly serverErrors: readonly Finding[];
  readonly honestFailures: readonly Finding[];
}

const CHUNK = 4_000;
const MOST_FINDINGS = 20;
/** Every so many attacks of a worker, an honest request. */
const HONEST_EVERY = 20;
const PATIENCE_MS = 1_000;
/**
 * How often a request that got a 5xx is sent once more before that is a finding. Where the upstream does not answer in two
 * seconds, or accepts no connection in half a second, a 503 is right, and asking again brings another answer.
 */
const AGAIN = 5;
const AGAIN_AFTER_MS = 500;
const HONEST =
  "GET /latest/meta-data/instance-id HTTP/1.1\r\nHost: 169.254.169.254\r\nConnection: close\r\n\r\n";

const TOKEN_REQUEST =
  "PUT /latest/api/token HTTP/1.1\r\nHost: 169.254.169.254\r\nX-aws-ec2-metadata-token-ttl-seconds: 21600\r\n\r\n";

const latin1 = (text: string): Buffer => Buffer.from(text, "latin1");

/** One connection, and everything that came over it. */
class Wire {
  received = "";
  closed = false;
  sent = "";
  #socket: Socket<undefined> | null = null;
  #wake: () => void = () => {};
  #unsent: Buffer = Buffer.alloc(0);

  static async open(to: { address: string; port: number }): Promise<Wire> {
    const wire = new Wire();
    const changed = () => wire.#wake();
    wire.#socket = await Bun.connect({
      hostname: to.address,
      port: to.port,
      allowHalfOpen: true,
      socket: {
        data(_, bytes) {
          wire.received += bytes.toString("latin1");
          changed();
        },
        drain: () => wire.#flush(),
        end() {
          wire.closed = true;
          changed();
        },
        close() {
          wire.closed = true;
          changed();
        },
        error() {
          wire.closed = true;
          changed();
        },
      },
    });
    return wire;
  }

  send(text: string): void {
    this.sent = (this.sent + text).slice(-4_000);
    this.#unsent = Buffer.concat([this.#unsent, latin1(text)]);
    this.#flush();
  }

  #flush(): void {
    if (this.#unsent.length === 0 || this.closed) return;
    const written = this.#socket?.write(this.#unsent) ?? -1;
    if (written > 0) this.#unsent = this.#unsent.subarray(written);
  }

  /** Says that nothing more comes. */
  finish(): void {
    if (!this.closed) this.#socket?.shutdown();
  }

  drop(): void {
    this.closed = true;
    this.#socket?.terminate();
  }

  /** Waits until a condition holds or the other side has closed; false where neither comes in time. */
  async until(holds: () => boolean, withinMs: number): Promise<boolean> {
    const endMs = performance.now() + withinMs;
    while (!this.closed && !holds()) {
      const leftMs = endMs - performance.now();
      if (leftMs <= 0) return false;
      await new Promise<void>((resolve) => {
        const timer = setTimeout(resolve, leftMs);
        this.#wake = () => {
          clearTimeout(timer);
          resolve();
        };
      });
    }
    return true;
  }
}

/** Whether one of the answers is a 5xx. */
const hasServerError = ({ received }: Wire): boolean => /HTTP\/1\.\d 5\d\d/.test(received);

/** Whether one whole answer is there, and nothing else. */
function answered(text: string): boolean {
  const end = text.indexOf("\r\n\r\n");
  if (end < 0) return false;
  const length = /\r\ncontent-length: *(\d+)/i.exec(text.slice(0, end));
  return length !== null && text.length >= end + 4 + Number(length[1]);
}

/** Sends everything that was ordered. */
export async function run(orders: Orders): Promise<Report> {
  const statuses: Record<string, number> = {};
  const leakyFamilies: Record<string, number> = {};
  const leaks: Finding[] = [];
  const serverErrors: Finding[] = [];
  const honestFailures: Finding[] = [];
  const secrets = orders.secrets.map((secret) => secret.toLowerCase());
  let sent = 0;
  let connections = 0;
  let honest = 0;
  let unanswered = 0;
  let queue: Attack[] = [];
  let chunk = 0;
  const next = (): Attack | undefined => {
    if (sent >= orders.attacks) return undefined;
    if (queue.length === 0) {
      // Each chunk has a seed of its own, so that memory stays small however many there are.
      queue = fc.sample(attacks(orders.roleName), { seed: orders.seed + chunk++, numRuns: CHUNK }).reverse();
    }
    sent++;
    return queue.pop();
  };
  const open = (): Promise<Wire> => {
    const to = orders.to[connections++ % orders.to.length];
    if (to === undefined) throw new Error("nowhere to send to");
    return Wire.open(to);
  };

  /** @param at where in what was received the finding is. */
  const note = (list: Finding[], family: string, wire: Wire, at = 0): void => {
    if (list.length >= MOST_FINDINGS) return;
    const received = wire.received.slice(Math.max(0, at - 500), at + 500);
    list.push({ family, sent: JSON.stringify(wire.sent), received });
  };
  /** Looks at what has come, and forgets it. */
  const inspect = (wire: Wire, family: string): void => {
    for (const [, status = ""] of wire.received.matchAll(/HTTP\/1\.\d (\d{3})/g)) {
      statuses[status] = (statuses[status] ?? 0) + 1;
    }
    const lower = wire.received.toLowerCase();
    const [found] = secrets.map((secret) => lower.indexOf(secret)).filter((at) => at >= 0);
    if (found !== undefined) {
      leakyFamilies[family] = (leakyFamilies[family] ?? 0) + 1;
      note(leaks, family, wire, found);
    }
    wire.received = "";
  };

  /** Sends the same on connections of its own while a 5xx is the answer; notes what was the last, and whether it still is. */
  const settled = async (
    wire: Wire,
    family: string,
    parts: readonly string[],
    whole: boolean,
  ): Promise<void> => {
    let last = wire;
    // Forwarders give whatever the upstream does, and nobody asks why.
    const most = orders.honestBody === null ? 0 : AGAIN;
    for (let again = 0; again < most && hasServerError(last); again++) {
      await new Promise((resolve) => setTimeout(resolve, AGAIN_AFTER_MS));
      const next = await open();
      for (const part of parts) next.send(part);
      if (!whole) next.finish();
      await next.until(() => whole && answered(next.received), 10 * PATIENCE_MS);
      next.drop();
      if (last !== wire) inspect(last, family);
      last = next;
    }
    if (hasServerError(last)) note(serverErrors, family, last);
    if (last !== wire) inspect(last, family);
  };

  const honestly = async (body: string): Promise<void> => {
    honest++;
    const once = async (): Promise<Wire> => {
      const wire = await open();
      wire.send(HONEST);
      await wire.until(() => answered(wire.received), 10 * PATIENCE_MS);
      wire.drop();
      return wire;
    };
    let wire = await once();
    for (let again = 0; again < AGAIN && hasServerError(wire); again++) {
      inspect(wire, "honest");
      await new Promise((resolve) => setTimeout(resolve, AGAIN_AFTER_MS));
      wire = await once();
    }
    const good = wire.received.startsWith("HTTP/1.1 200 ") && wire.received.endsWith(`\r\n\r\n${body}`);
    if (!good) note(honestFailures, "honest", wire);
    if (hasServerError(wire)) note(serverErrors, "honest", wire);
    inspect(wire, "honest");
  };

  const tokenWire = await open();
  tokenWire.send(TOKEN_REQUEST);
  await tokenWire.until(() => answered(tokenWire.received), 10 * PATIENCE_MS);
  const token = /\r\n\r\n(\S{56})$/.exec(tokenWire.received)?.[1] ?? "none";
  tokenWire.drop();

  const worker = async (): Promise<void> => {
    let wire: Wire | null = null;
    let family = "";
    let parts: string[] = [];
    let whole = true;
    let untilHonest = HONEST_EVERY;
    for (let attack = next(); attack !== undefined; attack = next()) {
      if (wire === null || wire.closed) {
        if (wire !== null) {
          if (hasServerError(wire)) await settled(wire, family, parts, whole);
          inspect(wire, family);
          wire.drop();
        }
        wire = await open();
      }
      family = attack.family;
      whole = attack.whole;
      parts = attack.parts.map((part) => part.replaceAll(TOKEN_PLACE, token));
      const [first = "", ...rest] = parts;
      wire.send(first);
      for (const part of rest) {
        await new Promise((resolve) => setImmediate(resolve));
        wire.send(part);
      }
      // Whoever sends no whole request says that this was all: what is half there has to be answered or dropped.
      const current: Wire = wire;
      if (!attack.whole) current.finish();
      const done = await current.until(() => attack.whole && answered(current.received), PATIENCE_MS);
      if (!done) unanswered++;
      if (hasServerError(current)) await settled(current, family, parts, whole);
      inspect(current, family);
      if (!attack.whole || !done) {
        current.drop();
        wire = null;
      }
      if (orders.honestBody !== null && --untilHonest === 0) {
        untilHonest = HONEST_EVERY;
        await honestly(orders.honestBody);
      }
    }
    wire?.drop();
  };
  await Promise.all(Array.from({ length: orders.workers }, worker));
  return {
    seed: orders.seed,
    sent,
    connections,
    honest,
    statuses,
    unanswered,
    leaks,
    leakyFamilies,
    serverErrors,
    honestFailures,
  };
}

if (import.meta.main) {
  const orders = JSON.parse(await Bun.stdin.text()) as Orders;
  console.log(JSON.stringify(await run(orders)));
  process.exit(0);
}
