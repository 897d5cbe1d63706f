/**
 * Names of accounts and groups are bytes (passwd(5) has no encoding). Here they become text, so that two names are the same
 * text exactly when they are the same bytes.
 */

const strict = new TextDecoder("utf-8", { fatal: true, ignoreBOM: true });

/**
 * The base of the lone surrogates that stand for bytes which are no UTF-8. No valid UTF-8 decodes to a lone surrogate (PEP 383).
 */
const LONE = 0xdc00;

/**
 * The name as text: UTF-8 as it is, a byte order mark included; each byte of anything else as U+DC80 to U+DCFF.
 *
 * A name with such a byte equals no name in a configuration, because a configuration is UTF-8.
 */
export function nameText(bytes: Uint8Array): string {
  try {
    return strict.decode(bytes);
  } catch {
    // All bytes that are not ASCII are replaced, not only the invalid ones: otherwise two names could become the same text.
    return Array.from(bytes, (byte) => String.fromCharCode(byte < 0x80 ? byte : LONE + byte)).join("");
  }
}

/** The bytes of a name; the inverse of {@link nameText}. */
export function nameBytes(text: string): Uint8Array {
  if (text.isWellFormed()) return Buffer.from(text, "utf8");
  return Uint8Array.from(text, (letter) => letter.charCodeAt(0) & 0xff);
}
