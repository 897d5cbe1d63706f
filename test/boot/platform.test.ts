import { expect, test } from "bun:test";
import { cellOf } from "../platforms/cells.ts";
import { CACHE } from "../platforms/support/virtual-machine.ts";
import { describeAsRoot } from "../support/root.ts";

/** The images are mounted where the program runs, and not where other tests watch what is mounted. */
const IN_NAMESPACE = ["setpriv", "--pdeathsig", "KILL", "unshare", "--mount", "--propagation", "private"];
const BUILD = "test/platforms/support/build-image.sh";
/** A newer release than the other tests of this folder boot; where a mirror does not have it, theirs. */
const SUITES = ["trixie", "bookworm"];
const LIMIT_MS = 25 * 60_000;

/** The name of the first cell whose image can be built, or what its packages' programs said. */
function buildable(): string {
  const errors: string[] = [];
  for (const suite of SUITES) {
    const built = Bun.spawnSync([...IN_NAMESPACE, "sh", BUILD, CACHE, "container", suite], {
      stderr: "pipe",
    });
    if (built.exitCode === 0) return `userland-${suite}`;
    errors.push(built.stderr.toString());
  }
  throw new Error(errors.join("\n"));
}

/** As few requests and flushes as show that each is served; `make test-platforms` makes thousands. */
const FEW = { IMDSPROXY_PLATFORM_REQUESTS: "60", IMDSPROXY_PLATFORM_FLUSHES: "2" };
const SCENARIOS = ["install", "main job", "flush", "kill -9", "upgrade", "boot", "disable"];

describeAsRoot("another release of Debian", () => {
  test(
    "installs, serves, repairs, restarts, upgrades, reboots and gives the node back, with an attacker at work",
    async () => {
      const cell = cellOf(buildable());
      console.log(`the cell is ${cell.name}`);
      const run = Bun.spawn(
        [
          ...[...IN_NAMESPACE, process.execPath, "test/platforms/run.ts"],
          ...["--no-record", `${cell.name}:${SCENARIOS.join(",")}`],
        ],
        { env: { ...process.env, ...FEW }, stdout: "pipe", stderr: "pipe" },
      );
      // So that what it has said until then is shown.
      const tooLong = setTimeout(() => run.kill("SIGKILL"), LIMIT_MS - 60_000);
      const [output, errors] = await Promise.all([run.stdout.text(), run.stderr.text()]);
      clearTimeout(tooLong);
      const lines = output.trim().split("\n");
      const failed = lines.filter((line) => line.includes(": FAIL "));
      expect({ failed, errors, status: await run.exited, last: lines.at(-1) }).toEqual({
        failed: [],
        errors: expect.any(String),
        status: 0,
        last: "everything holds",
      });
      // Each scenario has said something: a name that fits none would be left out in silence.
      expect(lines.length).toBeGreaterThan(50);
    },
    LIMIT_MS,
  );
});
