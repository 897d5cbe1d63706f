/**
 * The stand-ins as processes of their own, in the namespace that is theirs. A parent talks to one over its standard
 * input and output, a line of JSON each way, so that no user of the simulated node can reach the controls or read the
 * secrets in an argument list. It ends when its input does.
 */
import { createInterface } from "node:readline";
import { type ImdsOptions, startImds } from "./imds/server.ts";
import type { ImdsMode } from "./imds/service.ts";
import { type StsMode, type StsStandInOptions, startStsStandIn } from "./sts/server.ts";

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

const PARTS: Readonly<Record<string, (options: unknown) => Part | Promise<Part>>> = {
  imds(options) {
    const imds = startImds(options as ImdsOptions);
    return {
      call(method, params) {
        if (method === "log") return imds.log();
        if (method === "clearLog") return imds.clearLog();
        if (method === "set") return imds.set(params as Partial<ImdsMode>);
        throw new Error(`the IMDS stand-in has no control ${method}`);
      },
    };
  },
  async sts(options) {
    const sts = await startStsStandIn(options as StsStandInOptions);
    return {
      call(method, params) {
        if (method === "log") return sts.log();
        if (method === "clearLog") return sts.clearLog();
        if (method === "set") return sts.set(params as Partial<StsMode>);
        throw new Error(`the STS stand-in has no control ${method}`);
      },
    };
  },
};

/** Serves one part until standard input ends. */
export async function servePart(): Promise<void> {
  const say = (answer: PartAnswer) => process.stdout.write(`${JSON.stringify(answer)}\n`);
  let part: Part | null = null;
  for await (const line of createInterface({ input: process.stdin })) {
    if (part === null) {
      const start = JSON.parse(line) as PartStart;
      const create = PARTS[start.part];
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
