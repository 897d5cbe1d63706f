import { expect, test } from "bun:test";
import { describeAsRoot } from "../support/root.ts";
import { bootedMachine, expectNoLeaks } from "./support/booted.ts";
import { until } from "./support/machine.ts";
import {
  addHammers,
  forgetHammered,
  getsCredentials,
  INSTANCE_ROLE,
  makeNode,
  ROLE,
  roleOf,
  SETUP,
} from "./support/node.ts";

/**
 * A machine in a container has the clock of this one, which no test may set. So the three units alone get another, by
 * libfaketime, which reads the offset from a file whenever a program asks for the time.
 */
const DROP_IN = `[Service]
Environment=LD_PRELOAD=/usr/local/lib/libfaketime.so
Environment=FAKETIME_TIMESTAMP_FILE=/etc/fake-time FAKETIME_NO_CACHE=1 FAKETIME_DONT_FAKE_MONOTONIC=1
`;

describeAsRoot("a clock that jumps", () => {
  const node = bootedMachine(
    () => {
      const node = makeNode();
      addHammers(node);
      node.write("etc/fake-time", "+0\n");
      for (const unit of ["imdsproxy", "imdsproxy-repair"]) {
        node.write(`etc/systemd/system/${unit}.service.d/clock.conf`, DROP_IN);
      }
      return node;
    },
    async () => {
      await node.ok("ln -s /usr/lib/*/faketime/libfaketimeMT.so.1 /usr/local/lib/libfaketime.so");
      await node.ok(SETUP);
      await forgetHammered(node);
    },
  );

  // Whoever reads the file finds one offset or the other, never an empty file.
  const setClock = (offset: string) =>
    node.ok(`echo '${offset}' > /etc/fake-time.new && mv /etc/fake-time.new /etc/fake-time`);
  const closed = async () => {
    await expectNoLeaks(node, 6);
    expect(await roleOf(node)).toBe(INSTANCE_ROLE);
  };
  const lastCheck = async () =>
    Date.parse(
      (JSON.parse(await node.ok("cat /run/imdsproxy/firewall.json")) as { lastCheck: string }).lastCheck,
    );
  const DAY_MS = 86_400_000;

  test("a day ahead: the watch goes on, and the node stays closed", async () => {
    await getsCredentials(node, ROLE, "alice");
    await setClock("+1d");
    await until(
      "the watch has looked, a day later",
      async () => (await lastCheck()) > Date.now() + DAY_MS / 2,
    );
    await node.ok("iptables -w -D OUTPUT -j IMDSPROXY");
    await until("the rules are repaired", async () =>
      (await node.ok("iptables -S OUTPUT")).includes("-j IMDSPROXY"),
    );
    await forgetHammered(node);
    // Every session seems over, to the clients too, and AWS takes no signature of tomorrow: no credentials, but none of the node's.
    await Bun.sleep(3000);
    await closed();
  });

  test("and back: alice has credentials again, and the watch goes on", async () => {
    await setClock("+0");
    await until("the watch has looked, today", async () => (await lastCheck()) < Date.now() + DAY_MS / 2);
    await getsCredentials(node, ROLE, "alice");
    await closed();
    expect(await node.ok("systemctl is-active imdsproxy imdsproxy-repair")).toBe("active\nactive\n");
  });
});
