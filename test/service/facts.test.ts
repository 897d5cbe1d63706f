import { expect, test } from "bun:test";
import { room } from "../../src/service/facts.ts";
import { failure } from "../support/failure.ts";

test("the room that the executable needs is its size", () => {
  const { freeMiB, neededMiB } = room(process.execPath);
  expect([neededMiB > 0, freeMiB >= 0]).toEqual([true, true]);
});

test("a program whose file was replaced while it runs says which, and what to do", () => {
  const error = failure(() => room("/nonexistent/imdsproxy"));
  expect([error.code, error.message]).toEqual(["missing", expect.stringContaining("/nonexistent/imdsproxy")]);
});
