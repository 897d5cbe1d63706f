import { afterEach, beforeEach, describe, expect, test } from "bun:test";
import { createHash } from "node:crypto";
import {
  chmodSync,
  copyFileSync,
  existsSync,
  mkdirSync,
  mkdtempSync,
  readFileSync,
  rmSync,
  writeFileSync,
} from "node:fs";
import { tmpdir } from "node:os";
import { join, resolve } from "node:path";
import { parse } from "yaml";
import { closedRules } from "../../src/firewall/closed-state.ts";

/**
 * The hooks of scripts/lifecycle, each run in the order in which its platform runs it, with stand-ins for the platform, for
 * downloads and for install.sh. What they do to a node with the real ones is in test/boot/scripts.test.ts and
 * test/boot/first-boot.test.ts.
 */

const LIFECYCLE = resolve(import.meta.dir, "../../scripts/lifecycle");
const hook = (name: string): string => readFileSync(join(LIFECYCLE, name), "utf8");
const ROLE_ARN = "arn:aws:iam::123456789012:role/ROLE";

/** Writes its arguments down, and ends as ENDS says. */
const INSTALL = `echo "install $*" >>"$ORDER"; exit "\${ENDS:-0}"`;

/** A place with a bucket, programs that come first on PATH, and a file in which each step writes that it ran. */
class Place {
  readonly directory = mkdtempSync(join(tmpdir(), "imdsproxy-lifecycle-"));
  readonly #order = this.path("order");

  constructor() {
    this.write("bucket/install.sh", INSTALL);
    // The object behind a URL is the file of that name in the bucket.
    const get = (from: string, to: string) => `cp "${this.path("bucket")}/\${${from}##*/}" "\${${to}}"`;
    this.program(
      "aws",
      `[ "$1 $2 $3" = "s3 cp --only-show-errors" ] || exit 9; from=$4 to=$5; ${get("from", "to")}`,
    );
    this.program(
      "curl",
      `while [ $# -gt 1 ]; do [ "$1" = --output ] && to=$2; shift; done; from=$1; ${get("from", "to")}`,
    );
    this.program("poweroff", 'echo poweroff >>"$ORDER"');
  }

  path(name: string): string {
    return join(this.directory, name);
  }

  write(name: string, text: string): void {
    mkdirSync(join(this.path(name), ".."), { recursive: true });
    writeFileSync(this.path(name), text);
  }

  program(name: string, text: string): void {
    this.write(`bin/${name}`, `#!/bin/sh\n${text}\n`);
    chmodSync(this.path(`bin/${name}`), 0o755);
  }

