/** Asks for credentials once, by npm's @aws-sdk, and prints as boto3-asks.py does: `bun npm-asks.ts STS-ENDPOINT`. */
import { GetCallerIdentityCommand, STSClient } from "@aws-sdk/client-sts";
import { fromInstanceMetadata } from "@aws-sdk/credential-providers";

const endpoint = process.argv[2] ?? "";
const provider = fromInstanceMetadata();
const began = performance.now();
let says: string;
let tookMs = Number.NaN;
try {
  const credentials = await provider().finally(() => {
    tookMs = Math.round(performance.now() - began);
  });
  const client = new STSClient({ region: "us-west-2", endpoint, credentials });
  says = (await client.send(new GetCallerIdentityCommand({}))).Arn ?? "";
} catch (error) {
  says = error instanceof Error ? `${error.name}: ${error.message}` : String(error);
}
console.log(JSON.stringify({ says, tookMs }));
