import { describe, expect, test } from "bun:test";
import fc from "fast-check";
import { canonicalRule, metadataRedirect, parseRule, tokens } from "../../src/firewall/rule-text.ts";
import { holds } from "../support/fuzz.ts";

describe("tokens()", () => {
  test.each([
    ["-j ACCEPT", ["-j", "ACCEPT"]],
    ['-m comment --comment "two words" -j X', ["-m", "comment", "--comment", "two words", "-j", "X"]],
    ['--comment "a \\"quoted\\" \\\\ word"', ["--comment", 'a "quoted" \\ word']],
    ['--comment ""', ["--comment", ""]],
    ["  a   b ", ["a", "b"]],
  ])("splits %p as iptables-restore does", (text, expected) => {
    expect(tokens(text)).toEqual(expected);
  });
});

describe("parseRule()", () => {
  test("takes a rule apart", () => {
    expect(
      parseRule(
        "! -s 10.0.0.1 -d 169.254.169.254 -p tcp -m owner ! --uid-owner 0-5 -m tcp --dport 80 -j DNAT --to 1",
      ),
    ).toEqual({
      base: ["! -s 10.0.0.1/32", "-d 169.254.169.254/32", "-p tcp"],
      matches: [
        { name: "owner", options: ["! --uid-owner 0-5"] },
        { name: "tcp", options: ["--dport 80"] },
      ],
      target: "DNAT",
      targetOptions: ["--to 1"],
    });
  });
  test("has no target where the rule only counts", () => {
    expect(parseRule("-p tcp").target).toBeNull();
    expect(parseRule("").target).toBeNull();
  });
  test("is not taken in by words inside a comment", () => {
    expect(parseRule('-m comment --comment "-j IMDSPROXY" -j ACCEPT').target).toBe("ACCEPT");
  });
  test("knows a goto", () => {
    expect(parseRule("-g IMDSPROXY").target).toBe("IMDSPROXY");
  });
});

describe("canonicalRule()", () => {
  test.each([
    ["-p tcp -d 10.0.0.1 -j X", "-d 10.0.0.1/32 -p tcp -j X"],
    ["! -i lo -d fd00::1/128 -j X", "-d fd00::1 ! -i lo -j X"],
    [
      "-p tcp -m owner --uid-owner 0 -m tcp --dport 80 -j RETURN",
      "-p tcp -m tcp --dport 80 -m owner --uid-owner 0 -j RETURN",
    ],
  ])("is the same for %p and %p", (a, b) => {
    expect(canonicalRule(a)).toBe(canonicalRule(b));
  });
  test.each([
    ["-m owner --uid-owner 0 -j RETURN", "-m owner ! --uid-owner 0 -j RETURN"],
    ["-d 10.0.0.1/32 -j X", "-d 10.0.0.1/31 -j X"],
    ["-s 10.0.0.1/32 -j X", "-d 10.0.0.1/32 -j X"],
    ["-p tcp -j X", "-j X"],
    ["-j X", "-j Y"],
    ["-m tcp --dport 80 -j X", "-m udp --dport 80 -j X"],
    ["-j IMDSPROXY", "-p tcp -j IMDSPROXY"],
  ])("differs for %p and %p", (a, b) => {
    expect(canonicalRule(a)).not.toBe(canonicalRule(b));
  });
  test("does not depend on the order of matches", () => {
    const match = fc.constantFrom(
      "-m tcp --dport 80",
      "-m owner ! --uid-owner 7",
      "-m conntrack --ctstate DNAT",
    );
    holds(
      fc.property(fc.uniqueArray(match), fc.integer(), (matches, seed) => {
        const shuffled = [...matches].sort((a, b) => (seed % (a.length + b.length)) - a.length);
        const rule = (all: string[]) => `-p tcp ${all.join(" ")} -j REJECT --reject-with tcp-reset`;
        expect(canonicalRule(rule(shuffled))).toBe(canonicalRule(rule(matches)));
      }),
      100,
    );
  });
});

describe("metadataRedirect()", () => {
  test.each([
    ["-d 169.254.169.254/32 -p tcp -m tcp --dport 80 -j DNAT --to-destination 169.254.0.2:9081"],
    [
      "-d 169.254.169.254 -p tcp -m tcp --dport 80 -m comment --comment agent -j DNAT --to-destination 169.254.0.2:9081",
    ],
  ])("reads the agent's entry %p", (rule) => {
    expect(metadataRedirect(rule)).toBe("169.254.0.2:9081");
  });
  test.each([
    // Not for everyone: the origin's own proxy, kube2iam, …
    [
      "-d 169.254.169.254/32 -p tcp -m owner ! --uid-owner 0 -m tcp --dport 80 -j DNAT --to-destination 1.2.3.4:5",
    ],
    ["-d 169.254.169.254/32 -i docker0 -p tcp -m tcp --dport 80 -j DNAT --to-destination 1.2.3.4:5"],
    ["-d 169.254.169.253/32 -p tcp -m tcp --dport 80 -j DNAT --to-destination 1.2.3.4:5"],
    ["-d 169.254.169.254/32 -p tcp -m tcp --dport 8080 -j DNAT --to-destination 1.2.3.4:5"],
    ["! -d 169.254.169.254/32 -p tcp -m tcp --dport 80 -j DNAT --to-destination 1.2.3.4:5"],
    ["-d 169.254.169.254/32 -p tcp -m tcp --dport 80 -j REDIRECT --to-ports 5"],
    ["-d 169.254.169.254/32 -p udp -m udp --dport 80 -j DNAT --to-destination 1.2.3.4:5"],
  ])("is null for %p", (rule) => {
    expect(metadataRedirect(rule)).toBeNull();
  });
});
