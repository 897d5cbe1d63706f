import { describe, expect, test } from "bun:test";
import { denialCause, explainDenial, instanceRoleIn } from "../../src/sessions/denial.ts";
import { aRequest } from "./support.ts";

const ROLE = "arn:aws:iam::842413447717:role/ImdsProxyTestRole";
const NODE = "arn:aws:iam::842413447717:role/MySageMakerClusterInstanceRole";
const SAID = `User: arn:aws:sts::842413447717:assumed-role/MySageMakerClusterInstanceRole/SageMaker is not authorized to perform: sts:AssumeRole on resource: ${ROLE}`;

describe("explainDenial()", () => {
  test("gives the two statements of the set-up guide", () => {
    const { trust, permission } = explainDenial(aRequest(), NODE);
    expect(trust).toEqual({ Effect: "Allow", Principal: { AWS: NODE }, Action: "sts:AssumeRole" });
    expect(permission).toEqual({ Effect: "Allow", Action: "sts:AssumeRole", Resource: ROLE });
  });

  test("names what tags, a source identity and an external id need besides", () => {
    const request = aRequest({ tags: [["team", "data"]], sourceIdentity: "alice", externalId: "x-1" });
    const { trust, permission } = explainDenial(request, NODE);
    const actions = ["sts:AssumeRole", "sts:TagSession", "sts:SetSourceIdentity"];
    expect(trust).toEqual({
      Effect: "Allow",
      Principal: { AWS: NODE },
      Action: actions,
      Condition: { StringEquals: { "sts:ExternalId": "EXTERNAL-ID" } },
    });
    expect(permission.Action).toEqual(actions);
  });

  test("holds both statements as JSON in its text, and says what it found", () => {
    const { text, trust, permission } = explainDenial(aRequest(), NODE, SAID);
    expect(text).toContain(JSON.stringify(trust, null, 2));
    expect(text).toContain(JSON.stringify(permission, null, 2));
    expect(text).toContain("STS does not say why");
  });

  test("takes the node's role from STS's words where it is not known, and warns of its path", () => {
    const { trust, text } = explainDenial(aRequest(), null, SAID);
    expect(trust.Principal?.AWS).toBe(NODE);
    expect(text).toContain("add the role's path");
  });

  test("where nobody knows the node's role, leaves a place to fill in, in the role's partition", () => {
    const request = aRequest({ roleArn: "arn:aws-cn:iam::842413447717:role/X" });
    const { trust } = explainDenial(request, null);
    expect(trust.Principal?.AWS).toBe("arn:aws-cn:iam::ACCOUNT:role/ROLE-OF-THIS-NODE");
  });
});

describe("denialCause()", () => {
  test.each([
    [SAID, "unknown"],
    [`${SAID} because no identity-based policy allows the sts:AssumeRole action`, "permission"],
    [`${SAID} because no session policy allows the sts:AssumeRole action`, "permission"],
    [`${SAID} because no resource-based policy allows the sts:AssumeRole action`, "trust"],
    [`${SAID} with an explicit deny in a service control policy`, "explicit-deny"],
    ["", "unknown"],
  ] as const)("%s: %s", (message, cause) => {
    expect(denialCause(message)).toBe(cause);
  });
});

describe("instanceRoleIn()", () => {
  test("reads every partition, and nothing that is no assumed role", () => {
    expect(instanceRoleIn("User: arn:aws-us-gov:sts::123456789012:assumed-role/R+=,.@-_1/i-0 is")).toBe(
      "arn:aws-us-gov:iam::123456789012:role/R+=,.@-_1",
    );
    expect(instanceRoleIn("User: arn:aws:iam::123456789012:user/alice is not authorized")).toBeNull();
  });
});
