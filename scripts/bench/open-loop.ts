/**
 * A client that sends requests at times that are fixed beforehand, whether or not the earlier ones are answered (an open loop). The
 * time of a request begins when it was due, so that a server which stands still is not asked less often for it.
 *
 * `bun open-loop.ts JSON`: see {@link OpenLoop}. Prints {@link Latencies} as JSON.
 */
import type { Socket } from "bun";

/** What is asked, and how often. */
export interface OpenLoop {
  readonly host: string;
  readonly port: number;
  /** The request's bytes. */
  readonly request: string;
  /** A connection for each request; else those of a pool are used again. */
  readonly isNew: boolean;
  /** Requests a second. */
  readonly rate: number;
  readonly seconds: number;
}

/** Milliseconds from when a request was due to its whole answer. */
export interface Latencies {
  readonly answers: number;
  readonly failures: number;
  readonly p50Ms: number;
  readonly p99Ms: number;
}

const POOL = 64;
/** Milliseconds after the last request in which its answer may come. */
const REST_MS = 3_000;
/** Milliseconds at the start that are not counted: connections are made, and code is compiled. */
const WARM_MS = 500;

interface State {
  dueMs: number;
  text: string;
  needed: number;
}

if (import.meta.main) {
  const { host, port, request, isNew, rate, seconds } = JSON.parse(process.argv[2] ?? "{}") as OpenLoop;
  const took: number[] = [];
  let failures = 0;
  let open = 0;
  const idle: Socket<State>[] = [];
  const waiting: number[] = [];
  const beganMs = performance.now();

  const send = (socket: Socket<State>, dueMs: number): void => {
    socket.data = { dueMs, text: "", needed: 0 };
    socket.write(request);
  };
  const handlers = {
    data(socket: Socket<State>, bytes: Buffer): void {
      const state = socket.data;
      state.text += bytes.toString("latin1");
      if (state.needed === 0) {
        const end = state.text.indexOf("\r\n\r\n");
        if (end < 0) return;
        state.needed = end + 4 + Number(/Content-Length: (\d+)/i.exec(state.text)?.[1] ?? 0);
      }
      if (state.text.length < state.needed) return;
      if (!state.text.startsWith("HTTP/1.1 200")) failures++;
      else if (state.dueMs - beganMs > WARM_MS) took.push(performance.now() - state.dueMs);
      if (isNew) {
        socket.end();
        return;
      }
      const dueMs = waiting.shift();
      if (dueMs === undefined) idle.push(socket);
      else send(socket, dueMs);
    },
    open(socket: Socket<State>): void {
      if (isNew) socket.write(request);
      else idle.push(socket);
    },
    close(): void {
      open--;
    },
    error(): void {
      failures++;
    },
    connectError(): void {
      open--;
      failures++;
    },
  };
  const connect = (dueMs: number): void => {
    open++;
    Bun.connect<State>({
      hostname: host,
      port,
      socket: handlers,
      data: { dueMs, text: "", needed: 0 },
    }).catch(() => {});
  };

  if (!isNew) {
    for (let made = 0; made < POOL; made++) connect(0);
    while (idle.length < POOL) await Bun.sleep(1);
  }
  const startMs = performance.now();
  const total = Math.floor(rate * seconds);
  let sent = 0;
  await new Promise<void>((resolve) => {
    const step = (): void => {
      const due = Math.min(total, Math.floor(((performance.now() - startMs) * rate) / 1000));
      for (; sent < due; sent++) {
        const dueMs = startMs + (sent * 1000) / rate;
        if (isNew) connect(dueMs);
        else {
          const socket = idle.pop();
          if (socket === undefined) waiting.push(dueMs);
          else send(socket, dueMs);
        }
      }
      if (sent < total) setImmediate(step);
      else resolve();
    };
    step();
  });
  const endMs = performance.now() + REST_MS;
  while ((isNew ? open > 0 : idle.length < POOL) && performance.now() < endMs) await Bun.sleep(5);
  took.sort((a, b) => a - b);
  const at = (share: number): number => took[Math.min(took.length - 1, Math.floor(took.length * share))] ?? 0;
  const latencies: Latencies = { answers: took.length, failures, p50Ms: at(0.5), p99Ms: at(0.99) };
  console.log(JSON.stringify(latencies));
  process.exit(0);
}
