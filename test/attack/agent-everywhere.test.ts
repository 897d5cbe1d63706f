import { afterAll, beforeAll, expect, test } from "bun:test";
import { mustExec } from "../support/node.ts";
import { applyRules, eventually, startProxiedNode, testConfig } from "../support/proxied.ts";
import { describeAsRoot } from "../support/root.ts";
import type { SimulatedNode } from "../support/simulated-node.ts";
import { SECRET, tellSecret, waysTo } from "./support/ways.ts";

/** Another machine, with the same on its port: behind an interface that comes late, with addresses of both families. */
const LATE = `
ip netns add far
ip link add late0 type veth peer name eth0 netns far
ip -n far address add 10.99.0.2/24 dev eth0
ip -n far -6 address add fd99::2/64 dev eth0 nodad
ip -n far link set eth0 up
ip -n far link set lo up
ip -n far route add default via 10.99.0.1
ip -n far -6 route add default via fd99::1
echo 1 >/proc/sys/net/ipv4/ip_forward
echo 1 >/proc/sys/net/ipv6/conf/all/forwarding
ip address add 10.99.0.1/24 dev late0
ip -6 address add fd99::1/64 dev late0 nodad
ip link set late0 up
ip address add 10.77.0.9/32 dev eth0
ip -6 address add fd77::9/128 dev eth0 nodad
ip address add 10.98.0.1/32 dev lo
ip -6 address add fd98::1/128 dev lo nodad
ip route add local 10.97.0.0/16 dev lo
ip -6 route add local fd97::/64 dev lo
while ip -6 address show tentative | grep -q .; do sleep 0.05; done
`;
/** An agent that listens on every address of the node, of both families. */
const EVERYWHERE = ["*"];
const FAR = ["ip", "netns", "exec", "far"];
const ROOT = { user: "root" } as const;
const ALICE = { user: "alice" } as const;

