import { expect, test } from "bun:test";
import { fileRanges } from "../../src/platform/memory-lock.ts";

test("the ranges behind which a file stands: not those that cannot be read, nor memory of no file", () => {
  const maps = `00400000-00401000 r--p 00000000 fe:00 1234                      /usr/local/bin/imdsproxy
00401000-00500000 r-xp 00001000 fe:00 1234                      /usr/local/bin/imdsproxy
00500000-00600000 ---p 00001000 fe:00 1234                      /usr/local/bin/imdsproxy
7f0000000000-7f0100000000 rw-p 00000000 00:00 0 
7f0200000000-7f0200001000 rw-p 00000000 00:00 0                 [heap]
7f0300000000-7f0300002000 rw-s 00000000 00:01 77                /memfd:x (deleted)
`;
  expect(fileRanges(maps)).toEqual([
    { start: 0x400000n, length: 0x1000n },
    { start: 0x401000n, length: 0xff000n },
    { start: 0x7f0300000000n, length: 0x2000n },
  ]);
});
