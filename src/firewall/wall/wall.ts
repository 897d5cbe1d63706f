import { ImdsProxyError } from "../../errors.ts";
import { FAMILIES, type FirewallSpec } from "../types.ts";
import { type RoutingKernel, Rtnetlink } from "./kernel.ts";
import { isClosedRule, isWallRule, wallIsThere } from "./own-rules.ts";
import { planWall } from "./plan.ts";
import { type Ended, endOldConnections, forgetUnredirected } from "./sock-diag.ts";
import { TABLES } from "./tables.ts";
import { routeText, ruleText } from "./text.ts";
import type { Change } from "./types.ts";
import { NO_WALL, wantedWall } from "./wanted.ts";

/** The second wall, for apply, remove, status and the watch. Nothing here waits or starts a process. */

const TABLE_NUMBERS = Object.values(TABLES);
/** Attempts before giving up: another program, such as a network manager, may change rules at the same time. */
const ATTEMPTS = 6;

/** What the wall does with connections from before. Tests replace it. */
interface Connections {
  readonly endOld: typeof endOldConnections;
  readonly forgetUnredirected: typeof forgetUnredirected;
}

export class SecondWall {
  readonly #kernel: RoutingKernel;
  readonly #connections: Connections | null;
  constructor(kernel: RoutingKernel, connections: Connections | null = null) {
    this.#kernel = kernel;
    this.#connections = connections;
  }

  /** Why this kernel cannot have the wall; null where it can. */
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

  /** Whether any part of the wall is present. */
  isThere(): boolean {
    return this.unavailable === null && wallIsThere(this.#kernel.read(TABLE_NUMBERS));
  }

  /** A line for each difference from what is wanted (`null`: no wall); none where the kernel cannot have the wall. */
  problems(spec: FirewallSpec | null): readonly string[] {
    return this.unavailable === null ? this.#plan(spec).problems : [];
  }

  /** The commands of ip(8) that would do what {@link bring} does. */
  describe(spec: FirewallSpec | null): readonly string[] {
    return this.unavailable === null ? this.#plan(spec).changes.map(changeText) : [];
  }

  /**
   * Brings the wall to what is wanted; with `null`, removes it.
   *
   * @returns a line for each difference that was found.
   * @throws ImdsProxyError where the kernel refuses, or where another program changes the rules again after each attempt.
   */
  bring(spec: FirewallSpec | null): readonly string[] {
    if (this.unavailable !== null) return [];
    const first = this.#plan(spec);
    let { problems, changes } = first;
    for (let attempt = 0; changes.length > 0; attempt++) {
      if (attempt === ATTEMPTS) {
        throw new ImdsProxyError(
          "command-failed",
          `the routing rules of the second wall were changed by somebody else in each of ${ATTEMPTS} attempts (${problems[0]})`,
          "find out what changes them (ip monitor rule) and try again",
        );
      }
      this.#kernel.write(changes);
      ({ problems, changes } = this.#plan(spec));
    }
    return first.problems;
  }

  /** Ends the connections past the proxy that users opened before the wall was there. */
  endOld(spec: FirewallSpec): Ended {
    if (this.unavailable !== null || this.#connections === null) return { ended: 0, problems: [] };
    return this.#connections.endOld(spec, this.#families, this.#kernel.read([]).addresses);
  }

  /** Deletes the tracked connections that users began while the redirect was missing, and that the wall dropped. */
  forgetUnredirected(spec: FirewallSpec): void {
    if (this.unavailable === null) this.#connections?.forgetUnredirected(spec);
  }

  /**
   * The wall's present rules and routes, as ip(8) would show them.
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

/** A change as a command of ip(8), for people to read: ip(8) itself refuses to add a rule that exists. */
function changeText(change: Change): string {
  const verb = change.kind.startsWith("add") ? "add" : "del";
  if ("rule" in change) {
    return `ip ${change.rule.family === "ipv6" ? "-6 " : ""}rule ${verb} ${ruleText(change.rule)}`;
  }
  return `ip ${routeText(change.route).replace("route ", `route ${verb} `)}`;
}

/** The wall of this machine. @throws ImdsProxyError `missing` where the process may not use AF_NETLINK. */
export const systemWall = (): SecondWall =>
  new SecondWall(new Rtnetlink(), { endOld: endOldConnections, forgetUnredirected });

/** The wall for the watch. */
export const wallGuard = (wall: SecondWall) => ({
  problems(spec: FirewallSpec): readonly string[] {
    // The wall has dozens of rules and routes; a log line names only a few of them.
    const [first, ...more] = wall.problems(spec);
    if (first === undefined) return [];
    return [`second wall: ${first}${more.length === 0 ? "" : `, and ${more.length} more`}`];
  },
  restore(spec: FirewallSpec): void {
    // While the wall was incomplete, users could open connections that it does not stop.
    if (wall.bring(spec).length > 0) wall.endOld(spec);
  },
  settle: (spec: FirewallSpec): void => wall.forgetUnredirected(spec),
});
