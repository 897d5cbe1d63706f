import { randomBytes } from "node:crypto";

/** A set of temporary credentials as STS and the metadata service give them out. */
export interface DemoCredentials {
  /** 20 characters, `ASIA` and 16 more. */
  readonly accessKeyId: string;
  readonly secretAccessKey: string;
  readonly sessionToken: string;
}

/**
 * What only root may read on the simulated node. Each value holds the marker, so that a test can say of any bytes
 * that reached a user whether something leaked. Made anew at each start: nothing of it is in a file.
 */
export interface InstanceSecrets {
  /** 16 characters of `[A-Z2-7]`, in every secret below. */
  readonly marker: string;
  /** The instance role's credentials; the STS stand-in knows them too. */
  readonly role: DemoCredentials;
  /** The instance identity role's (`identity-credentials/ec2/security-credentials/ec2-instance`). */
  readonly identity: DemoCredentials;
}

const BASE32 = "ABCDEFGHIJKLMNOPQRSTUVWXYZ234567";

function base32(length: number): string {
  return Array.from(randomBytes(length), (byte) => BASE32[byte % 32]).join("");
}

function credentials(marker: string): DemoCredentials {
  return {
    accessKeyId: `ASIA${marker}`,
    secretAccessKey: `${marker}${randomBytes(18).toString("base64url")}`,
    sessionToken: `IQoJb3JpZ2lu${marker}${randomBytes(120).toString("base64url")}`,
  };
}

/** Makes the secrets of one simulated node. */
export function createInstanceSecrets(): InstanceSecrets {
  const marker = base32(16);
  return { marker, role: credentials(marker), identity: credentials(marker) };
}
