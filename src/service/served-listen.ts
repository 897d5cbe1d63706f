import { isServedInPlaceOf } from "../firewall/listeners.ts";
import type { FirewallSpec } from "../firewall/types.ts";
import { type Endpoint, endpointText } from "../identity/endpoint.ts";
import { asSpec } from "./kept-spec.ts";
import { KNOWN_RULES } from "./paths.ts";
import { readJson } from "./state-files.ts";

/** Another `listen` in the configuration, which the proxy has not taken up. */

/** The rules that are wanted now, and what is said of it; null where the configuration's own `listen` is. */
export interface ServedListen {
  readonly spec: FirewallSpec;
  readonly note: string | null;
}

/**
 * Where the configuration has another `listen` than before, and the proxy listens at that of before alone, users are led there until it
 * has taken the new one up.
 *
 * @param before where the rules have led until now; null where that is not known.
 */
export function servedListen(spec: FirewallSpec, before: Endpoint | null): ServedListen {
  if (before === null || isServedInPlaceOf(spec.listen, before)) return { spec, note: null };
  return {
    spec: { ...spec, listen: before },
    note: `users are led to ${endpointText(before)} until the proxy listens at ${endpointText(spec.listen)}: systemctl reload imdsproxy`,
  };
}

/** Where the rules led when the watch found them right last; null where no watch runs, and for whoever is not root. */
export function listenOfKnownRules(): Endpoint | null {
  const known = readJson(KNOWN_RULES) as { readonly spec?: unknown } | null;
  return asSpec(known?.spec)?.listen ?? null;
}
