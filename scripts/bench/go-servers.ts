import { join } from "node:path";
import { tokenOf } from "../../test/support/proxied.ts";
import { ALICE, type Bodies, type Contestant, LOADS, startOther } from "./contestants.ts";

/** Servers in Go, of which none identifies its callers. install-go-servers.sh builds them. */

const ON_NODE = "/run/imdsproxy-bench";
const program = (name: string): string => join(ON_NODE, ".cache/go-servers", name);
const source = (name: string): string => join(ON_NODE, "scripts/bench/go", name);
const TOKEN_SECONDS = 21_600;

/** go/hello.go: the least that a server by Go's net/http can do. */
const startNetHttp = (bodies: Bodies): Promise<Contestant> =>
  startOther("go net/http", { "/run/bodies.json": JSON.stringify(bodies) }, [
    program("hello"),
    "254",
    "/run/bodies.json",
  ]);

/** `serve` of AWS's helper for IAM Roles Anywhere: IMDSv2 with credentials of one role for all callers, and no other metadata. */
async function startRolesAnywhere(bodies: Bodies): Promise<Contestant> {
  const role = LOADS.credentials.slice(LOADS.credentials.lastIndexOf("/") + 1);
  const script = `set -e; cd /run
openssl req -x509 -newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes -keyout key.pem -out certificate.pem -subj /CN=bench -days 2 2>/dev/null
until (: </dev/tcp/127.0.0.1/9000) 2>/dev/null; do sleep 0.1; done
exec ${program("rolesanywhere-credential-helper")} serve --port 254 --endpoint http://127.0.0.1:9000 --region us-east-1 \\
  --certificate certificate.pem --private-key key.pem --role-arn arn:aws:iam::842413447717:role/${role} \\
  --profile-arn arn:aws:rolesanywhere:us-east-1:842413447717:profile/bench \\
  --trust-anchor-arn arn:aws:rolesanywhere:us-east-1:842413447717:trust-anchor/bench 2>/dev/null`;
  const server = await startOther(
    "rolesanywhere serve",
    { "/run/credentials.json": bodies[LOADS.credentials] ?? "" },
    ["bash", "-c", script],
    ["/run/bin/bun", source("create-session.ts"), "9000", "/run/credentials.json"],
  );
  return {
    ...server,
    token: await tokenOf(server.node, ALICE, TOKEN_SECONDS),
    serves: ({ load, withToken }) => load === "tokens" || (load === "credentials" && withToken),
  };
}

/**
 * AWS's mock of the metadata service, which answers what its configuration has. It is not asked for tokens under load: it ends with
 * "concurrent map writes".
 */
async function startMetadataMock(bodies: Bodies): Promise<Contestant> {
  const metadata = {
    paths: { "iam-security-credentials": LOADS.credentials, "placement-region": LOADS.metadata },
    values: {
      "iam-security-credentials": JSON.parse(bodies[LOADS.credentials] ?? "{}"),
      "placement-region": bodies[LOADS.metadata],
    },
  };
  const server = await startOther("ec2-metadata-mock", { "/run/mock.json": JSON.stringify({ metadata }) }, [
    program("ec2-metadata-mock"),
    "--hostname",
    "127.0.0.1",
    "--port",
    "254",
    "--config-file",
    "/run/mock.json",
  ]);
  return {
    ...server,
    token: await tokenOf(server.node, ALICE, TOKEN_SECONDS),
    serves: ({ load }) => load !== "tokens",
  };
}

/** What starts them. */
export const GO_SERVERS = [startNetHttp, startRolesAnywhere, startMetadataMock];
