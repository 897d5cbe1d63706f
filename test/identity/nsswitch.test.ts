import { describe, expect, test } from "bun:test";
import { parseNameSwitch } from "../../src/identity/nsswitch.ts";

const names = (text: string, database: "passwd" | "group" = "passwd") =>
  parseNameSwitch(text)[database].map((service) => service.name);

describe("parseNameSwitch()", () => {
  test("without a file, or a line, is files", () => {
    expect(names("")).toEqual(["files"]);
    expect(names("group: sss\n")).toEqual(["files"]);
    expect(parseNameSwitch("").initgroups).toBeNull();
  });
  test("takes comments, blanks and letters of any case as glibc does", () => {
    expect(names("# passwd: nis\n  PassWd :\tfiles  sss # and no more\n")).toEqual(["files", "sss"]);
  });
  test("takes actions for the service in front of them", () => {
    const [sss, files] = parseNameSwitch("passwd: sss [!UNAVAIL=return TRYAGAIN=continue] files").passwd;
    expect(sss?.actions).toEqual({
      success: "return",
      notfound: "return",
      unavail: "continue",
      tryagain: "continue",
    });
    expect(files?.actions.notfound).toBe("continue");
  });
  test("takes [SUCCESS=merge] with or without blanks around it", () => {
    for (const line of ["group: files [SUCCESS=merge] sss", "group: files[success=merge]sss"]) {
      const [files] = parseNameSwitch(line).group;
      expect([names(line, "group"), files?.actions.success]).toEqual([["files", "sss"], "merge"]);
    }
  });
  test("knows who has subordinate uids: the first service, or /etc/subuid", () => {
    expect(parseNameSwitch("passwd: files").subid).toBeNull();
    expect(parseNameSwitch("subid: files").subid).toBeNull();
    expect(parseNameSwitch("subid: sss files").subid).toBe("sss");
  });
});
