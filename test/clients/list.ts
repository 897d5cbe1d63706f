/** The clients of the suite, one of each implementation of the metadata service's client, and how each is run. Pure. */

/** Where the simulated node shows what install.ts made, and the programs of fixtures/. */
export const INSTALLED = "/run/clients";
export const PROGRAMS = "/run/programs";

/** Who a client says that it is: by STS, which checks the signature; or by the access key with which it signs. */
export type Proof = "sts" | "s3" | "key";

/** Something that install.ts brings. */
export type Part =
  | { readonly kind: "debian"; readonly packages: readonly string[] }
  | { readonly kind: "python"; readonly name: string; readonly requirements: readonly string[] }
  | { readonly kind: "go" | "rust" | "java" | "js" };

export interface Client {
  readonly id: string;
  readonly name: string;
  readonly part: Part;
  readonly proof: Proof;
  /** The command line; the endpoint is a URL. */
  readonly argv: (endpoints: { sts: string; s3: string }) => readonly string[];
  /** One answer for each line of standard input, until it ends. Others run once and end. */
  readonly long: boolean;
  /** Prints its version. */
  readonly version: readonly string[] | string;
  /** Why it gets nothing where the node requires IMDSv2, from AWS's own service neither. */
  readonly onlyV1?: string;
  /** Why it goes on using a session of a minute after its end. */
  readonly keeps?: string;
}

const python = (name: string) => `${INSTALLED}/python/${name}/bin/python`;
const pip = (name: string, ...requirements: string[]): Part => ({ kind: "python", name, requirements });
const debian = (...packages: string[]): Part => ({ kind: "debian", packages });
const pinned = (requirement: string) => requirement.split("==")[1] ?? requirement;
const host = (url: string) => url.replace("http://", "");

/** A client in Python: the first requirement is the client, with its version. */
function inPython(
  id: string,
  name: string,
  program: string,
  proof: Proof,
  requirements: readonly [string, ...string[]],
): Client {
  return {
    id,
    name,
    part: pip(id, ...requirements),
    proof,
    long: true,
    version: pinned(requirements[0]),
    argv: ({ sts, s3 }) => [
      python(id),
      `${PROGRAMS}/python/${program}`,
      ...(proof === "s3" ? [host(s3), id] : [sts]),
    ],
  };
}

const inDebian = (name: string) => ["dpkg-query", "-W", "-f", `\${Version}`, name];
/** It runs for a second: what a server gains by compiling well, it would only pay for. */
const JAVA = ["java", "-XX:TieredStopAtLevel=1", "-XX:+UseSerialGC"];
const IDENTITY = [
  "sts",
  "get-caller-identity",
  "--query",
  "Arn",
  "--output",
  "text",
  "--region",
  "us-west-2",
];

const KEEPS_SHORT =
  "takes a session that ends within 15 minutes for a fault of the service, and goes on using it for minutes after its end";

