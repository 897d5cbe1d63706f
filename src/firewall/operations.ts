import { ImdsProxyError } from "../errors.ts";
import { removeOriginal, restoreOriginal } from "./original.ts";
import { planTable } from "./plan.ts";
import { emptyTable, OWN_CHAINS, wantedTable } from "./rules.ts";
import { FAMILIES, type Family, type FirewallSpec, type RuleSet, type TableName } from "./types.ts";

/** One run of iptables-restore --noflush: the whole change of a family. */
export interface Restore {
  readonly family: Family;
  readonly text: string;
}

/** Whether the rules of a family can be read and written here. */
export interface FamilyAccess {
  readonly family: Family;
  /** What iptables says of itself, such as `v1.8.9 (nf_tables)`; null where the family is not available. */
  readonly version: string | null;
  /** Why it is not available, in words; null where it is. */
  readonly problem: string | null;
}

/** A run of iptables-restore that failed, whatever it changed before. */
export interface WriteFailure {
  readonly family: Family;
  readonly error: ImdsProxyError;
}

/** iptables as the operations need it; `iptables.ts` has the real one. */
export interface Iptables {
  /** @throws ImdsProxyError `missing` where IPv4 cannot be worked on; IPv6 may be absent. */
  access(): Promise<readonly FamilyAccess[]>;
  /** All tables of a family. @throws ImdsProxyError `permission`, `command-failed`. */
  read(family: Family): Promise<RuleSet>;
  /** IPv4 rules in the backend (nft or legacy) that `read` does not show; null where there is none, or it cannot be read. */
  readOtherBackend(): Promise<RuleSet | null>;
  /** The restores in their order, up to the first that fails; not to be broken off by the end of this process. */
  write(restores: readonly Restore[]): Promise<WriteFailure | null>;
  /** Runs `work` while no other process of ours changes rules. */
  exclusively<T>(work: () => Promise<T>): Promise<T>;
  /** The command that would be given the text of a restore. */
  commandOf(family: Family): Promise<string>;
}

/** Something to be done to the rules of a family: the text that does it, or null where nothing is to be done. */
type Plan = (current: RuleSet, family: Family) => string | null;

/** What an operation did, or would do. */
export interface Outcome {
  /** False where everything was as it should be already. */
  readonly changed: boolean;
  /** What was written, or would be: the last attempt's where there were several. */
  readonly restores: readonly Restore[];
  /** What a person should know: a family that is not available, and why. */
  readonly notes: readonly string[];
}

/** `both`: the whole firewall. `nat`: the redirect alone. `filter`: the block alone. */
export type Part = "both" | TableName;

/** The tables of a part: the block before the redirect when it comes, after it when it goes. */
const tablesOf = (part: Part): readonly TableName[] => (part === "both" ? ["filter", "nat"] : [part]);

const join = (texts: readonly (string | null)[]): string | null => {
  const all = texts.filter((text) => text !== null).join("");
  return all === "" ? null : all;
};

const applyPlan =
  (spec: FirewallSpec, part: Part): Plan =>
  (current, family) =>
    join(tablesOf(part).map((table) => planTable(current, wantedTable(spec, family, table)).text));

const removePlan =
  (part: Part): Plan =>
  (current, family) =>
    join([...tablesOf(part)].reverse().map((table) => planTable(current, emptyTable(family, table)).text));

/** Brings the rules, or what is missing of them. Safe to repeat: what is right already is not touched. */
export async function apply(
  iptables: Iptables,
  spec: FirewallSpec,
  part: Part = "both",
  dryRun = false,
): Promise<Outcome> {
  return change(iptables, applyPlan(spec, part), dryRun, removePlan(part));
}

/** Takes away everything of ours, also what an earlier configuration made. */
export async function remove(iptables: Iptables, part: Part = "both", dryRun = false): Promise<Outcome> {
  return change(iptables, removePlan(part), dryRun);
}

/** Takes away every copy of the HyperPod agent's entry. */
export async function removeOriginalEntry(iptables: Iptables, dryRun = false): Promise<Outcome> {
  return change(
    iptables,
    (current, family) => (family === "ipv4" ? removeOriginal(current) : null),
    dryRun,
    undefined,
    ["ipv4"],
  );
}

