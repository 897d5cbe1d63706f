import { networkInterfaces } from "node:os";
import type { Platform } from "../config/platforms.ts";
import type { Config } from "../config/schema.ts";
import { ImdsProxyError } from "../errors.ts";
import { addressText, parseAddress } from "../identity/address.ts";
import { allocatorHere, canBeAllocated } from "../identity/allocated-uids.ts";
import type { Endpoint } from "../identity/endpoint.ts";
import { endpointText } from "../identity/endpoint.ts";
import { parseSubordinateRanges } from "../identity/shares.ts";
import { type Accounts, systemAccounts } from "./accounts.ts";
import { HYPERPOD_AGENT, METADATA, sameEndpoint } from "./addresses.ts";
import { type DetectedUpstream, detectUpstream } from "./detect.ts";
import { limitsSpec, subordinateShares } from "./limits/figures.ts";
import { type SharedTables, sharedTables } from "./limits/node.ts";
import {
  exemptOf,
  type PlatformFacts,
  platformFacts,
  type StandingAccount,
  standingAccounts,
} from "./platform-accounts.ts";
import { agentEndpoints } from "./rules.ts";
import { personWhoCanTake } from "./taken-uids.ts";
import { FAMILIES, type FirewallSpec } from "./types.ts";

/**
 * The account of the service: its requests for the instance role must reach the upstream. It is exempt only with the uid that
 * /etc/passwd gives it, where setup made it, because a person in a directory may have this name.
 */
const SERVICE_ACCOUNT = "imdsproxy";

/** The keys of the configuration that the firewall depends on. */
export type FirewallConfig = Pick<Config, "listen" | "upstream" | "exempt" | "containers"> &
  Partial<Pick<Config, "limits" | "platform">>;

/** The configuration as it applies to this node. */
export interface ResolvedFirewall {
  readonly spec: FirewallSpec;
  /** How the upstream was found. */
  readonly upstream: DetectedUpstream;
  /**
   * An error that names the exempt users who are unknown; null where all are known. The spec leaves them out, so that the rules
   * can be applied before a directory service answers at boot. Until then these users are redirected like any other.
   */
  readonly unknownExempt: ImdsProxyError | null;
  /** The accounts that the platform expects, and which of them are exempt. */
  readonly platformAccounts: readonly StandingAccount[];
}

/** Facts about the node; by default, this machine. */
export interface Node {
  readonly accounts: Accounts;
  detectUpstream(): Promise<DetectedUpstream>;
  /** Addresses of the node, of both families; default none. */
  addresses?(): readonly string[];
  /** The facts about its platform's accounts; default none. */
  platformFacts?(): PlatformFacts;
}

const thisNode: Node = {
  accounts: systemAccounts,
  detectUpstream: () => detectUpstream(),
  addresses: localAddresses,
  platformFacts,
};

/** The addresses of this node, of both families. */
export function localAddresses(): readonly string[] {
  return Object.values(networkInterfaces()).flatMap((list) => (list ?? []).map(({ address }) => address));
}

/** 4294967295 is (uid_t)-1, which is no uid. */
const MAX_UID = 4_294_967_294;

/**
 * Resolves the configuration to what the rules depend on.
 *
 * @throws ImdsProxyError `config` where the addresses cannot be those of a proxy and its upstream.
 */
export async function buildFirewallSpec(
  config: FirewallConfig,
  node: Node = thisNode,
  tables: SharedTables = sharedTables,
): Promise<ResolvedFirewall> {
  const upstream =
    config.upstream === "auto"
      ? await node.detectUpstream()
      : { upstream: config.upstream, reason: "the configuration names it", certain: true };
  const platformAccounts = accountsOf(config.platform ?? "none", node);
  const { uids: named, unknown } = await exemptUids(config.exempt, node.accounts, tables.subordinateUids);
  const uids = [...new Set([...named, ...exemptOf(platformAccounts)])].sort((a, b) => a - b);
  const base: FirewallSpec = {
    upstream: canonicalEndpoint(upstream.upstream),
    listen: canonicalEndpoint(config.listen),
    exemptUids: uids,
    containers: config.containers,
    ...(config.limits === undefined
      ? {}
      : {
          limits: limitsSpec(config.limits, {
            exemptUids: uids,
            conntrackMax: tables.conntrackMax(),
            subordinates: subordinateShares(parseSubordinateRanges(tables.subordinateUids())),
            plainKeys: tables.nftNeedsPlainKeys?.() ?? false,
            agents: FAMILIES.flatMap((family) =>
              agentEndpoints({ upstream: canonicalEndpoint(upstream.upstream) }, family),
            ),
          }),
        }),
  };
  const localPorts = portsOfThisNode(base, node.addresses?.() ?? []);
  const spec = localPorts.length === 0 ? base : { ...base, localPorts };
  checkEndpoints(spec);
  return { spec, upstream, unknownExempt: unknown, platformAccounts };
}

/** The files of the node are read only where a platform is configured. */
const accountsOf = (platform: Platform, node: Node): readonly StandingAccount[] =>
  platform === "none" || node.platformFacts === undefined
    ? []
    : standingAccounts(platform, node.platformFacts());

/**
 * Ports where something on this node may answer with the instance role. The HyperPod agent's counts also while nothing shows
 * that its address is this node's: the rules come before the agent does.
 */
