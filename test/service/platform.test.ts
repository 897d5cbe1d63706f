import { describe, expect, test } from "bun:test";
import { namesPlatform, wantedConfiguration } from "../../src/service/configuration.ts";
import { detectPlatform } from "../../src/service/platform.ts";

const node = (paths: readonly string[], texts: Readonly<Record<string, string>> = {}) =>
  detectPlatform(
    (path) => paths.includes(path),
    (path) => texts[path] ?? "",
  );

describe("detectPlatform()", () => {
  const EC2 = { "/sys/class/dmi/id/sys_vendor": "Amazon EC2\n" };
  test("knows each platform by its files, and says which; each of them is EC2 as well", () => {
    expect(node(["/etc/parallelcluster"], EC2)).toEqual({
      platform: "parallelcluster",
      reason: "/etc/parallelcluster is there",
    });
    expect(node(["/opt/ml/config/resource_config.json"], EC2).platform).toBe("hyperpod");
    expect(node(["/opt/aws/pcs"], EC2).platform).toBe("pcs");
    expect(node([], EC2).platform).toBe("ec2");
    expect(node([], { "/sys/hypervisor/uuid": "EC2E1916-9099\n" }).platform).toBe("ec2");
  });
  test("without a sign it is none", () => {
    expect(node([], { "/sys/class/dmi/id/sys_vendor": "QEMU\n", "/sys/hypervisor/uuid": "" }).platform).toBe(
      "none",
    );
  });
});

describe("wantedConfiguration()", () => {
  const ROLE = "role: arn:aws:iam::842413447717:role/Lesser # theirs\n";
  const wanted = (more: object) =>
    wantedConfiguration({ installed: ROLE, given: null, overrides: {}, ...more });
  test("writes the platform and the users into the file, and keeps what is there", () => {
    const { text, config } = wanted({ platform: "pcs", exempt: ["monitor", "root"] });
    expect(config).toMatchObject({ platform: "pcs", exempt: ["root", "monitor"] });
    expect(text).toContain("# theirs");
    expect(wanted({ platform: "none" }).text).toBe(ROLE);
    expect(wanted({}).text).toBe(ROLE);
  });
  test("is the same the second time", () => {
    const once = wanted({ platform: "pcs", exempt: ["monitor"] }).text;
    expect(wanted({ installed: once, platform: "pcs", exempt: ["monitor"] }).text).toBe(once);
    expect(namesPlatform(once)).toBe(true);
    expect([namesPlatform(ROLE), namesPlatform(null)]).toEqual([false, false]);
  });
  test("an installed platform can be taken back", () => {
    expect(wanted({ installed: `${ROLE}platform: pcs\n`, platform: "none" }).config.platform).toBe("none");
  });
});
