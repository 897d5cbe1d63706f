/**
 * What stands around the node in the boot tests, run by units inside the machine from the source that is bound there:
 *
 *   bun stand-in.ts imds ADDRESS:PORT     the metadata service, or HyperPod's agent
 *   bun stand-in.ts sts ADDRESS:PORT      STS; its log is written to /var/lib/stand-in/sts.log
 *   bun stand-in.ts files ADDRESS:PORT    a web server for /srv
 *
 * The first two know the instance role's secrets from a file that only root reads. STAND_IN_SESSION_SECONDS is the longest life of a session of
 * STS's, for a test that cannot wait for a quarter of an hour.
 */
import {
  appendFileSync,
  existsSync,
  linkSync,
  mkdirSync,
  readFileSync,
  rmSync,
  writeFileSync,
} from "node:fs";
import { parseEndpoint } from "../../../src/config/schema.ts";
import { createInstanceSecrets, type InstanceSecrets } from "../../../src/demo/imds/secrets.ts";
import { DEFAULT_FACTS } from "../../../src/demo/imds/tree.ts";
import { instancePrincipal } from "../../../src/demo/sts/principals.ts";
import { startFaultyImds } from "../../support/stand-ins/imds.ts";
import { startFaultySts } from "../../support/stand-ins/sts.ts";

/** Elsewhere where /var is what a test takes away. */
const DIRECTORY = process.env["STAND_IN_DIRECTORY"] ?? "/var/lib/stand-in";
const SECRETS = `${DIRECTORY}/secrets.json`;
/** A test breaks STS by renaming a fault (JSON) to here, mends it by taking the file away, and waits for the copy. */
const FAULT = `${DIRECTORY}/sts-fault`;
const FAULT_TAKEN = `${DIRECTORY}/sts-fault.taken`;
const NO_FAULT = '{"kind":"none"}';
const A_DAY_MS = 86_400_000;

/** The fault that is asked for; a test may take the file away at any moment. */
function faultText(): string {
  try {
    return readFileSync(FAULT, "utf8");
  } catch {
    return NO_FAULT;
  }
}

function secrets(): InstanceSecrets {
  mkdirSync(DIRECTORY, { recursive: true, mode: 0o700 });
  if (!existsSync(SECRETS)) {
    // Two of these start at once at the first boot: the file is there as a whole or not at all, and the first one's stays.
    const draft = `${SECRETS}.${process.pid}`;
    writeFileSync(draft, JSON.stringify(createInstanceSecrets()), { mode: 0o600 });
    try {
      linkSync(draft, SECRETS);
    } catch (error) {
      if ((error as NodeJS.ErrnoException).code !== "EEXIST") throw error;
    }
    rmSync(draft);
  }
  return JSON.parse(readFileSync(SECRETS, "utf8")) as InstanceSecrets;
}

const [what, where] = process.argv.slice(2);
const listen = parseEndpoint(where ?? "");
if (listen === null) throw new Error(`no address: ${where}`);

if (what === "files") {
  const fetch = (request: Request) => new Response(Bun.file(`/srv${new URL(request.url).pathname}`));
  const missing = () => new Response("no such file", { status: 404 });
  Bun.serve({ hostname: listen.address, port: listen.port, fetch, error: missing });
} else if (what === "imds") {
  startFaultyImds({ listen: [listen], secrets: secrets() });
} else {
  const { account, roleName, instanceId } = DEFAULT_FACTS;
  const roleArn = `arn:aws:iam::${account}:role/${roleName}`;
  const principal = instancePrincipal(secrets().role, roleArn, instanceId, Date.now() + 10 * A_DAY_MS);
  const sessionSeconds = Number(process.env["STAND_IN_SESSION_SECONDS"] ?? "0") || null;
  const sts = await startFaultySts({ listen: [listen], principals: [principal], mode: { sessionSeconds } });
  let taken = NO_FAULT;
  setInterval(() => {
    const fault = faultText();
    if (fault !== taken) {
      taken = fault;
      sts.set({ fault: JSON.parse(fault) });
      writeFileSync(FAULT_TAKEN, fault);
    }
    for (const entry of sts.log()) appendFileSync(`${DIRECTORY}/sts.log`, `${JSON.stringify(entry)}\n`);
    sts.clearLog();
  }, 200);
}
