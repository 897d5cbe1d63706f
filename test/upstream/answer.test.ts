import { describe, expect, test } from "bun:test";
import fc from "fast-check";
import { MAX_BODY_BYTES, readAnswer } from "../../src/upstream/answer.ts";
import { holds } from "../support/fuzz.ts";

const read = (text: string, ended = false) => readAnswer(Buffer.from(text, "latin1"), ended);
/** The answer in short, or what is wrong. */
function short(text: string, ended = false): string {
  const found = read(text, ended);
  if (found.kind === "incomplete") return "incomplete";
  if (found.kind === "malformed") return `malformed: ${found.why}`;
  const { status, body, reusable } = found.answer;
  return `${status} ${JSON.stringify(body)}${reusable ? "" : ", then closed"}`;
}
const OK = "HTTP/1.1 200 OK\r\n";

describe("readAnswer() reads", () => {
  const wholes: [what: string, text: string, expected: string][] = [
    ["a body of a length", `${OK}Content-Length: 5\r\n\r\nhello`, '200 "hello"'],
    ["an empty body", "HTTP/1.1 404 Not Found\r\ncontent-length:0\r\n\r\n", '404 ""'],
    ["a status without a reason", "HTTP/1.1 200\r\nContent-Length: 0\r\n\r\n", '200 ""'],
    [
      "chunks",
      `${OK}Transfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n1;x=y\r\n!\r\n0\r\n\r\n`,
      '200 "hello!"',
    ],
    ["chunks with a trailer", `${OK}Transfer-Encoding: Chunked\r\n\r\n0\r\nA: b\r\n\r\n`, '200 ""'],
    ["Connection: close", `${OK}Connection: close\r\nContent-Length: 1\r\n\r\nx`, '200 "x", then closed'],
    ["HTTP/1.0", "HTTP/1.0 200 OK\r\nContent-Length: 1\r\n\r\nx", '200 "x", then closed'],
    [
      "HTTP/1.0 that stays",
      "HTTP/1.0 200 OK\r\nConnection: Keep-Alive\r\nContent-Length: 1\r\n\r\nx",
      '200 "x"',
    ],
    ["what comes before it", `HTTP/1.1 100 Continue\r\n\r\n${OK}Content-Length: 1\r\n\r\nx`, '200 "x"'],
    ["204, which has no body", "HTTP/1.1 204 No Content\r\n\r\n", '204 ""'],
    [
      "bytes behind it as the end of the connection",
      `${OK}Content-Length: 1\r\n\r\nxHTTP/1.1`,
      '200 "x", then closed',
    ],
  ];
  for (const [what, text, expected] of wholes) {
    test(what, () => expect(short(text)).toBe(expected));
  }

  test("a body that ends with the connection, and with nothing else", () => {
    expect(short(`${OK}\r\nhello`)).toBe("incomplete");
    expect(short(`${OK}\r\nhello`, true)).toBe('200 "hello", then closed');
  });

  test("each byte of a body as one character", () => {
    expect(short(`${OK}Content-Length: 2\r\n\r\n\xc3\xa9`)).toBe('200 "Ã©"');
  });

  test("headers by their names in lower case, the first of each name", () => {
    const found = read(`${OK}Last-Modified:  now \r\nX-A: 1\r\nx-a: 2\r\nContent-Length: 0\r\n\r\n`);
    expect(found.kind === "complete" ? [...found.answer.headers] : null).toEqual([
      ["last-modified", "now"],
      ["x-a", "1"],
      ["content-length", "0"],
    ]);
  });

  test("nothing of an answer before it is whole, wherever it is cut", () => {
    const wrong: [string, number][] = [];
    for (const [, text] of wholes.filter(([what]) => !what.startsWith("bytes behind"))) {
      for (let cut = 0; cut < text.length; cut++) {
        if (short(text.slice(0, cut)) !== "incomplete") wrong.push([text, cut]);
        if (!short(text.slice(0, cut), true).startsWith("malformed")) wrong.push([text, cut]);
      }
    }
    expect(wrong).toEqual([]);
  });
});

describe("readAnswer() refuses", () => {
  const bodies: [what: string, text: string][] = [
    ["another protocol", "SSH-2.0-OpenSSH_9.2\r\n\r\n"],
    ["HTTP/2", "HTTP/2 200\r\n\r\n"],
    ["a status that is none", "HTTP/1.1 2000 OK\r\n\r\n"],
    ["a change of protocol", "HTTP/1.1 101 Switching Protocols\r\n\r\n"],
    ["five interim answers", `${"HTTP/1.1 102 Processing\r\n\r\n".repeat(5)}${OK}Content-Length: 0\r\n\r\n`],
    ["two lengths", `${OK}Content-Length: 1\r\nContent-Length: 2\r\n\r\nxx`],
    ["a length twice", `${OK}Content-Length: 1\r\nContent-Length: 1\r\n\r\nx`],
    ["a length and chunks", `${OK}Content-Length: 1\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n`],
    ["a length that is a list", `${OK}Content-Length: 1, 1\r\n\r\nx`],
    ["a negative length", `${OK}Content-Length: -1\r\n\r\nx`],
    ["a length in hexadecimal", `${OK}Content-Length: 0x1\r\n\r\nx`],
    ["another coding", `${OK}Transfer-Encoding: gzip, chunked\r\n\r\n0\r\n\r\n`],
    ["chunks under HTTP/1.0", "HTTP/1.0 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n"],
    ["a chunk that is longer than it says", `${OK}Transfer-Encoding: chunked\r\n\r\n1\r\nxy\r\n0\r\n\r\n`],
    ["a chunk's length that is none", `${OK}Transfer-Encoding: chunked\r\n\r\n+1\r\nx\r\n0\r\n\r\n`],
    ["a folded header", `${OK}A: b\r\n c\r\nContent-Length: 0\r\n\r\n`],
    ["a space before the colon", `${OK}Content-Length : 0\r\n\r\n`],
    ["a control character", `${OK}A: b\x00\r\nContent-Length: 0\r\n\r\n`],
    ["a bare line feed in the head", `${OK}A: b\nContent-Length: 0\r\n\r\n`],
    ["a head without end", `${OK}A: ${"b".repeat(20_000)}`],
    ["a body that is too long by its length", `${OK}Content-Length: ${MAX_BODY_BYTES + 1}\r\n\r\n`],
    ["a body that is too long without one", `${OK}\r\n${"x".repeat(MAX_BODY_BYTES + 1)}`],
    [
      "a body that is too long in chunks",
      `${OK}Transfer-Encoding: chunked\r\n\r\n${`80000\r\n${"x".repeat(0x80000)}\r\n`.repeat(3)}`,
    ],
  ];
  for (const [what, text] of bodies) {
    test(what, () => expect(short(text)).toStartWith("malformed"));
  }

  test("any bytes without failing", () => {
    holds(
      fc.property(fc.uint8Array({ maxLength: 300 }), fc.boolean(), fc.boolean(), (noise, head, ended) => {
        const bytes = Buffer.concat([Buffer.from(head ? OK : ""), noise]);
        expect(["incomplete", "malformed", "complete"]).toContain(readAnswer(bytes, ended).kind);
      }),
      5_000,
    );
  });
});
