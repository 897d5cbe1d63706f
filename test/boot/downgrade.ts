import { afterAll, beforeAll, expect, test } from "bun:test";
import { describeAsRoot } from "../support/root.ts";
import { FIRST_BOOT_LIMIT_MS, LIMIT_MS, type Machine } from "./support/machine.ts";
import {
  addHammers,
  forgetHammered,
  getsRole,
  hammered,
  hammeredEnough,
  INSTANCE_ROLE,
  makeNode,
  ROLE,
  roleOf,
  SETUP,
} from "./support/node.ts";

/**
 * From this version to an older one by the older one's own `setup`, and back. Run when asked for, since it needs an executable of
 * before: IMDSPROXY_OLD=FILE bun test --timeout=300000 ./test/boot/downgrade.ts
 */

const OLD = process.env["IMDSPROXY_OLD"] ?? "";
const SETUP_OLD = SETUP.replace("/root/imdsproxy ", "/root/imdsproxy-old ");
const FLUSH = "for i in iptables ip6tables; do $i -F; $i -t nat -F; done";
/** Where the kernel and systemd could have something of ours. */
const OURS = `for f in -4 -6; do ip $f rule; for t in 1692541 1692543 1692545 1692547 1692549 1692551; do ip $f route show table $t 2>&1 | sed "s/^/table $t: /" | grep -v 'does not exist\\|Dump terminated' || :; done; done
iptables-save; ip6tables-save; ls /etc/systemd/system/imdsproxy* 2>/dev/null || :`;
const oursIn = (text: string) =>
  text.split("\n").filter((line) => /IMDSPROXY|imdsproxy|16925\d\d|^[012]:(?!.*lookup local)/.test(line));

describeAsRoot("an older version over this one, and back", () => {
  let node: Machine;
  const leaks = async () => Object.values(await hammered(node)).map((found) => found.leaks);
  const ours = async () => oursIn(await node.ok(OURS));

  beforeAll(async () => {
    node = makeNode();
    node.copyIn(OLD, "/root/imdsproxy-old");
    addHammers(node);
    await node.boot();
    await node.ok(SETUP);
    await forgetHammered(node);
  }, FIRST_BOOT_LIMIT_MS);
  afterAll(() => node?.destroy(), LIMIT_MS);

  test(
    "the older one's setup leaves the node closed, also while the firewall is flushed",
    async () => {
      await node.ok(SETUP_OLD);
      console.log((await node.ok("imdsproxy --version")).trim());
      expect(await roleOf(node, "alice")).toBe(ROLE);
      await node.ok(FLUSH);
      await hammeredEnough(node, 20);
      expect(await leaks()).toEqual([0, 0, 0]);
    },
    LIMIT_MS,
  );

  test(
    "a boot with it: closed, and once the unit that it does not know is disabled, users are served",
    async () => {
      await node.ok("truncate -s 0 /home/alice/hammer-*.log");
      await node.reboot();
      await hammeredEnough(node, 20);
      const first = await roleOf(node, "alice");
      console.log(`after the boot alice has: ${first}`);
      if (first !== ROLE) {
        await node.ok("systemctl disable imdsproxy-closed.service");
        await node.reboot();
      }
      await getsRole(node, ROLE, "alice");
      expect(await leaks()).toEqual([0, 0, 0]);
    },
    LIMIT_MS,
  );

  test(
    "this one's setup again: closed all the time, and nothing to complain of",
    async () => {
      await node.ok(SETUP);
      expect(await roleOf(node, "alice")).toBe(ROLE);
      expect(await roleOf(node)).toBe(INSTANCE_ROLE);
      expect(await leaks()).toEqual([0, 0, 0]);
      await node.ok("imdsproxy iptables status");
    },
    LIMIT_MS,
  );

  test(
    "what the older one's uninstall leaves, this one's takes away",
    async () => {
      await node.ok(SETUP_OLD);
      await node.ok("imdsproxy service uninstall");
      console.log(
        JSON.stringify({
          left: (await ours()).length,
          unit: (await ours()).filter((line) => line.startsWith("/")),
        }),
      );
      await node.ok("/root/imdsproxy service uninstall");
      expect(await ours()).toEqual([]);
    },
    LIMIT_MS,
  );
});
