import type { Caller, Subject } from "../identity/caller.ts";
import type { Decided } from "./decisions.ts";
import type { RefusalKind } from "./refusal.ts";
import type { Route } from "./routes.ts";

/** What the audit, the log and the metrics get to know of a request. Holds no secret. */
export type RequestEvent = {
  /** A uid, a container's address, or null where neither is known. */
  readonly subject: Subject | null;
  readonly caller: Caller;
  readonly method: string;
  /** 2 where the request had a token or asked for one. */
  readonly imdsVersion: 1 | 2;
  /** Milliseconds from the request's turn to its answer. */
  readonly tookMs: number;
  /** Who the caller is and what the rules say for them; null where the answer did not depend on it. */
  readonly decided: Decided | null;
  /** Names the session whose credentials the answer has; null where it has none. Not a secret. */
  readonly accessKeyId: string | null;
  /** Why STS gave no session for the caller's role, in words that the caller may read; null where it did, or was not asked. */
  readonly failure: { readonly kind: "denied" | "unavailable"; readonly message: string } | null;
  readonly route: Route["kind"] | "none";
  readonly status: number;
  /** The reason of a refusal. */
  readonly why?: string | undefined;
  /** The kind of the refusal, for a metric's label; null where the request was not refused. */
  readonly refusal: RefusalKind | null;
};
