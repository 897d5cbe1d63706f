/**
 * The path of a request target (RFC 9112, section 3.2). In origin form it is the target. In absolute form, which clients send
 * to a proxy, it is the part after the authority, which must be one of the metadata service. Null for any other target.
 */
export function originForm(target: string, authorities: ReadonlySet<string>): string | null {
  if (target.startsWith("/")) return target;
  const parts = /^http:\/\/([^/?#]+)(\/.*)?$/is.exec(target);
  if (parts === null || !isAuthority(parts[1] ?? "", authorities)) return null;
  return parts[2] ?? "/";
}

/** Whether a text is one of the authorities. An IPv6 address may be spelled in any way, as a client's configuration has it. */
export function isAuthority(text: string, authorities: ReadonlySet<string>): boolean {
  const host = text.toLowerCase();
  if (authorities.has(host)) return true;
  const [, address, port = ""] = /^(\[[0-9a-f:.]+\])(:\d{1,5})?$/.exec(host) ?? [];
  if (address === undefined || !URL.canParse(`http://${address}`)) return false;
  return authorities.has(`${new URL(`http://${address}`).hostname}${port}`);
}

/** Names of the metadata service itself: addresses (Amazon EC2 User Guide) and the names that VPC DNS gives them. */
const METADATA_NAMES = ["169.254.169.254", "[fd00:ec2::254]", "instance-data", "instance-data.ec2.internal"];

/**
 * The values that a Host header may have, in lower case. They stop DNS rebinding: a page in a user's browser can make its
 * own name resolve to this address, but it cannot change the name in the Host header.
 *
 * @param own further endpoints: where we listen, and the upstream.
 */
export function knownAuthorities(own: readonly { address: string; port: number }[]): ReadonlySet<string> {
  const authorities = new Set<string>();
  for (const name of METADATA_NAMES) authorities.add(name).add(`${name}:80`);
  for (const { address, port } of own) {
    const host = address.includes(":") ? `[${address}]` : address;
    authorities.add(host).add(`${host}:${port}`);
    if (/^(?:127\.|\[::1\])/.test(host)) authorities.add(`localhost:${port}`);
  }
  return authorities;
}
