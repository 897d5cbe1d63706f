/**
 * The members of a list of a query request, in order: `Tags.member.1.Key=a&Tags.member.2.Key=b`
 * (https://smithy.io/2.0/aws/protocols/aws-query-protocol.html).
 *
 * @param field of each member, with its dot; "" where the members are texts.
 */
export function members(parameters: Readonly<Record<string, string>>, name: string, field = ""): string[] {
  const found: string[] = [];
  for (let i = 1; parameters[`${name}.member.${i}${field}`] !== undefined; i++)
    found.push(parameters[`${name}.member.${i}${field}`] ?? "");
  return found;
}
