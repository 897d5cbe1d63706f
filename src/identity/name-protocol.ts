import type { AccountAnswer, BeforeAccount } from "./name-walk.ts";

/**
 * The protocol between the proxy and its NSS helpers: one line of JSON for each question and each answer. JSON.stringify
 * escapes lone surrogates, so that names of any bytes (name-text.ts) pass unchanged.
 */

/** One question. A helper gets the next one after it has answered. `skip` names services that are not to be asked. */
export type NameQuestion =
  | {
      readonly kind: "uid";
      readonly uid: number;
      readonly before: BeforeAccount | null;
      readonly skip: readonly string[];
    }
  | { readonly kind: "name"; readonly user: string; readonly skip: readonly string[] }
  /** Whose subordinate uid it is, by the service in `subid:` of nsswitch.conf. */
  | { readonly kind: "owners"; readonly uid: number; readonly service: string };

/** The uids of the owners; or that the service is unavailable; or that it does not support the question. */
export type OwnersAnswer =
  | { readonly status: "success"; readonly owners: readonly number[] }
  | { readonly status: "unavail" | "unsupported" };

/** A line from the helper. */
export type NameMessage =
  /** Sent before each service is asked, so that the parent knows which one did not answer. */
  { readonly asking: string } | { readonly account: AccountAnswer } | { readonly owners: OwnersAnswer };
