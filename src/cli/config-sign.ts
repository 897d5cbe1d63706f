import type { KeyObject } from "node:crypto";
import { statSync, writeFileSync } from "node:fs";
import { defineCommand } from "citty";
import { type ConfigFile, merged, parseFile, textOfFile, withObject } from "../config/load.ts";
import { FLEET_NAME, publicKeyText, signingKeyOf, signObject, unsigned } from "../config/object.ts";
import { ImdsProxyError } from "../errors.ts";
import { counted, jsonArg } from "./common.ts";
import { print } from "./output.ts";
import { say } from "./say.ts";
import { jsonLine } from "./terminal.ts";

export default defineCommand({
  meta: {
    name: "sign",
    description:
      "Check and sign an object of rules that a fleet of nodes shares; prints it, or writes it to --out",
  },
  args: {
    file: { type: "positional", description: "A file with the keys role, rules and tests", required: true },
    key: {
      type: "string",
      description: "The private key: Ed25519, in PEM (openssl genpkey -algorithm ed25519)",
      valueHint: "FILE",
      required: true,
    },
    fleet: {
      type: "string",
      description: "The fleet that it is for, as config.fleet of its nodes has it",
      valueHint: "NAME",
      required: true,
    },
    serial: {
      type: "string",
      description: "Its serial number: greater than that of the last object, else nodes refuse it",
      valueHint: "N",
      required: true,
    },
    config: {
      type: "string",
      description: "A node's own configuration: check the object together with it, and run its tests too",
      valueHint: "FILE",
    },
    out: { type: "string", description: "Where it is written; default standard output", valueHint: "FILE" },
    json: jsonArg,
  },
  run({ args }) {
    const { fleet, file } = args;
    if (!FLEET_NAME.test(fleet)) {
      throw new ImdsProxyError(
        "usage",
        `config sign: --fleet is ${JSON.stringify(fleet)}`,
        "1 to 64 letters, digits, dots, underscores or hyphens, such as research",
      );
    }
    const serial = /^[1-9]\d{0,15}$/.test(args.serial) ? Number(args.serial) : Number.NaN;
    if (!Number.isSafeInteger(serial)) {
      throw new ImdsProxyError(
        "usage",
        `config sign: --serial is ${JSON.stringify(args.serial)}`,
        "a whole number from 1 on, greater than that of the object before, such as $(date +%s)",
      );
    }
    const key = keyIn(args.key);
    const publicKey = publicKeyText(key);
    const node = args.config === undefined ? anyNode(fleet, publicKey) : nodeOf(args.config);
    const text = unsigned(textOfFile(file, "the rules", "name an existing file"));
    // Checked before it is signed, so that an error names the line of the unsigned file.
    merged(node, text, file);
    const object = signObject(text, { key, fleet, serial });
    const { config, hash } = withObject(node, Buffer.from(object), args.out ?? file);
    if (args.out !== undefined) write(args.out, object);
    const bytes = Buffer.byteLength(object);
    if (args.json) {
      const content = args.out === undefined ? { object } : {};
      console.log(jsonLine({ fleet, serial, hash, publicKey, bytes, ...content }));
      return;
    }
    if (args.out === undefined) print(object);
    else {
      const tests = counted(config.tests?.length ?? 0, "test");
      say(
        `${args.out}: ${counted(config.rules.length, "rule")}, ${tests} passed; fleet ${fleet}, serial ${serial}, sha256 ${hash}`,
      );
      say(`nodes take it where config.publicKey is ${publicKey}`);
    }
  },
});

/** @throws ImdsProxyError `usage` where it cannot be written there. */
function write(path: string, object: string): void {
  try {
    writeFileSync(path, object);
  } catch (error) {
    throw new ImdsProxyError(
      "usage",
      `the object cannot be written to ${path} (${(error as NodeJS.ErrnoException).code})`,
      "name a place that can be written: --out FILE; without --out it is printed",
    );
  }
}

/** Reads the key. @throws ImdsProxyError `unsafe` where others may read it. */
function keyIn(path: string): KeyObject {
  const pem = textOfFile(path, "the key", "name the private key: --key FILE");
  const { mode } = statSync(path);
  if ((mode & 0o077) !== 0) {
    throw new ImdsProxyError(
      "unsafe",
      `the key ${path} can be read by others: its mode is ${(mode & 0o777).toString(8)}`,
      `chmod 600 ${path}; if others may have read it, make a new key`,
    );
  }
  return signingKeyOf(pem, path);
}

/** The configuration of a node of the fleet that sets no other key of its own than a cluster's name. */
const anyNode = (fleet: string, publicKey: string): ConfigFile =>
  parseFile(
    JSON.stringify({ cluster: "CLUSTER", config: { source: "s3://bucket/object", fleet, publicKey } }),
    "a node's configuration",
  );

function nodeOf(path: string): ConfigFile {
  const node = parseFile(
    textOfFile(path, "the configuration", "name an existing file with --config FILE"),
    path,
  );
  if (node.config.config != null) return node;
  throw new ImdsProxyError(
    "config",
    `${path} takes no object: it has no key config`,
    "name a configuration with config: {source: s3://…, fleet: …, publicKey: …}",
  );
}
