import { createHmac, randomBytes, timingSafeEqual } from "node:crypto";

/** Session tokens of the IMDSv2 stand-in: 40 bytes in base64, which makes the 56 characters of the real service. */
export interface TokenMint {
  /** A token that is good for `ttlSeconds`. */
  issue(ttlSeconds: number, nowMs: number): string;
  /** Whole seconds for which the token is still good, or null where it is none of ours or has ended. */
  secondsLeft(token: string, nowMs: number): number | null;
}

const EXPIRY_BYTES = 6;
const NONCE_BYTES = 10;
const MAC_BYTES = 24;

/** @param key of the HMAC; stand-ins with the same key accept each other's tokens, as HyperPod's agent and EC2 do. */
export function createTokenMint(key: string): TokenMint {
  const mac = (head: Buffer) => createHmac("sha256", key).update(head).digest().subarray(0, MAC_BYTES);
  return {
    issue(ttlSeconds, nowMs) {
      const head = Buffer.alloc(EXPIRY_BYTES + NONCE_BYTES);
      head.writeUIntBE(nowMs + ttlSeconds * 1000, 0, EXPIRY_BYTES);
      randomBytes(NONCE_BYTES).copy(head, EXPIRY_BYTES);
      return Buffer.concat([head, mac(head)]).toString("base64");
    },
    secondsLeft(token, nowMs) {
      const bytes = Buffer.from(token, "base64");
      if (bytes.length !== EXPIRY_BYTES + NONCE_BYTES + MAC_BYTES || bytes.toString("base64") !== token)
        return null;
      const head = bytes.subarray(0, EXPIRY_BYTES + NONCE_BYTES);
      if (!timingSafeEqual(mac(head), bytes.subarray(EXPIRY_BYTES + NONCE_BYTES))) return null;
      const leftMs = head.readUIntBE(0, EXPIRY_BYTES) - nowMs;
      return leftMs > 0 ? Math.floor(leftMs / 1000) : null;
    },
  };
}
