import { createHash, createPrivateKey, createPublicKey, type KeyObject, sign, verify } from "node:crypto";
import { ImdsProxyError } from "../errors.ts";

/**
 * The object that a fleet of nodes shares: a YAML text of the keys {@link OBJECT_KEYS}, with a signature in its first line, which is
 * a comment of YAML:
 *
 *     # imdsproxy object 1 fleet=NAME serial=NUMBER signature=BASE64
 *
 * The signature is Ed25519 (RFC 8032) over the same bytes without ` signature=BASE64`. So it covers the fleet, the serial and all
 * that follows, and other programs can make it: `openssl pkeyutl -sign -rawin`. Pure.
 */

/** The keys that an object may have. All others are the node's own: who writes the bucket must not write root's firewall. */
export const OBJECT_KEYS = ["role", "rules", "tests"] as const;

/** The longest object in bytes, its first line included. */
export const MOST_OBJECT_BYTES = 1024 * 1024;

/** A fleet's name: 1 to 64 characters that need no quotes anywhere. */
export const FLEET_NAME = /^[A-Za-z0-9][A-Za-z0-9._-]{0,63}$/;

const HEAD = "# imdsproxy object 1";
/** What the first line has without its signature. */
const headOf = (fleet: string, serial: number): string => `${HEAD} fleet=${fleet} serial=${serial}`;
/**
 * An Ed25519 signature has 64 bytes: 86 characters of base64 and two of padding. The last character has four unused bits. They must be
 * zero, so that a signature has only one spelling.
 */
const FIRST_LINE =
  /^# imdsproxy object 1 fleet=([A-Za-z0-9][A-Za-z0-9._-]{0,63}) serial=([1-9]\d{0,15}) signature=([A-Za-z0-9+/]{85}[AQgw]==)$/;
/** Longer than any first line of an object. */
const MOST_FIRST_LINE = 256;

/** The beginning of the DER form of every Ed25519 public key; 32 bytes of key follow (RFC 8410, section 10.1). */
const SPKI_PREFIX = Buffer.from("302a300506032b6570032100", "hex");
const SPKI_BYTES = SPKI_PREFIX.length + 32;

/** An object whose signature was verified. */
export interface VerifiedObject {
  readonly fleet: string;
  readonly serial: number;
  /** SHA-256 of all of its bytes, in hexadecimal, as sha256sum(1) prints it. */
  readonly hash: string;
  /** The whole text, so that an error names the line of the file. */
  readonly text: string;
}

/** What a node requires of an object. */
export interface ObjectTrust {
  readonly fleet: string;
  /** Base64 of the DER form; one of them must have signed. */
  readonly publicKeys: readonly string[];
}

/**
 * The DER form of a public key in base64, of a PEM text or of the line between its BEGIN and END; null where it is no Ed25519 key.
 *
 * @example publicKeyOf("MCowBQYDK2VwAyEA…") // the same
 */
export function publicKeyOf(text: string): string | null {
  const base64 = text.replaceAll(/-----(?:BEGIN|END) PUBLIC KEY-----/g, "").replaceAll(/\s+/g, "");
  if (!/^[A-Za-z0-9+/]+=*$/.test(base64)) return null;
  const der = Buffer.from(base64, "base64");
  const isKey = der.length === SPKI_BYTES && der.subarray(0, SPKI_PREFIX.length).equals(SPKI_PREFIX);
  return isKey && der.toString("base64") === base64 ? base64 : null;
}

/** The text of UTF-8, a byte order mark included; null where it is none. */
export function textOfBytes(bytes: Uint8Array): string | null {
  try {
    return new TextDecoder("utf-8", { fatal: true, ignoreBOM: true }).decode(bytes);
  } catch {
    return null;
  }
}

export const hashOf = (bytes: Uint8Array): string => createHash("sha256").update(bytes).digest("hex");

/**
 * Verifies the signature and the fleet. Does not parse the text.
 *
 * @param name what to call it in errors: its path, or its URL.
 * @throws ImdsProxyError `config`, with what was found.
 */
