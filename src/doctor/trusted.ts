import type { DoctorInputs } from "./types.ts";

/** Whether somebody may have root or the instance role anyway: root, who is exempt, and whom `--admin` names. Pure. */
export function isTrusted({ admins, exempt, accounts }: DoctorInputs, name: string): boolean {
  if (name === "root" || admins.includes(name)) return true;
  const account = accounts.kind === "known" ? accounts.value.find((one) => one.name === name) : undefined;
  if (account === undefined) return false;
  return account.uid === 0 || (exempt.kind === "known" && exempt.value.includes(account.uid));
}

/** Whether an account is a daemon's: a uid below 1000, and no shell to log in with. Pure. */
export function isDaemon({ accounts }: DoctorInputs, name: string): boolean {
  const account = accounts.kind === "known" ? accounts.value.find((one) => one.name === name) : undefined;
  return account !== undefined && account.uid < 1000 && /\/(?:nologin|false|sync)$/.test(account.shell);
}
