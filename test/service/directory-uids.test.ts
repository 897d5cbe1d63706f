import { expect, test } from "bun:test";
import { directories, twinsOf } from "../../src/service/directory-uids.ts";

test("directories() are the services of accounts that are not this machine's own", () => {
  expect(directories("passwd: files systemd sss [NOTFOUND=return] ldap sss\ngroup: files nis\n")).toEqual([
    "sss",
    "ldap",
  ]);
  expect(directories("")).toEqual([]);
});

test("twinsOf() names each account of a directory that has the uid of a local one", async () => {
  const known: Record<string, Record<string, string>> = {
    files: { "0": "root", "990": "imdsproxy", "400": "pcluster-admin" },
    sss: { "990": "ev\x9b2J\x1be", "400": "pcluster-admin", "1200": "ops" },
    ldap: {},
  };
  const entry = async (service: string, key: string) => {
    const name = known[service]?.[key];
    return name === undefined ? null : [name, "x", key];
  };
  expect(await twinsOf([0, 400, 990, 1200], ["sss", "ldap"], entry)).toEqual([
    'the directory service sss has an account "ev\\u009b2J\\u001be" with uid 990, which is that of the exempt account "imdsproxy": whoever logs in as the ' +
      "first has the instance role; give it another uid, or have the directory's client take no uid below 1000 (sssd.conf: min_id = 1000)",
  ]);
});
