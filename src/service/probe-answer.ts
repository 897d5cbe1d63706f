import type { Attempt } from "../firewall/direct-access.ts";
import type { Endpoint } from "../identity/endpoint.ts";
import type { Probe } from "./probe.ts";

/**
 * Parses the output of `imdsproxy service probe`, which ran as a user. Other processes of that user can change the output, so its
 * values may be false; what is not of the form of a probe is rejected.
 */

/** The longest text that is accepted. `probe` cuts the role list to 200 characters; other texts are a few words or a role's name. */
const MOST_LETTERS = 500;
const RESULTS: readonly Attempt["result"][] = ["closed", "absent", "proxy", "open"];

type Fields = Readonly<Record<string, unknown>>;
const isFields = (value: unknown): value is Fields => typeof value === "object" && value !== null;
const isStatus = (value: unknown): value is number =>
  Number.isInteger(value) && Number(value) >= 0 && Number(value) <= 999;
const isText = (value: unknown): value is string => typeof value === "string" && value.length <= MOST_LETTERS;
const isTextOrNull = (value: unknown): value is string | null => value === null || isText(value);

/**
 * @param asked the endpoints that were to be tried, in the order of the answers.
 * @returns null where it is no probe. Pure.
 */
export function readProbe(text: string, asked: readonly Endpoint[]): Probe | null {
  const said = parsed(text);
  if (!isFields(said)) return null;
  const { token, list, credentials, forbidden, direct } = said;
  if (!isStatus(token) || !isFields(list) || !isFields(credentials) || !Array.isArray(direct)) return null;
  if (!isStatus(list["status"]) || !isText(list["text"])) return null;
  const { status, code, digest } = credentials;
  if (!isStatus(status) || !isTextOrNull(code) || !isTextOrNull(digest)) return null;
  if (forbidden !== null && !isStatus(forbidden)) return null;
  if (direct.length !== asked.length) return null;
  const attempts: Attempt[] = [];
  for (const [at, endpoint] of asked.entries()) {
    const attempt = attemptOf(direct[at], endpoint);
    if (attempt === null) return null;
    attempts.push(attempt);
  }
  return {
    token,
    list: { status: list["status"], text: list["text"] },
    credentials: { status, code, digest },
    forbidden,
    direct: attempts,
  };
}

function parsed(text: string): unknown {
  try {
    return JSON.parse(text);
  } catch {
    return null;
  }
}

function attemptOf(attempt: unknown, endpoint: Endpoint): Attempt | null {
  if (!isFields(attempt) || !isText(attempt["detail"])) return null;
  const result = RESULTS.find((one) => one === attempt["result"]);
  return result === undefined ? null : { endpoint, result, detail: attempt["detail"] };
}
