import { expect, test } from "bun:test";
import { systemUnitOf, unitOf } from "../../src/identity/unit.ts";

test.each([
  ["/system.slice/cron.service", "cron.service"],
  ["/system.slice/system-getty.slice/getty@tty1.service", "getty@tty1.service"],
  ["/init.scope/../cron.service", null],
  ["/batch.slice/nightly.service/worker-3", "nightly.service"],
  ["/system.slice/_memory.service", "memory.service"],
  ["/system.slice/slurmstepd.scope/job_12/step_0/user/task_0", null],
  ["/system.slice/docker-0123.scope/cron.service", null],
  ["/system.slice/agent.service/system.slice/cron.service", "agent.service"],
  ["/user.slice/user-1000.slice/session-3.scope", null],
  ["/user.slice/user-1000.slice/user@1000.service/app.slice/cron.service", null],
  ["/user.slice/user-1000.slice/user@1000.service", null],
  ["/system.slice", null],
  ["/cron.service", "cron.service"],
  ["/", null],
  [null, null],
])("systemUnitOf(%p) is %p", (path, unit) => expect(systemUnitOf(path)).toBe(unit));

test.each([
  ["/batch.slice/slurmd.service", "/batch.slice", null],
  ["/batch.slice/hers.slice/slurmd.service/task", "/batch.slice", null],
  ["/system.slice/slurmd.service", "/", null],
  ["/batch.slice/agent.service", "/batch.slice/agent.service", "agent.service"],
  ["/batch.slice/agent.service/slurmd.service", "/batch.slice/agent.service/workers", "agent.service"],
])("systemUnitOf(%p), where users may write in %p, is %p", (path, writable, unit) =>
  expect(systemUnitOf(path, writable)).toBe(unit),
);

test.each([
  ["/system.slice/cron.service", "cron.service"],
  ["/user.slice/user-2001.slice/session-3.scope", "session-3.scope"],
  ["/user.slice/user-2001.slice/user@2001.service/app.slice/cron.service", "user@2001.service"],
  ["/system.slice/slurmstepd.scope/job_12/step_0/user/task_0", "slurmstepd.scope"],
  ["/system.slice/_cgroup.service", "cgroup.service"],
  ["/init.scope", "init.scope"],
  ["/docker/0123", null],
  ["/system.slice", null],
  ["/", null],
  [null, null],
])("the unit that the audit says for %j is %j", (path, unit) => {
  expect(unitOf(path)).toBe(unit);
});
