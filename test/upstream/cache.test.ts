import { describe, expect, test } from "bun:test";
import { MetadataCache, type MetadataSource, type UpstreamAnswer } from "../../src/upstream/cache.ts";
import { FakeClock, settle } from "../support/fake-clock.ts";

const ALICE = 2001;
const BOB = 2002;
const found = (body: string): UpstreamAnswer => ({ kind: "found", body, lastModifiedMs: null });

/** An upstream that a test answers by hand, or at once with the path as the body. */
class Source implements MetadataSource {
  readonly asked: string[] = [];
  readonly open: { path: string; answer(answer: UpstreamAnswer): void; fail(): void }[] = [];
  manual = false;
  say: (path: string) => UpstreamAnswer = found;

  read(version: string, path: string): Promise<UpstreamAnswer> {
    this.asked.push(`${version}/${path}`);
    if (!this.manual) return Promise.resolve(this.say(path));
    return new Promise((resolve, reject) =>
      this.open.push({ path, answer: resolve, fail: () => reject(new Error("broken")) }),
    );
  }
}

function aCache() {
  const clock = new FakeClock();
  const source = new Source();
  const cache = new MetadataCache({ source, clock });
  const read = (path: string, owner: number = ALICE) => cache.read("latest", path, owner);
  return { clock, source, cache, read };
}

describe("the instance id, which the names of sessions have in them,", () => {
  const ID = "meta-data/instance-id";
  const away: UpstreamAnswer = { kind: "failed", why: "nobody listens there" };
  function aCacheThatKnows() {
    const all = aCache();
    const lasting = () => all.cache.readLasting("latest", ID, ALICE);
    return { ...all, lasting };
  }

  test("holds for hours while the upstream is away, without a wait; and the upstream is asked once a second at most", async () => {
    const { clock, source, lasting } = aCacheThatKnows();
    source.say = () => found("i-1");
    expect(await lasting()).toEqual(found("i-1"));
    expect(source.asked).toHaveLength(1);
    source.say = () => away;
    await clock.advance(3 * 3_600_000);
    for (let i = 0; i < 50; i++) expect(lasting()).toEqual(found("i-1"));
    await settle();
    expect(source.asked).toHaveLength(2);
    await clock.advance(1_000);
    expect(lasting()).toEqual(found("i-1"));
    await settle();
    expect(source.asked).toHaveLength(3);
  });

  test("holds without a wait where the upstream hangs", async () => {
    const { clock, source, lasting } = aCacheThatKnows();
    source.say = () => found("i-1");
    await lasting();
    source.manual = true;
    await clock.advance(60_000);
    expect(lasting()).toEqual(found("i-1"));
    await settle();
    expect(source.open).toHaveLength(1);
    source.open[0]?.fail();
    await settle();
    expect(lasting()).toEqual(found("i-1"));
  });

  test("is replaced as soon as the upstream tells another", async () => {
    const { clock, source, lasting } = aCacheThatKnows();
    const none = { kind: "absent" } as const;
    for (const next of [none, found("i-1"), found("i-2")]) {
      source.say = () => next;
      await clock.advance(60_000);
      lasting();
      await settle();
      expect(await lasting()).toEqual(next);
    }
  });

  test("is not taken back by a 404, of an agent that is starting; and the upstream is asked no more often than for any 404", async () => {
    const { clock, source, lasting } = aCacheThatKnows();
    source.say = () => found("i-1");
    await lasting();
    source.say = () => ({ kind: "absent" });
    await clock.advance(60_000);
    for (let second = 0; second < 12; second++) {
      expect(lasting()).toEqual(found("i-1"));
      await settle();
      await clock.advance(1_000);
    }
    expect(source.asked).toHaveLength(4);
    source.say = () => away;
    await clock.advance(60_000);
    expect(lasting()).toEqual(found("i-1"));
  });

  test("that there is none holds as well while the upstream is away", async () => {
    const { clock, source, lasting } = aCacheThatKnows();
    const none = { kind: "absent" } as const;
    source.say = () => none;
    expect(await lasting()).toEqual(none);
    source.say = () => away;
    await clock.advance(3_600_000);
    expect(lasting()).toEqual(none);
  });

  test("is forgotten with an upstream that is none any more", async () => {
    const { source, cache, lasting } = aCacheThatKnows();
    source.say = () => found("i-1");
    await lasting();
    cache.clear();
    source.say = () => away;
    expect(await lasting()).toEqual(away);
  });

  test("is driven out by nobody's requests", async () => {
    const { clock, source, cache, lasting } = aCacheThatKnows();
    source.say = () => found("i-1");
    await lasting();
    for (let i = 0; i < 2_100; i++) await cache.read("latest", `meta-data/none-${i}`, 10_000 + i);
    source.say = () => away;
    await clock.advance(60_000);
    expect(lasting()).toEqual(found("i-1"));
  });
});

