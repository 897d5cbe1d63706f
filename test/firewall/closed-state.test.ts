import { describe, expect, test } from "bun:test";
import { closedRules } from "../../src/firewall/closed-state.ts";

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
