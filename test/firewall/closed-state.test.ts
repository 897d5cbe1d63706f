import { describe, expect, test } from "bun:test";
import { closedRules, closedRulesIn } from "../../src/firewall/closed-state.ts";

const texts = (upstream: Parameters<typeof closedRules>[0]) =>
  closedRules(upstream).map(({ family, words }) => `${family} ${words.join(" ")}`);

describe("closedRules()", () => {
  test("keep everybody but uid 0 from the metadata addresses, the agent, and its port at any address", () => {
    expect(texts(null)).toEqual([
      "ipv4 to 169.254.169.254 uidrange 1-4294967294 lookup 169254 protocol kernel",
      "ipv4 to 169.254.169.254 uidrange 1-4294967294 prohibit protocol kernel",
      "ipv4 to 169.254.0.2 uidrange 1-4294967294 lookup 169254 protocol kernel",
      "ipv4 to 169.254.0.2 uidrange 1-4294967294 prohibit protocol kernel",
      "ipv4 ipproto 6 dport 9081 uidrange 1-4294967294 lookup 169254 protocol kernel",
      "ipv4 ipproto 6 dport 9081 uidrange 1-4294967294 prohibit protocol kernel",
      "ipv6 to fd00:ec2::254 uidrange 1-4294967294 lookup 169254 protocol kernel",
      "ipv6 to fd00:ec2::254 uidrange 1-4294967294 prohibit protocol kernel",
      "ipv6 ipproto 6 dport 9081 uidrange 1-4294967294 lookup 169254 protocol kernel",
      "ipv6 ipproto 6 dport 9081 uidrange 1-4294967294 prohibit protocol kernel",
    ]);
  });

  test("and from the configured upstream, in its family, where it is another", () => {
    const added = (address: string, port: number) =>
      texts({ address, port }).filter((line) => !texts(null).includes(line));
    expect(added("127.0.0.1", 1338)).toEqual([
      "ipv4 to 127.0.0.1 ipproto 6 dport 1338 uidrange 1-4294967294 lookup 169254 protocol kernel",
      "ipv4 to 127.0.0.1 ipproto 6 dport 1338 uidrange 1-4294967294 prohibit protocol kernel",
    ]);
    expect(added("fd00::1", 80)).toHaveLength(2);
    expect(added("169.254.169.254", 80)).toEqual([]);
    expect(added("169.254.0.2", 9081)).toEqual([]);
  });
});

describe("closedRulesIn()", () => {
  // `ip -N rule list pref 0` of iproute2 6.1.
  const LISTING = `0:	from all to 169.254.0.2 uidrange 1-4294967294 lookup 169254
0:	from all to 169.254.0.2 uidrange 1-4294967294 prohibit
0:	from all uidrange 1-4294967294 ipproto ipproto-6 dport 9081 lookup 169254
0:	from all uidrange 1-4294967294 ipproto ipproto-6 dport 9081 prohibit
0:	from all lookup 255
`;

  test("finds what is to be deleted, spelled so that ip reads it, and leaves everything else", () => {
    expect(closedRulesIn(LISTING).map((words) => words.join(" "))).toEqual([
      "from all to 169.254.0.2 uidrange 1-4294967294 lookup 169254",
      "from all to 169.254.0.2 uidrange 1-4294967294 prohibit",
      "from all uidrange 1-4294967294 ipproto 6 dport 9081 lookup 169254",
      "from all uidrange 1-4294967294 ipproto 6 dport 9081 prohibit",
    ]);
  });

  test("finds nothing on a node that is not closed", () => {
    const others = "0:\tfrom all lookup 255\n0:\tfrom all to 10.0.0.1 uidrange 1-5 prohibit\n";
    expect(closedRulesIn(others)).toEqual([]);
    expect(closedRulesIn("")).toEqual([]);
  });
});
