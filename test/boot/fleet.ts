import { afterAll, beforeAll, expect, test } from "bun:test";
import { FLEET, fleetConfig, fleetKey } from "../support/fleet.ts";
import { describeAsRoot } from "../support/root.ts";
import { type Machine, until } from "./support/machine.ts";
import { DOWNLOADED, getsRole, makeNode, ROLE_ARN, roleOf, STS } from "./support/node.ts";

/**
 * A booted node whose rules are a fleet's object, with systemd's timer and units: from the first setup to the removal. Not a part of the
 * suite, where test/node/fleet-object.test.ts asks the same of a node without systemd: `make test-fleet`.
 */

const MINUTES = 60_000;
const COPY = "/var/lib/imdsproxy-fleet/object.yaml";
const rules = (name: string) => `role: arn:aws:iam::842413447717:role/${name}\n`;
/** With this the role list of a user who is refused is none. */
const REFUSED = /404|Not Found/;

describeAsRoot("a booted node with a fleet's object", () => {
  const fleet = fleetKey();
  let node: Machine;
  beforeAll(async () => {
    node = makeNode();
    node.write("var/lib/s3/object", "");
    node.write("var/lib/s3/status", "404");
    node.write(
      "etc/systemd/system/s3.service",
      "[Unit]\nDescription=The stand-in for S3\n[Service]\nExecStart=/opt/imdsproxy-source/node_modules/.bin/bun /opt/imdsproxy-source/test/boot/support/s3-object.ts /var/lib/s3\n[Install]\nWantedBy=multi-user.target\n",
    );
    node.enable("s3.service");
    const config = { ...fleetConfig(fleet.publicKey), every: "10s" };
    node.write("root/node.yaml", JSON.stringify({ region: "us-west-2", sts: { endpoint: STS }, config }));
    node.write(
      "root/local.yaml",
      JSON.stringify({ region: "us-west-2", sts: { endpoint: STS }, role: ROLE_ARN }),
    );
    await node.boot();
  }, 5 * MINUTES);
  afterAll(() => node?.destroy(), MINUTES);

  const put = async (object: string, status = 200) => {
    await node.ok("cat >/var/lib/s3/new && mv /var/lib/s3/new /var/lib/s3/object", { input: object });
    await node.ok(`echo ${status} >/var/lib/s3/status`);
  };
  const fail = (status: number) => node.ok(`echo ${status} >/var/lib/s3/status`);
  const serial = async () =>
    JSON.parse((await node.run("imdsproxy status --json")).stdout).configuration?.object?.serial ?? null;

  test(
    "setup without S3 installs a closed node, and the timer brings the object as soon as S3 has it",
    async () => {
      const ran = await node.run(`${DOWNLOADED} setup --config /root/node.yaml`);
      expect(ran.stdout).toContain(
        "warning: the fleet's object was not taken, and every user is refused until there is one",
      );
      expect(await roleOf(node, "alice")).toMatch(REFUSED);
      await put(fleet.sign(1, rules("One")));
      await getsRole(node, "One", "alice");
      expect(await serial()).toBe(1);
      expect((await node.ok(`stat -c '%U:%G %a' ${COPY}`)).trim()).toBe("root:imdsproxy 640");
    },
    5 * MINUTES,
  );

  test(
    "the timer takes up the next object, and a bad one changes nothing and fails the unit",
    async () => {
      await put(fleet.sign(2, rules("Two")));
      await getsRole(node, "Two", "alice");
      await put(fleet.sign(1, rules("One")));
      await until("the unit has failed", async () =>
        (await node.run("systemctl is-failed imdsproxy-config.service")).stdout.includes("failed"),
      );
      expect(await roleOf(node, "alice")).toBe("Two");
      expect(await node.ok("journalctl --no-pager -u imdsproxy-config")).toContain(
        "an older object is not taken again",
      );
      expect((await node.run("imdsproxy status")).stdout).toMatch(/^NOT healthy: the last poll of s3:/);
    },
    5 * MINUTES,
  );

  test(
    "a boot with S3 away serves the last good object",
    async () => {
      await fail(503);
      await node.reboot();
      await getsRole(node, "Two", "alice");
      expect((await node.run("systemctl is-active imdsproxy-config.timer")).stdout.trim()).toBe("active");
    },
    5 * MINUTES,
  );

  test(
    "a setup with a new key and its object takes both at once, and nobody is refused in between",
    async () => {
      const next = fleetKey();
      const config = { ...fleetConfig(next.publicKey), every: "10s" };
      await put(next.sign(3, rules("Three")));
      await node.ok("cat >/root/next.yaml", {
        input: JSON.stringify({ region: "us-west-2", sts: { endpoint: STS }, config }),
      });
      const ran = await node.ok(`${DOWNLOADED} setup --config /root/next.yaml`);
      expect(ran).toContain(`serial 3, sha256 `);
      expect(await roleOf(node, "alice")).toBe("Three");
      expect(FLEET).toBe(config.fleet);
    },
    5 * MINUTES,
  );

  test(
    "service disable and enable stop and start the timer; a configuration without config removes the units, and uninstall all",
    async () => {
      const timer = async () => (await node.run("systemctl is-active imdsproxy-config.timer")).stdout.trim();
      await node.ok("imdsproxy service disable");
      expect(await timer()).toBe("inactive");
      await node.ok("imdsproxy service enable");
      expect(await timer()).toBe("active");
      await node.ok(`${DOWNLOADED} setup --config /root/local.yaml`);
      expect((await node.run("ls /etc/systemd/system | grep imdsproxy-config")).stdout).toBe("");
      expect((await node.run("systemctl list-units --all | grep imdsproxy-config")).stdout).toBe("");
      await getsRole(node, ROLE_ARN.split("/")[1] ?? "", "alice");
      await node.ok("imdsproxy service uninstall");
      expect((await node.run("ls -d /var/lib/imdsproxy*")).stdout).toBe("");
    },
    5 * MINUTES,
  );

  test(
    "setup installs a whole configuration from S3 by its hash, and nothing of another",
    async () => {
      const whole = `region: us-west-2\nsts: { endpoint: "${STS}" }\nrole: ${ROLE_ARN}\n`;
      await put(whole);
      const setup = (sha256: string) =>
        node.run(
          `AWS_ENDPOINT_URL_S3=http://127.0.0.1:9000 ${DOWNLOADED} setup --config s3://bucket/whole.yaml --config-sha256 ${sha256}`,
        );
      expect(await setup("0".repeat(64))).toMatchObject({ code: 2 });
      expect((await node.run("ls /etc/imdsproxy /etc/systemd/system | grep imdsproxy")).stdout).toBe("");
      const hash = new Bun.CryptoHasher("sha256").update(whole).digest("hex");
      expect(await setup(hash)).toMatchObject({ code: 0 });
      await getsRole(node, ROLE_ARN.split("/")[1] ?? "", "alice");
      expect(await node.ok("cat /etc/imdsproxy/config.yaml")).toContain(whole);
    },
    5 * MINUTES,
  );
});
