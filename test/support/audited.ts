import { type CloudTrailEvent, cloudTrailEvents } from "./cloudtrail.ts";
import { credentialsOf, eventually, type ProxiedNode, sdkArn, startProxiedNode } from "./proxied.ts";
import type { Who } from "./simulated-node.ts";

const ACCOUNT = "arn:aws:iam::842413447717:role";
const ALICE: Who = { user: "alice" };
const BOB: Who = { user: "bob" };

/** A line of the audit, as far as the tests look at it. */
export interface AuditLine {
  readonly message: string;
  readonly decision: "granted" | "refused";
  readonly user?: string;
  readonly uid?: number;
  readonly kind?: string;
  readonly rule?: string;
  readonly role?: string;
  readonly sourceIdentity?: string;
  readonly tags?: Readonly<Record<string, string>>;
  readonly imdsVersion?: number;
  readonly accessKeyId?: string;
}

/** A node on which alice and bob have called STS with what the proxy gave them, and bob asked for a role that is not his. */
export interface AuditedNode {
  readonly proxied: ProxiedNode;
  readonly lines: () => AuditLine[];
  readonly events: readonly CloudTrailEvent[];
}

/** Starts the node and has them call. */
export async function startAuditedNode(): Promise<AuditedNode> {
  const proxied = await startProxiedNode(
    {},
    {
      role: null,
      rules: [
        {
          name: "alice's own",
          match: { user: ["alice"] },
          role: `${ACCOUNT}/DataEng`,
          sessionName: "{user}",
          sourceIdentity: "{user}",
          tags: { team: "data", who: "{user}" },
        },
        {
          name: "everybody else",
          match: { uid: ["1000-9999"] },
          role: `${ACCOUNT}/ImdsProxyTestRole`,
          sessionName: "{user}",
          sourceIdentity: "{user}",
        },
      ],
    },
  );
  const { node } = proxied;
  const lines = () =>
    proxied.proxy
      .output()
      .split("\n")
      .filter((line) => line.includes('"decision":'))
      .map((line) => JSON.parse(line) as AuditLine);
  try {
    for (const who of [ALICE, BOB, ALICE]) await sdkArn(node, who);
    await credentialsOf(node, BOB);
    await eventually(
      "both have a line",
      () => lines().filter(({ message }) => message === "granted").length >= 2,
    );
    return { proxied, lines, events: cloudTrailEvents(await node.sts.log()) };
  } catch (error) {
    await node.stop();
    throw error;
  }
}