export const CLIENTS: readonly Client[] = [
  {
    id: "go1",
    name: "AWS SDK for Go v1",
    part: { kind: "go" },
    proof: "sts",
    long: true,
    version: "1.55.8",
    argv: ({ sts }) => [`${INSTALLED}/bin/sdk1`, sts],
  },
  {
    id: "go2",
    name: "AWS SDK for Go v2",
    part: { kind: "go" },
    proof: "sts",
    long: true,
    version: "config 1.33.18",
    argv: ({ sts }) => [`${INSTALLED}/bin/sdk2`, sts],
  },
  {
    id: "java1",
    name: "AWS SDK for Java v1",
    part: { kind: "java" },
    proof: "sts",
    long: true,
    version: "1.12.797",
    argv: ({ sts }) => [...JAVA, "-cp", `${INSTALLED}/java:${INSTALLED}/java/jars/*`, "ClientV1", sts],
  },
  {
    id: "java2",
    name: "AWS SDK for Java v2",
    part: { kind: "java" },
    proof: "sts",
    long: true,
    version: "2.57.8",
    argv: ({ sts }) => [...JAVA, "-cp", `${INSTALLED}/java:${INSTALLED}/java/jars/*`, "ClientV2", sts],
  },
  {
    id: "rust",
    name: "AWS SDK for Rust",
    part: { kind: "rust" },
    proof: "sts",
    long: true,
    version: "aws-config 1.13.0",
    argv: ({ sts }) => [`${INSTALLED}/rust/release/client`, sts],
  },
  { ...inPython("boto3", "boto3", "boto.py", "sts", ["boto3==1.44.8"]), keeps: KEEPS_SHORT },
  {
    ...inPython("botocore112", "botocore of 2019", "botocore_old.py", "sts", [
      "botocore==1.12.253",
      "urllib3<1.26",
    ]),
    onlyV1: "has no IMDSv2",
  },
  {
    id: "awscli1",
    name: "AWS CLI 1",
    part: pip("awscli1", "awscli==1.46.3"),
    proof: "sts",
    long: false,
    version: "1.46.3",
    argv: ({ sts }) => [python("awscli1"), "-m", "awscli", ...IDENTITY, "--endpoint-url", sts],
  },
  {
    id: "awscli2",
    name: "AWS CLI 2",
    part: debian("awscli"),
    proof: "sts",
    long: false,
    version: inDebian("awscli"),
    argv: ({ sts }) => ["/usr/bin/aws", ...IDENTITY, "--endpoint-url", sts],
  },
  {
    id: "js2",
    name: "AWS SDK for JavaScript v2",
    part: { kind: "js" },
    proof: "sts",
    long: true,
    version: "2.1693.0",
    argv: ({ sts }) => ["node", `${INSTALLED}/js/v2.cjs`, sts],
  },
  {
    id: "js3",
    name: "AWS SDK for JavaScript v3",
    part: { kind: "js" },
    proof: "sts",
    long: true,
    version: "3.1174.0",
    argv: ({ sts }) => ["node", `${INSTALLED}/js/v3.mjs`, sts],
  },
  {
    id: "ruby",
    name: "AWS SDK for Ruby v3",
    part: debian("ruby", "ruby-aws-sdk-core"),
    proof: "sts",
    long: true,
    version: inDebian("ruby-aws-sdk-core"),
    argv: ({ sts }) => ["/usr/bin/ruby", `${PROGRAMS}/ruby/client.rb`, sts],
  },
  inPython("awscrt", "awscrt (C)", "crt.py", "key", ["awscrt==0.38.1"]),
  {
    ...inPython("pyarrow", "pyarrow (SDK for C++)", "arrow.py", "s3", ["pyarrow==26.0.1"]),
    keeps: "asks for new credentials every 5 minutes, whatever the session's end",
  },
  inPython("obstore", "obstore (object_store)", "store.py", "s3", ["obstore==0.12.1"]),
  inPython("opendal", "opendal (reqsign)", "dal.py", "s3", ["opendal==0.47.12"]),
  inPython("rasterio", "rasterio (GDAL)", "gdal.py", "s3", ["rasterio==1.4.4"]),
  {
    id: "minio",
    name: "minio-go",
    part: { kind: "go" },
    proof: "s3",
    long: true,
    version: "7.4.1",
    argv: ({ s3 }) => [`${INSTALLED}/bin/minio`, host(s3), "minio"],
  },
  {
    id: "rclone",
    name: "rclone",
    part: debian("rclone"),
    proof: "s3",
    long: false,
    version: inDebian("rclone"),
    argv: ({ s3 }) => [
      "rclone",
      "lsf",
      `:s3,provider=Other,env_auth=true,region=us-west-2,force_path_style=true,endpoint="${s3}":rclone`,
    ],
  },
  {
    id: "restic",
    name: "restic",
    part: debian("restic"),
    proof: "s3",
    long: false,
    version: inDebian("restic"),
    argv: ({ s3 }) => [
      "sh",
      "-c",
      // A repository of its own for each run.
      'RESTIC_PASSWORD=none exec restic --no-cache -r "$0/restic/$(date +%s%N)" init',
      `s3:${s3}`,
    ],
  },
  {
    id: "s3cmd",
    name: "s3cmd",
    part: debian("s3cmd"),
    proof: "s3",
    long: false,
    version: inDebian("s3cmd"),
    argv: ({ s3 }) => [
      "s3cmd",
      "--no-ssl",
      `--host=${host(s3)}`,
      `--host-bucket=${host(s3)}`,
      "--region=us-west-2",
      "ls",
      "s3://s3cmd",
    ],
  },
  {
    id: "s3fs",
    name: "s3fs-fuse",
    part: debian("s3fs"),
    proof: "s3",
    long: true,
    version: inDebian("s3fs"),
    argv: ({ s3 }) => ["sh", `${PROGRAMS}/s3fs.sh`, host(s3), "s3fs"],
    onlyV1: "asks for a token with `Expect: 100-continue`, which EC2 answers with 417",
  },
];
