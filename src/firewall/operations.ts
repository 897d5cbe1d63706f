import { ImdsProxyError } from "../errors.ts";
import { removeOriginal, restoreOriginal } from "./original.ts";
import { planTable } from "./plan.ts";
import { emptyTable, OWN_CHAINS, wantedTable } from "./rules.ts";
import { FAMILIES, type Family, type FirewallSpec, type RuleSet, type TableName } from "./types.ts";
import { spellUids, strangersIn } from "./uid-text.ts";

/** One run of iptables-restore --noflush: the whole change of a family. */
export interface Restore {
  readonly family: Family;
  readonly text: string;
  /** Set where it is for the backend that this node's `iptables` does not use. */
  readonly backend?: "other";
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
  /** The backend (nft or legacy) whose rules `read` does not show; null where the node has no programs for it. */
  otherBackend(): Promise<Iptables | null>;
  /** Carries out the restores in order, up to the first that fails. Completes even where this process dies. */
  write(restores: readonly Restore[]): Promise<WriteFailure | null>;
  /** Runs `work` while no other process of ours changes rules. */
  exclusively<T>(work: () => Promise<T>): Promise<T>;
  /** The command that would be given the text of a restore. */
  commandOf(family: Family): Promise<string>;
}

/** Plans a change to the rules of a family: the text for iptables-restore, or null where nothing has to change. */
type Plan = (current: RuleSet, family: Family) => string | null;

