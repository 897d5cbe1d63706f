import { describe, expect, test } from "bun:test";
import { withUsers } from "../../src/demo/accounts.ts";

const machine = {
  passwd:
    "root:x:0:0:root:/root:/bin/bash\nalice:x:1000:1000::/home/alice:/bin/bash\nubuntu:x:2001:2001::/home/ubuntu:/bin/bash\n",
  group: "root:x:0:\nalice:x:1000:\nubuntu:x:2001:\ndata-eng:x:900:carol\n",
  subuid: "alice:100000:65536\nubuntu:165536:65536\n",
  subgid: "",
};

describe("withUsers()", () => {
  test("takes the place of accounts of the same name or number", () => {
    const { passwd, group, subuid } = withUsers(machine, [{ name: "alice", uid: 2001 }]);
    expect(passwd).toBe("root:x:0:0:root:/root:/bin/bash\nalice:x:2001:2001:alice:/run/home/alice:/bin/sh\n");
    expect(group).toBe("root:x:0:\ndata-eng:x:900:carol\nalice:x:2001:\n");
    expect(subuid).toBe("ubuntu:165536:65536\n");
  });

  test("joins groups that are there, and makes those that are not, blanks and all", () => {
    const users = [
      { name: "bob", uid: 2002, groups: ["data-eng", "domain admins"] },
      { name: "dora", uid: 2003, groups: ["domain admins"] },
    ];
    const { group } = withUsers(machine, users);
    expect(group).toContain("data-eng:x:900:carol,bob\n");
    expect(group).toContain("domain admins:x:47000:bob,dora\n");
  });

  test("writes subordinate ranges for uids and gids", () => {
    const { subuid, subgid } = withUsers(machine, [
      { name: "bob", uid: 2002, subordinate: [300_000, 65_536] },
    ]);
    expect([subuid, subgid]).toEqual([`${machine.subuid}bob:300000:65536\n`, "bob:300000:65536\n"]);
  });

  test("leaves the machine's accounts alone otherwise", () => {
    expect(withUsers(machine, [])).toEqual(machine);
  });
});
