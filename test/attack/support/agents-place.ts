import { ADDRESSES } from "../../../src/demo/network.ts";
import { mustExec } from "../../support/node.ts";
import type { SimulatedNode } from "../../support/simulated-node.ts";

const ROOT = { user: "root" };
/** Takes away the routing rules by which somebody sends nothing from a place, as ip-rule(8) takes them, until `apply` puts them back. */
export async function endSendingRules(node: SimulatedNode, selector: string): Promise<void> {
  // One by a look-up and one that prohibits.
  for (let i = 0; i < 2; i++)
    await mustExec(node, ROOT, ["ip", "rule", "del", "pref", "0", ...selector.split(" ")]);
}

/** The rule by which people answer nobody from the agent's place, as iptables-save shows it. */
const SILENCE = `-s ${ADDRESSES.agent}/32 -p tcp -m owner --uid-owner 1000-4294967294 -m tcp --sport ${ADDRESSES.agentPort} -j DROP`;
/** The routing rules by which they send nothing from there, as ip-rule(8) takes them. */
const SELECTOR = `from ${ADDRESSES.agent} ipproto tcp sport ${ADDRESSES.agentPort} uidrange 1000-4294967294`;

/**
 * Takes away what keeps people from sending from the agent's place, until `apply` puts it back: both walls' rules, or the second
 * wall's alone. Then the proxy has to tell them from the agent by itself.
 */
export async function letPeopleAnswer(node: SimulatedNode, which: "both" | "wall" = "both"): Promise<void> {
  if (which === "both") await mustExec(node, ROOT, ["iptables", "-D", "IMDSPROXY", ...SILENCE.split(" ")]);
  await endSendingRules(node, SELECTOR);
}
