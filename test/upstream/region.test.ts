import { describe, expect, test } from "bun:test";
import type { UpstreamAnswer } from "../../src/upstream/cache.ts";
import { fixedRegion, nodeRegion, regionOf } from "../../src/upstream/region.ts";

const service = (values: Record<string, string>) => ({
  read: async (_version: string, path: string): Promise<UpstreamAnswer> => {
    const body = values[path];
    return body === undefined ? { kind: "absent" } : { kind: "found", body, lastModifiedMs: null };
  },
});

describe("regionOf()", () => {
  test("is what the service says", async () => {
    expect(await regionOf(service({ "meta-data/placement/region": "eu-central-1\n" }))).toBe("eu-central-1");
  });
  for (const [zone, region] of [
    ["us-west-2b", "us-west-2"],
    ["us-west-2-lax-1a", "us-west-2"],
    ["us-gov-west-1a", "us-gov-west-1"],
    ["cn-north-1b", "cn-north-1"],
  ] as const) {
    test(`of the zone ${zone} is ${region}`, async () => {
      expect(await regionOf(service({ "meta-data/placement/availability-zone": zone }))).toBe(region);
    });
  }
  test("is an error where the service tells neither, or nonsense", async () => {
    await expect(regionOf(service({}))).rejects.toThrow("region");
    await expect(regionOf(service({ "meta-data/placement/region": "<html>" }))).rejects.toThrow("region");
  });
});

describe("nodeRegion()", () => {
  function aNode() {
    const state: { answer: UpstreamAnswer; hangs: boolean } = { answer: { kind: "absent" }, hangs: false };
    const warnings: unknown[] = [];
    const region = nodeRegion({
      metadata: { read: async () => (state.hangs ? new Promise(() => {}) : state.answer) },
      log: { warn: (_message, fields) => void warnings.push(fields) },
    });
    const tells = (body: string) => {
      state.answer = { kind: "found", body, lastModifiedMs: null };
    };
    const away = () => {
      state.answer = { kind: "failed", why: "nobody listens there" };
    };
    return { state, warnings, region, tells, away };
  }

  test("is asked for again each time: what was said once does not stay", async () => {
    const { region, tells, warnings } = aNode();
    tells("evil-region-1");
    expect(await region.find()).toBe("evil-region-1");
    tells("us-west-2");
    expect(await region.find()).toBe("us-west-2");
    expect(warnings).toEqual([{ region: "us-west-2", before: "evil-region-1" }]);
  });

  test("holds while the upstream is away, and not after it has moved", async () => {
    const { region, tells, away } = aNode();
    tells("us-west-2");
    await region.find();
    away();
    expect(await region.find()).toBe("us-west-2");
    region.forget();
    await expect(region.find()).rejects.toThrow("nobody listens there");
  });

  test("for the texts of sessions is null where the service has none, and an error while it is away", async () => {
    const { region, tells, away } = aNode();
    expect(await region.told()).toBeNull();
    away();
    await expect(region.told()).rejects.toThrow("nobody listens there");
    tells("us-west-2");
    expect(await region.told()).toBe("us-west-2");
    away();
    // The name of a session stays the same while the service is away.
    expect(await region.told()).toBe("us-west-2");
    expect(await fixedRegion("eu-north-1", region).find()).toBe("eu-north-1");
    expect(await fixedRegion("eu-north-1", region).told()).toBe("us-west-2");
  });

  test("for the texts of sessions does not wait for an upstream that hangs", async () => {
    const { region, state, tells } = aNode();
    tells("us-west-2");
    await region.told();
    state.hangs = true;
    expect(await region.told()).toBe("us-west-2");
    region.forget();
    const waiting = region.told();
    expect(await Promise.race([waiting, Bun.sleep(1_000).then(() => "waits")])).toBe("waits");
  });

  test("is an error that says what to do where the service has none, and who is away where it is", async () => {
    const { region, away } = aNode();
    await expect(region.find()).rejects.toThrow("set region in the configuration");
    away();
    const error = await region.find().catch((found: Error) => found.message);
    expect(error).toContain("does not tell it for now: nobody listens there");
    expect(error).not.toContain("configuration");
  });
});
