import { describe, expect, test } from "bun:test";
import { stateDirectoryOf } from "../../src/service/units/proxy.ts";
import { handoverUnitText, objectUnitTexts, unitTexts } from "../../src/service/units.ts";

const NO_LATER_THREADS =
  "Environment=BUN_JSC_useConcurrentJIT=0 BUN_JSC_useConcurrentGC=0 BUN_JSC_numberOfGCMarkers=1 BUN_JSC_useWarmUpMarkedBlocks=0";
const FACTS = { systemdVersion: 252, stateDirectory: "/var/lib/imdsproxy" };
const units = unitTexts(FACTS);
const lines = (text: string) => text.split("\n");

describe("unitTexts()", () => {
  test("restarts the proxy and the watch always, without a limit", () => {
    for (const name of ["imdsproxy.service", "imdsproxy-repair.service"] as const) {
      expect(lines(units[name])).toContain("Restart=always");
      expect(lines(units[name])).toContain("StartLimitIntervalSec=0");
      expect(units[name]).toMatch(/^WatchdogSec=/m);
      expect(lines(units[name])).toContain("Type=notify");
    }
  });

  test("lets the engine of what serves and what repairs start no thread later", () => {
    for (const name of ["imdsproxy.service", "imdsproxy-repair.service"] as const)
      expect(lines(units[name])).toContain(NO_LATER_THREADS);
    expect(lines(handoverUnitText(FACTS))).toContain(NO_LATER_THREADS);
  });

  test("lets the proxy's heap grow less than the engine would", () => {
    expect(lines(units["imdsproxy.service"])).toContain("Environment=BUN_JSC_forceRAMSize=134217728");
    expect(lines(handoverUnitText(FACTS))).toContain("Environment=BUN_JSC_forceRAMSize=134217728");
  });

  test("gives the proxy ten times the weight of another service on a processor, and spares it when memory runs out", () => {
    // 100 is what a unit has that says nothing (systemd.resource-control(5), CPUWeight=).
    expect(lines(units["imdsproxy.service"])).toContain("CPUWeight=1000");
    expect(lines(units["imdsproxy.service"])).toContain("OOMScoreAdjust=-900");
  });

  test("may read a locked /etc/shadow where the platform's accounts depend on it, and nowhere else", () => {
    const reads = unitTexts({ ...FACTS, readsShadow: true });
    for (const name of ["imdsproxy-iptables.service", "imdsproxy-repair.service"] as const) {
      expect(lines(reads[name])).toContain(
        "CapabilityBoundingSet=CAP_NET_ADMIN CAP_NET_RAW CAP_DAC_READ_SEARCH",
      );
      expect(lines(units[name])).toContain("CapabilityBoundingSet=CAP_NET_ADMIN CAP_NET_RAW");
    }
    expect(reads["imdsproxy.service"]).toBe(units["imdsproxy.service"]);
  });

  test("removes rules at no stop: only `service disable` does", () => {
    for (const text of Object.values(units)) expect(text).not.toMatch(/^ExecStop/m);
  });

  test("brings the rules before sysinit.target and the network, without waiting for a unit of HyperPod", () => {
    const text = lines(units["imdsproxy-iptables.service"]);
    expect(text).toContain("DefaultDependencies=no");
    expect(text).toContain("Before=sysinit.target network-pre.target");
    expect(text).toContain("WantedBy=sysinit.target");
    for (const unit of Object.values(units)) expect(unit).not.toContain("sagemaker");
  });

  test("closes the node before file systems are mounted, by ip alone, with nothing that systemd would have to make for it", () => {
    const text = lines(units["imdsproxy-closed.service"]);
    expect(text).toContain("DefaultDependencies=no");
    expect(text).toContain("Before=local-fs-pre.target sysinit.target network-pre.target");
    expect(text).toContain("WantedBy=sysinit.target");
    for (const line of text.filter((one) => one.startsWith("ExecStart="))) {
      expect(line).toMatch(/^ExecStart=-?(?:\/sbin\/ip -[46] rule add pref 0 |\/bin\/sh -c ')/);
    }
    // What systemd needs a name, a namespace, a directory, a file or a device for.
    const needs =
      /^(?:User|Group|DynamicUser|Private\w+|Protect\w+|(?:State|Runtime|Cache|Logs)Directory|\w+Paths|Root\w+|Requires\w*|Device\w+|IPAddress\w+|LoadCredential)=/;
    expect(text.filter((line) => needs.test(line))).toEqual([]);
  });

  test("closes a configured upstream too", () => {
    const text = unitTexts({ ...FACTS, upstream: { address: "127.0.0.1", port: 1338 } });
    expect(text["imdsproxy-closed.service"]).toContain("to 127.0.0.1 ipproto 6 dport 1338 uidrange");
  });

  test("lets the units of the firewall write nothing before they work, and try for ever", () => {
    for (const name of ["imdsproxy-iptables.service", "imdsproxy-repair.service"] as const) {
      // Directories that systemd makes before the start, and mounts that it waits for.
      expect(units[name]).not.toMatch(
        /^(?:PrivateTmp|PrivateDevices|\w+Directory|RequiresMountsFor|Requires|BindsTo)=/m,
      );
      expect(lines(units[name])).toContain("StartLimitIntervalSec=0");
      expect(units[name]).toMatch(/^Restart=/m);
    }
    expect(units["imdsproxy.service"]).not.toMatch(/^(?:PrivateTmp|PrivateDevices)=/m);
  });

  test("makes no unit wait for the next try of the rules", () => {
    for (const name of ["imdsproxy.service", "imdsproxy-repair.service"] as const) {
      expect(units[name]).not.toMatch(/^(?:After|Wants|Requires)=.*imdsproxy-iptables/m);
    }
    expect(handoverUnitText(FACTS)).not.toContain("imdsproxy-iptables");
  });

  test("orders nothing that starts before basic.target after a unit that starts after it", () => {
    for (const name of ["imdsproxy.service", "imdsproxy-repair.service"] as const) {
      expect(units[name]).not.toMatch(/^Before=.*\.(?:socket|target)/m);
    }
  });

  test("gives the proxy a directory for the sockets of status, which stays over a restart", () => {
    expect(lines(units["imdsproxy.service"])).toContain("RuntimeDirectory=imdsproxy/proxy");
    expect(lines(units["imdsproxy.service"])).toContain("RuntimeDirectoryPreserve=yes");
  });

  test("gives the proxy two capabilities, and the firewall's units no other's", () => {
    expect(lines(units["imdsproxy.service"])).toContain(
      "CapabilityBoundingSet=CAP_NET_ADMIN CAP_NET_BIND_SERVICE",
    );
    for (const name of ["imdsproxy-iptables.service", "imdsproxy-repair.service"] as const) {
      expect(lines(units[name])).toContain("CapabilityBoundingSet=CAP_NET_ADMIN CAP_NET_RAW");
    }
  });

  // Everything that systemd-analyze(1) `security` asks for; what a unit has not, it must explain.
  const DIRECTIVES = [
    ...[
      "PrivateDevices",
      "PrivateNetwork",
      "PrivateTmp",
      "PrivateUsers",
      "ProtectClock",
      "ProtectControlGroups",
    ],
    ...[
      "ProtectHome",
      "ProtectHostname",
      "ProtectKernelLogs",
      "ProtectKernelModules",
      "ProtectKernelTunables",
    ],
    ...[
      "ProtectProc",
      "ProtectSystem",
      "ProcSubset",
      "MemoryDenyWriteExecute",
      "NoNewPrivileges",
      "RestrictNamespaces",
    ],
    ...[
      "RestrictRealtime",
      "RestrictSUIDSGID",
      "RestrictAddressFamilies",
      "SystemCallArchitectures",
      "SystemCallFilter",
    ],
    ...[
      "LockPersonality",
      "KeyringMode",
      "UMask",
      "IPAddressDeny",
      "DevicePolicy",
      "CapabilityBoundingSet",
      "User",
    ],
    "RootDirectory",
  ];
  for (const [name, text] of Object.entries(units)) {
    test(`${name} has, or explains why it has not, each sandboxing directive`, () => {
      const missing = DIRECTIVES.filter((one) => !new RegExp(`^(?:# +)?${one}=`, "m").test(text));
      expect(missing).toEqual([]);
    });
  }

  test("shows the proxy root's processes, by which jobs of Slurm 26.05 are known, and the firewall's units none", () => {
    const proxy = lines(units["imdsproxy.service"]);
    expect(proxy).toContain("ProcSubset=pid");
    expect(proxy.filter((line) => line.startsWith("ProtectProc="))).toEqual([]);
    for (const name of ["imdsproxy-iptables.service", "imdsproxy-repair.service"] as const)
      expect(lines(units[name])).toContain("ProtectProc=invisible");
  });

  test("spares an older systemd what it does not know", () => {
    const old = Object.values(unitTexts({ ...FACTS, systemdVersion: 245 })).join("");
    expect(old).not.toMatch(/^(?:ProtectProc|ProcSubset|RestartSteps|RestartMaxDelaySec)=/m);
    expect(old).toMatch(/^ProtectClock=/m);
    const fresh = unitTexts({ ...FACTS, systemdVersion: 255 })["imdsproxy.service"];
    expect(fresh).toMatch(/^RestartSteps=/m);
  });

  test("has systemd keep the listening sockets over a restart", () => {
    const proxy = lines(units["imdsproxy.service"]);
    expect(proxy).toContain("FileDescriptorStoreMax=8");
    expect(proxy.find((line) => line.startsWith("ExecStart="))).toContain("serve --share-port --keep-port");
  });

  test("has systemd make the state directory of the configuration", () => {
    const other = unitTexts({ ...FACTS, stateDirectory: "/var/lib/other" })["imdsproxy.service"];
    expect(lines(other)).toContain("StateDirectory=other");
    expect(stateDirectoryOf(other)).toBe("/var/lib/other");
  });

  test("a unit without a state directory, or with more than a name, has none that could be removed", () => {
    for (const text of [
      "",
      "[Service]\n",
      "StateDirectory=\n",
      "StateDirectory=..\n",
      "StateDirectory=a/b\n",
    ])
      expect(stateDirectoryOf(text)).toBeNull();
  });
});

describe("handoverUnitText()", () => {
  const text = handoverUnitText({ ...FACTS, binary: "/b", config: "/c" });

  test("is the proxy's own sandbox around the new executable, which may fail once", () => {
    expect(lines(text)).toContain("ExecStart=/b serve --share-port --config /c");
    expect(lines(text)).toContain("Restart=no");
    // What a setup that was killed leaves behind ends by itself.
    expect(lines(text)).toContain("RuntimeMaxSec=300");
    const proxy = units["imdsproxy.service"];
    const kept = lines(text).slice(lines(text).indexOf("[Service]"));
    for (const line of lines(proxy).slice(lines(proxy).indexOf("[Service]"))) {
      // Those that name the executable and the configuration have the new ones.
      if (/^(?:Restart|ExecStart=|ExecReload=|\[Install\]|WantedBy=)/.test(line)) continue;
      // Its sockets end with it: systemd would close what it keeps only after the setting for two listeners is back.
      if (/^(?:FileDescriptorStoreMax=|# systemd keeps)/.test(line)) continue;
      // The first proxy, or the next one, answers `imdsproxy status`.
      if (/^(?:RuntimeDirectory|# The sockets of)/.test(line)) continue;
      expect(kept).toContain(line);
    }
  });

  test("keeps no sockets, and has systemd put the setting for two listeners back however it ends", () => {
    expect(text).not.toContain("FileDescriptorStoreMax=");
    expect(text).not.toContain("RuntimeDirectory");
    expect(lines(text).find((line) => line.startsWith("ExecStopPost="))).toContain("tcp_migrate_req");
  });

  test("is enabled by nothing", () => {
    expect(text).not.toContain("[Install]");
  });
});

describe("objectUnitTexts()", () => {
  const object = objectUnitTexts({
    systemdVersion: 252,
    directory: "/var/lib/imdsproxy-fleet",
    everySeconds: 60,
  });
  test("polls at each interval and later by a quarter of it at random, and delays no boot", () => {
    const timer = lines(object["imdsproxy-config.timer"]);
    expect(timer).toContain("OnUnitInactiveSec=60s");
    expect(timer).toContain("RandomizedDelaySec=15s");
    for (const text of Object.values(object)) expect(text).not.toMatch(/^(?:Before|Requires|RequiredBy)=/m);
    for (const text of Object.values(units)) expect(text).not.toContain("imdsproxy-config");
  });
  test("has root write in the directory of the copy alone, with two capabilities and no listener", () => {
    const service = lines(object["imdsproxy-config.service"]);
    expect(service).toContain(
      "ExecStart=/usr/local/bin/imdsproxy config fetch --config /etc/imdsproxy/config.yaml",
    );
    expect(service).toContain("ProtectSystem=strict");
    expect(service).toContain("StateDirectory=imdsproxy-fleet");
    // fchown(2) is among @privileged, which the line above it forbids.
    expect(service.indexOf("SystemCallFilter=@chown")).toBeGreaterThan(
      service.indexOf("SystemCallFilter=~@privileged @resources"),
    );
    expect(service).toContain("CapabilityBoundingSet=CAP_CHOWN CAP_NET_ADMIN");
    expect(
      service.filter((line) => /^(?:ReadWritePaths|AmbientCapabilities|ListenStream)=/.test(line)),
    ).toEqual([]);
  });
});
