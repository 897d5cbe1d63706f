import { afterAll, beforeAll, describe, expect, test } from "bun:test";
import { existsSync, readFileSync, rmSync } from "node:fs";
import { mustExec } from "../support/node.ts";
import { eventually, givenCredentials, type ProxiedNode, startProxiedNode } from "../support/proxied.ts";
import { describeAsRoot } from "../support/root.ts";
import type { SimulatedNode, Who } from "../support/simulated-node.ts";

/**
 * The executable is a JavaScript runtime with our program in it. Alice tries what such runtimes read from the directory that
 * root happens to be in, and what they open for a debugger.
 */

const ROOT: Who = { user: "root" };
const ALICE: Who = { user: "alice" };
const TRAP = "/run/home/alice/trap";
/** Where her code, were it run, would leave its mark. */
const MARK = "/tmp/run-by-root";
const EVIL = `require("node:fs").writeFileSync("${MARK}", "x");\n`;

describeAsRoot("the runtime by attack", () => {
  let proxied: ProxiedNode;
  let node: SimulatedNode;

  beforeAll(async () => {
    proxied = await startProxiedNode();
    node = proxied.node;
    const set = (name: string, text: string) => node.write(`${TRAP}/${name}`, text, 0o755);
    set("evil.ts", EVIL);
    set("bunfig.toml", 'preload = ["./evil.ts"]\n[run]\npreload = ["./evil.ts"]\n');
    for (const name of [".env", ".env.local", ".env.production"]) {
      set(
        name,
        "BUN_OPTIONS=--preload=./evil.ts\nBUN_INSPECT=127.0.0.1:7777\nPATH=.\nLD_PRELOAD=./evil.so\n",
      );
    }
    set("tsconfig.json", JSON.stringify({ compilerOptions: { paths: { "*": ["./evil.ts"] } } }));
    set(
      "package.json",
      JSON.stringify({ type: "module", main: "evil.ts", scripts: { "--version": `touch ${MARK}` } }),
    );
    for (const name of ["citty", "consola", "zod", "yaml", "prom-client", "@aws-sdk/client-sts"]) {
      set(`node_modules/${name}/package.json`, '{"main":"index.js"}');
      set(`node_modules/${name}/index.js`, EVIL);
    }
    for (const name of [
      "getent",
      "iptables",
      "iptables-restore",
      "iptables-save",
      "ip6tables",
      "ip",
      "sh",
      "systemctl",
      "modprobe",
      "uname",
      "useradd",
      "id",
    ]) {
      set(name, `#!/bin/sh\ntouch ${MARK}\n`);
    }
  });
  afterAll(() => node?.stop());

  const marked = () => existsSync(node.path(MARK));
  const inTrap = (command: string) =>
    node.exec({ ...ROOT, argv: ["sh", "-c", `cd ${TRAP} && exec ${command}`], timeoutMs: 120_000 });

  test("the trap is one: a runtime of this kind, started there, runs alice's code", async () => {
    // With BUN_BE_BUN the same executable is Bun itself (Bun's documentation, "Act as the Bun CLI").
    await inTrap("env BUN_BE_BUN=1 /run/bin/imdsproxy run ./evil.ts");
    expect(marked()).toBe(true);
    rmSync(node.path(MARK));
    await inTrap("env BUN_BE_BUN=1 /run/bin/imdsproxy -e 1");
    expect(marked()).toBe(true);
    rmSync(node.path(MARK));
  });

  for (const command of [
    "--version",
    "--help",
    "config show",
    "config check",
    "iptables status",
    "iptables apply",
    "iptables list",
    "explain alice",
    "whoami",
    "service status",
    "iptables check-direct",
    "setup --dry-run --role-arn arn:aws:iam::842413447717:role/ImdsProxyTestRole",
    "iam trust-policy",
    "warm bob",
    "status",
    "doctor",
  ]) {
    test(`in a directory of alice's, root's "imdsproxy ${command}" runs nothing of hers`, async () => {
      await inTrap(`/run/bin/imdsproxy ${command}`);
      expect(marked()).toBe(false);
    });
  }

  test("in a directory of alice's, serve runs nothing of hers, and asks the node's own getent", async () => {
    await proxied.proxy.stop();
    const serving = node.spawn({
      ...ROOT,
      argv: ["sh", "-c", `cd ${TRAP} && exec /run/bin/imdsproxy serve`],
      timeoutMs: 0,
    });
    try {
      await eventually("it serves", () => serving.stderr().includes('"ready"'));
      expect((await givenCredentials(node, ALICE)).status).toBe(200);
      expect(marked()).toBe(false);
    } finally {
      serving.kill("SIGTERM");
      await serving.done;
      await proxied.restart();
    }
  });

  describe("a debugger", () => {
    /** Everything that listens on the node, TCP and Unix. */
    const listening = async () =>
      (await mustExec(node, ROOT, ["ss", "-Hlntx"]))
        .split("\n")
        .map((line) => line.split(/\s+/).slice(4).join(" "))
        .sort();
    test("is not opened by a signal, and the signals do not end the service", async () => {
      const before = await listening();
      for (const signal of ["SIGUSR1", "SIGUSR2", "SIGWINCH", "SIGPIPE"] as const) {
        process.kill(proxied.proxy.pid, signal);
        await Bun.sleep(300);
      }
      expect(await listening()).toEqual(before);
      expect(proxied.proxy.output()).not.toMatch(/inspector|debugger|ws:\/\//i);
      expect((await givenCredentials(node, ALICE)).status).toBe(200);
    });

    test("cannot be attached by alice, nor by anybody through /proc", async () => {
      const status = readFileSync(`/proc/${proxied.proxy.pid}/status`, "utf8");
      expect(/^TracerPid:\s+0$/m.test(status)).toBe(true);
      const script =
        "import ctypes,sys\nprint(ctypes.CDLL(None,use_errno=True).ptrace(16,int(sys.argv[1]),0,0), ctypes.get_errno())";
      const pid =
        (await mustExec(node, ROOT, ["pgrep", "-f", "imdsproxy serve"])).trim().split("\n")[0] ?? "";
      expect((await mustExec(node, ALICE, ["/usr/bin/python3", "-c", script, pid])).trim()).toBe("-1 1");
    });

    for (const variable of [
      "BUN_INSPECT=127.0.0.1:7788",
      "BUN_OPTIONS=--inspect=127.0.0.1:7788",
      "BUN_INSPECT_CONNECT_TO=unix:///tmp/x",
      "BUN_CONFIG_VERBOSE_FETCH=curl",
      "NODE_TLS_REJECT_UNAUTHORIZED=0",
    ]) {
      test(`and its like are refused: ${variable.split("=")[0]} stops the start`, async () => {
        const { exitCode, stderr } = await node.exec({
          ...ROOT,
          argv: ["env", variable, "/run/bin/imdsproxy", "serve", "--listen", "127.0.0.1:987"],
          timeoutMs: 40_000,
        });
        expect([exitCode, stderr]).toEqual([1, expect.stringContaining(variable.split("=")[0] ?? "")]);
        expect(stderr).toContain("start it without");
      });
    }
  });
});
