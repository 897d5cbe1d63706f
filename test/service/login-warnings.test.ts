import { expect, test } from "bun:test";
import { loginWarnings } from "../../src/service/login-warnings.ts";

test("EC2 Instance Connect is warned of where it is installed, with what to do", () => {
  for (const path of ["/usr/share/ec2-instance-connect", "/opt/aws/bin"]) {
    const [warning, ...more] = loginWarnings((asked) => asked.startsWith(path));
    expect(warning).toContain(`${path}/eic_run_authorized_keys`);
    expect(warning).toContain("SSM");
    expect(more).toEqual([]);
  }
  expect(loginWarnings(() => false)).toEqual([]);
});

test("Dropbear, which forwards users' connections as root, is warned of where it is installed, with what to do", () => {
  for (const path of ["/usr/sbin/dropbear", "/usr/local/sbin/dropbear"]) {
    const [warning, ...more] = loginWarnings((asked) => asked === path);
    expect(warning).toContain(path);
    expect(warning).toContain("start it with -j");
    expect(more).toEqual([]);
  }
  expect(loginWarnings(() => true)).toHaveLength(2);
});
