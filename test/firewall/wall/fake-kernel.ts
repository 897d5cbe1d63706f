import type { RoutingKernel } from "../../../src/firewall/wall/kernel.ts";
import { isTcp, routeText } from "../../../src/firewall/wall/text.ts";
import type { Change, Route, RoutingRule, RoutingState } from "../../../src/firewall/wall/types.ts";

/** The rule for a table that every kernel has; preference 0 is that of `local`. */
export const tableRule = (family: "ipv4" | "ipv6", preference: number, table: number): RoutingRule => ({
  family,
  preference,
  action: { kind: "lookup", table },
  protocol: 2,
});

/**
 * Rules and routes as the kernel keeps them (net/core/fib_rules.c): by preference, of equal ones the later added behind; a
 * deletion takes the first that has all that the request names, and passes over what it does not name.
 */
export class FakeRouting implements RoutingKernel {
  readonly families = ["ipv4", "ipv6"] as const;
  problem: string | null = null;
  rules: RoutingRule[] = (["ipv4", "ipv6"] as const).flatMap((family) => [
    tableRule(family, 0, 255),
    tableRule(family, 32766, 254),
  ]);
  routes: Route[] = [];
  links = [
    { index: 1, name: "lo" },
    { index: 2, name: "eth0" },
  ];
  addresses: RoutingState["addresses"] = [
    { family: "ipv4", address: "127.0.0.1", interface: 1 },
    { family: "ipv4", address: "169.254.0.2", interface: 1 },
    { family: "ipv4", address: "10.0.0.5", interface: 2 },
    { family: "ipv6", address: "::1", interface: 1 },
    { family: "ipv6", address: "fe80::1", interface: 2 },
  ];
  /** Called after each change. */
  after: (change: Change) => void = () => {};
  /** Everything that was written. */
  readonly written: Change[] = [];

  read(tables: readonly number[]): RoutingState {
    return {
      rules: [...this.rules],
      routes: this.routes.filter(({ table }) => tables.includes(table)),
      links: this.links,
      addresses: this.addresses,
    };
  }

  write(changes: readonly Change[]): void {
    for (const change of changes) {
      this.written.push(change);
      this.#do(change);
      this.after(change);
    }
  }

  #do(change: Change): void {
    if (change.kind === "add-route") {
      const { route } = change;
      const taken = this.routes.some(
        (one) =>
          one.family === route.family &&
          one.table === route.table &&
          one.to === route.to &&
          one.metric === route.metric,
      );
      if (taken) throw new Error(`EEXIST: ${routeText(route)}`);
      this.routes.push(route);
    } else if (change.kind === "delete-route") {
      const at = this.routes.findIndex((one) => routeText(one) === routeText(change.route));
      if (at === -1) throw new Error(`ESRCH: ${routeText(change.route)}`);
      this.routes.splice(at, 1);
    } else if (change.kind === "add-rule") {
      const { rule } = change;
      const behind = this.rules.findLastIndex(
        (one) => one.family === rule.family && one.preference <= rule.preference,
      );
      this.rules.splice(behind + 1, 0, rule);
    } else {
      const at = this.rules.findIndex((one) => matches(one, change.rule));
      if (at === -1) throw new Error("ENOENT");
      this.rules.splice(at, 1);
    }
  }
}

function matches(rule: RoutingRule, request: RoutingRule): boolean {
  const named = (["from", "to", "iif", "oif", "tcpPort", "tcpSourcePort"] as const).every(
    (part) => request[part] === undefined || request[part] === rule[part],
  );
  return (
    named &&
    rule.family === request.family &&
    rule.preference === request.preference &&
    JSON.stringify(rule.action) === JSON.stringify(request.action) &&
    (request.uids === undefined || JSON.stringify(request.uids) === JSON.stringify(rule.uids)) &&
    (!isTcp(request) || isTcp(rule)) &&
    rule.protocol === request.protocol
  );
}
