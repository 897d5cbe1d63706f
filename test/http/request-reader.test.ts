import { describe, expect, test } from "bun:test";
import { RecentHeads } from "../../src/http/recent-heads.ts";
import { type BadRequest, isBad, parseRequest, type Request } from "../../src/http/request.ts";
import { RequestReader } from "../../src/http/request-reader.ts";
import { fuzzRuns, fuzzSeed, randomBytesFrom } from "../support/fuzz.ts";

const END = "\r\n\r\n";
const TOKEN = "AQAAAGkmxE4AAAAAyV2xkM5oXgJm0Z1yGJr0b6n3l9D0r8m1Q2w3e4r5";

/** Heads as SDKs and tools send them, without the empty line (test/clients; the names of headers as each writes them). */
const SHAPES = [
  `GET /latest/meta-data/iam/security-credentials/ HTTP/1.1\r\nHost: 169.254.169.254\r\nUser-Agent: Boto3/1.26\r\nX-aws-ec2-metadata-token: ${TOKEN}`,
  `GET /latest/meta-data/iam/security-credentials/Role HTTP/1.1\r\nHost: 169.254.169.254\r\nAccept-Encoding: identity\r\nx-aws-ec2-metadata-token: ${TOKEN}\r\nConnection: close`,
  "PUT /latest/api/token HTTP/1.1\r\nHost: 169.254.169.254\r\nX-aws-ec2-metadata-token-ttl-seconds: 21600\r\nContent-Length: 0",
  "PUT /latest/api/token HTTP/1.1\r\nHost: 169.254.169.254\r\nx-aws-ec2-metadata-token-ttl-seconds: 21600\r\nTransfer-Encoding: chunked",
  "PUT /latest/api/token HTTP/1.1\r\nHost: 169.254.169.254\r\nX-Aws-Ec2-Metadata-Token-Ttl-Seconds: 300\r\nContent-Length: 3",
  "GET /latest/meta-data/placement/region HTTP/1.1\r\nHost: 169.254.169.254\r\nUser-Agent: aws-sdk-go-v2/1.30\r\nAccept: */*",
  "GET /latest/dynamic/instance-identity/document HTTP/1.1\r\nhost: instance-data:80\r\nconnection: Keep-Alive",
  "GET http://169.254.169.254/latest/meta-data/ HTTP/1.1\r\nHost: 169.254.169.254\r\nProxy-Connection: keep-alive",
  "GET /latest/meta-data/ HTTP/1.0",
  "HEAD /latest/meta-data/ HTTP/1.1\r\nHost: [fd00:ec2::254]\r\nX-Forwarded-For: 10.0.0.1",
  "GET / HTTP/1.1\r\nHost: a\r\nAccept: a\r\nAccept: b\r\nX: \xe9\t",
  "POST / HTTP/1.1\r\nHost: a\r\nExpect: 100-continue\r\nContent-Length: 5",
];

const textOf = (parsed: Request | BadRequest | null): string =>
  JSON.stringify(parsed, (_, value) => (value instanceof Map ? [...value] : value));

/** What a reader makes of one head that comes alone. */
function readAlone(head: string): Request | BadRequest | null {
  const reader = new RequestReader();
  reader.push(Buffer.from(head + END, "latin1"));
  if (!reader.isReady) throw new Error(`a whole head is not ready: ${JSON.stringify(head)}`);
  return reader.take();
}

