import { loadConfig } from "../../config/load.ts";
import { systemIptables } from "../../firewall/iptables.ts";
import type { Outcome } from "../../firewall/operations.ts";
import { buildFirewallSpec, type ResolvedFirewall } from "../../firewall/spec.ts";
import type { WallsOutcome } from "../../firewall/walls.ts";
import { endpointText } from "../../identity/endpoint.ts";
import { configArg, overrideArgs } from "../common.ts";
import { say, sayBeside } from "../say.ts";

/** Flags of the commands that need to know where the proxy and the upstream are. */
export const specArgs = {
  config: configArg,
  listen: overrideArgs.listen,
  upstream: overrideArgs.upstream,
} as const;

/** The rules' inputs, from the configuration and the flags over it. */
export async function resolveSpec(args: {
  readonly config?: string | undefined;
  readonly listen?: string | undefined;
  readonly upstream?: string | undefined;
}): Promise<ResolvedFirewall> {
  const config = loadConfig({
    path: args.config,
    overrides: { listen: args.listen, upstream: args.upstream },
  });
  return buildFirewallSpec(config);
}

/** What the rules are made for, in words. */
export function specLine({ spec, upstream }: ResolvedFirewall): string {
  const doubt = upstream.certain ? "" : ` (not certain${process.geteuid?.() === 0 ? "" : ": run as root"})`;
  return (
    `upstream ${endpointText(spec.upstream)}: ${upstream.reason}${doubt}; ` +
    `proxy ${endpointText(spec.listen)}; exempt uids ${spec.exemptUids.join(", ")}; containers: ${spec.containers}`
  );
}

/**
 * Prints what an operation did; a dry run prints exactly what would be given to iptables-restore, and the commands of
 * ip(8) that say what would be asked of the kernel's routing.
 */
export async function printOutcome(
  outcome: Outcome & Partial<Pick<WallsOutcome, "routing">>,
  dryRun: boolean,
  words: { readonly done: string; readonly already: string },
): Promise<void> {
  for (const note of outcome.notes) sayBeside(`note: ${note}`);
  if (!outcome.changed) {
    say(words.already);
    return;
  }
  if (!dryRun) {
    say(words.done);
    return;
  }
  const iptables = systemIptables();
  const other = await iptables.otherBackend();
  for (const { family, text, backend } of outcome.restores) {
    const command = await ((backend === "other" ? other : null) ?? iptables).commandOf(family);
    console.log(`# ${command}\n${text.trimEnd()}`);
  }
  for (const text of outcome.more ?? []) console.log(text.trimEnd());
  const routing = outcome.routing ?? [];
  if (routing.length > 0) console.log(`# the second wall, by netlink\n${routing.join("\n")}`);
}
