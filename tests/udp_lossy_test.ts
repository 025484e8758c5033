/**
 * `udp_server.ts` as the lossy network of a pinger lab: `--drop`, `--duplicate`, `--delay`, `--seed`.
 *
 * @module
 */

import {
  assert,
  assertEquals,
  assertGreater,
  assertLess,
  assertLessOrEqual,
  assertMatch,
  assertNotEquals,
} from "@std/assert";
import type { ServeOptions } from "../udp_server.ts";
import { decode, LIMIT, nextSentence, spawn, UdpPeer, unless, WINDOWS } from "./_helpers.ts";
import { address, start, startFake } from "./_udp.ts";

const ROUNDS = 65_536; // after which a loop has died

/** Sends `count` numbered datagrams, each once the one before is dealt with; the replies. */
async function repliesOf(options: ServeOptions, count: number): Promise<number[]> {
  await using peer = new UdpPeer();
  await using server = start(options);
  for (let number = 1; number <= count; number++) {
    await peer.send(`${number}`, server.port);
    await server.log.wait("message", number);
  }
  await server.shutdown();
  return (await peer.arrived()).map(({ bytes }) => Number(decode(bytes)));
}

Deno.test("--seed decides the faults", LIMIT, async (t) => {
  const faults = { drop: 0.3, duplicate: 0.2 };
  const first = await repliesOf({ ...faults, seed: 7 }, 100);

  await t.step("each happens, about as often as asked for", () => {
    const arrived = new Set(first);
    assert(arrived.size > 50 && arrived.size < 90, `${arrived.size} of 100 arrived`);
    const twice = first.length - arrived.size;
    assert(twice > 4 && twice < 30, `${twice} of ${arrived.size} arrived twice`);
    assertEquals(first, first.toSorted((a, b) => a - b));
  });

  await t.step("the same seed, the same faults", async () => {
    assertEquals(await repliesOf({ ...faults, seed: 7 }, 100), first);
  });

  await t.step("another seed, other faults", async () => {
    assertNotEquals(await repliesOf({ ...faults, seed: 8 }, 100), first);
  });

  await t.step("so too in another process", async () => {
    const args = ["--drop", "0.3", "--duplicate", "0.2", "--seed", "7", "--port", "0"];
    await using server = spawn("udp_server.ts", args);
    const port = await server.port();
    await using peer = new UdpPeer();
    for (let number = 1; number <= 101; number++) {
      await peer.send(`${number}`, port);
      assertEquals(await nextSentence(server), `${number}`);
    }
    // The last of them is printed, so those before are dealt with.
    const replies = (await peer.arrived()).map(({ bytes }) => Number(decode(bytes)));
    assertEquals(replies.filter((number) => number <= 100), first);
  });

  await t.step("what is dropped does not depend on the other faults", async () => {
    const alone = await repliesOf({ drop: 0.3, seed: 7 }, 100);
    assertEquals(alone, [...new Set(first)]);
  });
});

Deno.test("--drop and --duplicate at their limits", LIMIT, async (t) => {
  const rows: [ServeOptions, number[]][] = [
    [{ drop: 1 }, []],
    [{ drop: 0, duplicate: 0, seed: 1 }, [1, 2, 3]],
    [{ duplicate: 1 }, [1, 1, 2, 2, 3, 3]],
    [{ drop: 1, duplicate: 1, delayMs: 1 }, []],
  ];
  for (const [options, expected] of rows) {
    await t.step(JSON.stringify(options), async () => {
      assertEquals(await repliesOf(options, 3), expected);
    });
  }
});