describe("a head that is known by its bytes", () => {
  test("gives the request that it gave before", () => {
    const head = `GET /known HTTP/1.1\r\nHost: a\r\nX: ${TOKEN}`;
    const requests = Array.from({ length: 4 }, () => readAlone(head));
    expect(new Set(requests).size).toBe(1);
    expect(textOf(requests[0] ?? null)).toBe(textOf(parseRequest(head)));
  });

  test("is not changed by what the socket's memory holds later, nor is what comes behind it a part of it", () => {
    const head = `GET /again HTTP/1.1\r\nHost: a\r\nX: ${TOKEN}`;
    const other = `GET /other HTTP/1.1\r\nHost: a\r\nX: ${TOKEN}`;
    const reader = new RequestReader();
    const memory = Buffer.alloc(512);
    const receive = (text: string) => {
      memory.fill(0);
      reader.push(memory.subarray(0, memory.write(text, "latin1")));
    };
    for (let times = 0; times < 4; times++) {
      receive(head + END);
      expect(reader.isReady).toBe(true);
      receive(other + END.slice(0, 2));
      expect(textOf(reader.take())).toBe(textOf(parseRequest(head)));
      expect(reader.isReady).toBe(false);
      receive(END.slice(2));
      expect(reader.isReady).toBe(true);
      expect(textOf(reader.take())).toBe(textOf(parseRequest(other)));
      expect(reader.isEmpty).toBe(true);
    }
  });

  test("is none where a byte is another one, at whichever place", () => {
    const head = `GET /a HTTP/1.1\r\nHost: a\r\nX: ${TOKEN}`;
    const heads = new RecentHeads();
    const bytes = Buffer.from(head + END, "latin1");
    for (let times = 0; times < 2; times++) heads.parseBytes(bytes, head.length);
    expect(heads.find(bytes)).not.toBeNull();
    for (let at = 0; at < bytes.length; at++) {
      const changed = Buffer.from(bytes);
      changed[at] = (changed[at] ?? 0) ^ 1;
      expect(heads.find(changed)).toBeNull();
    }
    expect(heads.find(bytes.subarray(1))).toBeNull();
    expect(heads.find(Buffer.concat([bytes, Buffer.from("x")]))).toBeNull();
  });

  test("is none that was sent once, is refused, is long, or has a body", () => {
    const cases: [head: string, times: number][] = [
      ["GET /once HTTP/1.1\r\nHost: a", 1],
      ["GET /refused HTTP/1.1", 4],
      [`GET /long HTTP/1.1\r\nHost: a\r\nX: ${"x".repeat(1_024)}`, 4],
      ["PUT /body HTTP/1.1\r\nHost: a\r\nContent-Length: 1", 4],
      ["PUT /chunks HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked", 4],
    ];
    for (const [head, times] of cases) {
      const heads = new RecentHeads();
      const bytes = Buffer.from(head + END, "latin1");
      for (let sent = 0; sent < times; sent++) heads.parseBytes(bytes, head.length);
      expect([head, heads.find(bytes)]).toEqual([head, null]);
    }
  });
});

/** A head with some of its bytes changed, dropped, doubled or made another head's. */
function changed(head: string, random: (below: number) => number): string {
  let text = head;
  for (let changes = random(4); changes > 0; changes--) {
    const at = random(text.length + 1);
    const piece = [
      String.fromCharCode(random(256)),
      "\r\n",
      " ",
      ":",
      "\r\nHost: b",
      "\r\nContent-Length: 0",
      "%2e",
    ];
    text = text.slice(0, at) + (piece[random(piece.length * 2)] ?? "") + text.slice(at + random(3));
  }
  // The end of a head is found by the first empty line, which is not this test's matter.
  return text.replace(/(?:\r\n){2,}/g, "\r\n").replace(/(?:\r\n)+$/, "") || "G";
}

// A million: IMDSPROXY_FUZZ_RUNS=100.
test("whatever heads come, the reader and the strict parser have one outcome", () => {
  const runs = fuzzRuns(10_000);
  const bytes = randomBytesFrom(fuzzSeed);
  let pool = bytes(0);
  let at = 0;
  const random = (below: number): number => {
    if (at + 2 > pool.length) [pool, at] = [bytes(4_096), 0];
    return (((pool[at++] ?? 0) << 8) | (pool[at++] ?? 0)) % below;
  };
  let known = 0;
  let refused = 0;
  let last = "";
  for (let run = 0; run < runs; run++) {
    // Every second one was sent before, so that it is found by its bytes.
    const head = random(2) === 0 && last !== "" ? last : changed(SHAPES[random(SHAPES.length)] ?? "", random);
    if (head === last) known++;
    last = head;
    const strict = parseRequest(head);
    if (isBad(strict)) refused++;
    const read = readAlone(head);
    if (read === null) {
      if (isBad(strict) || !strict.emptyChunks) throw new Error(`it waits for more: ${JSON.stringify(head)}`);
    } else if (textOf(read) !== textOf(strict)) {
      throw new Error(`${JSON.stringify(head)}: ${textOf(read)} and not ${textOf(strict)}`);
    }
  }
  expect(known).toBeGreaterThan(runs / 4);
  expect(refused).toBeGreaterThan(runs / 20);
}, 600_000);
