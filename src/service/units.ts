import { OBJECT_UNITS, UNITS } from "./paths.ts";
import { closed } from "./units/closed.ts";
import { iptables, repair } from "./units/firewall.ts";
import { type ObjectUnitFacts, objectService, objectTimer } from "./units/object.ts";
import { render, type UnitFacts } from "./units/parts.ts";
import { handover, proxy } from "./units/proxy.ts";

/**
 * The text of the systemd units. Pure. For the directives see systemd.unit(5), systemd.service(5), systemd.exec(5) and
 * systemd.special(7). Each unit names the hardening directives that it does not use, with the reason.
 */

/** The text of each installed unit, by name. */
export function unitTexts(facts: UnitFacts): Record<(typeof UNITS)[keyof typeof UNITS], string> {
  return {
    [UNITS.closed]: render(closed(facts), facts.systemdVersion),
    [UNITS.iptables]: render(iptables(facts), facts.systemdVersion),
    [UNITS.repair]: render(repair(facts), facts.systemdVersion),
    [UNITS.proxy]: render(proxy(facts), facts.systemdVersion),
  };
}

/** The units that poll the fleet's object, by name; only where the configuration has `config`. */
export const objectUnitTexts = (
  facts: ObjectUnitFacts,
): Record<(typeof OBJECT_UNITS)[keyof typeof OBJECT_UNITS], string> => ({
  [OBJECT_UNITS.service]: render(objectService(facts), facts.systemdVersion),
  [OBJECT_UNITS.timer]: render(objectTimer(facts), facts.systemdVersion),
});

/** The text of the unit that runs only during an upgrade. */
export function handoverUnitText(facts: UnitFacts): string {
  return render(handover(facts), facts.systemdVersion);
}
