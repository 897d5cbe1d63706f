import type { AssumeRoleCommandInput, STSClient, STSClientConfig } from "@aws-sdk/client-sts";
import { ImdsProxyError } from "../errors.ts";
import { systemClock } from "../platform/clock.ts";
import type { Sts } from "./calls.ts";
import { StsFailure } from "./failure.ts";
import { fromUpstream, type InstanceMetadata, type SignerCredentials } from "./instance-credentials.ts";
import { classify, isOwnCredentials } from "./sts-failures.ts";
import type { Session, SessionRequest } from "./types.ts";

export interface StsOptions {
  /** The region whose STS is used, or a function that finds it, called at each attempt until it succeeds. */
  readonly region: string | (() => Promise<string>);
  /** A URL in place of the region's endpoint, or null. */
  readonly endpoint: string | null;
  /** Where the node's own credentials come from. */
  readonly metadata: InstanceMetadata;
  /** Milliseconds for one attempt, the node's credentials and one repetition included. Default 5000. */
  readonly timeoutMs?: number;
  /** The wall clock, milliseconds since the epoch. Default the machine's. */
  readonly now?: () => number;
}

/** AWS STS through the SDK. */
export interface AwsSts extends Sts {
  /** Loads the SDK, so that the first caller does not wait for it: 0.1 s, and seconds on a busy node. Never rejects. */
  load(): Promise<void>;
  /**
   * Forgets the node's own credentials, because the upstream has changed: the next request fetches new ones from there.
   * Requests under way keep the old ones.
   */
  forgetCredentials(): void;
  /**
   * How far STS's clock is ahead of this machine's, in milliseconds, by its last answer; 0 before the first. The SDK corrects
   * its value where it is wrong by more than five minutes (getUpdatedSystemClockOffset.js in @aws-sdk/core).
   */
  clockOffsetMs(): number;
  /** Closes its connections. */
  close(): void;
}

/** Values for all options that the SDK would otherwise read from the environment or from ~/.aws. */
const NOTHING_FROM_OUTSIDE = {
  ignoreConfiguredEndpointUrls: true,
  useFipsEndpoint: false,
  useDualstackEndpoint: false,
  defaultsMode: "standard",
  retryMode: "standard",
  authSchemePreference: [],
  sigv4aSigningRegionSet: async () => undefined,
  userAgentAppId: async () => undefined,
  // The broker retries, with a backoff that all callers of a request share.
  maxAttempts: 1,
} satisfies STSClientConfig;

/** Milliseconds between two looks for other credentials of the node, where STS denies. */
const LOOK_AGAIN_MS = 10_000;

/**
 * STS for the broker, through @aws-sdk/client-sts. `load` or the first request loads the SDK, so that commands without a request
 * to STS start faster. Endpoints are regional, with the suffix of each partition that the SDK knows.
 *
 * Each attempt is one request. Where STS rejects the node's own credentials or the date of the signature, the request is
 * repeated once immediately, with newly fetched credentials and the clock offset that the SDK has measured
 * (AwsSdkSigV4Signer.js in @aws-sdk/core, errorHandler). The same where STS denies it and the node has other credentials by now.
 */
