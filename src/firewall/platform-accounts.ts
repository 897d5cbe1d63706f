import { existsSync, readFileSync } from "node:fs";
import type { Platform } from "../config/platforms.ts";
import { accountLines, uidInPasswd } from "./accounts.ts";
import { sharedTables } from "./limits/node.ts";
import { personWhoCanTake } from "./taken-uids.ts";

/**
 * Accounts of the node's own daemons that need the instance role, by platform: with the lesser role of users a ParallelCluster
 * stops scaling. Each is exempt only where this node shows that it belongs to the daemon and that no person can use it: {@link
 * standingOf}.
 */

/** An account that a platform or a package makes for a daemon of its own. */
export interface PlatformAccount {
  readonly name: string;
  /** The daemon. */
  readonly of: string;
  /** Files of the package that makes the account. One of them must be there, else the account is somebody else's. */
  readonly evidence: readonly string[];
}

/** The accounts that AWS's images and packages make on every kind of node. */
const EVERYWHERE: readonly PlatformAccount[] = [
  {
    // systemd 261, NEWS: "systemd-imdsd"; its account comes from sysusers.d.
    name: "systemd-imds",
    of: "systemd-imdsd, systemd's broker of metadata",
    evidence: ["/usr/lib/systemd/systemd-imdsd", "/lib/systemd/systemd-imdsd"],
  },
  {
    // amazon-cloudwatch-agent, packaging: the account of `run_as_user` that its packages make.
    name: "cwagent",
    of: "the CloudWatch agent",
    evidence: ["/opt/aws/amazon-cloudwatch-agent/bin/amazon-cloudwatch-agent"],
  },
  {
    // aws-ec2-instance-connect-config: AuthorizedKeysCommandUser. It reads managed-ssh-keys, which users do not get.
    name: "ec2-instance-connect",
    of: "EC2 Instance Connect, which looks up a key at each login",
    evidence: [
      "/usr/share/ec2-instance-connect/eic_run_authorized_keys",
      "/opt/aws/bin/eic_run_authorized_keys",
    ],
  },
];

/**
 * aws-parallelcluster-cookbook: `head_node_imds_allowed_users` lists root, the administrator's account, the image's default user
 * and dcv. The default user is a person's (it has sudo) and is left out. `cluster_admin_user` has uid 400 and /bin/bash, the
 * DCV authenticator's account is `dcvextauth`.
 */
const PARALLELCLUSTER: readonly PlatformAccount[] = [
  {
    name: "pcluster-admin",
    of: "clustermgtd, clusterstatusmgtd, computemgtd and loginmgtd",
    evidence: ["/etc/parallelcluster", "/opt/parallelcluster"],
  },
  {
    name: "dcv",
    of: "the DCV server, which asks for its licence",
    evidence: ["/usr/bin/dcv", "/etc/dcv/dcv.conf"],
  },
  { name: "dcvextauth", of: "ParallelCluster's authenticator for DCV", evidence: ["/opt/parallelcluster"] },
];

/** Every account that a platform expects. HyperPod's and PCS's own agents run as root. */
export const PLATFORM_ACCOUNTS: Readonly<Record<Platform, readonly PlatformAccount[]>> = {
  none: [],
  ec2: EVERYWHERE,
  hyperpod: EVERYWHERE,
  pcs: EVERYWHERE,
  parallelcluster: [...EVERYWHERE, ...PARALLELCLUSTER],
};

/** Whether an account of the platform has a login shell by design, so that /etc/shadow must show that nobody can use it. */
export const needsShadow = (platform: Platform): boolean => platform === "parallelcluster";

/** The facts of this node. */
export interface PlatformFacts {
  /** The text of /etc/passwd. A directory service is never asked: whoever writes there could make an account of that name. */
  readonly passwd: string;
  /** The text of /etc/shadow; null where it cannot be read, as by others than root. */
  readonly shadow: string | null;
  /** The text of subuid(5); default empty. */
  readonly subordinateUids?: string;
  exists(path: string): boolean;
}

/** What an expected account is on this node. */
export type Standing =
  | { readonly kind: "exempt"; readonly uid: number }
  /** It is not there yet; exempt once it comes. */
  | { readonly kind: "absent" }
  | { readonly kind: "refused"; readonly uid: number | null; readonly why: string };

/** An expected account, and what it is here. */
export interface StandingAccount extends PlatformAccount {
  readonly standing: Standing;
}

/** The highest uid of a system account (login.defs(5), SYS_UID_MAX on Debian, Ubuntu and Amazon Linux). */
const LAST_SYSTEM_UID = 999;

/** The expected accounts of a platform, each with what it is on this node. Pure. */
export const standingAccounts = (platform: Platform, facts: PlatformFacts): readonly StandingAccount[] =>
  PLATFORM_ACCOUNTS[platform].map((account) => ({ ...account, standing: standingOf(account, facts) }));

