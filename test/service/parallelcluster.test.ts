import { describe, expect, test } from "bun:test";
import { imdsChainWarning } from "../../src/service/parallelcluster.ts";

/** As `iptables -S` lists what the cookbook writes. */
const CHAIN = `-N PARALLELCLUSTER_IMDS
-A PARALLELCLUSTER_IMDS -d 169.254.169.254/32 -m owner --uid-owner 0 -j ACCEPT
-A PARALLELCLUSTER_IMDS -d 169.254.169.254/32 -m owner --uid-owner 400 -j ACCEPT
-A PARALLELCLUSTER_IMDS -d 169.254.169.254/32 -j REJECT --reject-with icmp-port-unreachable
`;
const ALLOWED = CHAIN.replace("400", "990");
const warning = (stdout: string, uid: number | null = 990, exitCode = 0) =>
  imdsChainWarning(async () => ({ exitCode, stdout, stderr: "" }), uid);

describe("imdsChainWarning()", () => {
  test("warns where the chain refuses the proxy, and says how to let it through", async () => {
    expect(await warning(CHAIN)).toContain("imds-access.sh --allow imdsproxy");
    expect(await warning(CHAIN, null)).toContain("PARALLELCLUSTER_IMDS");
    expect(
      await warning(CHAIN.replace("--uid-owner 400 -j ACCEPT", "--uid-owner 990 -j REJECT")),
    ).not.toBeNull();
    expect(await warning("-A PARALLELCLUSTER_IMDS -m owner ! --uid-owner 0 -j DROP\n")).not.toBeNull();
  });
  test("says nothing where it lets the proxy through, is empty, or is not there", async () => {
    expect(await warning(ALLOWED)).toBeNull();
    expect(await warning("-N PARALLELCLUSTER_IMDS\n")).toBeNull();
    expect(await warning("-A PARALLELCLUSTER_IMDS -m owner ! --uid-owner 990 -j DROP\n")).toBeNull();
    expect(await warning("", 990, 1)).toBeNull();
  });
});
