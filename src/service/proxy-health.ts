import { askMetadata } from "../client/metadata-address.ts";
import type { Config } from "../config/schema.ts";
import { ImdsProxyError } from "../errors.ts";
import { familyOf, redirectTarget } from "../firewall/addresses.ts";
import { endpointText } from "../identity/endpoint.ts";
import type { Problem } from "../telemetry/health.ts";

/** Asks the running proxy for its own health. Active units alone do not mean that callers get credentials. */

/** The answer, or why there is none. */
export type ProxyHealth =
  | { readonly kind: "answered"; readonly problems: readonly Problem[] }
  /** Nothing answers, or something that is not the proxy. */
  | { readonly kind: "silent"; readonly what: string; readonly remedy: string | null }
  /** The proxy answers only root. */
  | { readonly kind: "not-root" };

/** Asks the proxy at its own address, where root is not redirected. */
export async function proxyHealth({ listen }: Pick<Config, "listen">): Promise<ProxyHealth> {
  if (process.geteuid?.() !== 0) return { kind: "not-root" };
  const at = redirectTarget(listen, familyOf(listen));
  try {
    const { status, body } = await askMetadata("/imdsproxy/health", { at });
    const problems = status === 200 ? problemsOf(body) : null;
    if (problems !== null) return { kind: "answered", problems };
    return {
      kind: "silent",
      what: `what answers at ${endpointText(at)} is not this version of the proxy (status ${status})`,
      remedy: `see who listens there: ss -ltnp 'sport = ${at.port}'`,
    };
  } catch (error) {
    if (!(error instanceof ImdsProxyError)) throw error;
    return { kind: "silent", what: error.problem, remedy: error.remedy };
  }
}

function problemsOf(body: string): readonly Problem[] | null {
  try {
    const { problems } = JSON.parse(body) as { problems?: unknown };
    return Array.isArray(problems) ? (problems as Problem[]) : null;
  } catch {
    return null;
  }
}
