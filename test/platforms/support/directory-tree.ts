/** The tree of the machines with a directory of their own. */
import { join } from "node:path";
import { bootTree } from "../../boot/support/machine.ts";
import { CACHE } from "./virtual-machine.ts";

/** Makes the boot tests' machines boot from the tree with slapd and sssd, built where it is not there yet. */
export function useDirectoryTree(): void {
  const script = join(import.meta.dir, "build-directory-tree.sh");
  const run = Bun.spawnSync(["sh", script, CACHE, bootTree()], { stderr: "pipe" });
  if (run.exitCode !== 0) throw new Error(run.stderr.toString());
  process.env["IMDSPROXY_BOOT_TREE"] = run.stdout.toString().trim();
}