Deno.test("replies that --drop lost are told in the totals", LIMIT, async (t) => {
  await t.step("as an event, only if there are any", async () => {
    for (const [drop, dropped] of [[1, 3], [0, undefined]]) {
      await using server = startFake({ drop: drop!, duplicate: 0.5 });
      for (let i = 0; i < 3; i++) server.socket.deliver("hello", address("127.0.0.1", 40_000));
      await server.socket.idle();
      await server.shutdown();
      const [totals] = server.log.of("shutdown");
      assertEquals([totals!.dropped, totals!.unanswered], [dropped, 0]);
    }
  });

  await t.step({
    ...unless(WINDOWS && "Windows has no signals", "as a line"),
    fn: async () => {
      await using server = spawn("udp_server.ts", ["--port", "0", "--drop", "1"]);
      const port = await server.port();
      await using peer = new UdpPeer();
      await peer.send("hello", port);
      await nextSentence(server);
      const { stdout } = await server.stop();
      assertMatch(stdout, /^stopped: 1 message, 5 bytes, \d+\.\d s, 0 not answered, 1 dropped\n$/);
    },
  });
});

Deno.test("without a seed the faults are new, and their seed is said", LIMIT, async () => {
  const args = ["--port", "0", "--drop", "0.5"];
  const seeds = [];
  for (let i = 0; i < 2; i++) {
    await using server = spawn("udp_server.ts", args);
    await server.port();
    seeds.push(/--seed (\d+)$/.exec(await server.stderr.nextLine())?.[1]);
  }
  assert(seeds[0] !== undefined);
  assertNotEquals(seeds[0], seeds[1]);
});

Deno.test("--delay: replies overtake each other, and none is lost", LIMIT, async (t) => {
  const sent = Array.from({ length: 20 }, (_, i) => i + 1);

  await t.step("each comes in its time", async () => {
    await using peer = new UdpPeer();
    await using server = start({ delayMs: 50, seed: 3 });
    for (const number of sent) await peer.send(`${number}`, server.port);
    const replies = [];
    while (replies.length < sent.length) replies.push(Number(decode((await peer.next()).bytes)));
    assertNotEquals(replies, sent);
    assertEquals(replies.toSorted((a, b) => a - b), sent);
  });

  await t.step("those that are held at the end are sent", async () => {
    assertEquals(await repliesOf({ delayMs: 60_000 }, 20), sent);
  });

  await t.step("what is held is bounded", async () => {
    await using server = startFake({ delayMs: 60_000, quiet: true });
    const { socket, log } = server;
    let bytes = 0;
    socket.onSend = (datagram) => void (bytes += datagram.length);
    const large = new Uint8Array(65_507);
    for (let i = 0; i < 1_000; i++) socket.deliver(large, address("127.0.0.1", 40_000));
    await log.wait("warning");
    await socket.idle();
    await server.shutdown();
    assertGreater(bytes, 8 * 1_048_576);
    assertLessOrEqual(bytes, 32 * 1_048_576);
    assertEquals(log.of("warning").length, 1);
    assertEquals(log.of("shutdown")[0]!.unanswered, 1_000 - bytes / large.length);
  });

  await t.step("so it is where they are short: each takes memory of its own", async () => {
    await using server = startFake({ delayMs: 60_000, quiet: true });
    let sent = 0;
    server.socket.onSend = () => void sent++;
    for (let i = 0; i < 20_000; i++) server.socket.deliver("", address("127.0.0.1", 40_000));
    await server.socket.idle();
    await server.shutdown();
    assertGreater(sent, 10_000);
    assertLess(sent, 20_000);
    assertEquals(server.log.of("shutdown")[0]!.unanswered, 20_000 - sent);
  });

  await t.step("it ends only when they are sent, even if a datagram comes meanwhile", async () => {
    await using server = startFake({ delayMs: 60_000, quiet: true });
    const { socket } = server;
    const gate = Promise.withResolvers<void>();
    const sent: string[] = [];
    socket.onSend = async (bytes) => {
      await gate.promise;
      assert(!socket.closed);
      sent.push(decode(bytes));
    };
    socket.deliver("one", address("127.0.0.1", 40_000));
    socket.deliver("two", address("127.0.0.1", 40_000));
    await socket.idle();
    const ended = server.shutdown().then(() => [socket.closed, sent.toSorted()]);
    socket.deliver("late", address("127.0.0.1", 40_000));
    await new Promise((resolve) => setTimeout(resolve)); // a turn for all that can go on
    gate.resolve();
    const [closed, replies] = await ended;
    assertEquals([closed, replies], [true, ["one", "two"]], "it ended before its replies were out");
  });
});

