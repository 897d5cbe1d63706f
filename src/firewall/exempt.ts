import type { Config } from "../config/schema.ts";
import { accountsHere, exemptOf } from "./platform-accounts.ts";
import { exemptUids } from "./spec.ts";

/**
 * The uids that keep the instance role, each with the reason. They are uids, like those in the firewall's rules, because an
 * account of a directory may have the name of an exempt one.
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