/** Uids of the accounts that are exempt. */
export const exemptOf = (accounts: readonly StandingAccount[]): readonly number[] =>
  accounts.flatMap(({ standing }) => (standing.kind === "exempt" ? [standing.uid] : []));

function standingOf({ name, evidence }: PlatformAccount, facts: PlatformFacts): Standing {
  const entry = systemEntry(name, facts);
  if (entry === null) return { kind: "absent" };
  const { uid, why } = entry;
  if (uid === null || why !== null) return { kind: "refused", uid, why: why ?? "it has no uid" };
  if (!evidence.some((path) => facts.exists(path)))
    return {
      kind: "refused",
      uid,
      why: `nothing here makes such an account (${evidence.join(", ")}: not there)`,
    };
  const login = loginProblem(name, entry.shell, facts);
  return login === null ? { kind: "exempt", uid } : { kind: "refused", uid, why: login };
}

/**
 * Why an account may be a person's rather than a daemon's own: it is not local, its uid is outside of the system range or also
 * another account's, or somebody may log in as it. Null where it is a daemon's. Pure.
 */
export function daemonProblem(
  name: string,
  facts: Pick<PlatformFacts, "passwd" | "shadow" | "subordinateUids">,
): string | null {
  const entry = systemEntry(name, facts);
  if (entry === null) return "/etc/passwd does not have it";
  return entry.why ?? loginProblem(name, entry.shell, facts);
}

/** An account of /etc/passwd, and why its uid is no system account's own; null where it is not there. */
function systemEntry(
  name: string,
  facts: Pick<PlatformFacts, "passwd" | "subordinateUids">,
): { readonly uid: number | null; readonly shell: string; readonly why: string | null } | null {
  const accounts = accountLines(facts.passwd);
  const own = accounts.filter(([other]) => other === name);
  const [entry] = own;
  if (entry === undefined) return null;
  const uid = /^\d+$/.test(entry[2] ?? "") ? Number(entry[2]) : null;
  const found = (why: string | null) => ({ uid, shell: entry[6] ?? "", why });
  if (own.length > 1) return found("/etc/passwd has it more than once");
  if (uid === null || uid === 0 || uid > LAST_SYSTEM_UID)
    return found(`its uid is ${entry[2] ?? ""}, which is no system account's (1 to ${LAST_SYSTEM_UID})`);
  const twin = accounts.find(([other, , number]) => other !== name && Number(number) === uid);
  if (twin !== undefined) return found(`the account ${twin[0]} has the same uid, ${uid}`);
  const person = personWhoCanTake(uid, facts.subordinateUids ?? "", (owner) =>
    uidInPasswd(facts.passwd, owner),
  );
  return found(
    person === null ? null : `its uid, ${uid}, is also a subordinate uid of ${person} in /etc/subuid`,
  );
}

/** Why somebody may log in as the account; null where nobody can. */
function loginProblem(name: string, shell: string, { shadow }: Pick<PlatformFacts, "shadow">): string | null {
  if (/\/(?:nologin|false)$/.test(shell)) return null;
  if (shadow === null) return `its shell is ${shell}, and only root can see whether its password is locked`;
  const password = accountLines(shadow).find(([other]) => other === name)?.[1];
  // shadow(5): a field that begins with ! or * is no crypt(3) result; one that is empty lets anybody in.
  return password !== undefined && /^[!*]/.test(password)
    ? null
    : `its shell is ${shell} and its password is not locked, so that somebody may log in as it`;
}

/** Reads the facts of this node. */
export function platformFacts(): PlatformFacts {
  const read = (path: string): string | null => {
    try {
      return readFileSync(path, "utf8");
    } catch {
      return null;
    }
  };
  return {
    passwd: read("/etc/passwd") ?? "",
    shadow: read("/etc/shadow"),
    subordinateUids: sharedTables.subordinateUids(),
    exists: existsSync,
  };
}

/** The expected accounts of a platform as they are on this node. */
export const accountsHere = (platform: Platform): readonly StandingAccount[] =>
  platform === "none" ? [] : standingAccounts(platform, platformFacts());

/** The lines to print about the accounts of a platform; none where it expects no accounts. */
export function platformLines(platform: Platform, accounts: readonly StandingAccount[]): readonly string[] {
  const of = (kind: Standing["kind"]) => accounts.filter(({ standing }) => standing.kind === kind);
  const lines: string[] = [];
  for (const { name, of: daemon, standing } of of("exempt"))
    if (standing.kind === "exempt") lines.push(`exempt: ${name} (uid ${standing.uid}): ${daemon}`);
  const absent = of("absent").map(({ name }) => name);
  if (absent.length > 0)
    lines.push(`not on this node yet, exempt once their packages make them: ${absent.join(", ")}`);
  for (const { name, standing } of of("refused"))
    if (standing.kind === "refused") lines.push(`not exempt: ${name}: ${standing.why}`);
  return lines.map((line) => `platform ${platform}: ${line}`);
}
