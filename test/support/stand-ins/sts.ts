import {
  type StsIntercept,
  type StsMode,
  type StsStandIn,
  type StsStandInOptions,
  startStsStandIn,
} from "../../../src/demo/sts/server.ts";
import { errorAnswer, type StsAnswer } from "../../../src/demo/sts/service.ts";

/** What becomes of AssumeRole; GetCallerIdentity goes on, so that a test can still ask who it is. */
export type StsFault =
  | { readonly kind: "none" }
  /** Takes the request and never answers. */
  | { readonly kind: "hang" }
  /** Takes the request and cuts the connection. */
  | { readonly kind: "drop" }
  /** An error in AWS's form. */
  | {
      readonly kind: "error";
      readonly status: number;
      readonly code: string;
      readonly message?: string;
      readonly retryAfterSeconds?: number;
    }
  /** Bytes that are not STS's: a proxy's page, a redirect, nothing. */
  | {
      readonly kind: "body";
      readonly status: number;
      readonly headers?: Readonly<Record<string, string>>;
      readonly body: string;
    };

/** How the stand-in behaves for now. */
export interface FaultyStsMode extends StsMode {
  readonly fault: StsFault;
  /** Milliseconds before each answer. */
  readonly delayMs: number;
  /** The length that each session token is filled up to, null for as it is. STS does not know the longer token again. */
  readonly sessionTokenLength: number | null;
}

export type FaultyStsOptions = Omit<StsStandInOptions, "mode"> & { readonly mode?: Partial<FaultyStsMode> };
export type FaultySts = Omit<StsStandIn, "set"> & { set(mode: Partial<FaultyStsMode>): void };

/** The demo's stand-in for STS, which fails and is late as a test orders. */
export async function startFaultySts(options: FaultyStsOptions): Promise<FaultySts> {
  let mode = {
    fault: { kind: "none" } as StsFault,
    delayMs: 0,
    sessionTokenLength: null as number | null,
    ...options.mode,
  };
  const intercept: StsIntercept = (action, serve) => {
    const fault: StsFault = action === "AssumeRole" ? mode.fault : { kind: "none" };
    const answer = answerOf(fault, serve);
    return {
      answer:
        answer === null ? null : { ...answer, body: withTokensOf(mode.sessionTokenLength, answer.body) },
      cut: fault.kind === "drop",
      delayMs: mode.delayMs,
    };
  };
  const { fault: _, delayMs: __, sessionTokenLength: ___, ...rest } = options.mode ?? {};
  const sts = await startStsStandIn({ ...options, mode: rest }, intercept);
  return {
    ...sts,
    set({
      fault = mode.fault,
      delayMs = mode.delayMs,
      sessionTokenLength = mode.sessionTokenLength,
      ...others
    }) {
      mode = { ...mode, fault, delayMs, sessionTokenLength };
      sts.set(others);
    },
  };
}

function withTokensOf(length: number | null, body: string): string {
  if (length === null) return body;
  return body.replace(/(?<=<SessionToken>)[^<]*/, (token) => token.padEnd(length, "x"));
}

/** Null: no answer at all. */
function answerOf(fault: StsFault, serve: () => StsAnswer): StsAnswer | null {
  switch (fault.kind) {
    case "none":
      return serve();
    case "hang":
    case "drop":
      return null;
    case "error": {
      const error = errorAnswer(
        fault.status,
        fault.code,
        fault.message ?? `${fault.code}, as the test wishes`,
      );
      if (fault.retryAfterSeconds === undefined) return error;
      return { ...error, headers: { "Retry-After": String(fault.retryAfterSeconds) } };
    }
    case "body":
      return { status: fault.status, body: fault.body, headers: fault.headers ?? {}, code: null };
  }
}
