import { nameBytes } from "../identity/name-text.ts";

/** A field of an entry: its name, and its value. A name may come several times, once for each of its values. */
export type JournalField = readonly [name: string, value: string];

const NAME = /^[A-Z][A-Z0-9_]{0,63}$/;
const NEWLINE = 0x0a;

/**
 * An entry in the journal's native protocol (systemd.io, "Native Journal Protocol"). Each value is sent with its length, so that
 * no byte of it can end the field and begin another.
 *
 * A name that is no UTF-8 is sent as the bytes that it has (see identity/name-text.ts).
 */
export function encodeJournalEntry(fields: readonly JournalField[]): Uint8Array {
  const parts: Uint8Array[] = [];
  for (const [name, value] of fields) {
    if (!NAME.test(name)) throw new RangeError(`${name} is no name of a field of the journal`);
    const bytes = nameBytes(value);
    const length = new Uint8Array(8);
    new DataView(length.buffer).setBigUint64(0, BigInt(bytes.length), true);
    parts.push(Buffer.from(`${name}\n`), length, bytes, Uint8Array.of(NEWLINE));
  }
  return Buffer.concat(parts);
}
