import type { TurnedAway } from "../../src/http/server.ts";
import { type Caller, shareOf } from "../../src/identity/caller.ts";

/** A process of this node with this uid. */
export const ownerOf = (uid: number, share: number | string = uid): Caller => ({
  kind: "owner",
  owner: { uid, cgroupId: null, redirected: true },
  share,
});

/** What was told of a request or connection that was turned away; its caller as the subject whose limits it counts towards. */
export const told = ({ kind, caller, status }: TurnedAway) => ({
  kind,
  subject: caller.kind === "unknown" ? null : shareOf(caller),
  status,
});
export type Told = ReturnType<typeof told>;
