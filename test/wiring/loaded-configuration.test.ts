import { describe, expect, test } from "bun:test";
import { LoadedConfiguration } from "../../src/wiring/loaded-configuration.ts";

describe("LoadedConfiguration", () => {
  const disk = { text: "role: a" as string | null };
  const read = () => {
    if (disk.text === null) throw new Error("ENOENT");
    return disk.text;
  };
  const aLoaded = () => new LoadedConfiguration({ path: "/etc/imdsproxy/config.yaml", read });

  test("is current as long as the file has the text that was loaded", () => {
    disk.text = "role: a";
    const loaded = aLoaded();
    expect([loaded.isCurrent, loaded.finding()]).toEqual([true, null]);
    disk.text = "role: b";
    expect(loaded.isCurrent).toBe(false);
    expect(loaded.finding()?.what).toContain("changed since it was loaded");
    disk.text = "role: a";
    expect(loaded.isCurrent).toBe(true);
  });
  test("a refused reload is told with its reason until the file is taken, or is as before", () => {
    disk.text = "role: a";
    const loaded = aLoaded();
    disk.text = "role: nonsense";
    loaded.refused("config.yaml:1: role must be an ARN");
    expect(loaded.lastReloadSuccessful).toBe(false);
    expect(loaded.finding()?.what).toContain("config.yaml:1: role must be an ARN");
    disk.text = "role: c";
    loaded.reading();
    loaded.loaded();
    expect([loaded.isCurrent, loaded.lastReloadSuccessful, loaded.finding()]).toEqual([true, true, null]);
  });
  test("tells when it was reloaded last, and why that was refused", () => {
    let nowMs = 5;
    const loaded = new LoadedConfiguration({ path: "/c.yaml", read: () => "", now: () => nowMs });
    expect([loaded.path, loaded.lastReload]).toEqual(["/c.yaml", null]);
    loaded.refused("line 1");
    expect(loaded.lastReload).toEqual({ atMs: 5, problem: "line 1" });
    nowMs = 6;
    loaded.loaded();
    expect(loaded.lastReload).toEqual({ atMs: 6, problem: null });
  });
  test("a file that is replaced while it is loaded is not taken for what is in effect", () => {
    disk.text = "role: a";
    const loaded = aLoaded();
    disk.text = "role: b";
    loaded.reading();
    // Here the file is read; somebody puts another before the load has ended.
    disk.text = "role: c";
    loaded.loaded();
    expect(loaded.isCurrent).toBe(false);
    expect(loaded.finding()?.what).toContain("changed since it was loaded");
    disk.text = "role: b";
    expect([loaded.isCurrent, loaded.finding()]).toEqual([true, null]);
  });
  test("no file is a state like another", () => {
    disk.text = null;
    const loaded = aLoaded();
    expect(loaded.isCurrent).toBe(true);
    disk.text = "role: a";
    expect(loaded.isCurrent).toBe(false);
  });
});

test("reloads are counted by result, and the time is that of the last good one", () => {
  let nowMs = 1_000;
  const loaded = new LoadedConfiguration({ path: "/x", read: () => "", now: () => nowMs });
  nowMs = 2_000;
  loaded.refused("bad");
  expect([loaded.reloads, loaded.loadedAtMs]).toEqual([{ success: 0, failure: 1 }, 1_000]);
  loaded.loaded();
  expect([loaded.reloads, loaded.loadedAtMs]).toEqual([{ success: 1, failure: 1 }, 2_000]);
});
