/**
 * What the metadata service of the simulated node knows, as a tree. Pure.
 * Categories and their shapes: https://docs.aws.amazon.com/AWSEC2/latest/UserGuide/ec2-instance-metadata.html
 */
import type { DemoCredentials, InstanceSecrets } from "./secrets.ts";

/** Facts of the simulated node that its metadata tells. */
export interface InstanceFacts {
  /** Twelve digits. */
  readonly account: string;
  readonly region: string;
  readonly availabilityZone: string;
  readonly instanceId: string;
  readonly instanceType: string;
  /** The instance role's name. */
  readonly roleName: string;
}

/** The node in the documentation that this project began with. */
export const DEFAULT_FACTS: InstanceFacts = {
  account: "842413447717",
  region: "us-west-2",
  availabilityZone: "us-west-2b",
  instanceId: "i-0123456789abcdef0",
  instanceType: "ml.p5.48xlarge",
  roleName: "MySageMakerClusterInstanceRole",
};

/** A leaf is its text; a directory lists its entries, unless `listing` says otherwise. */
export type MetadataNode = string | MetadataDirectory;
export interface MetadataDirectory {
  readonly entries: ReadonlyMap<string, MetadataNode>;
  /** What a GET of the directory answers where it is not the plain list. */
  readonly listing?: string;
}

type Branch = { readonly [name: string]: string | Branch | MetadataDirectory };

function isDirectory(value: Branch | MetadataDirectory): value is MetadataDirectory {
  return "entries" in value && value["entries"] instanceof Map;
}

function directory(branch: Branch, listing?: string): MetadataDirectory {
  const entries = new Map<string, MetadataNode>();
  for (const [name, value] of Object.entries(branch)) {
    entries.set(name, typeof value === "string" ? value : isDirectory(value) ? value : directory(value));
  }
  return listing === undefined ? { entries } : { entries, listing };
}

/** `YYYY-MM-DDTHH:MM:SSZ`: botocore takes no fractions. */
export function isoSeconds(ms: number): string {
  return new Date(ms).toISOString().replace(/\.\d+Z$/, "Z");
}

/** Six hours, as EC2 gives them. */
const LIFETIME_MS = 6 * 3600 * 1000;

function credentialsJson(
  credentials: DemoCredentials,
  nowMs: number,
  extra: Record<string, string> = {},
): string {
  const body = {
    Code: "Success",
    LastUpdated: isoSeconds(nowMs),
    Type: "AWS-HMAC",
    AccessKeyId: credentials.accessKeyId,
    SecretAccessKey: credentials.secretAccessKey,
    Token: credentials.sessionToken,
    Expiration: isoSeconds(nowMs + LIFETIME_MS),
    ...extra,
  };
  return JSON.stringify(body, null, 2);
}

const MAC = "02:29:96:8f:6a:2d";

