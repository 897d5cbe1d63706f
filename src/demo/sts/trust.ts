import { members } from "./members.ts";

/**
 * Trust policies of the simulated cloud, evaluated as IAM does: an Allow that fits, and every condition of it. Only what
 * `imdsproxy iam trust-policy` prints is known; an operator or key beyond that allows nothing.
 * IAM User Guide: "IAM JSON policy elements: Condition operators", "Set operators for multivalued context keys".
 */

/** One statement of a trust policy. */
export interface TrustStatement {
  readonly Effect: "Allow";
  readonly Principal?: { readonly AWS: string };
  readonly Action: string | readonly string[];
  readonly Condition?: Readonly<Record<string, Readonly<Record<string, string | readonly string[]>>>>;
}

/** What a request says of itself: by key, one value or several; without the key where it says nothing. */
type Context = ReadonlyMap<string, readonly string[]>;

const list = (value: string | readonly string[]): readonly string[] =>
  typeof value === "string" ? [value] : value;

function contextOf(parameters: Readonly<Record<string, string>>, userId: string): Context {
  const context = new Map<string, readonly string[]>([["aws:userid", [userId]]]);
  const one = (key: string, parameter: string) => {
    const value = parameters[parameter];
    if (value !== undefined) context.set(key, [value]);
  };
  one("sts:RoleSessionName", "RoleSessionName");
  one("sts:SourceIdentity", "SourceIdentity");
  one("sts:ExternalId", "ExternalId");
  const keys = members(parameters, "Tags", ".Key");
  const values = members(parameters, "Tags", ".Value");
  for (const [index, key] of keys.entries()) context.set(`aws:RequestTag/${key}`, [values[index] ?? ""]);
  if (keys.length > 0) context.set("aws:TagKeys", keys);
  const transitive = members(parameters, "TransitiveTagKeys");
  if (transitive.length > 0) context.set("sts:TransitiveTagKeys", transitive);
  return context;
}

/** `*` is any run of characters, `?` one; everything else stands for itself. */
const isLike = (pattern: string, value: string): boolean =>
  new RegExp(
    `^${pattern.replaceAll(/[.*+?^${}()|[\]\\]/g, (one) => (one === "*" ? ".*" : one === "?" ? "." : `\\${one}`))}$`,
    "su",
  ).test(value);

function holds(operator: string, wanted: readonly string[], found: readonly string[] | undefined): boolean {
  switch (operator) {
    case "StringEquals":
      return found?.length === 1 && wanted.includes(found[0] ?? "");
    case "StringLike":
      return found?.length === 1 && wanted.some((one) => isLike(one, found[0] ?? ""));
    case "StringLikeIfExists":
      return found === undefined || wanted.some((one) => isLike(one, found[0] ?? ""));
    case "ForAllValues:StringEquals":
      return (found ?? []).every((one) => wanted.includes(one));
    default:
      return false;
  }
}

/**
 * Whether the statement lets this request assume its role.
 *
 * @param callerRole `arn:…:iam::…:role/NAME` of who asks. @param userId the `aws:userid` of who asks: `AROA…:SESSION`.
 */
export function allows(
  statement: TrustStatement,
  callerRole: string,
  userId: string,
  parameters: Readonly<Record<string, string>>,
): boolean {
  const actions = list(statement.Action);
  const context = contextOf(parameters, userId);
  const needed = [
    "sts:AssumeRole",
    ...(context.has("aws:TagKeys") ? ["sts:TagSession"] : []),
    ...(context.has("sts:SourceIdentity") ? ["sts:SetSourceIdentity"] : []),
  ];
  return (
    statement.Principal?.AWS === callerRole &&
    needed.every((one) => actions.includes(one)) &&
    Object.entries(statement.Condition ?? {}).every(([operator, keys]) =>
      Object.entries(keys).every(([key, wanted]) => holds(operator, list(wanted), context.get(key))),
    )
  );
}
