/** Numbers and addresses of the second wall. */

/** Numbers of our own routing tables. No other program is known to use them. */
export const TABLES = {
  /** The metadata address on lo: the route that users' connections have until they are redirected. */
  pass: 1692541,
  /** Routes on which every connection fails. */
  sink: 1692543,
  /** The same for each address of this node, for an agent that listens on all of them. */
  local: 1692545,
  /** The proxy's own address. */
  listener: 1692547,
  /** Routes that lead containers' packets through the chain FORWARD, which answers with a reset, and no further. */
  containers: 1692549,
  /** The same for each IPv4 address of this node. */
  localContainers: 1692551,
} as const;

/** RT_TABLE_LOCAL */
export const TABLE_LOCAL = 255;

/** The source address of users' connections to the metadata address: an address of lo that nothing else uses. */
export const USERS_SOURCE = "127.169.254.1";

/** (uid_t)-1 is no uid. */
export const MAX_UID = 4_294_967_294;
