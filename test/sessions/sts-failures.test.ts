import { expect, test } from "bun:test";
import { passingRemedy } from "../../src/sessions/remedy.ts";
import { classify } from "../../src/sessions/sts-failures.ts";
import { aRequest } from "./support.ts";

/** An error as Node's resolver and sockets give it. */
const ofSystem = (code: string, message: string) => Object.assign(new Error(message), { code });

test("a name server that is away and a port where nobody listens are told by the system's codes, and what to do by the host", () => {
  const host = "sts.us-west-2.amazonaws.com";
  for (const [code, message] of [
    ["EAI_AGAIN", `getaddrinfo EAI_AGAIN ${host}`],
    ["ENOTFOUND", `getaddrinfo ENOTFOUND ${host}`],
    ["ECONNREFUSED", "connect ECONNREFUSED 127.0.0.1:443"],
  ] as const) {
    const failure = classify(ofSystem(code, message), aRequest());
    expect(failure).toMatchObject({
      kind: "transient",
      code: "connection",
      detail: `STS cannot be reached: ${code}`,
    });
    expect(passingRemedy(failure.code, `https://${host}`)).toContain(`can reach https://${host} (DNS,`);
  }
});
