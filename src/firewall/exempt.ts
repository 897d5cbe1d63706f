import type { Config } from "../config/schema.ts";
import { accountsHere, exemptOf } from "./platform-accounts.ts";
import { exemptUids } from "./spec.ts";

/**
 * Who keeps the instance role: uids, each with why. By uid, as the firewall's rules are: an account of a directory may bear the name
 * of one that is exempt.
 */
export type Exemptions = ReadonlyMap<number, string>;

/** The exemptions of a configuration on this node. */
export async function exemptionsHere(config: Pick<Config, "exempt" | "platform">): Promise<Exemptions> {
  const found = new Map<number, string>();
  for (const uid of exemptOf(accountsHere(config.platform)))
    found.set(uid, `an account of platform ${config.platform}`);
  for (const uid of (await exemptUids(config.exempt)).uids)
    found.set(uid, uid === 0 ? "root" : "exempt in the configuration, or the proxy's own account");
  return found;
}
