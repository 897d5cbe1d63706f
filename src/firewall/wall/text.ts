import type { Route, RoutingRule } from "./types.ts";

/** Formats rules and routes as ip(8) shows them. Pure. */

/** Whether a rule applies to TCP alone. */
export const isTcp = ({ tcp, tcpPort, tcpSourcePort }: RoutingRule): boolean =>
  tcp === true || tcpPort !== undefined || tcpSourcePort !== undefined;

/** Such as `pref 0 to 169.254.169.254 ipproto tcp dport 80 uidrange 1-999 prohibit protocol kernel`. */
export function ruleText(rule: RoutingRule): string {
  const { action, uids } = rule;
  const whole = (address: string) =>
    address.includes("/") ? address : `${address}/${address.includes(":") ? 128 : 32}`;
  return [
    `pref ${rule.preference}`,
    ...(rule.from === undefined ? [] : [`from ${whole(rule.from)}`]),
    ...(rule.to === undefined ? [] : [`to ${whole(rule.to)}`]),
    ...(rule.iif === undefined ? [] : [`iif ${rule.iif}`]),
    ...(rule.oif === undefined ? [] : [`oif ${rule.oif}`]),
    ...(isTcp(rule) ? ["ipproto tcp"] : []),
    ...(rule.tcpSourcePort === undefined ? [] : [`sport ${rule.tcpSourcePort}`]),
    ...(rule.tcpPort === undefined ? [] : [`dport ${rule.tcpPort}`]),
    ...(uids === undefined ? [] : [`uidrange ${uids[0]}-${uids[1]}`]),
    action.kind === "lookup"
      ? `lookup ${action.table === 255 ? "local" : action.table}`
      : action.kind === "goto"
        ? `goto ${action.preference}`
        : action.kind,
    `protocol ${rule.protocol === 2 ? "kernel" : rule.protocol}`,
    ...(rule.foreign === true ? ["…"] : []),
  ].join(" ");
}

/** Such as `route multicast default dev 2 table 1692543 metric 2`; interfaces by their index, which is never reused. */
export function routeText(route: Route): string {
  return [
    `${route.family === "ipv6" ? "-6 " : ""}route ${route.kind} ${route.to}`,
    // For a route without an interface, IPv6 reports lo.
    ...(route.kind === "prohibit" ? [] : [`dev ${route.interface === 1 ? "lo" : `if${route.interface}`}`]),
    `table ${route.table} metric ${route.metric}`,
    ...(route.source === undefined ? [] : [`src ${route.source}`]),
  ].join(" ");
}
