import { afterAll, beforeAll, describe, expect, test } from "bun:test";
import { mkdtempSync, rmSync, symlinkSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { dirname, join } from "node:path";
import {
  buildDirectoryModule,
  type DirectoryMode,
  setDirectoryMode,
  writeDirectory,
} from "../support/nss/directory.ts";

/**
 * Modules of NSS as they are called: a program of a few lines, with the module where the loader looks for it, prints what
 * src/platform/nss.ts says of it.
 */

const PROGRAM = `
import { openNssModule, subordinateOwners } from ${JSON.stringify(join(import.meta.dir, "../../src/platform/nss.ts"))};
const [service, ...calls] = process.argv.slice(2);
const opened = openNssModule(service);
const show = (value) => JSON.stringify(value, (_, v) => v instanceof Uint8Array ? Buffer.from(v).toString("latin1") : v);
for (const call of calls) {
  const [name, argument, more] = call.split(":");
  const bytes = Buffer.from(argument ?? "", "latin1");
  const { module } = opened;
  const result =
    name === "open" ? opened.kind
    : name === "uid" ? module.accountByUid(Number(argument))
    : name === "name" ? module.accountByName(bytes)
    : name === "group" ? module.groupName(Number(argument))
    : name === "owners" ? subordinateOwners(service, Number(argument))
    : module.groupsOf(bytes, Number(more));
  console.log(show(result));
}
`;

const HAVE_GCC = Bun.which("gcc") !== null;

describe.skipIf(!HAVE_GCC)("a module of NSS", () => {
  const directory = mkdtempSync(join(tmpdir(), "directory-"));
  const program = join(directory, "program.ts");
  const libraries: string[] = [];

  beforeAll(() => {
    writeFileSync(program, PROGRAM);
    for (const [service, withoutInitgroups] of [
      ["standin", false],
      ["plain", true],
    ] as const) {
      const built = buildDirectoryModule({ service, directory, withoutInitgroups });
      symlinkSync(built, join(dirname(built), `libsubid_${service}.so`));
      libraries.push(dirname(built));
    }
    writeFileSync(join(libraries[0] ?? "", "libnss_broken.so.2"), "no library");
    const many = Array.from({ length: 300 }, (_, at) => `group ${at}`);
    const names = Array.from({ length: 3_000 }, (_, at) => ({
      name: `user-${at}`,
      uid: 10_000 + at,
      groups: ["crowd"],
    }));
    writeDirectory(directory, [
      { name: "dora", uid: 5_001, groups: ["blocked", "crowd", ...many] },
      { name: "b\xffb", uid: 5_002 },
      { name: "\xef\xbb\xbfalice", uid: 5_003 },
      ...names,
    ]);
    writeFileSync(join(directory, "owners"), "165000 2001\n165000 5001\n");
  });
  afterAll(() => {
    for (const path of [directory, ...libraries]) rmSync(path, { recursive: true, force: true });
  });

  const ask = (service: string, calls: readonly string[], mode: DirectoryMode = "up"): unknown[] => {
    setDirectoryMode(directory, mode);
    const { stdout, stderr, exitCode } = Bun.spawnSync([process.execPath, program, service, ...calls], {
      env: { LD_LIBRARY_PATH: libraries.join(":"), PATH: "/usr/bin:/bin" },
    });
    if (exitCode !== 0) throw new Error(`exit ${exitCode}: ${stderr}`);
    return String(stdout)
      .trim()
      .split("\n")
      .map((line) => JSON.parse(line));
  };

  for (const service of ["standin", "plain"]) {
    test(`${service}: tells accounts by uid and name, as bytes`, () => {
      expect(
        ask(service, ["uid:5001", "name:dora", "uid:5002", "uid:5003", "uid:4", "name:nobody-here"]),
      ).toEqual([
        { status: "success", value: { name: "dora", uid: 5_001, gid: 5_001 } },
        { status: "success", value: { name: "dora", uid: 5_001, gid: 5_001 } },
        { status: "success", value: { name: "b\xffb", uid: 5_002, gid: 5_002 } },
        { status: "success", value: { name: "\xef\xbb\xbfalice", uid: 5_003, gid: 5_003 } },
        { status: "notfound" },
        { status: "notfound" },
      ]);
    });
    test(`${service}: tells three hundred groups of one user, and the name of a group of thousands`, () => {
      const [groups, crowd] = ask(service, ["groups:dora:5001", "group:60501"]) as [
        { status: string; value: number[] },
        unknown,
      ];
      expect(groups.status).toBe("success");
      expect(new Set(groups.value.filter((gid) => gid !== 5_001)).size).toBe(302);
      expect(crowd).toEqual({ status: "success", value: "crowd" });
    });
    test(`${service}: that is away is no module that says no`, () => {
      const away = { status: "unavail", errno: 111 };
      expect(ask(service, ["uid:5001", "name:dora", "group:60500"], "away")).toEqual([away, away, away]);
      expect(ask(service, ["groups:dora:5001"], "away")).toMatchObject([{ status: "unavail" }]);
      expect(ask(service, ["uid:5001", "groups:dora:5001"], "groups-away")).toMatchObject([
        { status: "success" },
        { status: "unavail" },
      ]);
    });
    test(`${service}: TRYAGAIN without ERANGE is not asked again for ever`, () => {
      expect(ask(service, ["uid:5001"], "again")).toEqual([{ status: "tryagain", errno: 11 }]);
    });
  }

  test("that is not installed is absent, one that cannot be loaded is broken", () => {
    expect(ask("standin", ["open"])).toEqual(["module"]);
    expect(ask("not-there", ["open"])).toEqual(["absent"]);
    expect(ask("broken", ["open"])).toEqual(["broken"]);
  });

  test("files, which is part of glibc, knows root and says no of others", () => {
    expect(ask("files", ["uid:0", "uid:4242424", "group:0", "group:4242424"])).toEqual([
      { status: "success", value: { name: "root", uid: 0, gid: 0 } },
      { status: "notfound" },
      { status: "success", value: "root" },
      { status: "notfound" },
    ]);
  });

  test("tells the owners of a subordinate uid, or that it cannot", () => {
    expect(ask("standin", ["owners:165000", "owners:7"])).toEqual([
      { status: "success", owners: [2_001, 5_001] },
      { status: "success", owners: [] },
    ]);
    expect(ask("standin", ["owners:165000"], "away")).toEqual([{ status: "unavail" }]);
    expect(ask("not-there", ["owners:165000"])).toEqual([{ status: "unsupported" }]);
  });
});
