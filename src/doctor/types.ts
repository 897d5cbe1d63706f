import type { Config } from "../config/schema.ts";
import type { CgroupHierarchy } from "../identity/cgroup-hierarchy.ts";
import type { Endpoint } from "../identity/endpoint.ts";
import type { PortFacts } from "../service/port-warnings.ts";
import type { Probe } from "../service/probe.ts";
import type { Finding as Judged } from "../service/verify.ts";
import type { Problem } from "../telemetry/health.ts";

/** What doctor looks at, what it checks, and what it reports. Types alone. */

/** Something that was looked at: its value with where it comes from, or why it is not known. */
export type Known<T> =
  | {
      readonly kind: "known";
      readonly value: T;
      /** The command or the file, for people: `getent group docker`. */
      readonly source: string;
      /** Parts that could not be looked at, each with the reason. */
      readonly gaps: readonly string[];
    }
  | { readonly kind: "unknown"; readonly why: string; readonly source: string };

export const known = <T>(value: T, source: string, gaps: readonly string[] = []): Known<T> => ({
  kind: "known",
  value,
  source,
  gaps,
});
export const unknown = (why: string, source: string): Known<never> => ({ kind: "unknown", why, source });

/** An account of /etc/passwd. */
export interface LocalAccount {
  readonly name: string;
  readonly uid: number;
  readonly gid: number;
  readonly home: string;
  readonly shell: string;
  /** Whether /etc/shadow has no usable password; null where it has no line of the account. */
  readonly locked: boolean | null;
}

/** A group that gives power over the node, with everybody who is in it. */
export interface GroupMembers {
  readonly group: string;
  readonly members: readonly string[];
}

/** What sudo(8) lets a user do as root. */
export interface SudoGrant {
  readonly user: string;
  /** Every command, or only some. */
  readonly all: boolean;
  readonly passwordless: boolean;
}

/** A file that the user of the check may use although it is somebody else's. */
export interface UsableFile {
  readonly path: string;
  /** Whose home it is in; null for a file of the system. */
  readonly of: string | null;
  readonly use: "read" | "write";
  /** What it holds, or what it gives. */
  readonly what: string;
}

/** What is notable of one process. */
export interface ProcessFacts {
  readonly pid: number;
  readonly uid: number;
  /** The name as the process has it: text that its user chose. */
  readonly name: string;
  /** The cgroup of version 2; empty where it is not known. */
  readonly cgroup: string;
  /** True for a process of a container that is in the network of the node. */
  readonly hostNetworkContainer: boolean;
  /** Its arguments hold an AWS secret. Every user may read arguments. */
  readonly secretInArguments: boolean;
  /** Variables of its environment that hold AWS credentials; of root's processes and those of system services. */
  readonly secretVariables: readonly string[];
  /** Files of credentials that its environment names; of root's processes alone. */
  readonly credentialFiles: readonly string[];
}

/** What is notable of one unit of the system. */
export interface UnitFacts {
  readonly name: string;
  /** The account that it runs as; empty for root. */
  readonly user: string;
  /** Names of variables in `Environment=` that hold AWS credentials. */
  readonly secretVariables: readonly string[];
  /** Whether `Environment=` sets where the metadata service is, or switches it off. */
  readonly metadataVariables: readonly string[];
  /** Files of `EnvironmentFile=`. */
  readonly environmentFiles: readonly string[];
  /** For a socket unit: the TCP ports and addresses at which root listens for it. */
  readonly streams: readonly string[];
  /** For a socket unit: the service that gets them. */
  readonly triggers: string;
}

/** What is in the firewall. */
export interface FirewallFacts {
  /** What is not as it should be, a line each. */
  readonly deviations: readonly string[];
  /** Problems of the second wall, and of the limits. */
  readonly wallProblems: readonly string[];
  readonly limitProblems: readonly string[];
  /** Why the kernel cannot have a second wall; null where it can. */
  readonly withoutWall: string | null;
  /** What of the limits the kernel cannot do. */
  readonly limitNotes: readonly string[];
  /** Families that are not guarded, with the reason. */
  readonly unguarded: readonly string[];
  /** Rules of others that lead users somewhere before ours do: `IPv4 nat OUTPUT: -d … -j …`. */
  readonly above: readonly string[];
  /** What the backend of iptables that the node does not use holds of ours, or does to the metadata address. */
  readonly otherBackend: readonly string[];
  /** What ParallelCluster's own chain does to the proxy; null where it does nothing. */
  readonly parallelCluster: string | null;
}

/** A bridge of the node. */
export interface Bridge {
  readonly name: string;
  /** How many interfaces are attached to it. */
  readonly ports: number;
}

/** What the kernel and the cgroups have. */
export interface KernelFacts {
  readonly release: string;
  /** Why the kernel cannot be asked; null where it can. */
  readonly socketLookup: string | null;
  readonly connectionTracking: string | null;
  readonly cgroups: CgroupHierarchy;
  /** What in the configuration needs cgroups; null where nothing does. */
  readonly needsCgroups: string | null;
  /** Why jobs of Slurm cannot be known; null where they can, or where nothing asks. */
  readonly slurm: string | null;
}

