import { timingSafeEqual } from "node:crypto";
import type { Subject } from "../identity/caller.ts";

/**
 * Session tokens of our own. A token holds its expiry and an HMAC, which also covers the caller for whom it was made. So
 * tokens need no memory, survive a restart, and are invalid when another user presents them.
 *
 * 42 bytes, in base64url 56 characters as the real service's tokens have:
 * u8 format, u40 expiry in seconds since the epoch, 4 bytes zero, 32 bytes HMAC-SHA-256 of those and the subject.
 */

const FORMAT = 1;
const HEAD_LENGTH = 10;
const TOKEN_LENGTH = 56;
/** Part of each HMAC's input, so that no other use of the key gives the same one. */
const PURPOSE = "imdsproxy token 1\0";

/** The TTL that a PUT may ask for, in seconds (Amazon EC2 User Guide, "Use IMDSv2"). */
export const MIN_TTL_SECONDS = 1;
export const MAX_TTL_SECONDS = 21_600;

/** Seconds by which the clock may be set back before the newest tokens become invalid. */
const CLOCK_SLACK_SECONDS = 300;

/** Whether a presented token is good. */
export type TokenCheck =
  | { readonly valid: true; readonly remainingSeconds: number }
  | { readonly valid: false };

/** Parses the TTL header: decimal digits alone, 1 to 21600; null for anything else. */
export function parseTtl(text: string | undefined): number | null {
  if (text === undefined || !/^\d{1,5}$/.test(text)) return null;
  const ttl = Number(text);
  return ttl >= MIN_TTL_SECONDS && ttl <= MAX_TTL_SECONDS ? ttl : null;
}

/**
 * Whether a token that ends in so many seconds is good. An end beyond the longest TTL comes from a clock that was ahead: the token would
 * live longer than its TTL.
 */
export const isWithinLife = (remainingSeconds: number): boolean =>
  remainingSeconds > 0 && remainingSeconds <= MAX_TTL_SECONDS + CLOCK_SLACK_SECONDS;

/** Makes and checks tokens under one key. */
export class TokenMint {
  /** The HMAC with the key and the purpose in it, of which each token takes a copy: a fifth of the time of a new one. */
  readonly #begun: Bun.CryptoHasher;

  /** @param key 32 random bytes that only the service reads. */
  constructor(key: Uint8Array) {
    if (key.length !== 32) throw new Error("a token key has 32 bytes");
    this.#begun = new Bun.CryptoHasher("sha256", key).update(PURPOSE);
  }

  /** A token for one subject, good for `ttlSeconds` from now. */
  issue(subject: Subject, ttlSeconds: number, nowMs: number): string {
    const token = Buffer.alloc(HEAD_LENGTH + 32);
    token[0] = FORMAT;
    token.writeUIntBE(Math.floor(nowMs / 1000) + ttlSeconds, 1, 5);
    this.#code(token, subject).copy(token, HEAD_LENGTH);
    return token.toString("base64url");
  }

  /** Checks a token that `subject` presents. The time that it takes does not depend on which part is wrong. */
  check(text: string, subject: Subject, nowMs: number): TokenCheck {
    if (text.length !== TOKEN_LENGTH || !/^[A-Za-z0-9_-]+$/.test(text)) return { valid: false };
    const token = Buffer.from(text, "base64url");
    const genuine = timingSafeEqual(this.#code(token, subject), token.subarray(HEAD_LENGTH));
    const remainingSeconds = token.readUIntBE(1, 5) - Math.floor(nowMs / 1000);
    const current = isWithinLife(remainingSeconds);
    return genuine && token[0] === FORMAT && current ? { valid: true, remainingSeconds } : { valid: false };
  }

  #code(token: Buffer, subject: Subject): Buffer {
    return this.#begun
      .copy()
      .update(token.subarray(0, HEAD_LENGTH))
      .update(typeof subject === "number" ? `uid ${subject}` : `container ${subject}`)
      .digest();
  }
}