function portsOfThisNode(
  { upstream, listen }: FirewallSpec,
  addresses: readonly string[],
): readonly number[] {
  const isHere = ({ address }: Endpoint) =>
    address.startsWith("127.") || address === "::1" || addresses.includes(address);
  const ports = [upstream, HYPERPOD_AGENT]
    .filter((endpoint) => isHere(endpoint) || sameEndpoint(upstream, HYPERPOD_AGENT))
    .map(({ port }) => port);
  return [...new Set(ports)].filter((port) => port !== listen.port);
}

/**
 * Uids of the exempt users, root's first; with an error for those who are unknown, or whose uid somebody else can take. A name in
 * /etc/passwd means that account, even where nsswitch.conf names a directory first. Only other names are looked up in a
 * directory.
 *
 * @param subordinateUids the text of subuid(5).
 * @param isAllocator whether every user can take a uid for a user namespace; default: as it is on this node.
 */
export async function exemptUids(
  names: readonly string[],
  accounts: Accounts = systemAccounts,
  subordinateUids: () => string = sharedTables.subordinateUids,
  isAllocator: () => boolean = allocatorHere,
): Promise<{ uids: readonly number[]; unknown: ImdsProxyError | null }> {
  const uids = new Set([0]);
  const problems: string[] = [];
  const ranges = subordinateUids();
  const add = (uid: number, name: string): void => {
    const person = personWhoCanTake(uid, ranges, (owner) => accounts.localUidOf(owner));
    const whose = name === String(uid) ? `uid ${uid}` : `${name} (uid ${uid})`;
    if (canBeAllocated(uid) && isAllocator())
      problems.push(
        `${whose} is one of the uids that systemd-nsresourced gives to every user who asks, who would have the instance role; ` +
          "exempt an account below uid 61184, or mask it: systemctl mask --now systemd-nsresourced.socket systemd-nsresourced.service",
      );
    else if (person === null) uids.add(uid);
    else
      problems.push(
        `${whose} is also a subordinate uid of ${JSON.stringify(person)}, ` +
          "who would have the instance role by newuidmap; take the uid out of their range in /etc/subuid",
      );
  };
  const words = (error: unknown, name: string) =>
    error instanceof ImdsProxyError ? error.problem : `cannot look up ${JSON.stringify(name)}`;
  try {
    const service = accounts.localUidOf(SERVICE_ACCOUNT);
    if (service !== null) add(service, SERVICE_ACCOUNT);
  } catch (error) {
    problems.push(words(error, SERVICE_ACCOUNT));
  }
  for (const name of names) {
    const number = /^\d+$/.test(name) ? Number(name) : null;
    if (number !== null) {
      if (number > MAX_UID) {
        problems.push(`${name} is no uid: the highest is ${MAX_UID}`);
        continue;
      }
      // Ambiguous where an account with another uid has these digits as its name: neither is exempt. Where the directory is
      // unavailable, the digits are taken for a uid.
      const named = await accounts.uidOf(name).catch(() => null);
      if (named === null || named === number) add(number, name);
      else
        problems.push(
          `${name} is ambiguous: it is uid ${number}, and the name of an account whose uid is ${named}; ` +
            `rename that account, or name the account that has uid ${number}`,
        );
      continue;
    }
    // Root is uid 0, which is in the set already, whatever account has this name.
    if (name === "root") continue;
    try {
      const uid = accounts.localUidOf(name) ?? (await accounts.uidOf(name));
      if (uid === null) problems.push(`there is no account ${JSON.stringify(name)}`);
      else add(uid, name);
    } catch (error) {
      problems.push(words(error, name));
    }
  }
  const unknown =
    problems.length === 0
      ? null
      : new ImdsProxyError(
          "config",
          `exempt: ${problems.join("; ")}`,
          "name accounts that getent passwd knows on this node, or uids, which no range of /etc/subuid has",
        );
  return { uids: [...uids].sort((a, b) => a - b), unknown };
}

/** Addresses as iptables-save spells them, so that they can be compared. */
function canonicalEndpoint({ address, port }: Endpoint): Endpoint {
  const bytes = parseAddress(address);
  if (bytes === null)
    throw new ImdsProxyError(
      "config",
      `${JSON.stringify(address)} is no IP address`,
      "such as 127.0.0.1 or ::1",
    );
  const text = addressText(bytes);
  return { address: bytes.length === 4 ? text : new URL(`http://[${text}]`).hostname.slice(1, -1), port };
}

function checkEndpoints({ upstream, listen }: FirewallSpec): void {
  if (sameEndpoint(upstream, listen)) {
    throw new ImdsProxyError(
      "config",
      `listen and upstream are both ${endpointText(listen)}: the proxy would ask itself`,
      "upstream is where the node's own metadata service answers: auto finds it",
    );
  }
  for (const { address } of [...Object.values(METADATA), HYPERPOD_AGENT]) {
    if (listen.address !== address) continue;
    throw new ImdsProxyError(
      "config",
      `listen is ${endpointText(listen)}, an address of the metadata service itself`,
      "listen on a local address, such as 127.0.0.1:254; the firewall redirects the metadata address to it",
    );
  }
  if (upstream.address === "0.0.0.0" || upstream.address === "::") {
    throw new ImdsProxyError(
      "config",
      `upstream is ${endpointText(upstream)}, which is no destination`,
      "such as http://169.254.169.254 or http://169.254.0.2:9081",
    );
  }
}