/** What an operation did, or would do. */
export interface Outcome {
  /** False where everything was as it should be already. */
  readonly changed: boolean;
  /** What was written, or would be: the last attempt's where there were several. */
  readonly restores: readonly Restore[];
  /** Notes for a person, such as why a family is not available. */
  readonly notes: readonly string[];
  /** What was written, or would be, by other means than iptables-restore: a text for each, which begins with a command. */
  readonly more?: readonly string[];
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

/** The emergency change, for rules that exempt a wrong uid after we have written them: nobody is exempt any more. */
const closePlan =
  (spec: FirewallSpec, part: Part): Plan =>
  (current, family) =>
    strangersIn(current, spec.exemptUids).length === 0
      ? null
      : applyPlan({ ...spec, exemptUids: [] }, part)(current, family);

const removePlan =
  (part: Part): Plan =>
  (current, family) =>
    join([...tablesOf(part)].reverse().map((table) => planTable(current, emptyTable(family, table)).text));

/**
 * Removes from the other backend what it must not have while our rules are in this one: our rules, and the HyperPod agent's
 * entry. The kernel asks the backend first whose nat table was registered last (nf_hook_entries_grow in net/netfilter/core.c). So
 * the entry could redirect users' connections before our redirect does, and the block would then end them.
 */
const clearOtherPlan =
  (part: Part): Plan =>
  (current, family) =>
    join([
      removePlan(part)(current, family),
      family === "ipv4" && part !== "filter" ? removeOriginal(current) : null,
    ]);

/**
 * Applies the rules. Idempotent: rules that are right are not touched. Rules of ours in the other backend, from before the
 * node's `iptables` was switched, are removed once the rules of this backend are in place.
 */
export async function apply(
  iptables: Iptables,
  spec: FirewallSpec,
  part: Part = "both",
  dryRun = false,
): Promise<Outcome> {
  const plans = { plan: applyPlan(spec, part), undo: removePlan(part), close: closePlan(spec, part) };
  const outcome = await change(iptables, plans, dryRun);
  return withOther(outcome, await changeOther(iptables, clearOtherPlan(part), dryRun));
}

/** Removes all our rules from both backends, whatever configuration made them. */
export async function remove(iptables: Iptables, part: Part = "both", dryRun = false): Promise<Outcome> {
  const outcome = await change(iptables, { plan: removePlan(part) }, dryRun);
  return withOther(outcome, await changeOther(iptables, removePlan(part), dryRun));
}

/** @returns null where the other backend cannot be read, or the node has no programs for it. */
async function changeOther(iptables: Iptables, plan: Plan, dryRun: boolean): Promise<Outcome | null> {
  const other = await iptables.otherBackend();
  if (other === null) return null;
  const families = await readable(other);
  return families.length === 0 ? null : change(other, { plan }, dryRun, families);
}

/** The families that can be read: without its kernel modules, iptables-legacy-save of an unused family may fail. */
async function readable(iptables: Iptables): Promise<Family[]> {
  const found: Family[] = [];
  for (const { family, problem } of await iptables.access()) {
    if (problem !== null) continue;
    if ((await iptables.read(family).catch(() => null)) !== null) found.push(family);
  }
  return found;
}

const withOther = (outcome: Outcome, other: Outcome | null): Outcome => ({
  changed: outcome.changed || other?.changed === true,
  restores: [
    ...outcome.restores,
    ...(other?.restores ?? []).map((restore): Restore => ({ ...restore, backend: "other" })),
  ],
  notes: outcome.notes,
});

/** Takes away every copy of the HyperPod agent's entry. */
export async function removeOriginalEntry(iptables: Iptables, dryRun = false): Promise<Outcome> {
  return change(iptables, { plan: removeOriginal }, dryRun, ["ipv4"]);
}

/** Puts the HyperPod agent's entry back where it is absent. */
export async function restoreOriginalEntry(iptables: Iptables, dryRun = false): Promise<Outcome> {
  return change(iptables, { plan: restoreOriginal }, dryRun, ["ipv4"]);
}

/** How often a change is tried again because others (the agent, Docker, an administrator) change rules at the same time. */
const ATTEMPTS = 6;

/** The plans of a change. */
interface Plans {
  readonly plan: Plan;
  /** Removes everything again, where a first installation fails half-way. */
  readonly undo?: Plan;
  /** The emergency change, where the rules that were read back exempt a wrong uid; null where they do not. */
  readonly close?: Plan;
}

/** Reconciles: reads, plans and writes until a read finds nothing left to do. */
async function change(
  iptables: Iptables,
  { plan, undo, close }: Plans,
  dryRun: boolean,
  families: readonly Family[] = FAMILIES,
): Promise<Outcome> {
  const access = (await iptables.access()).filter(({ family }) => families.includes(family));
  const usable = access.filter(({ problem }) => problem === null).map(({ family }) => family);
  const notes = access.map(({ problem }) => problem).filter((problem) => problem !== null);
  const restoresFor = (states: readonly RuleSet[], how: Plan): Restore[] =>
    usable.flatMap((family, i) => {
      const text = how(states[i] ?? new Map(), family);
      return text === null ? [] : [{ family, text: spellUids(text) }];
    });
  const planAll = async (): Promise<{ restores: Restore[]; states: readonly RuleSet[] }> => {
    const states = await Promise.all(usable.map((family) => iptables.read(family)));
    return { restores: restoresFor(states, plan), states };
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
      // Before the first write, a wrong uid may come from an earlier configuration; after it, nothing explains one.
      const closing = attempt > 0 && close !== undefined ? restoresFor(states, close) : [];
      if (closing.length > 0) throw await closed(iptables, closing);
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

/** Writes the emergency change, and says why: a wrong uid that is exempt would have the instance role. */
async function closed(iptables: Iptables, closing: readonly Restore[]): Promise<ImdsProxyError> {
  const failure = await iptables.write(closing);
  return new ImdsProxyError(
    "command-failed",
    "the rules that were read back let another uid pass than was written, so that nobody is exempt now, not even root" +
      (failure === null ? "" : `; and that could not be written: ${failure.error.problem}`),
    "see `imdsproxy iptables list`, find out who rewrites the rules, and run `imdsproxy iptables apply` again",
  );
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
 * A first installation that fails is removed: a block without its redirect would take IMDS from everyone. Where rules of ours
 * were in place before, nothing is rolled back, because that could open what is closed. IPv4 stays where only IPv6 failed.
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
    if (text !== null) restores.push({ family, text: spellUids(text) });
  }
  if (restores.length > 0) await iptables.write(restores);
  return problem;
}