describeAsRoot("an agent that listens on every address", () => {
  let node: SimulatedNode;
  let addresses: string[] = [];

  beforeAll(async () => {
    ({ node } = await startProxiedNode());
    await mustExec(node, ROOT, [
      "sh",
      "-euc",
      "kill -9 $(ss -Hltnp 'sport = 9081' | grep -o 'pid=[0-9]*' | cut -d= -f2 | sort -u); while ss -Hltn 'sport = 9081' | grep -q .; do :; done",
    ]);
    tellSecret(node, 9081, EVERYWHERE);
    await eventually("the agent listens", async () =>
      (await mustExec(node, ROOT, ["ss", "-Hltn", "sport = 9081"])).includes("9081"),
    );
    // A link-local address is looked for on the link first (DAD), for a second or so.
    await eventually(
      "every address can be used",
      async () => (await mustExec(node, ROOT, ["ip", "-6", "address", "show", "tentative"])).trim() === "",
    );
    const listed = await mustExec(node, ROOT, ["sh", "-c", "ip -o address | awk '{ print $2, $4 }'"]);
    addresses = [
      "127.0.0.2",
      "[::ffff:127.0.0.1]",
      ...listed
        .trim()
        .split("\n")
        .map((line) => line.split(" "))
        .map(([device = "", cidr = ""]) => {
          const address = cidr.replace(/\/.*/, "");
          if (!address.includes(":")) return address;
          return `[${address}${address.startsWith("fe80") ? `%25${device}` : ""}]`;
        }),
    ];
  });
  afterAll(() => node?.stop());

  /** Where the user gets the secret: by a plain socket, or by one that is bound to an interface (SO_BINDTODEVICE) too. */
  const open = async (who: { readonly user: string }, devices: readonly string[] = []) => {
    const found = await Promise.all(
      addresses.flatMap((address) =>
        [[], ...devices.map((device) => ["--interface", `if!${device}`])].map(async (how) => {
          const url = `http://${address}:9081/`;
          const argv = ["curl", "-sS", "-g", "-m", "10", ...how, url];
          const { stdout } = await node.exec({ ...who, argv });
          return stdout.includes(SECRET) ? [address, ...how].join(" ") : null;
        }),
      ),
    );
    return found.filter((address) => address !== null);
  };
  const DEVICES = ["lo", "eth0"];
  /** Every way to an address of the node by IPv6. */
  const ways = (who: { readonly user: string }) => {
    const linkLocal = /fe80[0-9a-f:]+/.exec(addresses.join(" "))?.[0] ?? "::1";
    const places = {
      to: ["::1", "fd77::2", `${linkLocal}%eth0`, `${linkLocal}%lo`],
      sources: [null, "fd77::2", "::1", `${linkLocal}%eth0`],
      devices: [null, "lo", "eth0"],
      kinds: ["tcp" as const],
    };
    return waysTo(node, who, 9081, [places], { seconds: 2 });
  };
  const checkDirect = () => node.exec({ ...ROOT, argv: ["imdsproxy", "iptables", "check-direct", "--json"] });

  test("is closed to users at each of them, and to root at none; check-direct tries them all", async () => {
    expect(addresses.length).toBeGreaterThan(5);
    await applyRules(node);
    expect(await open(ALICE, DEVICES)).toEqual([]);
    expect((await open(ROOT)).sort()).toEqual([...addresses].sort());
    const { exitCode, stdout } = await checkDirect();
    // It fails where access is closed.
    expect([exitCode, JSON.parse(stdout).closed]).toEqual([1, true]);
  });
  test("also while the firewall's rules are flushed", async () => {
    await mustExec(node, ROOT, [
      "sh",
      "-euc",
      "iptables -F; iptables -t nat -F; ip6tables -F; ip6tables -t nat -F",
    ]);
    expect(await open(ALICE, DEVICES)).toEqual([]);
    expect((await open(ROOT)).sort()).toEqual([...addresses].sort());
    await eventually("root has many ways", async () => (await ways(ROOT)).length > 10);
    expect(await ways(ALICE)).toEqual([]);
    await applyRules(node);
  });
  test("also at addresses and interfaces that came since, with nobody to look after the rules; other machines' ports stay open", async () => {
    node.write("/etc/imdsproxy/config.yaml", JSON.stringify(testConfig(node, { containers: "reject" })));
    await applyRules(node);
    await mustExec(node, ROOT, ["sh", "-euc", LATE]);
    const far = tellSecret(node, 9081, EVERYWHERE, FAR);
    await eventually("the other machine listens", async () =>
      (await mustExec(node, ROOT, ["ip", "netns", "exec", "far", "ss", "-Hltn"])).includes(":9081"),
    );
    // Of two interfaces, of lo, and those that a route of the kind local makes this node's.
    const here = ["10.99.0.1", "10.77.0.9", "10.98.0.1", "10.97.1.2"];
    here.push("fd99::1", "fd77::9", "fd98::1", "fd97::7");
    const there = ["10.99.0.2", "fd99::2"];
    /** Source and interface each with each, or neither (`plain`), by TCP and MPTCP. Who is to get through waits long. */
    const reached = (
      who: { readonly user: string },
      what: "plain" | "every",
      places: readonly string[],
      before: readonly string[] = [],
    ) => {
      const ways = places.map((to) => {
        const own = to.includes(":")
          ? ["fd77::2", "fd77::9", "fd99::1", "::1"]
          : ["10.77.0.2", "10.77.0.9", "10.99.0.1", "127.0.0.1", "127.169.254.1"];
        return {
          to: [to],
          sources: what === "plain" ? [null] : [null, to, ...own],
          devices: what === "plain" ? [null] : [null, "lo", "eth0", "late0"],
          kinds: ["tcp", "mptcp"] as const,
        };
      });
      return waysTo(node, who, 9081, ways, { seconds: what === "plain" ? 20 : 1, before });
    };
    const plainly = (places: string[]) =>
      places.flatMap((place) => [`${place} None None mptcp`, `${place} None None tcp`]).sort();

    const flush = "iptables -F; iptables -t nat -F; ip6tables -F; ip6tables -t nat -F";
    await mustExec(node, ROOT, ["sh", "-euc", flush]);
    expect(await reached(ALICE, "every", here)).toEqual([]);
    // Nor has another machine, or a container, whose packets no user sends.
    expect(await reached(ROOT, "every", here, FAR)).toEqual([]);
    expect((await reached(ROOT, "plain", [...here, ...there])).sort()).toEqual(plainly([...here, ...there]));
    expect((await reached(ALICE, "plain", there)).sort()).toEqual(plainly(there));
    // Also where somebody has taken away the routing rules that are not at preference 0.
    await mustExec(node, ROOT, [
      "sh",
      "-euc",
      "for f in -4 -6; do ip $f rule flush; ip $f rule add pref 32766 lookup main; done",
    ]);
    expect(await reached(ALICE, "every", here)).toEqual([]);
    far.kill("SIGKILL");
    await far.done;
    await mustExec(node, ROOT, ["sh", "-euc", "ip link del late0; ip netns del far"]);
    await applyRules(node);
  }, 180_000);
  test("status says how it is bound", async () => {
    const { stdout } = await node.exec({ ...ROOT, argv: ["imdsproxy", "iptables", "status"] });
    expect(stdout).toContain("which is every address of this node: closed to users on each of them");
  });
  test("without the rules it is open to alice at each address, and check-direct finds it so", async () => {
    await mustExec(node, ROOT, ["imdsproxy", "iptables", "remove"]);
    expect((await open(ALICE)).sort()).toEqual([...addresses].sort());
    const { exitCode, stdout } = await checkDirect();
    const found = JSON.parse(stdout) as { closed: boolean; attempts: { result: string; detail: string }[] };
    expect([exitCode, found.closed]).toEqual([0, false]);
    const openAt = found.attempts.filter(({ result }) => result === "open").map(({ detail }) => detail);
    for (const address of ["127.0.0.1:9081", "169.254.0.2:9081", "[::1]:9081"])
      expect(openAt.join("\n")).toContain(address);
  });
});
