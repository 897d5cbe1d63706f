import { describe, expect, test } from "bun:test";
import fc from "fast-check";
import {
  type BadRequest,
  isBad,
  MAX_HEAD_BYTES,
  parseRequest,
  type Request,
} from "../../src/http/request.ts";
import { holds } from "../support/fuzz.ts";

const HOST = "Host: 169.254.169.254";
const head = (...lines: string[]): string => lines.join("\r\n");
const get = (...headers: string[]): string => head("GET /latest/ HTTP/1.1", HOST, ...headers);

function good(text: string): Request {
  const parsed = parseRequest(text);
  if (isBad(parsed)) throw new Error(`refused: ${parsed.why}`);
  return parsed;
}

function refused(text: string): BadRequest {
  const parsed = parseRequest(text);
  if (!isBad(parsed)) throw new Error(`taken: ${JSON.stringify(parsed)}`);
  return parsed;
}

describe("parseRequest() reads", () => {
  test("method, target, and header names in lower case", () => {
    const request = good(get("X-aws-EC2-metadata-token:  abc \t", "Accept: */*"));
    expect(request.method).toBe("GET");
    expect(request.target).toBe("/latest/");
    expect(request.headers.get("x-aws-ec2-metadata-token")).toBe("abc");
    expect(request.headers.get("accept")).toBe("*/*");
    expect(request.bodyLength).toBe(0);
  });

  test("the target as it was sent, byte for byte", () => {
    for (const target of ["/a%2e%2E/b?c#d", "http://h/x", "*", "h:80", "/\xc0\xae", "\\", "/a;b"]) {
      expect(good(`GET ${target} HTTP/1.0`).target).toBe(target);
    }
  });

  test("an HTTP/1.0 request without Host, and an empty header value", () => {
    expect(good("GET / HTTP/1.0\r\nX-Empty:").headers.get("x-empty")).toBe("");
  });

  test("repeated headers that mean a list, joined", () => {
    expect(good(get("Accept: a", "accept: b")).headers.get("accept")).toBe("a, b");
  });

  const keepAlive: [version: string, connection: string | null, expected: boolean][] = [
    ["1.1", null, true],
    ["1.1", "close", false],
    ["1.1", "Keep-Alive, Close", false],
    ["1.1", "keep-alive", true],
    ["1.0", null, false],
    ["1.0", "close", false],
    ["1.0", "Keep-Alive", true],
  ];
  for (const [version, connection, expected] of keepAlive) {
    test(`HTTP/${version} with Connection ${connection}: ${expected ? "kept" : "closed"}`, () => {
      const lines = connection === null ? [] : [`Connection: ${connection}`];
      expect(good(head(`GET / HTTP/${version}`, HOST, ...lines)).keepAlive).toBe(expected);
    });
  }

  test("a Content-Length up to 65536, which is the body to read over", () => {
    expect(good(get("Content-Length: 65536")).bodyLength).toBe(65_536);
    expect(good(get("Content-Length: 007")).bodyLength).toBe(7);
  });

  test("a PUT that announces chunks, which have to be empty ones, and closes the connection", () => {
    const put = good(head("PUT /latest/api/token HTTP/1.1", HOST, "Transfer-Encoding: chunked"));
    expect(put).toMatchObject({ emptyChunks: true, bodyLength: 0, keepAlive: false });
    expect(good(get()).emptyChunks).toBe(false);
  });
});

