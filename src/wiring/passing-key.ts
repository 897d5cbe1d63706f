import { randomBytes } from "node:crypto";
import { ImdsProxyError } from "../errors.ts";
import type { Finding } from "../telemetry/health.ts";
import type { Log } from "../telemetry/log.ts";
import { KEY_LENGTH, tokenKey } from "./token-key.ts";

/** The key of the tokens, with a finding where it could not be stored. */
export interface Key {
  readonly bytes: Uint8Array;
  readonly finding: Finding | null;
}

/**
 * The key in the state directory; where it cannot be stored (the disk is full, read-only or broken), a key in memory alone.
 * Tokens then end with this process, and clients ask for new ones after a 401. That is better than not to start.
 *
 * @throws ImdsProxyError `unsafe` where another user could read or write the key.
 */
export function keyOf(stateDirectory: string, log: Log): Key {
  try {
    return { bytes: tokenKey(stateDirectory), finding: null };
  } catch (error) {
    if (!(error instanceof ImdsProxyError) || error.code !== "permission") throw error;
    log.warn("tokens become invalid when this process ends: their key is only in memory", {
      problem: error.problem,
      remedy: error.remedy,
    });
    return {
      bytes: randomBytes(KEY_LENGTH),
      finding: {
        what: `the key of the tokens is only in memory, so that clients must get new tokens after a restart: ${error.problem}`,
        remedy: error.remedy,
        lasting: true,
      },
    };
  }
}
