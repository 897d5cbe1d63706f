import { defineCommand } from "citty";
import { ImdsProxyError } from "../../errors.ts";
import { systemAccounts } from "../../firewall/accounts.ts";
import { type Attempt, attempt, directEndpoints } from "../../firewall/direct-access.ts";
import { become, type Credentials, NOGROUP } from "../become.ts";
import { jsonArg } from "../common.ts";
import { sayBeside } from "../say.ts";
import { jsonText } from "../terminal.ts";
import { resolveSpec, specArgs } from "./common.ts";

/** The uid of nobody, on every supported distribution. */
const NOBODY = 65_534;

/** The id in a variable that sudo(8) sets; null where it is absent, or root's. */
function sudoId(name: "SUDO_UID" | "SUDO_GID"): number | null {
  const id = Number(process.env[name] ?? "0");
  return Number.isSafeInteger(id) && id > 0 ? id : null;
}

/** The user to try as: the caller of sudo where that user is not exempt, else nobody. */
async function ordinaryCredentials(exempt: readonly number[]): Promise<Credentials> {
  const caller = sudoId("SUDO_UID");
  if (caller !== null && !exempt.includes(caller)) return { uid: caller, gid: sudoId("SUDO_GID") ?? NOGROUP };
  const nobody = (await systemAccounts.uidOf("nobody")) ?? NOBODY;
  if (!exempt.includes(nobody)) return { uid: nobody, gid: NOGROUP };
  throw new ImdsProxyError(
    "usage",
    "cannot try as an ordinary user: both the caller and nobody are exempt",
    "run it as a user who is not exempt",
  );
}

const WORDS: Record<Attempt["result"], string> = {
  closed: "closed",
  absent: "nothing",
  proxy: "closed",
  open: "OPEN",
};

export const checkDirect = defineCommand({
  meta: {
    name: "check-direct",
    description:
      "Try to reach the instance role past the proxy, as an ordinary user; exit 1 when that is closed",
    hidden: true,
  },
  args: { ...specArgs, json: jsonArg },
  async run({ args }) {
    // Before root is given up: only root can read the rules.
    const { spec } = await resolveSpec(args);
    if (process.getuid?.() === 0) become(await ordinaryCredentials(spec.exemptUids));
    const uid = process.getuid?.() ?? NOBODY;
    if (spec.exemptUids.includes(uid)) {
      throw new ImdsProxyError(
        "usage",
        `uid ${uid} is exempt, so that a check as this user proves nothing`,
        "run it as a user who is not exempt",
      );
    }
    const attempts = await Promise.all(directEndpoints(spec).map(attempt));
    const open = attempts.filter(({ result }) => result === "open");
    if (args.json) console.log(jsonText({ closed: open.length === 0, uid, attempts }));
    else {
      console.log(`as uid ${uid}, which is not exempt:`);
      for (const { result, detail } of attempts) console.log(`  ${WORDS[result].padEnd(8)} ${detail}`);
    }
    if (open.length > 0) {
      sayBeside(
        "WARNING: direct access is OPEN: every user of this node can have the credentials of the instance role.\n" +
          "  To close it: sudo imdsproxy iptables apply",
      );
      return;
    }
    throw new ImdsProxyError(
      "unhealthy",
      "direct access to the instance role is closed, so this check fails, as it should",
      "That is good: an ordinary user reaches only the proxy. (This check succeeds, with a warning, where access is open.)",
    );
  },
});
