import { describe, expect, test } from "bun:test";
import { placeOf, placeText } from "../../src/observe/place.ts";

const ID = "0123456789abcdef".repeat(4);

describe("placeOf()", () => {
  const CASES: [path: string | null, text: string, kind: string][] = [
    [null, "unknown", "unknown"],
    ["/", "unknown", "unknown"],
    ["/system.slice/cron.service", "cron.service", "unit"],
    ["/system.slice/system-ssh.slice/ssh@3.service/sub", "ssh@3.service", "unit"],
    ["/init.scope", "init.scope", "unit"],
    ["/user.slice/user-1000.slice/session-3.scope", "login session", "login"],
    ["/user.slice/user-1000.slice/user@1000.service/app.slice/x.service", "user manager", "user"],
    ["/user.slice", "unknown", "unknown"],
    ["/system.slice/slurmstepd.scope/job_12/step_0/user/task_0", "Slurm job", "slurm"],
    ["/system.slice/slurmstepd.scope/s62DM8BYG18900/step_0/user/task_0", "Slurm job", "slurm"],
    [`/system.slice/docker-${ID}.scope`, "docker 0123456789ab", "container"],
    [`/docker/${ID}`, "docker 0123456789ab", "container"],
    [`/machine.slice/libpod-${ID}.scope/container`, "libpod 0123456789ab", "container"],
    ["/lxc.payload.web/system.slice/x.service", "lxc web", "container"],
    [
      `/kubepods.slice/kubepods-pod1.slice/cri-containerd-${ID}.scope`,
      `kubernetes cri-containerd-${ID}.scope`,
      "container",
    ],
  ];
  for (const [path, text, kind] of CASES) {
    test(`${path?.slice(0, 70)} is ${text.slice(0, 40)}`, () => {
      const place = placeOf(path);
      expect([placeText(place).slice(0, 80), place.kind]).toEqual([text.slice(0, 80), kind as never]);
    });
  }
  test("believes nothing that a user can make below their own slice", () => {
    const own = "/user.slice/user-1000.slice/user@1000.service";
    for (const made of [
      `docker-${ID}.scope`,
      "system.slice/amazon-ssm-agent.service",
      "system.slice/slurmstepd.scope/job_12",
    ])
      expect(placeOf(`${own}/${made}`)).toEqual({ kind: "user" });
  });
  test("and nothing below a unit that is delegated", () => {
    expect(placeOf(`/system.slice/jupyterhub.service/docker-${ID}.scope`)).toEqual({
      kind: "unit",
      name: "jupyterhub.service",
    });
  });
  test("makes names plain", () => {
    expect(placeText(placeOf("/system.slice/a\x1b[31m\nb.service"))).toBe("a?[31m?b.service");
  });
});