Deno.test("--duplicate 1 doubles every reply, however many there are", LIMIT, async (t) => {
  const rows: [string, number, (i: number) => string][] = [
    ["of different sentences", 10_022, (i) => `sentence ${i}`],
    ["of the same", 1_000, () => "hello"],
  ];
  for (const [name, count, sentence] of rows) {
    await t.step(`${count} ${name}`, async () => {
      await using server = startFake({ duplicate: 1, quiet: true });
      let replies = 0;
      server.socket.onSend = () => void replies++;
      for (let i = 0; i < count; i++) {
        server.socket.deliver(sentence(i), address("127.0.0.1", 40_000));
      }
      await server.socket.idle();
      assertEquals(replies, 2 * count);
    });
  }

  await t.step("but no loop swells", async () => {
    await using server = startFake({ duplicate: 1, quiet: true });
    let [replies, queued, most] = [0, 1, 1];
    server.socket.onReceive = () => void queued--;
    server.socket.onSend = (bytes, to) => {
      if (++replies === 4 * ROUNDS) return;
      most = Math.max(most, ++queued);
      server.socket.deliver(bytes, to);
    };
    server.socket.deliver("forged", address("127.0.0.1", 40_000));
    await server.socket.idle();
    assertLess(replies, 4 * ROUNDS);
    assertLess(most, 5_000);
  });
});

Deno.test("datagrams are counted, not the copies of their replies", LIMIT, async (t) => {
  const rows: [string, ServeOptions][] = [
    ["at once", { duplicate: 1 }],
    ["delayed", { duplicate: 1, delayMs: 1 }],
  ];
  for (const [name, options] of rows) {
    await t.step(`no reply can be sent, ${name}`, async () => {
      await using server = startFake(options);
      server.socket.onSend = () => Promise.reject(new Error("Network is unreachable"));
      for (let i = 0; i < 10; i++) {
        server.socket.deliver(`${i}`, address("127.0.0.1", 40_000));
      }
      await server.socket.idle();
      await server.shutdown();
      assertEquals(server.log.of("shutdown")[0]!.unanswered, 10);
    });
  }

  await t.step("one copy of two is sent: it is answered", async () => {
    await using server = startFake({ duplicate: 1 });
    let sends = 0;
    server.socket.onSend = () => {
      if (++sends % 2) throw new Error("Network is unreachable");
    };
    for (let i = 0; i < 10; i++) server.socket.deliver(`${i}`, address("127.0.0.1", 40_000));
    await server.socket.idle();
    await server.shutdown();
    assertEquals([sends, server.log.of("shutdown")[0]!.unanswered], [20, 0]);
  });

  await t.step("--rate counts copies: they are replies", async () => {
    await using server = startFake({ duplicate: 1, rate: 10 });
    let replies = 0;
    server.socket.onSend = () => void replies++;
    for (let i = 0; i < 10; i++) server.socket.deliver(`${i}`, address("127.0.0.1", 40_000));
    await server.socket.idle();
    await server.shutdown();
    assertEquals([replies, server.log.of("shutdown")[0]!.unanswered], [10, 5]);
  });
});

Deno.test("a shutdown that takes longer says what it waits for, once", LIMIT, async () => {
  await using server = startFake({ delayMs: 60_000 });
  const gate = Promise.withResolvers<void>();
  server.socket.onSend = () => gate.promise;
  for (const text of ["one", "two"]) server.socket.deliver(text, address("127.0.0.1", 40_000));
  await server.socket.idle();
  const ended = server.shutdown();
  const { text } = await server.log.wait("warning");
  gate.resolve();
  assertMatch(text, /^waiting for .*replies to be sent$/);
  await ended;
  assertEquals(server.log.of("warning").length, 1);
});