export function createSts(options: StsOptions): AwsSts {
  const timeoutMs = options.timeoutMs ?? 5_000;
  const now = options.now ?? systemClock.now;
  let loading: Promise<Loaded> | null = null;
  let secrets: readonly string[] = [];
  let signedBy = "";
  let lookedAtMs = Number.NEGATIVE_INFINITY;
  let clockOffsetMs = 0;

  /** The node's credentials, which are removed from every text of an answer before it is logged. */
  function remembering(provider: () => Promise<SignerCredentials>): () => Promise<SignerCredentials> {
    return async () => {
      const found = await provider();
      // The former ones as well, because a request may still be under way with them. The same ones are often fetched again.
      const all = [found.secretAccessKey, found.sessionToken, found.accessKeyId, ...secrets];
      secrets = [...new Set(all)].slice(0, 6);
      signedBy = found.accessKeyId;
      return found;
    };
  }

  async function load(): Promise<Loaded> {
    const { STSClient, AssumeRoleCommand } = await import("@aws-sdk/client-sts");
    const client = new STSClient({
      ...NOTHING_FROM_OUTSIDE,
      region: regionProvider(options.region),
      ...(options.endpoint === null ? {} : { endpoint: options.endpoint }),
      credentials: remembering(fromUpstream(options.metadata)),
      customUserAgent: "imdsproxy",
      requestHandler: {
        connectionTimeout: timeoutMs,
        requestTimeout: timeoutMs,
        throwOnRequestTimeout: true,
        // Requests are half an hour apart. A connection that is kept that long is usually dead, and the next request on it
        // would fail.
        httpAgent: { keepAlive: false, maxSockets: 64 },
        httpsAgent: { keepAlive: false, maxSockets: 64 },
      },
    });
    return {
      client,
      async send(input, signal) {
        try {
          return await client.send(new AssumeRoleCommand(input), { abortSignal: signal });
        } finally {
          const offset = field(client.config, "systemClockOffset");
          if (typeof offset === "number") clockOffsetMs = offset;
        }
      },
    };
  }

  /** Loads the SDK once for all requests. Where that fails, the next request tries again. */
  function loaded(): Promise<Loaded> {
    loading ??= load().catch((error) => {
      loading = null;
      throw error;
    });
    return loading;
  }

  /**
   * Whether the metadata service has other credentials than those by which a request was denied, as after the node was given another
   * instance profile. The SDK would keep the former ones until they end. It is asked at most once in ten seconds.
   */
  async function haveChanged(): Promise<boolean> {
    const nowMs = now();
    if (Math.abs(nowMs - lookedAtMs) < LOOK_AGAIN_MS) return false;
    lookedAtMs = nowMs;
    try {
      return (await options.metadata.credentials()).accessKeyId !== signedBy;
    } catch {
      return false;
    }
  }

  async function attempt(request: SessionRequest, signal: AbortSignal): Promise<Session> {
    const { client, send } = await loaded();
    const input = assumeRoleInput(request);
    const obtainedAtMs = now();
    try {
      return readSession(await send(input, signal), obtainedAtMs);
    } catch (error) {
      const isDenied = classify(error, request, secrets).kind === "denied";
      if (!isOwnCredentials(error) && !(isDenied && (await haveChanged()))) throw error;
      await client.config.credentials({ forceRefresh: true });
    }
    return readSession(await send(input, signal), now());
  }

  return {
    load: () =>
      loaded().then(
        () => {},
        () => {},
      ),
    async assumeRole(request, signal) {
      const limit = AbortSignal.any([signal, AbortSignal.timeout(timeoutMs)]);
      const over = Promise.withResolvers<never>();
      const onAbort = () => over.reject(timedOut(timeoutMs));
      limit.addEventListener("abort", onAbort);
      try {
        // A race, because the SDK's own timeouts cover neither a body that does not arrive nor a slow provider.
        return await Promise.race([attempt(request, limit), over.promise]);
      } catch (error) {
        throw classify(error, request, secrets);
      } finally {
        limit.removeEventListener("abort", onAbort);
      }
    },
    forgetCredentials() {
      // The SDK keeps the credentials in the client. The client's connections are closed after each request, so none stays open.
      loading = null;
    },
    clockOffsetMs: () => clockOffsetMs,
    close() {
      void loading?.then(({ client }) => client.destroy()).catch(() => {});
    },
  };
}

interface Loaded {
  readonly client: STSClient;
  readonly send: (input: AssumeRoleCommandInput, signal: AbortSignal) => Promise<unknown>;
}

/**
 * The endpoint that `createSts` uses in a region, as a URL, for the message of `serve` where it cannot be reached.
 *
 * @example await stsEndpoint("cn-north-1") // "https://sts.cn-north-1.amazonaws.com.cn"
 */
