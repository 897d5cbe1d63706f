import { TEST_ROLE } from "./node.ts";
import { type ProxiedNode, testConfig } from "./proxied.ts";
import type { SimulatedNode } from "./simulated-node.ts";
import type { StsFault } from "./stand-ins/sts.ts";

/** What fails around a proxy: for the tests and for the table of docs/scale.md. */
export interface Storm {
  readonly name: string;
  begin(proxied: ProxiedNode): Promise<void>;
  /** The fault is over. Nothing is done to the proxy. */
  end(proxied: ProxiedNode): Promise<void>;
}

/** The name by which {@link stormConfig} has the proxy ask for STS. */
const STS_NAME = "sts.storm.test";

/** A configuration whose STS has a name, which is in the node's /etc/hosts and in no name server. */
export function stormConfig(node: SimulatedNode): object {
  const endpoint = new URL(node.stsEndpoint);
  knows(node, endpoint.hostname);
  endpoint.hostname = STS_NAME;
  return testConfig(node, { sts: { endpoint: endpoint.origin } });
}

/** @param address of STS; null where nobody knows its name. */
function knows(node: SimulatedNode, address: string | null): void {
  node.write("/etc/resolv.conf", "nameserver 127.0.0.1\n");
  node.write("/etc/hosts", `127.0.0.1 localhost\n${address === null ? "" : `${address} ${STS_NAME}\n`}`);
}

const ofSts = (name: string, fault: StsFault): Storm => ({
  name,
  begin: ({ node }) => node.sts.set({ fault }),
  end: ({ node }) => node.sts.set({ fault: { kind: "none" } }),
});

async function startAnew(proxied: ProxiedNode): Promise<void> {
  await proxied.proxy.stop();
  await proxied.restart();
}

export const STORMS: readonly Storm[] = [
  {
    name: "STS takes 5 s",
    begin: ({ node }) => node.sts.set({ delayMs: 5_000 }),
    end: ({ node }) => node.sts.set({ delayMs: 0 }),
  },
  ofSts("STS throttles", { kind: "error", status: 400, code: "Throttling", message: "Rate exceeded" }),
  ofSts("STS refuses", {
    kind: "error",
    status: 403,
    code: "AccessDenied",
    message: `User: arn:aws:sts::842413447717:assumed-role/X/Y is not authorized to perform: sts:AssumeRole on resource: ${TEST_ROLE}`,
  }),
  ofSts("STS hangs", { kind: "hang" }),
  ofSts("STS resets", { kind: "drop" }),
  ofSts("STS answers rubbish", { kind: "body", status: 200, body: "<html>Login</html>" }),
  {
    name: "STS gives what is over",
    begin: ({ node }) => node.sts.set({ sessionSeconds: -10 }),
    end: ({ node }) => node.sts.set({ sessionSeconds: null }),
  },
  ofSts("the node's credentials are replaced", { kind: "error", status: 403, code: "ExpiredToken" }),
  {
    name: "the clock is a day behind",
    begin: ({ node }) => node.sts.set({ clockOffsetMs: 86_400_000 }),
    end: ({ node }) => node.sts.set({ clockOffsetMs: 0 }),
  },
  {
    name: "no name server knows STS",
    async begin(proxied) {
      knows(proxied.node, null);
      // The proxy of before has a connection that is open.
      await startAnew(proxied);
    },
    end: async ({ node }) => knows(node, new URL(node.stsEndpoint).hostname),
  },
  {
    name: "the metadata service is gone",
    async begin(proxied) {
      await proxied.node.agent?.set({ fault: "refuse" });
      // The proxy of before has what it needs of it.
      await startAnew(proxied);
    },
    end: async ({ node }) => node.agent?.set({ fault: "none" }),
  },
];
