import { describe, expect, test } from "bun:test";
import type { UpstreamAnswer } from "../../src/imds/metadata.ts";
import { regionOf } from "../../src/wiring/region.ts";

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
    expect(regionOf(service({}))).rejects.toThrow("region");
    expect(regionOf(service({ "meta-data/placement/region": "<html>" }))).rejects.toThrow("region");
  });
});