export async function stsEndpoint(region: string): Promise<string> {
  const { STSClient } = await import("@aws-sdk/client-sts");
  const client = new STSClient({ ...NOTHING_FROM_OUTSIDE, region });
  const parameters = { Region: region, UseFIPS: false, UseDualStack: false, UseGlobalEndpoint: false };
  const { url } = client.config.endpointProvider(parameters);
  client.destroy();
  return url.origin;
}

/** The SDK's input for a request. Empty values are left out, because STS rejects them. */
function assumeRoleInput(request: SessionRequest): AssumeRoleCommandInput {
  return {
    RoleArn: request.roleArn,
    RoleSessionName: request.sessionName,
    DurationSeconds: request.durationSeconds,
    ...(request.sourceIdentity === null ? {} : { SourceIdentity: request.sourceIdentity }),
    ...(request.tags.length === 0 ? {} : { Tags: request.tags.map(([Key, Value]) => ({ Key, Value })) }),
    ...(request.transitiveTagKeys.length === 0 ? {} : { TransitiveTagKeys: [...request.transitiveTagKeys] }),
    ...(request.policyArns.length === 0 ? {} : { PolicyArns: request.policyArns.map((arn) => ({ arn })) }),
    ...(request.policy === null ? {} : { Policy: request.policy }),
    ...(request.externalId === null ? {} : { ExternalId: request.externalId }),
  };
}

function regionProvider(region: StsOptions["region"]): string | (() => Promise<string>) {
  if (typeof region === "string") return region;
  return async () => {
    try {
      return await region();
    } catch (error) {
      const known = error instanceof ImdsProxyError ? error : null;
      throw new StsFailure({
        kind: "transient",
        code: "region",
        message: "the node's region cannot be found for now; try again shortly",
        // Not every problem has a remedy: a slow metadata service needs no change of the configuration.
        detail:
          known === null
            ? "the node's region cannot be read from the metadata service: set `region` in the configuration"
            : [known.problem, ...(known.remedy === null ? [] : [known.remedy])].join("; "),
      });
    }
  };
}

/** Reads an answer of status 200. @throws StsFailure where a field is missing. */
function readSession(answer: unknown, obtainedAtMs: number): Session {
  const credentials = field(answer, "Credentials");
  const accessKeyId = field(credentials, "AccessKeyId");
  const secretAccessKey = field(credentials, "SecretAccessKey");
  const sessionToken = field(credentials, "SessionToken");
  const expiration = field(credentials, "Expiration");
  const expiresAtMs = expiration instanceof Date ? expiration.getTime() : Number.NaN;
  if (
    !filled(accessKeyId) ||
    !filled(secretAccessKey) ||
    !filled(sessionToken) ||
    Number.isNaN(expiresAtMs)
  ) {
    throw new StsFailure({
      kind: "transient",
      code: "answer",
      message: "what answered at the STS endpoint is not STS; try again shortly",
      detail: "the answer to AssumeRole holds no complete credentials: is sts.endpoint wrong?",
    });
  }
  return {
    accessKeyId: ownCopy(accessKeyId),
    secretAccessKey: ownCopy(secretAccessKey),
    sessionToken: ownCopy(sessionToken),
    expiresAtMs,
    obtainedAtMs,
  };
}

/** Copies a string. A substring keeps the string it was cut from in memory: here STS's whole answer, as long as the session. */
const ownCopy = (part: string): string => Buffer.from(part).toString();

function field(value: unknown, name: string): unknown {
  return typeof value === "object" && value !== null ? Reflect.get(value, name) : undefined;
}

function filled(value: unknown): value is string {
  return typeof value === "string" && value !== "";
}

function timedOut(timeoutMs: number): StsFailure {
  return new StsFailure({
    kind: "transient",
    code: "timeout",
    message: "STS did not answer in time; try again shortly",
    detail: `STS did not answer within ${timeoutMs} ms`,
  });
}
