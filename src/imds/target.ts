/**
 * The path of a request target (RFC 9112, section 3.2): of origin form as it is; of absolute form, which a client that
 * believes in a proxy sends, the part after an authority that is the metadata service's. Null for everything else.
 */
export function originForm(target: string, authorities: ReadonlySet<string>): string | null {
  if (target.startsWith("/")) return target;
  const parts = /^http:\/\/([^/?#]+)(\/.*)?$/is.exec(target);
  if (parts === null || !authorities.has((parts[1] ?? "").toLowerCase())) return null;
  return parts[2] ?? "/";
}

/** Names of the metadata service itself: addresses (Amazon EC2 User Guide) and the names that VPC DNS gives them. */
const METADATA_NAMES = ["169.254.169.254", "[fd00:ec2::254]", "instance-data", "instance-data.ec2.internal"];

/**
 * What a Host header may name, in lower case, against DNS rebinding: a page in a user's browser can make its own name
 * point here, but not change the name.
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
