/** IP addresses as the kernel has them, in network byte order: 4 bytes for IPv4, 16 for IPv6. Pure. */

/** Parses dotted IPv4; null where it is anything else, leading zeros and short forms included. */
export function parseIPv4(text: string): Uint8Array | null {
  const bytes = new Uint8Array(4);
  let index = 0;
  let value = -1;
  for (let i = 0; i <= text.length; i++) {
    const code = i === text.length ? 46 : text.charCodeAt(i);
    if (code === 46) {
      if (value < 0 || index > 3) return null;
      bytes[index++] = value;
      value = -1;
    } else if (code >= 48 && code <= 57) {
      if (value === 0) return null;
      value = (value < 0 ? 0 : value * 10) + code - 48;
      if (value > 255) return null;
    } else return null;
  }
  return index === 4 ? bytes : null;
}

/** Parses IPv6 text, `::` and a dotted tail included; null for anything else. A zone (`%eth0`) is not part of an address. */
export function parseIPv6(text: string): Uint8Array | null {
  const halves = text.split("::");
  if (halves.length > 2) return null;
  const parse = (half: string, isEnd: boolean): number[] | null => {
    const bytes: number[] = [];
    if (half === "") return bytes;
    const groups = half.split(":");
    for (const [i, group] of groups.entries()) {
      if (isEnd && i === groups.length - 1 && group.includes(".")) {
        const tail = parseIPv4(group);
        if (tail === null) return null;
        bytes.push(...tail);
      } else {
        if (!/^[0-9a-fA-F]{1,4}$/.test(group)) return null;
        const value = Number.parseInt(group, 16);
        bytes.push(value >> 8, value & 0xff);
      }
    }
    return bytes;
  };
  const head = parse(halves[0] ?? "", halves.length === 1);
  const tail = halves.length === 2 ? parse(halves[1] ?? "", true) : [];
  if (head === null || tail === null) return null;
  const zeros = 16 - head.length - tail.length;
  if (halves.length === 1 ? zeros !== 0 : zeros < 2) return null;
  const bytes = new Uint8Array(16);
  bytes.set(head);
  bytes.set(tail, 16 - tail.length);
  return bytes;
}

/**
 * Parses either family. An IPv4-mapped IPv6 address (::ffff:a.b.c.d, RFC 4291 section 2.5.5.2) becomes the IPv4 address
 * that it stands for: a socket of that kind talks IPv4.
 */
export function parseAddress(text: string): Uint8Array | null {
  const bytes = text.includes(":") ? parseIPv6(text) : parseIPv4(text);
  return bytes === null ? null : unmapped(bytes);
}

/** Whether it is an address of loopback: 127.0.0.0/8 or ::1. */
export const isLoopback = (bytes: Uint8Array): boolean =>
  bytes.length === 4 ? bytes[0] === 127 : bytes.every((byte, index) => byte === (index === 15 ? 1 : 0));

/** The IPv4 address inside an IPv4-mapped IPv6 one; every other address as it is. */
export function unmapped(bytes: Uint8Array): Uint8Array {
  if (bytes.length !== 16 || bytes[10] !== 0xff || bytes[11] !== 0xff) return bytes;
  for (let i = 0; i < 10; i++) if (bytes[i] !== 0) return bytes;
  return bytes.slice(12);
}

/** Whether two addresses are the same, family included. */
export function sameAddress(a: Uint8Array, b: Uint8Array): boolean {
  if (a.length !== b.length) return false;
  for (let i = 0; i < a.length; i++) if (a[i] !== b[i]) return false;
  return true;
}

/** Text of an address, for logs: dotted IPv4, or IPv6 in full groups. */
export function addressText(bytes: Uint8Array): string {
  if (bytes.length === 4) return bytes.join(".");
  const groups: string[] = [];
  for (let i = 0; i < 16; i += 2) groups.push((((bytes[i] ?? 0) << 8) | (bytes[i + 1] ?? 0)).toString(16));
  return groups.join(":");
}
