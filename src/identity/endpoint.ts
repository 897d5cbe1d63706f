/** An address and a port as the kernel has them. */
export interface Endpoint {
  /** Dotted IPv4 or canonical IPv6 text; an IPv4-mapped IPv6 address is written as IPv4. */
  readonly address: string;
  readonly port: number;
}

/** `127.0.0.1:254`, `[::1]:254`. */
export const endpointText = ({ address, port }: Endpoint): string =>
  address.includes(":") ? `[${address}]:${port}` : `${address}:${port}`;
