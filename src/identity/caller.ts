import type { SocketOwner } from "./lookup.ts";

/**
 * The key under which a caller is counted or given something: a uid; the owner of subordinate uids, as text (see shares.ts); the
 * address of a container; or -1 for what this process does for itself. Tokens, connections, queues, look-ups, sessions and
 * requests to the upstream all use this type.
 */
export type Subject = number | string;

/** Who sent a request, as far as the kernel tells. */
export type Caller = KnownCaller | { readonly kind: "unknown" };

/** A caller who may ask. */
export type KnownCaller =
  /** A process of this node. */
  | {
      readonly kind: "owner";
      readonly owner: SocketOwner;
      /** The key of this caller's share: the uid, or one key for all subordinate uids of an owner. */
      readonly share: Subject;
    }
  /** A bridged container, where the configuration serves them: it has an address and no uid. */
  | { readonly kind: "container"; readonly address: string };

/** The key of a caller's tokens: a uid, or a container's address. */
export const subjectOf = (caller: KnownCaller): Subject =>
  caller.kind === "owner" ? caller.owner.uid : caller.address;

/** The key of a caller's share of connections, turns, requests to the upstream and sessions. */
export const shareOf = (caller: KnownCaller): Subject =>
  caller.kind === "owner" ? caller.share : caller.address;
