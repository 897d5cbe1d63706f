/**
 * A stand-in for CreateSession of IAM Roles Anywhere, of which a server asks for its credentials once:
 * `bun create-session.ts PORT FILE`, where FILE is a document of credentials as the metadata service gives it.
 */
import { readFileSync } from "node:fs";

const [, , port = "", file = ""] = process.argv;
const document = JSON.parse(readFileSync(file, "utf8")) as Record<string, string>;
const credentials = {
  accessKeyId: document["AccessKeyId"],
  secretAccessKey: document["SecretAccessKey"],
  sessionToken: document["Token"],
  expiration: document["Expiration"],
};

Bun.serve({
  hostname: "127.0.0.1",
  port: Number(port),
  fetch: () => Response.json({ credentialSet: [{ credentials }] }, { status: 201 }),
});
