import { type NssReply, openNssModule } from "../platform/nss.ts";
import { nameBytes, nameText } from "./name-text.ts";
import type { NamedAccount, NameService, ServiceReply } from "./name-walk.ts";

/** Adapts the NSS modules of this node (src/platform/nss.ts) to name-walk.ts. Each call blocks. */

const ESRCH = 3;

/** What must be known of a service beyond the status that its module returns. */
export interface ServiceTests {
  /** Whether SSSD has run on this node and does not answer now. */
  sssdIsAway(): boolean;
  /** Called before a service is asked: the call may never return. */
  onAsk(service: string): void;
}

/** @param skip services that count as unavailable and are not asked. */
export function nameService(service: string, skip: readonly string[], tests: ServiceTests): NameService {
  if (skip.includes(service)) return constant({ status: "unavail", why: "did not answer in time" });
  const opened = openNssModule(service);
  // A service without a module is treated as empty: distributions list services that are not installed.
  if (opened.kind === "absent") return constant({ status: "notfound" });
  if (opened.kind === "broken") return constant({ status: "unavail", why: "its module cannot be loaded" });
  const { module } = opened;
  const told = <T, U>(call: () => NssReply<T>, map: (value: T) => U): ServiceReply<U> => {
    tests.onAsk(service);
    const reply = call();
    if (reply.status === "success") return { status: "success", value: map(reply.value) };
    if (reply.status === "notfound") {
      // Fedora, RHEL and Amazon Linux build nss_sss so that it says "not found" while SSSD is away (sssd's
      // --enable-sss-default-nss-plugin, src/sss_client/common.c).
      const away = service === "sss" && tests.sssdIsAway();
      return away ? { status: "unavail", why: "SSSD does not answer at its socket" } : reply;
    }
    // nss_systemd answers so for a user who is in no group that it knows (initgroups in systemd 252).
    if (service === "systemd" && reply.status === "unavail" && reply.errno === ESRCH)
      return { status: "notfound" };
    const kind = reply.status === "unavail" ? "unavailable" : "to be tried again";
    return { status: reply.status, why: reply.errno === 0 ? kind : `${kind}, errno ${reply.errno}` };
  };
  const account = ({ name, uid, gid }: { name: Uint8Array; uid: number; gid: number }): NamedAccount => ({
    user: nameText(name),
    uid,
    gid,
  });
  return {
    accountByUid: (uid) => told(() => module.accountByUid(uid), account),
    accountByName: (user) => told(() => module.accountByName(nameBytes(user)), account),
    groupName: (gid) => told(() => module.groupName(gid), nameText),
    groupsOf: (user, gid) =>
      told(
        () => module.groupsOf(nameBytes(user), gid),
        (gids) => gids,
      ),
  };
}

function constant(reply: ServiceReply<never>): NameService {
  const same = () => reply;
  return { accountByUid: same, accountByName: same, groupName: same, groupsOf: same };
}
