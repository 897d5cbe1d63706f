/** An account that is called like the service's uid takes nobody's place in this iptables' rules. */
import { INSTANCE_ROLE } from "../support/node.ts";
import type { Scenario } from "../support/scenario.ts";

export const uids: Scenario = {
  name: "uids that are names",
  async run({ machine, holds }) {
    const service = (await machine.ok("id -u imdsproxy")).trim();
    await machine.ok(
      `for name in ${service} 0 ${service}-${service}; do echo "$name:x:$((4000 + $(echo "$name" | cksum | cut -c1-3))):100::/:/bin/sh" >>/etc/passwd; done`,
    );
    const other = (await machine.ok(`awk -F: '$1 == "${service}" { print $3 }' /etc/passwd`)).trim();
    const careless = await machine.ok(
      `iptables -w 10 -N CARELESS && iptables -w 10 -A CARELESS -m owner --uid-owner ${service} -j RETURN && iptables -w 10 -S CARELESS; iptables -w 10 -F CARELESS; iptables -w 10 -X CARELESS`,
    );
    holds(
      "a rule that somebody writes without care means the account of that name (the attack works)",
      careless.includes(`--uid-owner ${other} `),
      careless,
    );
    await machine.ok("systemctl stop imdsproxy-repair && imdsproxy iptables remove");
    const applied = await machine.run("imdsproxy iptables apply");
    holds("apply ends with 0", applied.code === 0, applied.stderr);
    const saved = await machine.ok("iptables-save; ip6tables-save");
    const owners = [
      ...new Set(
        [...saved.matchAll(/(?<!! )--uid-owner (\S+) .*-j (?:RETURN|DNAT|ACCEPT)/g)].map(([, uid]) => uid),
      ),
    ].sort();
    holds(
      "the rules let uid 0 and the service's uid pass, and no other",
      owners.join() === ["0", service].sort().join(),
      saved,
    );
    const got = await machine.run(
      `python3 -c 'import os; os.setgroups([]); os.setgid(100); os.setuid(${other}); os.execvp("curl", ["curl", "-sS", "-m", "10", "http://169.254.0.2:9081/latest/meta-data/iam/security-credentials/"])'`,
    );
    holds(
      "the account of that name does not reach the agent",
      !got.stdout.includes(INSTANCE_ROLE),
      got.stdout + got.stderr,
    );
    await machine.ok("head -n -3 /etc/passwd >/root/passwd && cat /root/passwd >/etc/passwd");
    await machine.ok("imdsproxy iptables apply && systemctl start imdsproxy-repair");
  },
};