/** Uses up everything that a user may ask at once, with paths of their own. */
async function exhaust(read: (path: string) => Promise<unknown>, more = 0): Promise<Promise<unknown>[]> {
  const asked: Promise<unknown>[] = [];
  for (let i = 0; i < 100 + more; i++) asked.push(read(`meta-data/placement/none-${i}`));
  await settle();
  return asked;
}

describe("an answer is kept", () => {
  const lives: [path: string, say: UpstreamAnswer, lifeMs: number][] = [
    ["meta-data/placement/region", found("x"), 60_000],
    ["meta-data/spot/instance-action", found("x"), 5_000],
    ["meta-data/events/maintenance/scheduled", found("x"), 5_000],
    ["meta-data/tags/instance/Name", found("x"), 5_000],
    ["meta-data/tags", found("x"), 5_000],
    ["meta-data/tagsx", found("x"), 60_000],
    ["meta-data/placement/region", { kind: "absent" }, 5_000],
  ];
  for (const [path, answer, lifeMs] of lives) {
    test(`of ${path}, ${answer.kind}: ${lifeMs / 1000} s`, async () => {
      const { clock, source, cache, read } = aCache();
      source.say = () => answer;
      expect(cache.peek("latest", path)).toBeNull();
      expect(await read(path)).toEqual(answer);
      expect(cache.peek("latest", path)).toEqual(answer);
      await clock.advance(lifeMs - 1);
      expect(await read(path)).toEqual(answer);
      expect(source.asked).toHaveLength(1);
      await clock.advance(1);
      expect(cache.peek("latest", path)).toBeNull();
      await read(path);
      expect(source.asked).toHaveLength(2);
    });
  }

  test("for each version apart", async () => {
    const { source, cache } = aCache();
    await cache.read("latest", "meta-data/hostname", ALICE);
    await cache.read("2021-03-23", "meta-data/hostname", ALICE);
    expect(source.asked).toHaveLength(2);
  });

  test("and not for longer because the clock was set back", async () => {
    const { clock, source, read } = aCache();
    await read("meta-data/hostname");
    clock.jump(-86_400_000);
    await read("meta-data/hostname");
    expect(source.asked).toHaveLength(2);
  });

  test("nor is an announcement of the node's end, where the clock was set back by less than a minute", async () => {
    const { clock, source, read } = aCache();
    source.say = () => ({ kind: "absent" });
    await read("meta-data/spot/instance-action");
    clock.jump(-50_000);
    await clock.advance(5_000);
    source.say = () => found('{"action": "terminate"}');
    expect(await read("meta-data/spot/instance-action")).toEqual(found('{"action": "terminate"}'));
  });

  test("never where it is a failure", async () => {
    const { source, read } = aCache();
    source.say = () => ({ kind: "failed", why: "status 500" });
    expect((await read("meta-data/hostname")).kind).toBe("failed");
    source.say = found;
    expect((await read("meta-data/hostname")).kind).toBe("found");
  });

  test("until it is cleared, and what is on its way then is not kept", async () => {
    const { source, cache, read } = aCache();
    await read("meta-data/hostname");
    cache.clear();
    expect(cache.peek("latest", "meta-data/hostname")).toBeNull();
    source.manual = true;
    const late = read("meta-data/hostname");
    await settle();
    cache.clear();
    const fresh = read("meta-data/hostname");
    await settle();
    expect(source.open).toHaveLength(2);
    source.open[0]?.answer(found("old"));
    source.open[1]?.answer(found("new"));
    expect([await late, await fresh]).toEqual([found("old"), found("new")]);
    expect(cache.peek("latest", "meta-data/hostname")).toEqual(found("new"));
  });

  test("in bounded number", async () => {
    const { source, cache } = aCache();
    // As many users as it takes, so that nobody's share is in the way.
    for (let i = 0; i < 2_050; i++) await cache.read("latest", `meta-data/tags/${i}`, i);
    expect(cache.peek("latest", "meta-data/tags/2049")).not.toBeNull();
    expect(cache.peek("latest", "meta-data/tags/0")).toBeNull();
    expect(source.asked).toHaveLength(2_050);
  });
});

