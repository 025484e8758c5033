/**
 * `udp_server.ts` as the lossy network of a pinger lab: `--drop`, `--drop-request`, `--duplicate`,
 * `--corrupt`, `--delay`, `--seed`.
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
import {
  decode,
  encode,
  LIMIT,
  nextSentence,
  spawn,
  UdpPeer,
  unless,
  WINDOWS,
} from "./_helpers.ts";
import { address, start, startFake, withClock } from "./_udp.ts";

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

const SEED_4 = [1, 3, 4, 5, 6, 8, 8, 9, 9, 10, 12, 13, 14, 14]; // replies to 1 to 14, see below

/** The replies to `count` numbered datagrams, over a socket without a network. */
async function echoesOf(options: ServeOptions, count: number): Promise<string[]> {
  await using server = startFake({ quiet: true, ...options });
  const replies: string[] = [];
  server.socket.onSend = (bytes) => void replies.push(decode(bytes));
  for (let i = 1; i <= count; i++) server.socket.deliver(`${i}`, address("127.0.0.1", 40_000));
  await server.socket.idle();
  return replies;
}

Deno.test(
  "a stop word whose echo finds no room is unanswered, and its session goes on",
  LIMIT,
  async () => {
    await using server = startFake({ delayMs: 60_000 });
    const peer = address("127.0.0.1", 40_000);
    for (const [count, length] of [[260, 65_507], [100, 1]] as const) { // beyond 16 MiB
      for (let i = 0; i < count; i++) server.socket.deliver("x".repeat(length), peer);
    }
    server.socket.deliver("stop", peer);
    await server.socket.idle();
    assertEquals(server.log.of("close"), []);
    assertMatch(server.log.of("warning")[0]!.text, /too many replies wait/);
  },
);

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

  await t.step("nor on what is damaged or lost before, or on who is not answered", async () => {
    const of = (options: ServeOptions): Promise<string[]> => echoesOf({ ...options, seed: 7 }, 100);
    const alone = (await of({ drop: 0.3 })).map(Number);
    const damaged = await of({ drop: 0.3, corrupt: 1 });
    assertEquals(damaged.length, alone.length);
    const requests = (await of({ dropRequest: 0.5 })).map(Number);
    const both = (await of({ drop: 0.3, dropRequest: 0.5 })).map(Number);
    assertEquals(both, requests.filter((number) => alone.includes(number)));
  });

  await t.step("as they were in the edition before", async () => {
    const replies = await repliesOf({ drop: 0.3, duplicate: 0.2, seed: 4 }, 14);
    assertEquals(replies, SEED_4);
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

Deno.test("--drop-request: a datagram is lost before it is seen, and counted", LIMIT, async (t) => {
  await t.step("all of them: nothing but a count", async () => {
    await using server = startFake({ dropRequest: 1, once: true });
    let replies = 0;
    server.socket.onSend = () => void replies++;
    for (const text of ["one", "stop"]) server.socket.deliver(text, address("127.0.0.1", 40_000));
    await server.socket.idle();
    await server.shutdown();
    assertEquals(replies, 0);
    assertEquals(server.log.events.map(({ event }) => event), ["listening", "shutdown"]);
    const { messages, bytes, unanswered, dropped } = server.log.of("shutdown")[0]!;
    assertEquals([messages, bytes, unanswered, dropped], [0, 0, 0, 2]);
  });

  await t.step("some of them: what is printed is answered", async () => {
    await using server = startFake({ dropRequest: 0.4, seed: 3 });
    const replies: string[] = [];
    server.socket.onSend = (bytes) => void replies.push(decode(bytes));
    for (let i = 0; i < 200; i++) server.socket.deliver(`${i}`, address("127.0.0.1", 40_000));
    await server.socket.idle();
    await server.shutdown();
    assertEquals(server.log.of("message").map(({ text }) => text), replies);
    assert(replies.length > 90 && replies.length < 150, `${replies.length} of 200`);
    assertEquals(server.log.of("shutdown")[0]!.dropped, 200 - replies.length);
  });

  await t.step("with --no-echo, too", async () => {
    await using server = startFake({ dropRequest: 1, echo: false });
    server.socket.deliver("one", address("127.0.0.1", 40_000));
    await server.socket.idle();
    await server.shutdown();
    const { messages, dropped } = server.log.of("shutdown")[0]!;
    assertEquals([messages, dropped], [0, 1]);
  });
});

/** How many bits differ. */
function flippedBits(a: Uint8Array, b: Uint8Array): number {
  return a.reduce((sum, byte, i) => sum + (byte ^ b[i]!).toString(2).replaceAll("0", "").length, 0);
}

Deno.test("--corrupt: one random bit of the reply is flipped", LIMIT, async (t) => {
  const sentence = encode("Can you hear me?");

  await t.step("of each, and of each other ones", async () => {
    await using server = startFake({ corrupt: 1, seed: 1 });
    const replies = new Set<string>();
    server.socket.onSend = (bytes) => {
      assertEquals(bytes.length, sentence.length);
      assertEquals(flippedBits(bytes, sentence), 1);
      replies.add(bytes.join());
    };
    for (let i = 0; i < 1_000; i++) server.socket.deliver(sentence, address("127.0.0.1", 40_000));
    await server.socket.idle();
    assertEquals(replies.size, 8 * sentence.length); // every bit had its turn
    assert(server.log.of("message").every(({ text }) => text === decode(sentence)));
  });

  await t.step("of some, as often as asked for", async () => {
    await using server = startFake({ corrupt: 0.25, seed: 1 });
    let [damaged, whole] = [0, 0];
    server.socket.onSend = (bytes) => void (flippedBits(bytes, sentence) ? damaged++ : whole++);
    for (let i = 0; i < 1_000; i++) server.socket.deliver(sentence, address("127.0.0.1", 40_000));
    await server.socket.idle();
    assertEquals(damaged + whole, 1_000);
    assert(damaged > 180 && damaged < 320, `${damaged} of 1,000`);
  });

  await t.step("both copies alike", async () => {
    await using server = startFake({ corrupt: 1, duplicate: 1 });
    const replies: string[] = [];
    server.socket.onSend = (bytes) => void replies.push(bytes.join());
    server.socket.deliver(sentence, address("127.0.0.1", 40_000));
    await server.socket.idle();
    assertEquals(replies, [replies[0], replies[0]]);
  });

  await t.step("nothing has no bit", async () => {
    assertEquals(await echoesOf({ corrupt: 1 }, 0), []);
    await using server = startFake({ corrupt: 1 });
    let replies = 0;
    server.socket.onSend = ({ length }) => void (replies += Number(length === 0));
    server.socket.deliver("", address("127.0.0.1", 40_000));
    await server.socket.idle();
    assertEquals(replies, 1);
  });
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

  await t.step("those that are held at the end are dropped, and counted", async () => {
    await using server = startFake({ delayMs: 60_000, duplicate: 0.5, seed: 1 });
    let replies = 0;
    server.socket.onSend = () => void replies++;
    for (const number of sent) server.socket.deliver(`${number}`, address("127.0.0.1", 40_000));
    await server.socket.idle();
    await server.shutdown();
    assertEquals(replies, 0);
    const { unanswered, dropped } = server.log.of("shutdown")[0]!;
    assertEquals([unanswered, dropped], [0, 20]); // datagrams, not their copies
  });

  for (const size of [65_507, 0]) {
    await t.step(`what is held is bounded: replies of ${size} bytes`, async () => {
      await using server = startFake({ delayMs: 60_000, quiet: true });
      const { socket, log } = server;
      const datagram = new Uint8Array(size);
      for (let i = 0; i < 20_000; i++) socket.deliver(datagram, address("127.0.0.1", 40_000 + i));
      await log.wait("warning");
      await socket.idle();
      await server.shutdown();
      const { unanswered, dropped } = log.of("shutdown")[0]!;
      assertEquals(unanswered + dropped!, 20_000);
      assertGreater(dropped! * (size + 1_200), 15 * 1_048_576);
      assertLessOrEqual(dropped! * (size + 1_200), 16 * 1_048_576);
      assertEquals(log.of("warning").length, 1);
    });
  }

  await t.step("until it is sent, not until its time comes", async () => {
    await using server = startFake({ delayMs: 0.001, quiet: true });
    const { socket, log } = server;
    const gate = Promise.withResolvers<void>();
    let sent = 0;
    socket.onSend = async () => {
      await gate.promise;
      sent++;
    };
    const datagram = new Uint8Array(65_507);
    for (let i = 0; i < 1_000; i++) {
      socket.deliver(datagram, address("127.0.0.1", 40_000 + i));
      if (i % 100 === 99) await new Promise((resolve) => setTimeout(resolve, 2)); // theirs has come
    }
    await socket.idle();
    await log.wait("warning");
    gate.resolve();
    await server.shutdown();
    const { unanswered, dropped = 0 } = log.of("shutdown")[0]!;
    assertEquals(sent + dropped + unanswered, 1_000);
    assertLess((sent + dropped) * datagram.length, 16 * 1_048_576);
    assertGreater(sent, 0);
  });

  await t.step("what is given back is there for others", async () => {
    await using server = startFake({ delayMs: 0.001, quiet: true, duplicate: 0.5 });
    const { socket, log } = server;
    const sends: Promise<void>[] = [];
    let fails = false;
    socket.onSend = () => {
      fails = !fails;
      const sent = fails ? Promise.reject(new Error("Network is unreachable")) : Promise.resolve();
      sends.push(sent.catch(() => {}));
      return sent;
    };
    const datagram = new Uint8Array(65_507);
    for (let i = 0; i < 1_000; i++) {
      socket.deliver(datagram, address("127.0.0.1", 40_000 + i));
      await socket.idle();
      if (i % 100 === 99) await new Promise((resolve) => setTimeout(resolve, 2));
    }
    assert(!log.of("warning").some(({ text }) => text.includes("too many")));
  });

  await t.step("it ends only when what is being sent is out, and takes no more", async () => {
    await using server = startFake({ delayMs: 0.001, quiet: true });
    const { socket } = server;
    const gate = Promise.withResolvers<void>();
    const sending = Promise.withResolvers<void>();
    const sent: string[] = [];
    socket.onSend = async (bytes) => {
      sending.resolve();
      await gate.promise;
      assert(!socket.closed);
      sent.push(decode(bytes));
    };
    socket.deliver("one", address("127.0.0.1", 40_000));
    socket.deliver("two", address("127.0.0.1", 40_000));
    await sending.promise;
    for (let i = 0; i < 10; i++) await new Promise((resolve) => setTimeout(resolve, 1)); // due, both
    const ended = server.shutdown().then(() => [socket.closed, sent.toSorted()]);
    socket.deliver("late", address("127.0.0.1", 40_000));
    await new Promise((resolve) => setTimeout(resolve)); // a turn for all that can go on
    gate.resolve();
    const [closed, replies] = await ended;
    assertEquals([closed, replies], [true, ["one", "two"]], "it ended before its replies were out");
  });
});

Deno.test("--duplicate 1 doubles every reply, up to its limit", LIMIT, async (t) => {
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

  await t.step("the same only 1,000 times, and a warning says so, once", async () => {
    await using server = startFake({ duplicate: 1, quiet: true });
    let replies = 0;
    server.socket.onSend = () => void replies++;
    for (let i = 0; i < 2_000; i++) {
      for (const port of [40_000, 40_001]) {
        server.socket.deliver("hello", address("127.0.0.1", port));
      }
    }
    await server.socket.idle();
    assertEquals(replies, 2 * 3_000);
    const warnings = server.log.of("warning").map(({ text }) => text);
    assertEquals(warnings.length, 1);
    assertMatch(warnings[0]!, /^the same datagram of 127\.0\.0\.1:4000\d was doubled 1000 times /);
  });

  await t.step("the longest unseen of 4,096 is forgotten", async () => {
    await using server = startFake({ duplicate: 1, quiet: true });
    let replies = 0;
    server.socket.onSend = () => void replies++;
    const say = (text: string): void => server.socket.deliver(text, address("127.0.0.1", 40_000));
    for (let i = 0; i < 1_000; i++) say("hello");
    for (let i = 0; i < 4_095; i++) say(`${i}`); // it is the longest unseen, and still known
    say("hello");
    for (let i = 0; i < 4_096; i++) say(`${i}`);
    say("hello");
    await server.socket.idle();
    assertEquals(replies, 2 * (1_000 + 4_095 + 4_096) + 1 + 2);
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
      await server.log.wait("warning");
      for (let i = 0; i < 10; i++) await new Promise((resolve) => setTimeout(resolve, 1));
      await server.shutdown();
      const { unanswered, dropped } = server.log.of("shutdown")[0]!;
      assertEquals([unanswered, dropped], [10, undefined]);
      assertEquals(server.log.of("warning").length, 1);
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

Deno.test("an end that takes longer says what it waits for, once, and comes", LIMIT, async (t) => {
  const rows: [string, ServeOptions, [number, number | undefined]][] = [
    ["a reply", {}, [1, undefined]],
    ["copies of the lossy network", { duplicate: 1 }, [1, undefined]],
    ["what was delayed", { delayMs: 0.001 }, [0, 1]],
  ];
  for (const [name, options, expected] of rows) {
    await t.step(name, () =>
      withClock(async ({ set, tick }) => {
        await using server = startFake(options);
        const { socket, log } = server;
        const sending = Promise.withResolvers<void>();
        socket.onSend = () => {
          sending.resolve();
          return new Promise(() => {}); // as to a host that is not there
        };
        socket.deliver("hello", address("127.0.0.1", 40_000));
        await sending.promise;
        const ended = server.shutdown();
        const told = [400, 600, 4_700].map((ms) => {
          set(ms);
          tick();
          return log.of("warning").map(({ text }) => text);
        });
        const text = "waiting for up to 4.3 s for replies to be sent";
        assertEquals([told, socket.closed], [[[], [text], [text]], false]);
        set(4_800); // and the next look is within 5 s
        tick();
        assert(socket.closed);
        await ended;
        const { unanswered, dropped } = log.of("shutdown")[0]!;
        assertEquals<unknown>([unanswered, dropped], expected);
        assertEquals(log.of("warning").length, 1);
      }));
  }
});
