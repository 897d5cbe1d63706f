import { describe, expect, test } from "bun:test";
import { encodeAnswer, errorPage, text } from "../../src/http/answer.ts";

const NOW = Date.UTC(2030, 0, 1, 12, 0, 0, 789);

describe("encodeAnswer()", () => {
  const encode = (answer: Parameters<typeof encodeAnswer>[0], head = false) =>
    encodeAnswer(answer, { server: "EC2ws", head, keepAlive: true, nowMs: NOW }).toString("latin1");

  test("has EC2's headers, the length in bytes, and no chunks", () => {
    const bytes = encode({
      ...text("h\xe9"),
      lastModifiedMs: 0,
      headers: { "X-Aws-Ec2-Metadata-Token-Ttl-Seconds": "60" },
    });
    expect(bytes).toBe(
      [
        "HTTP/1.1 200 OK",
        "Server: EC2ws",
        "Date: Tue, 01 Jan 2030 12:00:00 GMT",
        "Last-Modified: Thu, 01 Jan 1970 00:00:00 GMT",
        "Content-Type: text/plain",
        "Accept-Ranges: none",
        "Content-Length: 2",
        "X-Aws-Ec2-Metadata-Token-Ttl-Seconds: 60",
        "Connection: keep-alive",
        "",
        "h\xe9",
      ].join("\r\n"),
    );
  });
  test("of HEAD has the headers of the whole answer and no body", () => {
    expect(encode(text("abc"), true)).toEndWith("\r\nContent-Length: 3\r\nConnection: keep-alive\r\n\r\n");
  });
  test("of an error is a short page, which says nothing of the cause", () => {
    for (const status of [400, 401, 403, 404, 405, 413, 417, 503]) {
      const { body, contentType } = errorPage(status);
      expect(contentType).toBe("text/html");
      expect(body).toContain(`<title>${status} - `);
      expect(body.length).toBeLessThan(500);
    }
  });
});