export function verifyObject(bytes: Uint8Array, trust: ObjectTrust, name: string): VerifiedObject {
  if (bytes.length > MOST_OBJECT_BYTES) {
    throw new ImdsProxyError(
      "config",
      `${name} has ${bytes.length} bytes, and an object has at most ${MOST_OBJECT_BYTES}`,
      "match by groups in place of users, or by fewer rules",
    );
  }
  const end = bytes.subarray(0, MOST_FIRST_LINE).indexOf(0x0a);
  const found = FIRST_LINE.exec(Buffer.from(bytes.subarray(0, Math.max(end, 0))).toString("latin1"));
  if (found === null) {
    throw new ImdsProxyError(
      "config",
      `${name} is not signed: its first line is not "${HEAD} fleet=… serial=… signature=…"`,
      "sign it: imdsproxy config sign --key KEY.pem --fleet NAME --serial N --out OBJECT FILE",
    );
  }
  const [, fleet = "", serialText = "", signature = ""] = found;
  const serial = Number(serialText);
  const message = Buffer.concat([Buffer.from(headOf(fleet, serial)), bytes.subarray(end)]);
  const isSigned = trust.publicKeys.some((key) =>
    verify(null, message, publicKey(key), Buffer.from(signature, "base64")),
  );
  if (!isSigned) {
    throw new ImdsProxyError(
      "config",
      `${name} is signed by no key of config.publicKey: it was changed or cut off after it was signed, or signed by another key`,
      "sign it by the fleet's key, or set config.publicKey to the key that signs (openssl pkey -in KEY.pem -pubout)",
    );
  }
  if (fleet !== trust.fleet) {
    throw new ImdsProxyError(
      "config",
      `${name} is signed for the fleet ${fleet}, and config.fleet of this node is ${trust.fleet}`,
      `sign it for this fleet: imdsproxy config sign --fleet ${trust.fleet} …`,
    );
  }
  if (!Number.isSafeInteger(serial))
    throw new ImdsProxyError("config", `${name} has the serial ${serialText}`, "use one below 2^53");
  const text = textOfBytes(bytes);
  if (text === null)
    throw new ImdsProxyError("config", `${name} is not text in UTF-8`, "save it as UTF-8, and sign it again");
  return { fleet, serial, hash: hashOf(bytes), text };
}

const publicKey = (base64: string): KeyObject =>
  createPublicKey({ key: Buffer.from(base64, "base64"), format: "der", type: "spki" });

/** The private key in a PEM text. @throws ImdsProxyError `config`; its text has nothing of the key. */
export function signingKeyOf(pem: string, name: string): KeyObject {
  let key: KeyObject | null = null;
  try {
    key = createPrivateKey(pem);
  } catch {
    // The parser's message could quote the key.
  }
  if (key?.asymmetricKeyType === "ed25519") return key;
  throw new ImdsProxyError(
    "config",
    `${name} is no private key that signs objects: it must be an Ed25519 key in PEM, without a passphrase`,
    "make one: (umask 077; openssl genpkey -algorithm ed25519 -out KEY.pem)",
  );
}

/** The public key of a private one, as config.publicKey has it. */
export const publicKeyText = (key: KeyObject): string =>
  createPublicKey(key).export({ format: "der", type: "spki" }).toString("base64");

/**
 * Signs a text. A first line that it has from an earlier signature is replaced.
 *
 * @param serial must be greater than that of the object that the fleet has.
 */
export function signObject(
  text: string,
  { key, fleet, serial }: { readonly key: KeyObject; readonly fleet: string; readonly serial: number },
): string {
  const body = unsigned(text);
  const head = headOf(fleet, serial);
  const signature = sign(null, Buffer.from(`${head}\n${body}`), key).toString("base64");
  return `${head} signature=${signature}\n${body}`;
}

/** A text without the first line of an earlier signature. */
export const unsigned = (text: string): string =>
  FIRST_LINE.test(text.slice(0, Math.max(text.indexOf("\n"), 0))) ? text.slice(text.indexOf("\n") + 1) : text;
