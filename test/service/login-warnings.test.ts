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
