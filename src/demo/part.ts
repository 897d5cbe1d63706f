/**
 * Runs a stand-in as a process of its own, in a namespace of its own. The parent controls it by lines of JSON over standard
 * input and output, so that no user of the simulated node can reach the controls, or read the secrets in an argument list. It
 * exits at the end of its input.
 */
import { createInterface } from "node:readline";
import { type ImdsOptions, startImds } from "./imds/server.ts";
import { type StsStandInOptions, startStsStandIn } from "./sts/server.ts";

/** A stand-in whose controls are called by name. */
export interface Part {
  call(method: string, params: unknown): unknown;
}

/** The first line on standard input. */
export interface PartStart {
  readonly part: string;
  readonly options: unknown;
}
/** Each further line, and its answer. */
export interface PartCall {
  readonly id: number;
  readonly method: string;
  readonly params: unknown;
}
export type PartAnswer =
  | { readonly id: number; readonly result: unknown }
  | { readonly id: number; readonly error: string };

/** How each part is started, by its name. */
export type Parts = Readonly<Record<string, (options: unknown) => Part | Promise<Part>>>;

/** What a stand-in lets its parent do. */
interface Controlled {
  log(): unknown;
  clearLog(): void;
  set(mode: never): void;
}

/** The part of a stand-in, called `name` in errors. */
export const partOf = (name: string, standIn: Controlled): Part => ({
  call(method, params) {
    if (method === "log") return standIn.log();
    if (method === "clearLog") return standIn.clearLog();
    if (method === "set") return standIn.set(params as never);
    throw new Error(`the ${name} stand-in has no control ${method}`);
  },
});

/** The demo's. Tests have others, which misbehave: test/support/stand-ins. */
const PARTS: Parts = {
  imds: (options) => partOf("IMDS", startImds(options as ImdsOptions)),
  sts: async (options) => partOf("STS", await startStsStandIn(options as StsStandInOptions)),
};

/** Serves one part until standard input ends. */
export async function servePart(parts: Parts = PARTS): Promise<void> {
  const say = (answer: PartAnswer) => process.stdout.write(`${JSON.stringify(answer)}\n`);
  let part: Part | null = null;
  for await (const line of createInterface({ input: process.stdin })) {
    if (part === null) {
      const start = JSON.parse(line) as PartStart;
      const create = parts[start.part];
      if (create === undefined) throw new Error(`no stand-in is called ${start.part}`);
      part = await create(start.options);
      say({ id: 0, result: "ready" });
      continue;
    }
    const { id, method, params } = JSON.parse(line) as PartCall;
    try {
      say({ id, result: (await part.call(method, params)) ?? null });
    } catch (error) {
      say({ id, error: error instanceof Error ? error.message : String(error) });
    }
  }
}
