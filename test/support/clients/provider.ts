/** Who this is to STS, by npm's @aws-sdk/credential-providers: `bun provider.ts STS-ENDPOINT`. Run on the simulated node. */
import { GetCallerIdentityCommand, STSClient } from "@aws-sdk/client-sts";
import { fromInstanceMetadata } from "@aws-sdk/credential-providers";

const endpoint = process.argv[2] ?? "";
const credentials = fromInstanceMetadata({ maxRetries: 0, timeout: 1000 });
const client = new STSClient({ region: "us-west-2", endpoint, credentials });
const { Arn } = await client.send(new GetCallerIdentityCommand({}));
console.log(Arn);
