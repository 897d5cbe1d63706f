import type { SocketOwner } from "./lookup.ts";

/**
 * Who is counted, or given something, as one: a uid; the owner of subordinate uids, as text (see shares.ts); the address of a
 * container; and, for what this process does for itself, -1. The one type for such keys: of tokens, connections, queues,
 * look-ups, sessions and requests to the upstream.
 */
export type Subject = number | string;

/** Who sent a request, as far as the kernel let us know. */
export type Caller = KnownCaller | { readonly kind: "unknown" };

/** A caller who may ask. */
export type KnownCaller =
  /** A process of this node. */
  | {
      readonly kind: "owner";
      readonly owner: SocketOwner;
      /** Under which name this caller's share is kept: the uid, or what all subordinate uids of an owner have in common. */
      readonly share: Subject;
    }
  /** A bridged container, where the configuration serves them: it has an address and no uid. */
  | { readonly kind: "container"; readonly address: string };

/** For whom a token is: a uid, or a container's address. */
export const subjectOf = (caller: KnownCaller): Subject =>
  caller.kind === "owner" ? caller.owner.uid : caller.address;

/** Under which name a caller's share of connections, turns, the upstream and sessions is kept. */
export const shareOf = (caller: KnownCaller): Subject =>
  caller.kind === "owner" ? caller.share : caller.address;