  /** What ran so far, in its order. */
  get order(): string[] {
    return existsSync(this.#order) ? readFileSync(this.#order, "utf8").trim().split("\n") : [];
  }

  run(command: readonly string[], options: { cwd?: string; env?: Record<string, string> } = {}) {
    const run = Bun.spawnSync([...command], {
      cwd: this.path(options.cwd ?? "."),
      env: {
        ...process.env,
        PATH: `${this.path("bin")}:${process.env["PATH"] ?? ""}`,
        ORDER: this.#order,
        TMPDIR: this.directory,
        ...options.env,
      },
    });
    return { exitCode: run.exitCode, stderr: run.stderr.toString() };
  }

  end(): void {
    rmSync(this.directory, { recursive: true });
  }
}

let place: Place;
beforeEach(() => {
  place = new Place();
});
afterEach(() => place.end());

/** The line that a hook's comment says to add to a script of the platform's. */
function lineOf(name: string, pattern: RegExp): string {
  const line = pattern.exec(hook(name))?.[0];
  if (line === undefined) throw new Error(`${name} does not say ${pattern}`);
  return line;
}

const ends = [
  ["works", 0],
  ["fails", 1],
] as const;

describe("hyperpod.sh", () => {
  /** The directory as an operator uploads it; HyperPod copies it to the node. */
  const upload = (directory: string) => {
    mkdirSync(place.path(directory), { recursive: true });
    copyFileSync(join(LIFECYCLE, "hyperpod.sh"), place.path(`${directory}/hyperpod.sh`));
    place.write(`${directory}/install.sh`, INSTALL);
    place.write(`${directory}/imdsproxy.yaml`, `role: ${ROLE_ARN}\n`);
    return `install --from ${place.path(directory)}/ --config ${place.path(directory)}/imdsproxy.yaml`;
  };

  for (const [what, code] of ends) {
    test(`OnCreate: where it ${what}, Slurm and users ${code === 0 ? "come after it" : "do not come"}`, () => {
      const installed = upload("base-config");
      // As the base config's: it runs lifecycle_script.py, and ends as that does.
      place.write(
        "base-config/on_create.sh",
        `set -e\ncd "$(dirname "$0")"\n${lineOf("hyperpod.sh", /sh \.\/hyperpod\.sh \|\| exit 1/)}\necho lifecycle_script.py >>"$ORDER"\n`,
      );
      const ran = place.run(["bash", place.path("base-config/on_create.sh")], {
        env: { ENDS: String(code) },
      });
      expect(ran.exitCode).toBe(code);
      expect(place.order).toEqual(code === 0 ? [installed, "lifecycle_script.py"] : [installed]);
    });

    test(`OnInitComplete: where it ${what}, so does the hook`, () => {
      const installed = upload("scripts");
      // After the image's own initialisation, which has started slurmd.
      expect(place.run(["sh", "-c", 'echo slurmd >>"$ORDER"']).exitCode).toBe(0);
      const ran = place.run(["bash", "./hyperpod.sh"], { cwd: "scripts", env: { ENDS: String(code) } });
      expect(ran.exitCode).toBe(code);
      expect(place.order).toEqual(["slurmd", installed]);
    });
  }

  /** run_extensions.sh as awslabs have it: a feature whose script is missing is passed over. */
  const extensions = (added: string) =>
    place.write(
      "Extensions/run_extensions.sh",
      `set -e
SCRIPT_DIR="$(cd "$(dirname "\${BASH_SOURCE[0]}")" && pwd)"
run_feature() { [ -f "$2" ] || return 0; bash "$2" || exit 1; }
run_feature detect-node "$SCRIPT_DIR/detect-node/detect_node.sh"
${added}
if [ "true" = "true" ]; then
  run_feature add-users "$SCRIPT_DIR/add-users/add_users.sh"
fi
`,
    );
  const ADDED = /bash "\$SCRIPT_DIR\/imdsproxy\/hyperpod\.sh" \|\| exit 1/;
  const runExtensions = (env: Record<string, string> = {}) => {
    for (const [name, script] of [
      ["detect-node", "detect_node"],
      ["add-users", "add_users"],
    ])
      place.write(`Extensions/${name}/${script}.sh`, `echo ${name} >>"$ORDER"\n`);
    return place.run(["bash", place.path("Extensions/run_extensions.sh")], { env }).exitCode;
  };

  for (const [what, code] of ends) {
    test(`as an extension: where it ${what}, users are ${code === 0 ? "made after it" : "not made"}`, () => {
      const installed = upload("Extensions/imdsproxy");
      extensions(lineOf("hyperpod.sh", ADDED));
      expect(runExtensions({ ENDS: String(code) })).toBe(code);
      expect(place.order).toEqual(["detect-node", installed, ...(code === 0 ? ["add-users"] : [])]);
    });
  }

  test("as an extension that was not uploaded: the hook fails, and no users are made", () => {
    extensions(lineOf("hyperpod.sh", ADDED));
    expect(runExtensions()).toBe(1);
    expect(place.order).toEqual(["detect-node"]);
  });

  test("as an extension that was not uploaded, by run_feature: the node comes up open", () => {
    extensions('run_feature imdsproxy "$SCRIPT_DIR/imdsproxy/hyperpod.sh"');
    expect(runExtensions()).toBe(0);
    expect(place.order).toEqual(["detect-node", "add-users"]);
  });

  test("a role does in place of a configuration; with neither it fails and says what is missing", () => {
    upload("scripts");
    rmSync(place.path("scripts/imdsproxy.yaml"));
    const run = (env: Record<string, string>) => place.run(["sh", "./hyperpod.sh"], { cwd: "scripts", env });
    expect(run({ IMDSPROXY_ROLE_ARN: ROLE_ARN }).exitCode).toBe(0);
    expect(place.order).toEqual([`install --from ${place.path("scripts")}/ --role-arn ${ROLE_ARN}`]);
    const without = run({ IMDSPROXY_ROLE_ARN: "" });
    expect(without.exitCode).toBe(1);
    expect(without.stderr).toContain("there is no");
    expect(without.stderr).toContain("imdsproxy.yaml");
  });
});

interface Action {
  readonly Script: string;
  readonly Args: readonly string[];
}

describe("parallelcluster.sh", () => {
  /** The part of the cluster's configuration that stands in the comment. */
  const actions = (): Record<"OnNodeStart" | "OnNodeConfigured", Action> => {
    const lines = hook("parallelcluster.sh").split("\n");
    const first = lines.findIndex((line) => line.startsWith("#   HeadNode:"));
    const text = lines.slice(first, lines.indexOf("#", first)).map((line) => line.slice(4));
    return parse(text.join("\n")).HeadNode.CustomActions;
  };
  /** As ParallelCluster's custom_action_executor.py: it fetches the script, and runs it with its arguments. */
  const act = ({ Script, Args }: Action, env: Record<string, string> = {}) => {
    place.write("bucket/parallelcluster.sh", hook("parallelcluster.sh"));
    const script = place.path("action");
    expect(place.run(["aws", "s3", "cp", "--only-show-errors", Script, script]).exitCode).toBe(0);
    chmodSync(script, 0o755);
    return place.run([script, ...Args], { env });
  };
  const INSTALLED = `install --from s3://BUCKET/imdsproxy/ --role-arn ${ROLE_ARN}`;

  for (const [what, code] of ends) {
    test(`OnNodeStart: where it ${what}, so does the action, with the arguments of the comment`, () => {
      expect(act(actions().OnNodeStart, { ENDS: String(code) }).exitCode).toBe(code);
      expect(place.order).toEqual([INSTALLED]);
    });
  }

  test("OnNodeStart: it fails where install.sh cannot be fetched, from a bucket or by https", () => {
    const { OnNodeStart } = actions();
    rmSync(place.path("bucket/install.sh"));
    expect(act(OnNodeStart).exitCode).not.toBe(0);
    const [, ...others] = OnNodeStart.Args;
    expect(act({ ...OnNodeStart, Args: ["https://EXAMPLE/imdsproxy", ...others] }).exitCode).not.toBe(0);
    expect(place.order).toEqual([]);
  });

  test("OnNodeStart: without an argument it says what is missing", () => {
    const ran = act({ ...actions().OnNodeStart, Args: [] });
    expect(ran.exitCode).not.toBe(0);
    expect(ran.stderr).toContain("the first argument must be");
  });

  for (const [what, code] of ends) {
    test(`OnNodeConfigured on a node without that firewall: it ${what} as setup does`, () => {
      place.program("iptables", "exit 1");
      place.program("imdsproxy", `echo "imdsproxy $*" >>"$ORDER"; exit ${code}`);
      expect(act(actions().OnNodeConfigured).exitCode).toBe(code);
      expect(place.order).toEqual(["imdsproxy setup"]);
    });
  }
});

describe("pcs.json", () => {
  const { nodeBootstrapped } = JSON.parse(hook("pcs.json")).stages;
  const [script] = nodeBootstrapped;

  /** As the agent of AWS PCS: fetches the script, compares its sum, runs it; slurmd starts after the stage. */
  const bootstrap = (checksum: string, env: Record<string, string> = {}) => {
    const file = place.path("lifecycle-script");
    place.run(["aws", "s3", "cp", "--only-show-errors", script.scriptSource.scriptLocation, file]);
    const sum = createHash("sha256").update(readFileSync(file)).digest("hex");
    const ran = sum === checksum ? place.run(["sh", file, ...script.arguments], { env }).exitCode : 1;
    if (ran === 0) place.run(["sh", "-c", 'echo slurmd >>"$ORDER"']);
    else if (script.onError === "TERMINATE") place.run(["sh", "-c", 'echo terminated >>"$ORDER"']);
  };
  const SUM = createHash("sha256").update(INSTALL).digest("hex");
  const INSTALLED = `install --from s3://BUCKET/imdsproxy/imdsproxy-linux-x64.gz --sha256 EXECUTABLE_SHA256 --role-arn ${ROLE_ARN}`;

  test("is what PCS takes: names, limits and values of its API", () => {
    expect(nodeBootstrapped).toHaveLength(1);
    expect(script.name).toMatch(/^[A-Za-z0-9][A-Za-z0-9 _-]{0,63}$/);
    expect(script.arguments.length).toBeLessThanOrEqual(20);
    for (const argument of script.arguments) expect(argument.length).toBeLessThanOrEqual(256);
    expect([script.onError, script.executionPolicy]).toEqual(["TERMINATE", "FIRST_BOOT_ONLY"]);
  });

  test("install.sh runs before slurmd", () => {
    bootstrap(SUM);
    expect(place.order).toEqual([INSTALLED, "slurmd"]);
  });

  test("where it fails, the node is terminated and slurmd does not start", () => {
    bootstrap(SUM, { ENDS: "1" });
    expect(place.order).toEqual([INSTALLED, "terminated"]);
  });

  test("where its sum is another, it does not run either", () => {
    bootstrap(SUM.replace(/^./, (digit) => (digit === "0" ? "1" : "0")));
    expect(place.order).toEqual(["terminated"]);
  });
});

/** A hook with an operator's values in place of the examples. */
const filledIn = (text: string, sum = createHash("sha256").update(INSTALL).digest("hex")) =>
  text.replace(/0{64}/, sum);
const USER_DATA_INSTALLED = `install --from https://EXAMPLE/imdsproxy/ --role-arn ${ROLE_ARN} --region us-west-2`;

describe("user-data.sh", () => {
  const run = (text: string, env: Record<string, string> = {}) => {
    place.write("user-data", text);
    return place.run(["sh", "./user-data"], { env }).exitCode;
  };

  test("installs, and leaves no file", () => {
    expect(run(filledIn(hook("user-data.sh")))).toBe(0);
    expect(place.order).toEqual([USER_DATA_INSTALLED]);
    expect(new Bun.Glob("tmp.*").scanSync(place.directory).next().done).toBe(true);
  });

  for (const [what, prepare, ran] of [
    ["install.sh cannot be fetched", () => rmSync(place.path("bucket/install.sh")), []],
    ["install.sh is another", () => place.write("bucket/install.sh", `${INSTALL}\n`), []],
    ["there is no place for a file", () => place.program("mktemp", "exit 1"), []],
    ["install.sh fails", () => place.write("bucket/install.sh", INSTALL), [USER_DATA_INSTALLED]],
  ] as const) {
    test(`where ${what}, it fails and the instance is switched off`, () => {
      prepare();
      expect(run(filledIn(hook("user-data.sh")), { ENDS: "1" })).not.toBe(0);
      expect(place.order).toEqual([...ran, "poweroff"]);
    });
  }
});

describe("user-data.yaml", () => {
  const { bootcmd, runcmd } = parse(hook("user-data.yaml")) as { bootcmd: string[]; runcmd: string[] };

  test("cloud-init knows it by its first line", () => {
    expect(hook("user-data.yaml")).toStartWith("#cloud-config\n");
  });

  test("bootcmd makes the closed state's own rules for the metadata addresses, before there is imdsproxy", () => {
    place.program("ip", 'echo "ip $*" >>"$ORDER"');
    expect(place.run(["sh", "-c", bootcmd.join("\n")]).exitCode).toBe(0);
    const rules = place.order.filter((line) => line.includes(" rule "));
    const closed = closedRules(null).map(
      ({ family, words }) => `ip ${family === "ipv4" ? "-4" : "-6"} rule add pref 0 ${words.join(" ")}`,
    );
    for (const rule of rules) expect(closed).toContain(rule);
    const metadata = closed.filter((rule) => /to (?:169\.254\.169\.254|fd00:ec2::254) /.test(rule));
    // IPv6 needs no table: `prohibit` holds sockets that are bound to an interface as well.
    expect(rules).toEqual(metadata.filter((rule) => !/-6 .* lookup/.test(rule)));
    expect(place.order.filter((line) => line.includes(" route ")).length).toBeGreaterThan(0);
  });

  for (const [what, code] of ends) {
    test(`runcmd: where install.sh ${what}, so does it`, () => {
      const run = place.run(["sh", "-c", filledIn(runcmd.join("\n"))], { env: { ENDS: String(code) } });
      expect(run.exitCode).toBe(code);
      expect(place.order).toEqual([USER_DATA_INSTALLED]);
    });
  }

  test("runcmd: where install.sh is another, it fails and does not run it", () => {
    expect(place.run(["sh", "-c", filledIn(runcmd.join("\n"), "1".repeat(64))]).exitCode).not.toBe(0);
    expect(place.order).toEqual([]);
  });

  test("it names no unit of cloud-init's, whose names changed", () => {
    expect([...bootcmd, ...runcmd].join()).not.toContain("cloud-");
  });
});
