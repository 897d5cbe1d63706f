import { expect, test } from "bun:test";
import type { LoadedConfig } from "../../src/config/load.ts";
import { hashOf } from "../../src/config/object.ts";
import { FleetObject } from "../../src/wiring/fleet-object.ts";

const PATH = "/var/lib/imdsproxy/config/object";
const OLD = Buffer.from("old");
const NEW = Buffer.from("new");

/** What is in effect where the copy with these bytes was loaded. */
const loadedFrom = (bytes: Uint8Array) =>
  ({
    config: {},
    object: { kind: "good", path: PATH, serial: 1, hash: hashOf(bytes) },
    file: {},
  }) as unknown as LoadedConfig;

/** The disk, and what was seen of it. */
function aDisk() {
  const disk = { stamp: "1", read: (): Uint8Array | null => OLD };
  const object = new FleetObject(loadedFrom(OLD), {
    now: () => 0,
    stamp: () => disk.stamp,
    read: () => disk.read(),
    pollState: () => null,
  });
  let reloads = 0;
  /** One look. `reload` is what the reload does. @returns how many reloads there were so far. */
  const look = (reload: () => void): number => {
    object.look(() => {
      reloads++;
      reload();
    });
    return reloads;
  };
  return { disk, object, look };
}
const noDescriptor = (): never => {
  throw Object.assign(new Error("EMFILE"), { code: "EMFILE" });
};

test("a copy that cannot be used is tried once, also where it was there at the start; another one is tried at once", () => {
  const unusable = {
    config: {},
    object: { kind: "unusable", path: PATH, problem: "no signature", remedy: null },
    file: {},
  } as unknown as LoadedConfig;
  let stamp = "1";
  const object = new FleetObject(unusable, {
    now: () => 0,
    stamp: () => stamp,
    read: () => (stamp === "1" ? OLD : NEW),
    pollState: () => null,
  });
  let reloads = 0;
  const look = () =>
    object.look(() => {
      reloads++;
      object.loaded(unusable);
    });
  for (let i = 0; i < 10; i++) look();
  expect(reloads).toBe(1);
  stamp = "2";
  for (let i = 0; i < 10; i++) look();
  expect(reloads).toBe(2);
});

test("a copy that could not be read for a moment is loaded as soon as it can be", () => {
  const { disk, object, look } = aDisk();
  const refused = () => object.refused("cannot read the copy: EMFILE", null);
  expect(look(refused)).toBe(0);
  disk.stamp = "2";
  disk.read = noDescriptor;
  expect(look(refused)).toBe(1);
  // It is not tried at every look.
  expect(look(refused)).toBe(1);
  disk.read = () => NEW;
  expect(look(() => object.loaded(loadedFrom(NEW)))).toBe(2);
  expect(look(refused)).toBe(2);
});

test("a copy that was read by the reload, and not by the look, is not loaded again at each look", () => {
  const { disk, object, look } = aDisk();
  const loaded = () => object.loaded(loadedFrom(NEW));
  disk.stamp = "2";
  disk.read = noDescriptor;
  expect(look(loaded)).toBe(1);
  disk.read = () => NEW;
  for (let more = 0; more < 3; more++) expect(look(loaded)).toBe(1);
});