/** Everything below `/{version}/`. What only root may read holds the marker of the secrets. */
export function metadataTree(
  facts: InstanceFacts,
  secrets: InstanceSecrets,
  startedMs: number,
): MetadataDirectory {
  const { account, region, availabilityZone, instanceId, instanceType, roleName } = facts;
  const network: Branch = {
    "device-number": "0",
    "interface-id": "eni-0fedcba9876543210",
    "local-hostname": `ip-10-1-0-7.${region}.compute.internal`,
    "local-ipv4s": "10.1.0.7",
    mac: MAC,
    "owner-id": account,
    "security-groups": "cluster",
    "subnet-id": "subnet-be9b61d7",
    "subnet-ipv4-cidr-block": "10.1.0.0/16",
    "vpc-id": "vpc-13627c23",
  };
  const identityDocument = {
    accountId: account,
    architecture: "x86_64",
    availabilityZone,
    imageId: "ami-5fb8c835",
    instanceId,
    instanceType,
    pendingTime: isoSeconds(startedMs),
    privateIp: "10.1.0.7",
    region,
    version: "2017-09-30",
  };
  return directory({
    dynamic: {
      fws: { "instance-monitoring": "disabled" },
      "instance-identity": {
        document: JSON.stringify(identityDocument, null, 2),
        pkcs7: `MIAGCSqGSIb3DQEHAqCAMIACAQExCzAJBgUrDgMC${secrets.marker}`,
        rsa2048: `MIAGCSqGSIb3DQEHAqCAMIACAQExDzANBglghkgB${secrets.marker}`,
        signature: `dExamplesignature${secrets.marker}`,
      },
    },
    "meta-data": {
      "ami-id": "ami-5fb8c835",
      "ami-launch-index": "0",
      autoscaling: { "target-lifecycle-state": "InService" },
      "block-device-mapping": { ami: "/dev/xvda", root: "/dev/xvda" },
      events: { maintenance: { history: "[]", scheduled: "[]" } },
      hostname: `ip-10-1-0-7.${region}.compute.internal`,
      iam: {
        info: JSON.stringify(
          {
            Code: "Success",
            LastUpdated: isoSeconds(startedMs),
            InstanceProfileArn: `arn:aws:iam::${account}:instance-profile/${roleName}`,
            InstanceProfileId: `AIPA${secrets.marker}`,
          },
          null,
          2,
        ),
        "security-credentials": { [roleName]: credentialsJson(secrets.role, startedMs) },
        "security-credentials-extended": {
          [roleName]: credentialsJson(secrets.role, startedMs, { AccountId: account }),
        },
      },
      "identity-credentials": {
        ec2: {
          info: JSON.stringify(
            { Code: "Success", LastUpdated: isoSeconds(startedMs), AccountId: account },
            null,
            2,
          ),
          "security-credentials": { "ec2-instance": credentialsJson(secrets.identity, startedMs) },
        },
      },
      "instance-action": "none",
      "instance-id": instanceId,
      "instance-life-cycle": "on-demand",
      "instance-type": instanceType,
      "local-hostname": `ip-10-1-0-7.${region}.compute.internal`,
      "local-ipv4": "10.1.0.7",
      mac: MAC,
      "managed-ssh-keys": {
        "active-keys": { "ec2-user": `ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAA${secrets.marker}` },
        "signer-cert": `-----BEGIN CERTIFICATE-----\n${secrets.marker}\n-----END CERTIFICATE-----`,
      },
      network: { interfaces: { macs: { [MAC]: network } } },
      placement: {
        "availability-zone": availabilityZone,
        "availability-zone-id": "usw2-az2",
        region,
      },
      profile: "default-hvm",
      "public-keys": directory(
        { "0": { "openssh-key": "ssh-rsa AAAAB3NzaC1yc2EAAAADAQABAAABAQ my-public-key" } },
        "0=my-public-key",
      ),
      "reservation-id": "r-0efghijk987654321",
      "security-groups": "cluster",
      services: { domain: "amazonaws.com", partition: "aws" },
      system: "nitro",
      tags: { instance: { Name: "worker-7", team: "research" } },
    },
    "user-data": `#!/bin/bash\nexport BOOTSTRAP_SECRET=${secrets.marker}\n`,
  });
}

/** The versions that `/` lists; any of their form is served. */
export const VERSIONS = ["1.0", "2007-01-19", "2016-09-02", "2021-03-23", "2024-04-11", "latest"];
const VERSION_FORM = /^(?:latest|1\.0|\d{4}-\d\d-\d\d)$/;

/** The text of a listing: one name a line, a slash behind a directory, no newline at the end. */
export function listingOf({ entries, listing }: MetadataDirectory): string {
  if (listing !== undefined) return listing;
  return [...entries].map(([name, node]) => (typeof node === "string" ? name : `${name}/`)).join("\n");
}

/**
 * The body for a path, or null where nothing is there. Repeated slashes count as one and a trailing one as none;
 * nothing else is normalised.
 *
 * @param path begins with a slash, such as `/latest/meta-data/instance-id`.
 */
export function lookup(tree: MetadataDirectory, path: string): string | null {
  if (!path.startsWith("/")) return null;
  const [version, ...names] = path.split("/").filter((part) => part !== "");
  if (version === undefined) return VERSIONS.join("\n");
  if (!VERSION_FORM.test(version)) return null;
  let node: MetadataNode = tree;
  for (const name of names) {
    if (typeof node === "string") return null;
    const next: MetadataNode | undefined = node.entries.get(name);
    if (next === undefined) return null;
    node = next;
  }
  return typeof node === "string" ? node : listingOf(node);
}
