import { parseRule } from "../firewall/rule-text.ts";
import type { RunCommand } from "./command.ts";
import { ACCOUNT } from "./paths.ts";

/**
 * ParallelCluster's own firewall of a head or login node (`Imds/Secured`, on by default): a chain called from filter's OUTPUT
 * that lets the users of a list reach the metadata service and refuses everybody else. aws-parallelcluster-cookbook, imds-access.sh.
 */
const CHAIN = "PARALLELCLUSTER_IMDS";
const ALLOW = `sudo bash /opt/parallelcluster/scripts/imds/imds-access.sh --allow ${ACCOUNT}`;

/**
 * Whether that chain keeps the proxy itself from the metadata service: a sentence with the remedy, or null. It does not concern
 * users' requests, because nat redirects them to the proxy before they reach this chain.
 *
 * @param uid the service's account; null where the node has none yet.
 */
export async function imdsChainWarning(run: RunCommand, uid: number | null): Promise<string | null> {
  const { exitCode, stdout } = await run(["iptables", "-w", "5", "-S", CHAIN]);
  if (exitCode !== 0 || !refuses(stdout, uid)) return null;
  return (
    `ParallelCluster's firewall (the chain ${CHAIN}) refuses the metadata service to the account ${ACCOUNT}, so that the proxy gets ` +
    `no instance role and users no credentials: ${ALLOW}`
  );
}

/** Whether, of the rules of `iptables -S CHAIN` that match a uid's packets, the first with a terminating target refuses them. */
function refuses(listing: string, uid: number | null): boolean {
  for (const line of listing.split("\n")) {
    const rule = /^-A \S+ (.*)$/.exec(line)?.[1];
    if (rule === undefined) continue;
    const { matches, target } = parseRule(rule);
    const isOf = matches.every(
      ({ name, options }) => name !== "owner" || options.every((o) => holds(o, uid)),
    );
    if (!isOf) continue;
    if (target === "ACCEPT" || target === "RETURN") return false;
    if (target === "REJECT" || target === "DROP") return true;
  }
  return false;
}

function holds(option: string, uid: number | null): boolean {
  const [, not, number] = /^(! )?--uid-owner (\d+)$/.exec(option) ?? [];
  return number !== undefined && (Number(number) === uid) === (not === undefined);
}