describe("one request goes out", () => {
  test("for a crowd of many users that asks for one path", async () => {
    const { source, cache } = aCache();
    source.manual = true;
    const crowd = Array.from({ length: 500 }, (_, uid) => cache.read("latest", "meta-data/hostname", uid));
    await settle();
    expect(source.asked).toHaveLength(1);
    source.open[0]?.answer(found("h"));
    expect(new Set((await Promise.all(crowd)).map((answer) => JSON.stringify(answer))).size).toBe(1);
    expect(source.asked).toHaveLength(1);
  });

  test("and a failure is everybody's who waited, and nobody's who comes later", async () => {
    const { source, read } = aCache();
    source.manual = true;
    const crowd = [read("meta-data/hostname"), read("meta-data/hostname"), read("meta-data/hostname", BOB)];
    await settle();
    source.open[0]?.fail();
    for (const answer of await Promise.allSettled(crowd)) expect(answer.status).toBe("rejected");
    source.manual = false;
    expect((await read("meta-data/hostname")).kind).toBe("found");
  });
});

describe("each user has a share of the upstream", () => {
  test("of 100 misses at once and 20 in a second after that; 64 may wait, the next is refused", async () => {
    const { clock, source, read } = aCache();
    await exhaust(read, 64);
    expect(source.asked).toHaveLength(100);
    expect(await read("meta-data/placement/one-too-many")).toEqual({
      kind: "failed",
      why: "too many requests of one user wait",
    });
    await clock.advance(1_000);
    expect(source.asked).toHaveLength(120);
    await clock.advance(2_200);
    expect(source.asked).toHaveLength(164);
  });

  test("and another user's is untouched, for other paths", async () => {
    const { source, read } = aCache();
    await exhaust(read, 64);
    await read("meta-data/hostname", BOB);
    expect(source.asked.at(-1)).toBe("latest/meta-data/hostname");
  });

  test("and another user's is untouched for the very path that one waits for", async () => {
    const { clock, source, read } = aCache();
    await exhaust(read, 60);
    const alices = read("meta-data/hostname");
    await settle();
    expect(source.asked.at(-1)).not.toBe("latest/meta-data/hostname");
    // Bob does not wait for Alice's turn.
    expect(await read("meta-data/hostname", BOB)).toEqual(found("meta-data/hostname"));
    await clock.advance(10_000);
    expect(await alices).toEqual(found("meta-data/hostname"));
    expect(source.asked.filter((path) => path.endsWith("hostname"))).toHaveLength(1);
  });

  test("and a slow upstream does not let one user hold every slot", async () => {
    const { source, read } = aCache();
    source.manual = true;
    await exhaust(read);
    expect(source.open).toHaveLength(2);
    void read("meta-data/hostname", BOB);
    await settle();
    expect(source.open.map(({ path }) => path)).toContain("meta-data/hostname");
  });

  test("and who joins what another has under way gives their own slot back", async () => {
    const { source, read } = aCache();
    source.manual = true;
    const first = read("meta-data/a", BOB);
    await settle();
    const joined = Array.from({ length: 20 }, () => read("meta-data/a"));
    source.open[0]?.answer(found("a"));
    await Promise.all([first, ...joined]);
    void read("meta-data/b");
    void read("meta-data/c");
    await settle();
    expect(source.open.map(({ path }) => path)).toEqual(["meta-data/a", "meta-data/b", "meta-data/c"]);
  });
});