describe("parseRequest() refuses", () => {
  const lines: [name: string, text: string, status?: number][] = [
    ["an empty head", ""],
    ["HTTP/0.9", "GET /latest/"],
    ["HTTP/2's preface", "PRI * HTTP/2.0"],
    ["HTTP/1.2", "GET / HTTP/1.2"],
    ["HTTP/1.10", "GET / HTTP/1.10"],
    ["http in lower case", "GET / http/1.1"],
    ["two blanks", "GET  / HTTP/1.1"],
    ["a tab for a blank", "GET\t/ HTTP/1.1"],
    ["a blank in the target", "GET /a b HTTP/1.1"],
    ["a tab in the target", "GET /a\tb HTTP/1.1"],
    ["a NUL in the target", "GET /a\0b HTTP/1.1"],
    ["a DEL in the target", "GET /a\x7fb HTTP/1.1"],
    ["a lone LF in the target", "GET /a\nb HTTP/1.1"],
    ["a lone CR in the target", "GET /a\rb HTTP/1.1"],
    ["a lone LF between lines", `GET / HTTP/1.1\n${HOST}`],
    ["a lone CR between lines", `GET / HTTP/1.1\r${HOST}`],
    ["no method", " / HTTP/1.1"],
    ["a method with a blank before it", " GET / HTTP/1.1"],
    ["a method of separators", "G(T / HTTP/1.1"],
    ["a method of 33 characters", `${"A".repeat(33)} / HTTP/1.1`],
    ["an empty line before the request line", `\r\nGET / HTTP/1.1\r\n${HOST}`],
    ["HTTP/1.1 without Host", "GET / HTTP/1.1"],
    ["two Hosts", get("host: 169.254.169.254")],
    ["a folded line (obs-fold)", get("X-A: 1", " 2")],
    ["a blank before the colon", get("X-A : 1")],
    ["a blank before the name", get(" X-A: 1")],
    ["a line without a colon", get("X-A")],
    ["an empty name", get(": 1")],
    ["a NUL in a value", get("X-A: 1\0")],
    ["a lone LF in a value", get("X-A: 1\nX-B: 2")],
    ["a lone CR in a value", get("X-A: 1\rX-B: 2")],
    ["a vertical tab in a value", get("X-A: 1\x0b2")],
    ["a byte outside ASCII in a name", get("X-\xe4: 1")],
    ["65 headers", get(...Array.from({ length: 64 }, (_, i) => `X-${i}: 1`))],
    ["Transfer-Encoding: chunked", get("Transfer-Encoding: chunked")],
    ["Transfer-Encoding: identity", get("Transfer-Encoding: identity")],
    ["Transfer-Encoding with an odd blank", get("Transfer-Encoding:\tchunked")],
    ["Content-Length and Transfer-Encoding", get("Content-Length: 5", "Transfer-Encoding: chunked")],
    ["chunks of HTTP/1.0", head("PUT / HTTP/1.0", HOST, "Transfer-Encoding: chunked")],
    ["chunks with POST", head("POST / HTTP/1.1", HOST, "Transfer-Encoding: chunked")],
    ...[
      "Chunked",
      "chunked, chunked",
      "gzip, chunked",
      "chunked, identity",
      "chunked;q=1",
      "xchunked",
      '"chunked"',
      "",
    ].map((coding): [string, string] => [
      `a PUT with Transfer-Encoding: ${coding}`,
      head("PUT / HTTP/1.1", HOST, `Transfer-Encoding: ${coding}`),
    ]),
    [
      "a PUT with chunks and a length",
      head("PUT / HTTP/1.1", HOST, "Transfer-Encoding: chunked", "Content-Length: 0"),
    ],
    [
      "a PUT with two Transfer-Encodings",
      head("PUT / HTTP/1.1", HOST, "Transfer-Encoding: chunked", "Transfer-Encoding: chunked"),
    ],
    ["two Content-Lengths", get("Content-Length: 5", "Content-Length: 5")],
    ["a list of Content-Lengths", get("Content-Length: 5, 5")],
    ["a negative Content-Length", get("Content-Length: -1")],
    ["a Content-Length with a sign", get("Content-Length: +5")],
    ["a hexadecimal Content-Length", get("Content-Length: 0x5")],
    ["an empty Content-Length", get("Content-Length:")],
    ["a Content-Length of 16 digits", get("Content-Length: 9007199254740993")],
    ["a Content-Length behind a no-break space", get("Content-Length: \xa05")],
    ["a Content-Length before a no-break space", get("Content-Length: 5\xa0")],
    ["two tokens", get("X-aws-ec2-metadata-token: a", "X-aws-ec2-metadata-token: b")],
    ["a body of 65537 bytes", get("Content-Length: 65537"), 413],
    ["Expect: 100-continue", get("Expect: 100-continue"), 417],
  ];
  for (const [name, text, status = 400] of lines) {
    test(name, () => expect(refused(text).status).toBe(status as BadRequest["status"]));
  }

  test("64 headers are not too many", () => {
    expect(good(get(...Array.from({ length: 63 }, (_, i) => `X-${i}: 1`))).headers.size).toBe(64);
  });
});

