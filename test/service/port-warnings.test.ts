import { describe, expect, test } from "bun:test";
import { DEFAULT_LISTEN } from "../../src/config/schema.ts";
import { firstUnprivilegedPort } from "../../src/platform/unprivileged-port.ts";
import { portWarnings } from "../../src/service/port-warnings.ts";

const usual = { lustre: null, unprivilegedFrom: 1024 };
const at = (port: number) => ({ address: "127.0.0.1", port });

describe("portWarnings()", () => {
  test("has nothing to say of the default port on a usual node, nor beside Lustre", () => {
    expect(portWarnings(DEFAULT_LISTEN, usual)).toEqual([]);
    expect(portWarnings(DEFAULT_LISTEN, { ...usual, lustre: "the module lnet is loaded" })).toEqual([]);
    expect(portWarnings(at(511), usual)).toEqual([]);
  });

  test("988 beside Lustre: says how it knows, and the port to take", () => {
    const [said = "", ...more] = portWarnings(at(988), { ...usual, lustre: "/etc/lnet.conf is there" });
    expect(more).toEqual([]);
    expect(said).toContain("127.0.0.1:988");
    expect(said).toContain("/etc/lnet.conf is there");
    expect(said).toContain("listen: 127.0.0.1:254");
  });

  for (const port of [512, 988, 1023]) {
    test(`${port} is one that NFS may take`, () => {
      expect(portWarnings(at(port), usual)).toEqual([expect.stringContaining("NFS")]);
    });
  }

  for (const unprivilegedFrom of [0, 253, 254]) {
    test(`254 is everybody's where unprivileged ports begin at ${unprivilegedFrom}`, () => {
      const [said = "", ...more] = portWarnings(at(254), { ...usual, unprivilegedFrom });
      expect(more).toEqual([]);
      expect(said).toContain(`net.ipv4.ip_unprivileged_port_start is ${unprivilegedFrom}`);
    });
  }

  test("254 is not, where they begin at 255", () => {
    expect(portWarnings(at(254), { ...usual, unprivilegedFrom: 255 })).toEqual([]);
  });
});

test("firstUnprivilegedPort() reads the setting, and takes 1024 where the kernel has none", () => {
  expect(Number.isInteger(firstUnprivilegedPort())).toBe(true);
  expect(firstUnprivilegedPort("/proc/no-such-setting")).toBe(1024);
});
