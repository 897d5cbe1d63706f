import { randomBytes } from "node:crypto";
import { ImdsProxyError } from "../errors.ts";
import type { Finding } from "../telemetry/health.ts";
import type { Log } from "../telemetry/log.ts";
import { KEY_LENGTH, tokenKey } from "./token-key.ts";

/** The key of the tokens, and what is wrong with where it is kept; null where nothing is. */
export interface Key {
  readonly bytes: Uint8Array;
  readonly finding: Finding | null;
}

/**
 * The key in the state directory; where the disk is full, read-only or broken, one that lives in memory alone. Then tokens
 * end with this process, and clients ask for new ones (401), which is better than to serve nobody.
 *
 * @throws ImdsProxyError `unsafe` where another user could read or write the key.
 */
export function keyOf(stateDirectory: string, log: Log): Key {
  try {
    return { bytes: tokenKey(stateDirectory), finding: null };
  } catch (error) {
    if (!(error instanceof ImdsProxyError) || error.code !== "permission") throw error;
    log.warn("tokens end with this process: their key is in memory alone", {
      problem: error.problem,
      remedy: error.remedy,
    });
    return {
      bytes: randomBytes(KEY_LENGTH),
      finding: {
        what: `the key of the tokens is in memory alone, so that a restart makes clients ask for new tokens: ${error.problem}`,
        remedy: error.remedy,
        lasting: true,
      },
    };
  }
}
