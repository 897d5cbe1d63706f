/** One AssumeRole in a process of its own, whose environment the test fills with everything the SDK likes to read. */
import { createSts } from "../../src/sessions/sts.ts";
import { aRequest } from "./support.ts";

const loadedBefore = Object.keys(require.cache).filter((path) => path.includes("client-sts")).length;
const { endpoint, credentials } = JSON.parse(await Bun.stdin.text());
// The SDK is loaded within this limit, which takes seconds where the machine is busy with something else.
const timeoutMs = 50_000;
const metadata = { credentials: async () => credentials };
const sts = createSts({ region: "us-west-2", endpoint, metadata, timeoutMs });
const session = await sts.assumeRole(aRequest(), new AbortController().signal);
const loadedAfter = Object.keys(require.cache).filter((path) => path.includes("client-sts")).length;
process.stdout.write(JSON.stringify({ accessKeyId: session.accessKeyId, loadedBefore, loadedAfter }));
