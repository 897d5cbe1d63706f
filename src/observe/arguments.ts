import { plainText } from "./plain-text.ts";

/** Redacts the arguments of a process, so that they can be kept: few, short, and without what could be a secret. Pure. */

const MOST = 4;
const LONGEST = 60;
const HIDDEN = "***";
/** Names of options whose value may be a secret, and the short ones of curl, wget, mysql, sshpass. */
const SECRET_OPTION = /pass|secret|token|key|auth|cred|header|cookie|user|^-[HupbUPE]$/i;
/** What a value comes after without an option, as in `aws configure set aws_secret_access_key VALUE`. */
const SECRET_NAME = /^[a-z_.]*(?:secret|token|password)[a-z_.]*$/i;
/** A secret access key of AWS, which can begin with a slash as a path does. */
const SECRET_KEY = /^[A-Za-z0-9+/]{40}$/;
/** A word that a secret can look like: long, and of an alphabet without blanks or dots. */
const LOOKS_SECRET = /[A-Za-z0-9+/_-]{20,}|:\/\/[^/]*@|^[^/]*:[^/]/;

/**
 * The first four arguments. What follows `=` is cut off. An argument is hidden where it follows an option that may take a secret, or
 * looks like a secret itself. A path is kept, unless a part of it looks like a secret.
 *
 * @param text as /proc/PID/cmdline has it, from the program's own name on, each ended by a NUL.
 */
export function redactedArguments(text: string): string[] {
  const [, ...words] = text.split("\0");
  if (words.at(-1) === "") words.pop();
  return words.slice(0, MOST).map((word, index) => {
    const before = words[index - 1] ?? "";
    const isOption = /^-/.test(before) && !before.includes("=") && SECRET_OPTION.test(before);
    // Also one that looks like an option: nobody knows what a password looks like.
    if (isOption || SECRET_NAME.test(before)) return HIDDEN;
    const name = /^([^=]*)=/.exec(word)?.[1];
    if (name !== undefined) return `${isSafe(name) ? plainText(name, LONGEST) : HIDDEN}=`;
    // `-pSECRET`, as mysql(1) and sshpass(1) take it.
    if (/^-[upPH]./.test(word)) return `${word.slice(0, 2)}${HIDDEN}`;
    return isSafe(word) ? plainText(word, LONGEST) : HIDDEN;
  });
}

const isSafe = (word: string): boolean => {
  if (SECRET_KEY.test(word)) return false;
  if (LOOKS_SECRET.test(word.startsWith("/") ? "" : word)) return false;
  return !word.startsWith("/") || word.split("/").every((part) => !/^[A-Za-z0-9+_-]{32,}$/.test(part));
};
