import { generateKeyPairSync, type KeyObject } from "node:crypto";
import { readFileSync } from "node:fs";
import { join } from "node:path";
import { publicKeyText, signObject } from "../../src/config/object.ts";
import { eventually } from "./proxied.ts";
import type { SimulatedNode } from "./simulated-node.ts";

/** A fleet's key, objects that it signs, and an S3 on a simulated node. */

export const FLEET = "research";

export interface FleetKey {
  readonly key: KeyObject;
  /** As config.publicKey has it. */
  readonly publicKey: string;
  /** A signed object. */
  sign(serial: number, text: string, fleet?: string): string;
}

export function fleetKey(): FleetKey {
  const key = generateKeyPairSync("ed25519").privateKey;
  const sign = (serial: number, text: string, fleet = FLEET) => signObject(text, { key, fleet, serial });
  return { key, publicKey: publicKeyText(key), sign };
}

const PORT = 9_000;
const PROGRAM = readFileSync(join(import.meta.dir, "stand-ins/s3.py"), "utf8");

/** The key `config` of a node whose S3 is {@link startNodeS3}'s. */
export const fleetConfig = (publicKey: string) => ({
  source: "s3://bucket/rules.yaml",
  endpoint: `http://127.0.0.1:${PORT}`,
  fleet: FLEET,
  publicKey,
});

export interface NodeS3 {
  /** Replaces the object; null: there is none. */
  put(text: string | null): void;
  /** The status of each answer from now on; null: as the object says. */
  fail(status: number | null): void;
}

/** Starts an S3 with one object on the node, for as long as the node runs. */
export async function startNodeS3(node: SimulatedNode): Promise<NodeS3> {
  node.write("/run/s3/object", "");
  node.write("/run/s3/status", "404");
  const running = node.spawn({
    user: "root",
    argv: ["python3", "-c", PROGRAM, String(PORT), "/run/s3"],
    timeoutMs: 0,
  });
  await eventually("the S3 of the node listens", () => running.stdout().includes("listens"));
  let status = "404";
  let fault: string | null = null;
  const write = () => node.write("/run/s3/status", fault ?? status);
  return {
    put(text) {
      status = text === null ? "404" : "200";
      node.write("/run/s3/object", text ?? "");
      write();
    },
    fail(found) {
      fault = found === null ? null : String(found);
      write();
    },
  };
}