describe("parseRequest() holds for any bytes:", () => {
  const latin1 = fc.string({
    unit: fc.integer({ min: 0, max: 255 }).map((byte) => String.fromCharCode(byte)),
    maxLength: 200,
  });
  /** Nearly right heads: the parts that parsers disagree about, put together at random. */
  const pieces = fc
    .array(
      fc.constantFrom(
        ..."GET|POST|/|/latest/|*|http://|169.254.169.254| |  |\t|\r\n|\r|\n|\0|:|HTTP/1.1|HTTP/1.0|HTTP/2|Host|Content-Length|".split(
          "|",
        ),
        "Transfer-Encoding",
        "chunked",
        "5",
        "Connection",
        "close",
        "\x80",
        "\xa0",
        "\x85",
        ",",
        ";",
      ),
      { maxLength: 40 },
    )
    .map((parts) => parts.join(""));

  test("it never throws, and what it takes can be written in one way only", () => {
    holds(
      fc.property(
        fc.oneof(
          latin1,
          pieces,
          pieces.map((text) => `GET / HTTP/1.1\r\nHost: a\r\n${text}`),
          pieces.map((text) => `PUT / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked${text}`),
        ),
        (text) => {
          const parsed = parseRequest(text);
          if (isBad(parsed)) return;
          expect(parsed.method + parsed.target).not.toMatch(/[\x00-\x20\x7f]/);
          for (const [name, value] of parsed.headers) {
            expect(name).toMatch(/^[!#$%&'*+\-.^_`|~0-9a-z]+$/);
            expect(value).not.toMatch(/[\x00-\x08\x0a-\x1f\x7f]/);
          }
          // Chunks have one spelling, with no length beside them, and nothing may follow them.
          expect(parsed.headers.has("transfer-encoding")).toBe(parsed.emptyChunks);
          if (parsed.emptyChunks) {
            expect(parsed.method).toBe("PUT");
            expect(parsed.headers.get("transfer-encoding")).toBe("chunked");
            expect([parsed.headers.has("content-length"), parsed.keepAlive]).toEqual([false, false]);
          }
          expect(parsed.bodyLength).toBeGreaterThanOrEqual(0);
          expect(parsed.bodyLength).toBeLessThanOrEqual(65_536);
          // Written anew from the parts and read again, it is the same request.
          const again = head(
            `${parsed.method} ${parsed.target} HTTP/1.1`,
            ...[...parsed.headers].map(([name, value]) => `${name}: ${value}`),
          );
          const second = parseRequest(again);
          if (!isBad(second)) {
            expect(second.target).toBe(parsed.target);
            expect([...second.headers]).toEqual([...parsed.headers]);
            expect(second.bodyLength).toBe(parsed.bodyLength);
            expect(second.emptyChunks).toBe(parsed.emptyChunks);
          } else expect(parsed.headers.has("host")).toBe(false);
        },
      ),
      20_000,
    );
  });

  test("no head takes time that grows with the square of its length", () => {
    // Every run of one character where a pattern could start over at each place, ended by what it must not match.
    const worst = (length: number): number => {
      let most = 0;
      for (const filler of [" ", "\t", "a", ":", ",", "\xa0", "%", "/", "a: "]) {
        for (const [before, after] of [
          [`GET / HTTP/1.1\r\n${HOST}\r\nX:`, "\x01"],
          [`GET / HTTP/1.1\r\n${HOST}\r\n`, "\x01"],
          [`GET / HTTP/1.1\r\n${HOST}\r\nConnection: `, "x"],
          [`GET / HTTP/1.1\r\n${HOST}\r\nContent-Length: `, "x"],
          ["GET ", "\x01 HTTP/1.1"],
          ["", " / HTTP/1.1"],
        ] as const) {
          const text = before + filler.repeat(length / filler.length) + after;
          let fastest = Number.POSITIVE_INFINITY;
          for (let again = 0; again < 7; again++) {
            const start = performance.now();
            parseRequest(text);
            fastest = Math.min(fastest, performance.now() - start);
          }
          most = Math.max(most, fastest);
        }
      }
      return most;
    };
    worst(1024);
    // Eight times the length: 8 times the time where it is linear, 64 where it is quadratic. The best of some tries, since a
    // machine that does something else meanwhile makes either slower.
    let best = Number.POSITIVE_INFINITY;
    for (let tries = 0; tries < 10 && best >= 24; tries++) {
      const small = worst(MAX_HEAD_BYTES);
      best = Math.min(best, worst(8 * MAX_HEAD_BYTES) / Math.max(small, 0.05));
    }
    expect(best).toBeLessThan(24);
  });
});