/** Puts the HyperPod agent's entry back where it is absent. */
export async function restoreOriginalEntry(iptables: Iptables, dryRun = false): Promise<Outcome> {
  return change(
    iptables,
    (current, family) => (family === "ipv4" ? restoreOriginal(current) : null),
    dryRun,
    undefined,
    ["ipv4"],
  );
}

/** Others (the agent, Docker, an administrator) may change rules while we do; after so many rounds something is wrong. */
const ATTEMPTS = 6;

/**
 * Reads, plans, writes, and reads again until nothing is left to do.
 *
 * @param undo how to get back to nothing, where a first installation fails in the middle.
 */
async function change(
  iptables: Iptables,
  plan: Plan,
  dryRun: boolean,
  undo?: Plan,
  families: readonly Family[] = FAMILIES,
): Promise<Outcome> {
  const access = (await iptables.access()).filter(({ family }) => families.includes(family));
  const usable = access.filter(({ problem }) => problem === null).map(({ family }) => family);
  const notes = access.map(({ problem }) => problem).filter((problem) => problem !== null);
  const planAll = async (): Promise<{ restores: Restore[]; states: readonly RuleSet[] }> => {
    const states = await Promise.all(usable.map((family) => iptables.read(family)));
    const restores = usable.flatMap((family, i) => {
      const text = plan(states[i] ?? new Map(), family);
      return text === null ? [] : [{ family, text }];
    });
    return { restores, states };
  };
  if (dryRun) {
    const { restores } = await planAll();
    return { changed: restores.length > 0, restores, notes };
  }
  return iptables.exclusively(async () => {
    let written: readonly Restore[] = [];
    let failure: WriteFailure | null = null;
    let wasClean: boolean | null = null;
    for (let attempt = 0; attempt < ATTEMPTS; attempt++) {
      const { restores, states } = await planAll();
      wasClean ??= states.every((state) => !hasOurs(state));
      if (restores.length === 0) return { changed: written.length > 0, restores: written, notes };
      const sameAgain = failure !== null && textOf(restores) === textOf(written);
      if (sameAgain && attempt > 1) break;
      written = restores;
      failure = await iptables.write(restores);
    }
    const problem =
      failure?.error ??
      new ImdsProxyError(
        "command-failed",
        `the rules were changed by somebody else in each of ${ATTEMPTS} attempts`,
        "find out what rewrites them (the HyperPod agent, Docker, firewalld, …) and try again",
      );
    throw await afterFailure(iptables, { problem, failure, wasClean: wasClean === true, undo });
  });
}

const textOf = (restores: readonly Restore[]): string => restores.map(({ text }) => text).join("\n");

const hasOurs = (state: RuleSet): boolean =>
  Object.entries(OWN_CHAINS).some(([table, names]) => names.some((name) => state.get(table)?.has(name)));

interface Failure {
  readonly problem: ImdsProxyError;
  readonly failure: WriteFailure | null;
  readonly wasClean: boolean;
  readonly undo: Plan | undefined;
}

/**
 * A first installation that failed leaves nothing: a block without its redirect would take IMDS from everyone. Where rules
 * of ours stood before, what is there now stays: to fall back could open what is closed. IPv4 stays when IPv6 alone failed.
 */
async function afterFailure(
  iptables: Iptables,
  { problem, failure, wasClean, undo }: Failure,
): Promise<ImdsProxyError> {
  if (failure === null || undo === undefined || !wasClean) return problem;
  if (failure.family === "ipv6") {
    return new ImdsProxyError(problem.code, `IPv4 is done, IPv6 is not: ${problem.problem}`, problem.remedy, {
      cause: problem,
    });
  }
  const restores: Restore[] = [];
  for (const family of FAMILIES) {
    const text = undo(await iptables.read(family).catch(() => new Map()), family);
    if (text !== null) restores.push({ family, text });
  }
  if (restores.length > 0) await iptables.write(restores);
  return problem;
}
