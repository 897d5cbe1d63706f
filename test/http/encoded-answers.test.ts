import { describe, expect, test } from "bun:test";
import { type Answer, encodeAnswer, errorPage, repeated, text } from "../../src/http/answer.ts";
import { EncodedAnswers } from "../../src/http/encoded-answers.ts";

const NOW_MS = 1_800_000_000_250;
const encoding = { server: "test", head: false, keepAlive: true, nowMs: NOW_MS };

describe("the bytes of an answer that is given again", () => {
  test("are the same ones within a second, for each way in which a connection goes on", () => {
    const encoded = new EncodedAnswers();
    const answer = repeated(text("a body"));
    const open = encoded.encode(answer, encoding);
    const last = encoded.encode(answer, { ...encoding, keepAlive: false });
    expect(open).toEqual(encodeAnswer(answer, encoding));
    expect(last).toEqual(encodeAnswer(answer, { ...encoding, keepAlive: false }));
    expect(encoded.encode(answer, { ...encoding, nowMs: NOW_MS + 700 })).toBe(open);
    expect(encoded.encode(answer, { ...encoding, keepAlive: false })).toBe(last);
  });

  test("are made anew with each second, also where the clock is set back", () => {
    const encoded = new EncodedAnswers();
    const answer = repeated(text("a body"));
    for (const nowMs of [NOW_MS, NOW_MS + 1_000, NOW_MS - 60_000, NOW_MS]) {
      expect(encoded.encode(answer, { ...encoding, nowMs })).toEqual(
        encodeAnswer(answer, { ...encoding, nowMs }),
      );
    }
  });

  test("are not those of a request by HEAD, nor of another server", () => {
    const encoded = new EncodedAnswers();
    const answer = repeated(text("a body"));
    encoded.encode(answer, encoding);
    for (const other of [
      { ...encoding, head: true },
      { ...encoding, server: "another" },
    ]) {
      expect(encoded.encode(answer, other)).toEqual(encodeAnswer(answer, other));
    }
  });

  test("are not those of its copies: a page with another header is another answer", () => {
    const encoded = new EncodedAnswers();
    encoded.encode(errorPage(404), encoding);
    const copy: Answer = { ...errorPage(404), headers: { A: "b" } };
    expect(encoded.encode(copy, encoding)).toEqual(encodeAnswer(copy, encoding));
    expect(encoded.encode(copy, encoding)).not.toBe(encoded.encode(copy, encoding));
  });

  test("are forgotten when the second is over, and no more than 512 are kept", () => {
    const encoded = new EncodedAnswers();
    const answers = Array.from({ length: 513 }, (_, number) => repeated(text(`${number}`)));
    const [first] = answers.map((answer) => encoded.encode(answer, encoding));
    const [oldest, ...further] = answers as [Answer, ...Answer[]];
    expect(encoded.encode(oldest, encoding)).toBe(first as Buffer);
    const last = further.at(-1) as Answer;
    expect(encoded.encode(last, encoding)).not.toBe(encoded.encode(last, encoding));
    encoded.forgetOld(NOW_MS + 1_000);
    encoded.forgetOld(NOW_MS);
    expect(encoded.encode(oldest, encoding)).not.toBe(first as Buffer);
  });
});
