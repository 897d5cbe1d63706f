import { FAMILIES, type FirewallSpec } from "../types.ts";
import { type RoutingKernel, Rtnetlink } from "./kernel.ts";
import { isClosedRule, isWallRule, NO_WALL, planWall, TABLES, wallIsThere, wantedWall } from "./plan.ts";
import { type Ended, endOldConnections } from "./sock-diag.ts";
import { routeText, ruleText } from "./text.ts";
import type { Change } from "./types.ts";

/** The second wall as apply, remove, status and the watch use it. Nothing here waits or starts a process. */

const TABLE_NUMBERS = Object.values(TABLES);
/** Others (a network manager) may change rules while we do; after so many rounds something is wrong. */
const ATTEMPTS = 6;

/** Ends the connections that users opened before the rules came; the tests have another. */
type EndOld = typeof endOldConnections;

export class SecondWall {
  readonly #kernel: RoutingKernel;
  readonly #endOld: EndOld | null;
  constructor(kernel: RoutingKernel, endOld: EndOld | null = null) {
    this.#kernel = kernel;
    this.#endOld = endOld;
  }

  /** Why there can be none on this kernel, in words; null where there can. */
  get unavailable(): string | null {
    return this.#kernel.problem;
  }

  get #families() {
    return FAMILIES.filter((family) => this.#kernel.families.includes(family));
  }

  #plan(spec: FirewallSpec | null) {
    const families = this.#families;
    const state = this.#kernel.read(TABLE_NUMBERS);
    const wanted = spec === null ? NO_WALL : wantedWall(spec, state, families);
    return planWall(state, wanted, families);
  }

  /** Whether anything of it is there. */
  isThere(): boolean {
    return this.unavailable === null && wallIsThere(this.#kernel.read(TABLE_NUMBERS));
  }

  /** In words, each thing that is not as it should be; none where there can be no wall. `null` for: nothing of it. */
  problems(spec: FirewallSpec | null): readonly string[] {
    return this.unavailable === null ? this.#plan(spec).problems : [];
  }

  /** The commands of ip(8) that would do what {@link bring} does. */
  describe(spec: FirewallSpec | null): readonly string[] {
    return this.unavailable === null ? this.#plan(spec).changes.map(changeText) : [];
  }

  /**
   * Puts it right, or with `null` takes it away.
   *
   * @returns what was not right, in words.
   * @throws ImdsProxyError where the kernel refuses.
   */
  bring(spec: FirewallSpec | null): readonly string[] {
    if (this.unavailable !== null) return [];
    let found: readonly string[] = [];
    for (let attempt = 0; attempt < ATTEMPTS; attempt++) {
      const { problems, changes } = this.#plan(spec);
      if (attempt === 0) found = problems;
      if (changes.length === 0) break;
      this.#kernel.write(changes);
    }
    return found;
  }

  /** Ends what users had opened to the instance role before the wall stood. */
  endOld(spec: FirewallSpec): Ended {
    if (this.unavailable !== null || this.#endOld === null) return { ended: 0, problems: [] };
    return this.#endOld(spec, this.#families, this.#kernel.read([]).addresses);
  }

  /**
   * What there is of it, as ip(8) would show it.
   *
   * @param everyRule also the routing rules of others.
   */
  list(everyRule = false): readonly string[] {
    if (this.unavailable !== null) return [];
    const state = this.#kernel.read(TABLE_NUMBERS);
    const named = (text: string) =>
      text.replace(/dev if(\d+)/, (_, index) => {
        const link = state.links.find((one) => one.index === Number(index));
        return `dev ${link?.name ?? index}`;
      });
    return [
      ...state.rules
        .filter((rule) => everyRule || isWallRule(rule) || isClosedRule(rule))
        .map((rule) => `ip ${rule.family === "ipv6" ? "-6 " : ""}rule ${ruleText(rule)}`),
      ...state.routes.map((route) => `ip ${named(routeText(route))}`),
    ];
  }
}

/** A change as a command of ip(8), to be read by people: ip itself refuses a rule that is there already. */
function changeText(change: Change): string {
  const verb = change.kind.startsWith("add") ? "add" : "del";
  if ("rule" in change) {
    return `ip ${change.rule.family === "ipv6" ? "-6 " : ""}rule ${verb} ${ruleText(change.rule)}`;
  }
  return `ip ${routeText(change.route).replace("route ", `route ${verb} `)}`;
}

/** This machine's. @throws ImdsProxyError `missing` where the process may not use AF_NETLINK. */
export const systemWall = (): SecondWall => new SecondWall(new Rtnetlink(), endOldConnections);

/** The wall as the watch has it. */
export const wallGuard = (wall: SecondWall) => ({
  problems(spec: FirewallSpec): readonly string[] {
    // It has dozens of rules and routes, and the log is read by people.
    const [first, ...more] = wall.problems(spec);
    if (first === undefined) return [];
    return [`second wall: ${first}${more.length === 0 ? "" : `, and ${more.length} more`}`];
  },
  restore(spec: FirewallSpec): void {
    // While it was not right, connections could be opened that it does not hold.
    if (wall.bring(spec).length > 0) wall.endOld(spec);
  },
});
