import {
  type ImdsIntercept,
  type ImdsOptions,
  type ImdsStandIn,
  startImds,
} from "../../../src/demo/imds/server.ts";
import { errorPage, type ImdsMode, text } from "../../../src/demo/imds/service.ts";
import { DEFAULT_FACTS, lookup, type MetadataDirectory, metadataTree } from "../../../src/demo/imds/tree.ts";
import { header, type WireRequest, type WireResponse } from "../../../src/demo/imds/wire.ts";
import { readings, sensitiveReading } from "./liberal.ts";

/** How the stand-in behaves for now. */
export interface FaultyImdsMode extends ImdsMode {
  /** Serves the secrets on any reading of a request; see liberal.ts. */
  readonly liberal: boolean;
  /** `refuse`: nobody listens; `hang`: no answer; `drop`: the connection is cut; `error`: 503 to everything. */
  readonly fault: "none" | "refuse" | "hang" | "drop" | "error";
  /** Milliseconds before each answer. */
  readonly delayMs: number;
}

export type FaultyImdsOptions = Omit<ImdsOptions, "mode"> & { readonly mode?: Partial<FaultyImdsMode> };
export type FaultyImds = Omit<ImdsStandIn, "set"> & { set(mode: Partial<FaultyImdsMode>): void };

/** The demo's stand-in for the metadata service, which fails, is late or gives its secrets away as a test orders. */
export function startFaultyImds(options: FaultyImdsOptions): FaultyImds {
  const facts = options.facts ?? DEFAULT_FACTS;
  const tree = metadataTree(facts, options.secrets, Date.now());
  let mode: Omit<FaultyImdsMode, "tokens"> = { liberal: false, fault: "none", delayMs: 0, ...options.mode };
  const intercept: ImdsIntercept = async (request) => {
    const { fault, liberal, delayMs } = mode;
    if (delayMs > 0) await Bun.sleep(delayMs);
    if (fault === "hang") return "silence";
    if (fault === "drop") return "cut";
    if (fault === "error") return errorPage(503);
    return (liberal ? liberalAnswer(tree, facts.roleName, request) : null) ?? "serve";
  };
  const imds = startImds({ ...options, mode: tokensOf(options.mode ?? {}) }, intercept);
  if (mode.fault === "refuse") imds.stop();
  return {
    ...imds,
    set(change) {
      const refused = mode.fault === "refuse";
      mode = { ...mode, ...change };
      imds.set(tokensOf(change));
      if (mode.fault === "refuse") imds.stop();
      else if (refused) imds.listen();
    },
  };
}

const tokensOf = ({ tokens }: Partial<FaultyImdsMode>): Partial<ImdsMode> =>
  tokens === undefined ? {} : { tokens };

/** A secret where any reading of the request means one, with no regard to method or token; else null. */
function liberalAnswer(tree: MetadataDirectory, roleName: string, request: WireRequest): WireResponse | null {
  const host = header(request, "host") ?? "";
  const elsewhere = ["x-original-url", "x-rewrite-url", "referer", "forwarded", "x-forwarded-uri"];
  const texts = [request.target, host, request.body, ...elsewhere.map((name) => header(request, name) ?? "")];
  for (const reading of readings(texts.filter((candidate) => candidate !== ""))) {
    // The honest list of role names is what it is everywhere; all else that means a secret gets the secret.
    if (/^\/latest\/meta-data\/iam\/security-credentials\/?$/.test(reading)) {
      if (reading === request.target) return text(roleName, []);
    }
    const path = sensitiveReading(reading, roleName);
    const body = path === null ? null : lookup(tree, path);
    if (body !== null) return text(body, []);
  }
  return null;
}
