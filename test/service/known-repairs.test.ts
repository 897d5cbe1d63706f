import { expect, test } from "bun:test";
import { restoreKnown } from "../../src/service/known-repairs.ts";

/** A guard that says in `log` what it is asked for. */
const aGuard = (log: string[], name: string, problems: readonly string[] = []) => ({
  problems(spec: string) {
    log.push(`look at ${name} for ${spec}`);
    return problems;
  },
  restore: (spec: string) => void log.push(`restore ${name} for ${spec}`),
});

test("the rules are back before anything looks at routing, whose lock a user's network namespace can hold", () => {
  const log: string[] = [];
  const rules = () => {
    log.push("restore the rules");
    return ["the rules are gone"];
  };
  const guards = [aGuard(log, "the wall", ["the wall is gone"]), aGuard(log, "limits")];
  expect(restoreKnown("the spec", rules, guards)).toEqual(["the rules are gone", "the wall is gone"]);
  expect(log).toEqual([
    "restore the rules",
    "look at the wall for the spec",
    "restore the wall for the spec",
    "look at limits for the spec",
  ]);
});

test("a failure of one repair prevents no other, and is thrown at the end", () => {
  const log: string[] = [];
  const fails = (what: string) => (): never => {
    log.push(what);
    throw new Error(`${what} failed`);
  };
  const guards = [{ problems: fails("wall"), restore: () => {} }, aGuard(log, "limits", ["one is missing"])];
  expect(() => restoreKnown("the spec", fails("rules"), guards)).toThrow("rules failed");
  expect(log).toEqual(["rules", "wall", "look at limits for the spec", "restore limits for the spec"]);
});

test("rules that are taken between the look at them and that at the rest are found in the same repair", () => {
  const gone: string[] = [];
  const taken = {
    problems() {
      gone.push("the rules are gone");
      return ["limits are gone"];
    },
    restore() {},
  };
  expect(restoreKnown("the spec", () => gone.splice(0), [taken])).toEqual([
    "limits are gone",
    "the rules are gone",
  ]);
});
