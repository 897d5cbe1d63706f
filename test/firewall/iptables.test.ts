import { afterAll, beforeAll, describe, expect, test } from "bun:test";
import { mkdtempSync, readdirSync, readlinkSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { systemIptables } from "../../src/firewall/iptables.ts";
import { ReentrantLock } from "../../src/platform/reentrant-lock.ts";

/** The edge to iptables(8), with programs of the test's own in PATH. */

let directory: string;
const path = process.env["PATH"];
beforeAll(() => {
  directory = mkdtempSync(join(tmpdir(), "imdsproxy-iptables-"));
  process.env["PATH"] = `${directory}:${path}`;
});
afterAll(() => {
  process.env["PATH"] = path;
  rmSync(directory, { recursive: true });
});

/** Replaces the node's iptables: each of its programs is this one. */
function install(program: string): void {
  for (const family of ["iptables", "ip6tables"])
    for (const part of ["save", "restore"]) {
      const file = join(directory, `${family}-${part}`);
      rmSync(file, { force: true });
      writeFileSync(file, program, { mode: 0o755 });
    }
}

const says = (version: string) => `#!/bin/sh\necho 'iptables-restore ${version}'\n`;
/** What execve(2) refuses, as fork(2) does on a node without a free process. */
const NO_PROGRAM = "\x7fELF";

const versions = async (iptables: ReturnType<typeof systemIptables>) =>
  (await iptables.access()).map(({ version }) => version).filter((version) => version !== null);

describe("iptables of the machine", () => {
  test("which could not be started once is looked for again", async () => {
    const iptables = systemIptables();
    install(NO_PROGRAM);
    await expect(iptables.access()).rejects.toThrow("cannot start");
    install(says("v1.8.9 (nf_tables)"));
    expect(await versions(iptables)).toContain("v1.8.9 (nf_tables)");
  });

  test("that is killed before it tells its version has none that is kept: the backend would be taken for the other", async () => {
    const iptables = systemIptables();
    install("#!/bin/sh\nkill -9 $$\n");
    await expect(iptables.access()).rejects.toThrow("iptables-restore --version");
    install(says("v1.8.9 (legacy)"));
    expect(await versions(iptables)).toContain("v1.8.9 (legacy)");
  });

  test("that does not know --version is used as it is", async () => {
    install("#!/bin/sh\necho usage >&2\nexit 1\n");
    expect(await versions(systemIptables())).toContain("unknown version");
  });

  test("is asked once", async () => {
    const iptables = systemIptables();
    install(says("v1.8.9 (nf_tables)"));
    await iptables.access();
    install(says("v2.0.0 (nf_tables)"));
    expect(await versions(iptables)).not.toContain("v2.0.0 (nf_tables)");
  });

  test("is changed by one at a time: a repair waits for the change under way, which both backends belong to", async () => {
    const iptables = systemIptables(null, new ReentrantLock(async () => null));
    install(says("v1.8.9 (nf_tables)"));
    for (const part of ["save", "restore"])
      writeFileSync(join(directory, `iptables-legacy-${part}`), says("v1.8.9 (legacy)"), { mode: 0o755 });
    const change = Promise.withResolvers<void>();
    const done: string[] = [];
    const changing = iptables.exclusively(async () => {
      await change.promise;
      await (await iptables.otherBackend())?.exclusively(async () => void done.push("change"));
    });
    const repairing = iptables.exclusively(async () => void done.push("repair"));
    await Bun.sleep(0);
    expect(done).toEqual([]);
    change.resolve();
    await Promise.all([changing, repairing]);
    expect(done).toEqual(["change", "repair"]);
  });

  test("leaves no file open where the rules cannot be handed over", async () => {
    const iptables = systemIptables();
    install(says("v1.8.9 (nf_tables)"));
    const files = () =>
      readdirSync("/proc/self/fd").filter((descriptor) => {
        try {
          return readlinkSync(`/proc/self/fd/${descriptor}`).includes("imdsproxy-iptables-");
        } catch {
          return false;
        }
      });
    const text = "*filter\nCOMMIT\n";
    // The second one cannot be written, as where the limit of open files is reached.
    const restores = [
      { family: "ipv4", text },
      { family: "ipv4", text: null as never },
    ] as const;
    await expect(iptables.write(restores)).rejects.toThrow();
    expect(files()).toEqual([]);
    expect(await iptables.write([{ family: "ipv4", text }])).toBeNull();
    expect(files()).toEqual([]);
  });
});
