import { describe, expect, test } from "bun:test";
import { resolve } from "node:path";

const REPOSITORY = resolve(import.meta.dir, "../..");

describe("the Makefile's firewall targets", () => {
  test.each([
    ["remove-original-iptables-entry", "remove-original"],
    ["revive-original-iptables-entry", "restore-original"],
    ["add-proxy-iptables-entries", "add-proxy"],
    ["remove-proxy-iptables-entries", "remove-proxy"],
    ["block-direct-access-to-sagemaker-role", "block-direct"],
    ["unblock-direct-access-to-sagemaker-role", "unblock-direct"],
    ["list-iptables", "list"],
    ["list-iptables-all", "list --all"],
    ["check-direct-access", "check-direct"],
  ])(
    "%s runs iptables %s, with CONFIG and FLAGS, by sudo where it changes the node or reads its rules",
    (target, command) => {
      const make = (sudo: string) =>
        Bun.spawnSync(
          [
            "make",
            "--dry-run",
            "--assume-old=build",
            target,
            "CONFIG=a.yaml",
            "FLAGS=--dry-run",
            `SUDO=${sudo}`,
          ],
          { cwd: REPOSITORY, env: { PATH: process.env["PATH"] ?? "" } },
        )
          .stdout.toString()
          .trim();
      const run = `dist/imdsproxy iptables ${command} --config a.yaml --dry-run`;
      const needsRoot = target !== "check-direct-access";
      expect(make("sudo").replaceAll(/ +/g, " ")).toBe(needsRoot ? `sudo ${run}` : run);
      expect(make("").replaceAll(/ +/g, " ")).toBe(run);
    },
  );
});
