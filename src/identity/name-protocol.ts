import type { AccountAnswer, BeforeAccount } from "./name-walk.ts";

/**
 * What is said between the proxy and the process that calls the modules of NSS: a line of JSON for each question, and for each
 * answer. JSON.stringify writes lone surrogates as escapes, so names pass unharmed.
 */

/** One question; there is one at a time. `skip` names services that are not to be asked. */
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

/** The uids of the owners; or that they cannot be told now; or that the service has no way to tell. */
export type OwnersAnswer =
  | { readonly status: "success"; readonly owners: readonly number[] }
  | { readonly status: "unavail" | "unsupported" };

/** A line of the answering process. */
export type NameMessage =
  /** It is about to ask this service: which one it was, where no answer comes. */
  { readonly asking: string } | { readonly account: AccountAnswer } | { readonly owners: OwnersAnswer };