/** An answer of IAM's simulation for one role. */
export interface Simulation {
  readonly roleArn: string;
  /** Actions that it may do, of those that were asked for. */
  readonly allowed: readonly string[];
}

/** What the user and root got of the metadata address. */
export interface Reach {
  readonly user: Probe;
  readonly root: Probe;
  /** The same, judged as `setup` does. */
  readonly judged: readonly Judged[];
}

/** Everything that was looked at. */
export interface DoctorInputs {
  /** The ordinary user as whom it was tried. */
  readonly as: { readonly name: string; readonly uid: number };
  /** Users who may become root, as `--admin` says. */
  readonly admins: readonly string[];
  /** Uids that the firewall lets through. */
  readonly exempt: Known<readonly number[]>;
  readonly config: Known<Config>;
  readonly reach: Known<Reach>;
  readonly health: Known<readonly Problem[]>;
  readonly firewall: Known<FirewallFacts>;
  readonly port: Known<{ readonly listen: Endpoint; readonly facts: PortFacts }>;
  readonly bridges: Known<readonly Bridge[]>;
  /** Users whom lxc-user-nic(1) lets attach interfaces to bridges. */
  readonly bridgeUsers: Known<readonly string[]>;
  /** How many hops the metadata service's answer with a token may travel: 1, or 2 for that many and more. */
  readonly hopLimit: Known<number>;
  readonly kernel: Known<KernelFacts>;
  readonly accounts: Known<readonly LocalAccount[]>;
  readonly groups: Known<readonly GroupMembers[]>;
  readonly sudo: Known<readonly SudoGrant[]>;
  /** Of the homes of accounts. */
  readonly homeFiles: Known<readonly UsableFile[]>;
  /** Of the system: agents, sockets, keys, and what processes and units name. */
  readonly systemFiles: Known<readonly UsableFile[]>;
  readonly processes: Known<readonly ProcessFacts[]>;
  readonly units: Known<readonly UnitFacts[]>;
  /** Files of imdsproxy's own that others may change, with the reason. */
  readonly ownFiles: Known<readonly string[]>;
  /** Programs that connect for users as root: sentences. */
  readonly loginPrograms: Known<readonly string[]>;
  /** Programs with capabilities by which the user may capture packets. */
  readonly captures: Known<readonly string[]>;
  /** Traces of systemd-imdsd. */
  readonly imdsd: Known<readonly string[]>;
  /** Endpoints of ECS and EKS that take the user's connection, as `ADDRESS:PORT`. */
  readonly containerEndpoints: Known<readonly string[]>;
  /** How far the node's clock is ahead of STS's, in milliseconds. */
  readonly clock: Known<number>;
  readonly simulations: Known<readonly Simulation[]>;
}

/** `open`: by this an ordinary user gets the instance role, becomes root or gets another's credentials. `warning`: not by this alone. */
export type Level = "open" | "warning";

/** One thing that a check found. */
export interface Found {
  /** What was found, with its place. Text that users chose may be in it: render.ts makes it harmless. */
  readonly what: string;
  /** Default: the check's. */
  readonly level?: Level;
  /** Default: the check's. */
  readonly command?: string;
  /** Default: the check's. */
  readonly remedy?: string;
}

/** One result of a check: something found, or something that it could not look at. */
export type Outcome = (Found & { readonly source: string }) | { readonly unchecked: string };

/** One check. */
export interface Check {
  /** Stable, for scripts. */
  readonly id: string;
  /** What it looks for, in a line. */
  readonly title: string;
  readonly level: Level;
  /** Why a finding matters. */
  readonly why: string;
  /** How to mend it. */
  readonly remedy: string;
  /** A command that mends it, or shows more. */
  readonly command: string;
  /** What is looked at and how, what is left out, for `doctor explain`. Paragraphs. */
  readonly explain: readonly string[];
  run(inputs: DoctorInputs): readonly Outcome[];
}

/** The outcomes of a check of one input. Pure. */
export function look<T>(input: Known<T>, judge: (value: T) => readonly Found[]): readonly Outcome[] {
  if (input.kind === "unknown") return [{ unchecked: `${input.source}: ${input.why}` }];
  return [
    ...judge(input.value).map((found) => ({ ...found, source: input.source })),
    ...input.gaps.map((unchecked) => ({ unchecked })),
  ];
}

/** A finding of the report. */
export interface Finding {
  readonly id: string;
  readonly level: Level;
  readonly what: string;
  readonly why: string;
  readonly remedy: string;
  readonly command: string;
  readonly source: string;
}

/** Everything that doctor says. */
export interface Report {
  readonly as: { readonly name: string; readonly uid: number };
  /** True where something lets a user through. */
  readonly open: boolean;
  readonly findings: readonly Finding[];
  /** What could not be looked at. */
  readonly unchecked: readonly { readonly id: string; readonly why: string }[];
  /** The ids of all checks, in the order in which they ran. */
  readonly checks: readonly string[];
}
