/**
 * `udp_client.ts`: its exported `open`, `request`, `converse` and timer, against `udp_server.ts` and
 * against scripted peers that lose, repeat, delay and change what they get.
 *
 * @module
 */

import {
  assert,
  assertEquals,
  assertGreaterOrEqual,
  assertLess,
  assertMatch,
  assertRejects,
} from "@std/assert";
import {
  converse,
  type ConverseOptions,
  EchoSocket,
  NoAnswerError,
  open,
  type OpenOptions,
  probe,
  request,
  RetransmissionTimer,
  type TraceCall,
} from "../udp_client.ts";
import { serve } from "../udp_server.ts";
import {
  type Bytes,
  collector,
  decode,
  encode,
  LIMIT,
  seededRandom,
  UdpPeer,
  unless,
} from "./_helpers.ts";
import { echo, openTo, streamOf } from "./_udp.ts";
import { NO_IPV6 } from "./_needs.ts";

/** One turn of the event loop. */
function turn(): Promise<void> {
  return new Promise((resolve) => setTimeout(resolve));
}

// ---- The timer ----

Deno.test("the timer is that of RFC 6298, computed by hand", LIMIT, async (t) => {
  await t.step("(2.1) before any round trip it is what was asked for", () => {
    assertEquals(new RetransmissionTimer(1_000).rto, 1_000);
  });

  await t.step("(2.2) the first: SRTT = R, RTTVAR = R/2, RTO = SRTT + 4 RTTVAR", () => {
    const timer = new RetransmissionTimer(1_000);
    timer.sample(100);
    assertEquals(timer.rto, 300); // 100 + 4 * 50
  });

  await t.step("(2.3) the next: RTTVAR first, by 1/4; then SRTT, by 1/8", () => {
    const timer = new RetransmissionTimer(1_000);
    timer.sample(100);
    timer.sample(200);
    assertEquals(timer.rto, 362.5); // SRTT 100 + 100/8 = 112.5; RTTVAR 50 + (100 - 50)/4 = 62.5
    timer.sample(112.5);
    assertEquals(timer.rto, 300); // SRTT 112.5; RTTVAR 62.5 + (0 - 62.5)/4 = 46.875
    timer.sample(72.5);
    assertEquals(timer.rto, 288.125); // SRTT 107.5; RTTVAR 46.875 + (40 - 46.875)/4 = 45.15625
  });

  await t.step("(5.5) it doubles with each loss, (2.5) up to 60 s", () => {
    const timer = new RetransmissionTimer(1_000);
    const waits = Array.from({ length: 8 }, () => {
      timer.backOff();
      return timer.rto;
    });
    assertEquals(waits, [2_000, 4_000, 8_000, 16_000, 32_000, 60_000, 60_000, 60_000]);
    timer.sample(100_000);
    assertEquals(timer.rto, 60_000);
  });

  await t.step("(5.7) the next round trip takes the doubling back", () => {
    const timer = new RetransmissionTimer(1_000);
    timer.sample(100);
    timer.backOff();
    timer.backOff();
    assertEquals(timer.rto, 1_200);
    timer.sample(100);
    assertEquals(timer.rto, 250); // SRTT 100; RTTVAR 50 - 50/4 = 37.5
  });

  await t.step("(2.4) it never falls below 200 ms, or a first wait that is shorter", () => {
    for (const [first, least] of [[1_000, 200], [50, 50]] as const) {
      const timer = new RetransmissionTimer(first);
      timer.sample(0.1);
      assertEquals(timer.rto, least);
    }
  });
});

Deno.test(
  "the timer: what a datagram that was sent again tells, and what not",
  LIMIT,
  async (t) => {
    await t.step("the next may wait twice as long, but no longer than that one took", () => {
      const timer = new RetransmissionTimer(1_000);
      const waits = [3_000, 2_500, 2_500, 2_500].map((sinceFirst) => {
        timer.stretch(sinceFirst);
        timer.restart();
        return timer.rto;
      });
      assertEquals(waits, [2_000, 2_700, 2_700, 2_700]); // 2,500 and the least, 200
    });

    await t.step("no back-off shortens a first wait of more than 60 s", () => {
      const timer = new RetransmissionTimer(100_000);
      timer.backOff();
      assertEquals(timer.rto, 100_000);
    });
  },
);

// ---- One request ----

Deno.test("request: an echo at once", LIMIT, async () => {
  await using server = new UdpPeer(echo);
  using socket = await openTo(server);
  const { tries, ms } = await request(socket, encode("hello"));
  assertEquals(tries, 1);
  assert(ms > 0 && ms < 10_000, `${ms} ms`);
  assertEquals(socket.timer.rto, 200);
  assertEquals(socket.ignored, { strangers: 0, unmatched: 0 });
});

Deno.test("request: a datagram of any size comes back whole", LIMIT, async (t) => {
  const random = seededRandom();
  await using server = serve({ port: 0 });
  using socket = await openTo(server);
  for (const size of [0, 1, 1_472, 65_506, 65_507]) {
    await t.step(`${size} bytes`, async () => {
      assertEquals((await request(socket, random.bytes(size))).tries, 1);
    });
  }
});

Deno.test("request: a loss is made good, and Karn's rule keeps the timer", LIMIT, async () => {
  const times: number[] = [];
  await using server = new UdpPeer((datagram, count, self) => {
    times.push(performance.now());
    if (count === 4) return self.send(datagram.bytes, datagram.from);
  });
  using socket = await openTo(server, { timeoutSeconds: 0.02 });
  const { tries, ms } = await request(socket, encode("hello"));
  assertEquals(tries, 4);
  assert(ms < 20 + 40 + 80, `${ms} ms are of the last try alone`);
  assertEquals(socket.timer.rto, 160); // doubled three times; the round trip is not a sample
  const waits = times.slice(1).map((time, i) => time - times[i]!);
  for (const [i, least] of [20, 40, 80].entries()) {
    assertGreaterOrEqual(waits[i]!, least / 2); // a busy machine may see one late, not the next
  }
});

Deno.test(
  "request: where each echo takes longer than the wait, the wait adapts",
  LIMIT,
  async () => {
    const waiting: Promise<void>[] = [];
    await using server = new UdpPeer(({ bytes, from }, _, self) => {
      const { promise, resolve } = Promise.withResolvers<void>();
      setTimeout(() => resolve(self.send(bytes, from)), 150);
      waiting.push(promise);
    });
    using socket = await openTo(server, { timeoutSeconds: 0.05 });
    const tries: number[] = [];
    for (const sentence of ["one", "two", "three", "four", "five"]) {
      tries.push((await request(socket, encode(sentence))).tries);
    }
    await Promise.all(waiting);
    assertEquals(tries.slice(-2), [1, 1], `tries: ${tries}`);
  },
);

Deno.test("request: no answer at all", LIMIT, async () => {
  await using server = new UdpPeer();
  const rows = [[0, "1 try"], [1, "2 tries"], [3, "4 tries"]] as const;
  for (const [retries, tries] of rows) {
    using socket = await openTo(server, { timeoutSeconds: 0.01 });
    const error = await assertRejects(
      () => request(socket, encode("hello"), { retries }),
      NoAnswerError,
    );
    assertMatch(
      error.message,
      new RegExp(
        `^no answer from 127\\.0\\.0\\.1:${server.addr.port} after ${tries} in [\\d.]+ s$`,
      ),
    );
  }
  assertEquals((await server.arrived()).length, 1 + 2 + 4);
});

Deno.test("request: who answered in place of the server is named", LIMIT, async () => {
  await using stranger = new UdpPeer();
  await using server = new UdpPeer(({ bytes, from }, count) => {
    if (count === 1) return stranger.send(bytes, from);
  });
  using socket = await openTo(server, { timeoutSeconds: 0.02 });
  const ask = (): Promise<unknown> => request(socket, encode("hello"), { retries: 0 });
  const { message } = await assertRejects(ask, NoAnswerError);
  assertMatch(message, new RegExp(` s, but 127\\.0\\.0\\.1:${stranger.addr.port} answered$`));
  const next = await assertRejects(ask, NoAnswerError);
  assertMatch(next.message, / after 1 try in [\d.]+ s$/);
});

Deno.test("request: what is no echo is counted and not believed", LIMIT, async (t) => {
  const one = (kind: string): Record<string, number> => ({
    strangers: 0,
    unmatched: 0,
    [kind]: 1,
  });
  await using stranger = new UdpPeer();
  const rows: [string, (bytes: Bytes) => Bytes | UdpPeer, string][] = [
    ["from a stranger's port", () => stranger, "strangers"],
    ["a bit turned", (bytes) => bytes.with(4, bytes[4]! ^ 1) as Bytes, "unmatched"],
    ["too short", (bytes) => bytes.subarray(1), "unmatched"],
    ["cut", (bytes) => bytes.subarray(0, -1), "unmatched"],
    ["empty", () => encode(""), "unmatched"],
    ["too long", (bytes) => encode(`${decode(bytes)}!`), "unmatched"],
  ];
  for (const [name, change, kind] of rows) {
    await t.step(`${name}: not believed`, async () => {
      await using server = new UdpPeer(({ bytes, from }, _, self) => {
        const answer = change(bytes);
        return answer instanceof UdpPeer ? answer.send(bytes, from) : self.send(answer, from);
      });
      using socket = await openTo(server, { timeoutSeconds: 0.02 });
      const ask = (): Promise<unknown> => request(socket, encode("hello"), { retries: 0 });
      await assertRejects(ask, NoAnswerError);
      assertEquals<Record<string, number>>(socket.ignored, one(kind));
    });

    await t.step(`${name}: and not in the way of the echo`, async () => {
      await using server = new UdpPeer(async ({ bytes, from }, _, self) => {
        const answer = change(bytes);
        await (answer instanceof UdpPeer ? answer.send(bytes, from) : self.send(answer, from));
        await self.send(bytes, from);
      });
      using socket = await openTo(server);
      assertEquals((await request(socket, encode("hello"))).tries, 1);
      assertEquals<Record<string, number>>(socket.ignored, one(kind));
    });
  }

  await t.step("the longest, with more bytes than were sent", async () => {
    await using server = new UdpPeer(({ from }, _, self) =>
      self.send(new Uint8Array(65_507), from)
    );
    using socket = await openTo(server, { timeoutSeconds: 0.05 });
    const ask = (): Promise<unknown> => request(socket, new Uint8Array(65_506), { retries: 0 });
    await assertRejects(ask, NoAnswerError);
    assertEquals(socket.ignored.unmatched, 1);
  });
});

Deno.test("request: late and repeated echoes are told from those of now", LIMIT, async (t) => {
  await t.step("late: it comes when the next sentence is out", async () => {
    let first: Bytes | undefined;
    await using server = new UdpPeer(async ({ bytes, from }, count, self) => {
      if (count === 1) return void (first = bytes);
      await self.send(first!, from);
      await self.send(bytes, from);
    });
    using socket = await openTo(server, { timeoutSeconds: 0.1 });
    const ask = (text: string): Promise<unknown> => request(socket, encode(text), { retries: 0 });
    await assertRejects(() => ask("one"), NoAnswerError);
    await ask("two");
    assertEquals(socket.ignored, { strangers: 0, unmatched: 1 });
  });

  await t.step("each of three tries is answered, after the third", async () => {
    await using server = new UdpPeer(async ({ bytes, from }, count, self) => {
      if (count < 3) return;
      if (count === 3) { for (let i = 0; i < 3; i++) await self.send(bytes, from); }
      else await self.send(bytes, from);
    });
    using socket = await openTo(server, { timeoutSeconds: 0.05 });
    assertEquals((await request(socket, encode("one"))).tries, 3);
    assertEquals((await request(socket, encode("two"))).tries, 1);
    assertEquals(socket.ignored, { strangers: 0, unmatched: 2 });
  });

  await t.step("repeated: each echo comes twice", async () => {
    await using server = new UdpPeer(async ({ bytes, from }, _, self) => {
      await self.send(bytes, from);
      await self.send(bytes, from);
    });
    using socket = await openTo(server);
    for (const sentence of ["one", "two", "three"]) await request(socket, encode(sentence));
    // The last one's second echo may still be on its way.
    assert(socket.ignored.unmatched >= 2, `${socket.ignored.unmatched} are more`);
    assertEquals(socket.ignored.strangers, 0);
  });
});

Deno.test("between requests replies are counted too, and traced truly", LIMIT, async () => {
  const rungs: TraceCall[] = [];
  let came = Promise.withResolvers<void>();
  function onTrace(rung: TraceCall): void {
    if (!rung.call.startsWith("receive()")) return;
    rungs.push(rung);
    came.resolve();
  }
  await using stranger = new UdpPeer();
  await using server = new UdpPeer(echo);
  using socket = await openTo(server, { onTrace });
  async function hear(peer: UdpPeer, text: string): Promise<void> {
    came = Promise.withResolvers();
    await peer.send(text, socket.addr);
    await came.promise;
  }
  await hear(server, "before any");
  await hear(stranger, "a word");
  await request(socket, encode("hello"));
  await hear(server, "hello");
  await hear(server, "something else");
  await turn(); // the last is taken behind its rung
  assertEquals(socket.ignored, { strangers: 1, unmatched: 3 });
  const peers = rungs.map(({ peer }) => Number(peer!.split(":")[1]));
  const { port } = server.addr;
  assertEquals(peers, [port, stranger.addr.port, port, port, port]);
  assert(rungs.every(({ note }) => note === undefined), "a time that is not of these bytes");
});

Deno.test("no failed send goes unsaid", LIMIT, async () => {
  await using server = new UdpPeer(echo);
  using socket = await openTo(server);
  const error = await assertRejects(() => request(socket, new Uint8Array(65_508)), Error);
  assertMatch(error.message, /^cannot send to 127\.0\.0\.1:\d+: message too long$/);
  assert(error.cause instanceof Error);
  assertEquals((await request(socket, encode("hello"))).tries, 1);
});

Deno.test("request: a try that cannot be sent is a lost one", LIMIT, async (t) => {
  const rows: [string, boolean[], string | number][] = [ // which tries can be sent
    ["the third is sent", [false, false, true], 3],
    ["none is", [false, false, false, false], "cannot send: network is unreachable"],
    ["the last is not, and the others are not answered", [true, true, true, false], "no answer"],
  ];
  for (const [name, sendable, expected] of rows) {
    await t.step(name, async () => {
      const answers = typeof expected === "number";
      await using server = new UdpPeer(answers ? echo : undefined);
      using socket = await openTo(server, { timeoutSeconds: 0.01 });
      const send = socket.send.bind(socket);
      socket.send = async (bytes) => {
        if (!sendable.shift()) throw new Error("cannot send: network is unreachable");
        await send(bytes);
      };
      const asked = request(socket, encode("hello"));
      if (answers) assertEquals((await asked).tries, expected);
      else await assertRejects(() => asked, Error, `${expected}`);
      assertEquals(sendable, []);
    });
  }
});

// ---- A conversation ----

Deno.test("converse: a sentence a line, however its bytes come", LIMIT, async (t) => {
  const rows: [string, (string | Bytes)[], string[]][] = [
    ["nothing", [], []],
    ["one", ["hello\n"], ["hello"]],
    ["without an end", ["hello"], ["hello"]],
    ["empty lines", ["\n\na\n\n"], ["", "", "a", ""]],
    ["in pieces", ["he", "", "llo\nho", "w are", " you?\nf", "ine"], [
      "hello",
      "how are you?",
      "fine",
    ]],
    ["of a line end of Windows nothing is sent", ["a\r\nb\r\n", "c\r", "\nd\r"], [
      "a",
      "b",
      "c",
      "d\r",
    ]],
    ["UTF-8 cut in two", [encode("ä").subarray(0, 1), encode("ä").subarray(1), "\n"], ["ä"]],
    ["a stop word ends it", ["a\nstop\n"], ["a", "stop"]],
    ["so does one with blanks", [" exit\t\v\f\r\n"], [" exit\t\v\f"]],
    ["nor is a no-break space or a byte order mark a blank", ["\u00a0stop\n\ufeffstop\nb\n"], [
      "\u00a0stop",
      "\ufeffstop",
      "b",
    ]],
    ["nor is one that is none in ASCII", ["stop\u3000\nb\n"], ["stop\u3000", "b"]],
    ["behind a stop word of 1,000 bytes nothing", [`stop${" ".repeat(996)}\r\n`], [
      `stop${" ".repeat(996)}`,
    ]],
    ["but behind one of 1,001", [`stop${" ".repeat(997)}\nb\n`], [`stop${" ".repeat(997)}`, "b"]],
    ["one more byte than a line holds of a stop word", ["stops\nstop"], ["stops", "stop"]],
  ];
  for (const [name, chunks, expected] of rows) {
    await t.step(name, async () => {
      await using server = new UdpPeer(echo);
      using socket = await openTo(server);
      const { output } = collector();
      const counts = await converse(socket, streamOf(...chunks), output);
      assertEquals(counts, { sent: expected.length, echoed: expected.length, lost: 0 });
      assertEquals((await server.arrived()).map(({ bytes }) => decode(bytes)), expected);
    });
  }
});

Deno.test("converse: the first sentence decides whether anybody is there", LIMIT, async () => {
  await using server = new UdpPeer();
  using socket = await openTo(server, { timeoutSeconds: 0.01 });
  const talk = (): Promise<unknown> =>
    converse(socket, streamOf("one\ntwo\n"), collector().output, { retries: 1 });
  await assertRejects(talk, NoAnswerError, "after 2 tries");
});

Deno.test("converse: a loss is told, and the rest goes on", LIMIT, async () => {
  await using server = new UdpPeer((datagram, count, self) =>
    count === 3 ? undefined : self.send(datagram.bytes, datagram.from)
  );
  using socket = await openTo(server, { timeoutSeconds: 0.1 });
  const lost: string[] = [];
  const counts = await converse(socket, streamOf("1\n2\n3\n4\n"), collector().output, {
    retries: 0,
    onLost: (what) => lost.push(what),
  });
  assertEquals(counts, { sent: 4, echoed: 3, lost: 1 });
  assertEquals(lost.length, 1);
  assertMatch(lost[0]!, /^sentence 3 is lost: no answer from 127\.0\.0\.1:\d+ after 1 try in /);
});

Deno.test("a line of blanks takes no longer than another", LIMIT, async () => {
  async function measure(line: string): Promise<number> {
    await using server = new UdpPeer(echo);
    using socket = await openTo(server, { timeoutSeconds: 30 });
    const start = performance.now();
    await converse(socket, streamOf(line.repeat(8)), collector().output);
    return performance.now() - start;
  }
  const plain = await measure(`${"x".repeat(65_002)}\n`);
  for (const line of [`x${" ".repeat(65_000)}x\n`, `${" ".repeat(65_002)}\n`]) {
    // It was 2 s a line; a busy machine may double what it was.
    assertLess(await measure(line), 4 * plain + 2_000);
  }
});

Deno.test("what a datagram holds is what the system lets through", LIMIT, async (t) => {
  for (const [hostname, most] of [["127.0.0.1", 65_507], ["::1", 65_527]] as const) {
    await t.step({
      ...unless(hostname === "::1" && NO_IPV6, `${most} bytes to ${hostname}`),
      fn: async () => {
        await using server = new UdpPeer(echo, { hostname });
        using socket = await openTo(server);
        const stdin = (bytes: number): ReadableStream<Uint8Array> =>
          streamOf(`${"x".repeat(bytes)}\r\n`);
        const counts = await converse(socket, stdin(most), collector().output);
        assertEquals(counts.echoed, 1);
        const refused = `a sentence of ${most + 1} bytes is refused: a datagram holds ${most} at`;
        const ask = (): Promise<unknown> => converse(socket, stdin(most + 1), collector().output);
        await assertRejects(ask, Error, refused);
      },
    });
  }

  await t.step("where it is less, as on macOS, the error names what to set", async () => {
    await using server = new UdpPeer(echo);
    const { listenDatagram: real, build } = Deno;
    Object.defineProperty(Deno, "build", { value: { ...build, os: "darwin" } });
    let sends = 0;
    Deno.listenDatagram = ((options: Deno.UdpListenOptions & { transport: "udp" }) => {
      const socket = real(options);
      const send = socket.send.bind(socket);
      socket.send = (bytes, to) => {
        sends++;
        if (bytes.length <= 9_216) return send(bytes, to);
        const error = new Error("Message too long (os error 40)");
        return Promise.reject(Object.assign(error, { code: "EMSGSIZE" }));
      };
      return socket;
    }) as typeof Deno.listenDatagram;
    try {
      using socket = await openTo(server);
      assertEquals((await request(socket, new Uint8Array(9_216))).tries, 1);
      const ask = (): Promise<unknown> => request(socket, new Uint8Array(9_217));
      await assertRejects(ask, Error, "net.inet.udp.maxdgram");
      assertEquals(sends, 2); // to send it again would not help
    } finally {
      Deno.listenDatagram = real;
      Object.defineProperty(Deno, "build", { value: build });
    }
  });
});

Deno.test({
  ...unless(NO_IPV6, "an IPv4 address written as IPv6 is the same server"),
  ...LIMIT,
  fn: async (t) => {
    await using server = new UdpPeer(echo);
    for (const hostname of ["::ffff:127.0.0.1", "::ffff:7f00:1"]) {
      await t.step(hostname, async () => {
        using socket = await openTo({ addr: { ...server.addr, hostname } }, {
          timeoutSeconds: 0.3,
        });
        assertEquals((await request(socket, encode("hello"))).tries, 1);
        assertEquals(socket.ignored.strangers, 0);
      });
    }
  },
});

Deno.test("the time of an echo is measured", LIMIT, async () => {
  const timers: Promise<void>[] = [];
  await using server = new UdpPeer(({ bytes, from }, _, self) => {
    const { promise, resolve } = Promise.withResolvers<void>();
    setTimeout(() => resolve(self.send(bytes, from)), 30); // a slow server, not a wait for one
    timers.push(promise);
  });
  using socket = await openTo(server);
  const { ms } = await request(socket, encode("hello"));
  assert(ms > 28 && ms < 10_000, `${ms} ms`);
  await Promise.all(timers);
});

// ---- A path that fails ----

/** A client's socket; whatever it sends goes through `send` first, as if that were the system. */
async function openThrough(
  server: UdpPeer,
  options: OpenOptions,
  send: (text: string) => Promise<void> | void,
): Promise<EchoSocket & Disposable> {
  const real = Deno.listenDatagram;
  Deno.listenDatagram = ((options: Deno.UdpListenOptions & { transport: "udp" }) => {
    const socket = real(options);
    const sendOn = socket.send.bind(socket);
    socket.send = async (bytes, to) => {
      await send(decode(bytes));
      return await sendOn(bytes, to);
    };
    return socket;
  }) as typeof Deno.listenDatagram;
  try {
    return await openTo(server, options);
  } finally {
    Deno.listenDatagram = real;
  }
}

const UNREACHABLE = "network is unreachable";

Deno.test("a sentence is lost, whatever its sends said, and the rest goes on", LIMIT, async (t) => {
  const rows: [string, string, (text: string) => Promise<void> | void, RegExp][] = [
    ["its sends are refused", "", (text) => {
      if (text === "two") throw new Error(UNREACHABLE);
    }, /^sentence 2 is lost: cannot send to \S+: network is unreachable$/],
    [
      "its sends block",
      "",
      async (text) => {
        if (text === "two") await new Promise(() => {});
      },
      /^sentence 2 is lost: no answer from \S+ after 2 tries in \S+ s; 2 not sent: the network took nothing$/,
    ],
    [
      "it is not answered",
      "two",
      () => {},
      /^sentence 2 is lost: no answer from \S+ after 2 tries/,
    ],
  ];
  for (const [name, unanswered, send, said] of rows) {
    await t.step(name, async () => {
      await using server = new UdpPeer(({ bytes, from }, _, self) => {
        if (decode(bytes) !== unanswered) return self.send(bytes, from);
      });
      const lost: string[] = [];
      using socket = await openThrough(server, { timeoutSeconds: 0.05 }, send);
      const { output, bytes } = collector();
      const totals = await converse(socket, streamOf("one\ntwo\nthree\n"), output, {
        retries: 1,
        onLost: (text) => lost.push(text),
      });
      assertEquals(totals, { sent: 3, echoed: 2, lost: 1 });
      assertEquals(decode(bytes()), "one\nthree\n");
      assertEquals(lost.length, 1);
      assertMatch(lost[0]!, said);
    });
  }
});

Deno.test("a send that blocks is not made again before it ends", LIMIT, async () => {
  await using server = new UdpPeer(echo);
  let sends = 0;
  const free = Promise.withResolvers<void>();
  using socket = await openThrough(server, { timeoutSeconds: 0.02 }, async () => {
    sends++;
    await free.promise;
  });
  const onRetry = (): void => free.resolve();
  assertEquals((await request(socket, encode("hello"), { onRetry })).tries, 2);
  assertEquals(sends, 1);
});

Deno.test(
  "the first sentence: refused by the system it ends all, unanswered it does not",
  LIMIT,
  async (t) => {
    await t.step("refused", async () => {
      await using server = new UdpPeer(echo);
      const sent: string[] = [];
      using socket = await openThrough(server, { timeoutSeconds: 0.01 }, (text) => {
        sent.push(text);
        throw new Error(UNREACHABLE);
      });
      const totals = { sent: 0, echoed: 0, lost: 0 };
      const talk = (): Promise<unknown> =>
        converse(socket, streamOf("one\ntwo\n"), collector().output, { retries: 1, totals });
      const error = await assertRejects(talk, NoAnswerError, UNREACHABLE);
      assert(error.isRefused);
      assertEquals([sent, totals], [["one", "one"], { sent: 1, echoed: 0, lost: 1 }]);
    });

    await t.step(
      "unanswered: what was lost is reported at once, and again by its number",
      async () => {
        await using server = new UdpPeer(({ bytes, from }, count, self) => {
          if (count > 4) return self.send(bytes, from);
        });
        using socket = await openTo(server, { timeoutSeconds: 0.05 });
        const said: string[] = [];
        const { output, bytes } = collector();
        const totals = await converse(socket, streamOf("one\ntwo\nthree\n"), output, {
          retries: 1,
          onReady: () => said.push("ready"),
          onLost: (text) => said.push(text.replace(/127\S+ after .*/, "it")),
        });
        assertEquals([totals, decode(bytes())], [{ sent: 3, echoed: 1, lost: 2 }, "three\n"]);
        const first = "no answer from it";
        const both = `sentences 1 to 2 are lost: ${first}`;
        const second = `sentence 2 is lost: ${first}`;
        assertEquals(said, ["ready", first, "ready", second, "ready", both, "ready"]);
      },
    );

    await t.step("answered with other bytes: that is what is reported", async () => {
      await using server = new UdpPeer(({ bytes, from }, count, self) =>
        self.send(count === 1 ? "other" : bytes, from)
      );
      using socket = await openTo(server, { timeoutSeconds: 0.05 });
      const lost: string[] = [];
      const totals = await converse(socket, streamOf("one\ntwo\n"), collector().output, {
        retries: 0,
        onLost: (text) => lost.push(text),
      });
      assertEquals(totals, { sent: 2, echoed: 1, lost: 1 });
      assertMatch(
        lost[1]!,
        /^sentence 1 is lost: no echo from \S+ after 1 try .*: 1 answer had other bytes$/,
      );
    });
  },
);

Deno.test("without an echo: what is refused is sent again, then lost", LIMIT, async () => {
  await using server = new UdpPeer();
  let refusals = 1;
  using socket = await openThrough(server, { timeoutSeconds: 0.01 }, (text) => {
    if (text === "two" || text === "one" && refusals-- > 0) throw new Error(UNREACHABLE);
  });
  const totals = await converse(socket, streamOf("one\ntwo\nthree\n"), collector().output, {
    echo: false,
    retries: 1,
  });
  assertEquals(totals, { sent: 3, echoed: 0, lost: 1 });
  assertEquals((await server.arrived()).map(({ bytes }) => decode(bytes)), ["one", "three"]);
});

Deno.test(
  "a first sentence of which one try was refused, and others wait, is lost",
  LIMIT,
  async () => {
    await using server = new UdpPeer();
    let sends = 0;
    using socket = await openThrough(server, { timeoutSeconds: 0.01 }, () => {
      if (++sends === 1) throw new Error(UNREACHABLE);
      return new Promise(() => {}); // the network takes nothing
    });
    const ask = (): Promise<unknown> => request(socket, encode("one"), { retries: 2 });
    const error = await assertRejects(ask, NoAnswerError, ` after 3 tries in `);
    assertEquals(error.isRefused, false);
  },
);

Deno.test("what a failed send said is named where no answer came", LIMIT, async () => {
  await using server = new UdpPeer();
  let sends = 0;
  using socket = await openThrough(server, { timeoutSeconds: 0.01 }, () => {
    if (++sends === 2) throw new Error(UNREACHABLE);
  });
  const said: string[] = [];
  const ask = (): Promise<unknown> =>
    request(socket, encode("hello"), { retries: 2, onRetry: (text) => said.push(text) });
  await assertRejects(ask, NoAnswerError, ` s; 1 not sent: ${UNREACHABLE}`);
  const { port } = server.addr;
  assertEquals(said[1], `cannot send to 127.0.0.1:${port}: ${UNREACHABLE}; trying again`);
});

// ---- Several addresses ----

Deno.test("where an address never answers, the next one is tried", LIMIT, async (t) => {
  const at = ({ port }: { port: number }): { hostname: string; port: number } => ({
    hostname: "127.0.0.1",
    port,
  });

  await t.step("and answers", async () => {
    await using silent = new UdpPeer();
    await using server = new UdpPeer(echo);
    const said: string[] = [];
    const calls: string[] = [];
    const socket = new EchoSocket([at(silent.addr), at(server.addr)], {
      timeoutSeconds: 0.01,
      onTrace: ({ call }) => calls.push(call),
    });
    const options = { retries: 1, onRetry: (text: string) => said.push(text) };
    assertEquals((await request(socket, encode("hi"), options)).tries, 1);
    socket.close();
    assertEquals(socket.server, `127.0.0.1:${server.addr.port}`);
    assertMatch(
      said[1]!,
      new RegExp(
        `^no answer from \\S+:${silent.addr.port} after 2 tries .*; trying \\S+:${server.addr.port}$`,
      ),
    );
    const first = ["listenDatagram()", "send(2)", "send(2)", "close()"];
    assertEquals(calls, [...first, "listenDatagram()", "send(2)", "receive() = 2", "close()"]);
  });

  await t.step("but not where it answered once", async () => {
    await using server = new UdpPeer(({ bytes, from }, count, self) => {
      if (count === 1) return self.send(bytes, from);
    });
    await using other = new UdpPeer(echo);
    const socket = new EchoSocket([at(server.addr), at(other.addr)], { timeoutSeconds: 0.05 });
    await request(socket, encode("hi"));
    const ask = (): Promise<unknown> => request(socket, encode("hi"), { retries: 0 });
    await assertRejects(ask, NoAnswerError, `:${server.addr.port} after 1 try`);
    socket.close();
  });
});

// ---- As a library ----

Deno.test("options out of their bounds are a RangeError that names them", LIMIT, async (t) => {
  await using server = new UdpPeer(echo);
  using socket = await openTo(server);
  const talk = (options: ConverseOptions): Promise<unknown> =>
    converse(socket, streamOf("hi\n"), collector().output, options);
  const rows: [string, () => Promise<unknown>][] = [
    ["port", () => open({ port: 0 })],
    ["port", () => open({ port: 65_536 })],
    ["timeoutSeconds", () => open({ timeoutSeconds: Infinity })],
    ["timeoutSeconds", () => open({ timeoutSeconds: 0 })],
    ["retries", () => request(socket, encode("hi"), { retries: -1 })],
    ["retries", () => talk({ retries: 1.5 })],
    ["stopWords", () => talk({ stopWords: [""] })],
    ["count", () => probe(socket, { count: 0 })],
    ["count", () => probe(socket, { count: 1_000_001 })],
    ["size", () => probe(socket, { size: 15 })],
    ["intervalSeconds", () => probe(socket, { intervalSeconds: NaN })],
    ["timeoutSeconds", () => probe(socket, { timeoutSeconds: Infinity })],
  ];
  for (const [name, call] of rows) {
    await t.step(`${name} of ${call}`, async () => {
      const error = await assertRejects(call, RangeError);
      assert(error.message.startsWith(`${name} needs a value`), error.message);
    });
  }
  assertEquals(server.count, 0);
});

Deno.test(
  "one request at a time: a second is refused by name, the first goes on",
  LIMIT,
  async () => {
    await using server = new UdpPeer();
    using socket = await openTo(server, { timeoutSeconds: 30 });
    const first = request(socket, encode("one"));
    const { bytes, from } = await server.next();
    const refused = `one request at a time: 127.0.0.1:${server.addr.port} is being asked`;
    await assertRejects(() => request(socket, encode("two")), Error, refused);
    await assertRejects(() => probe(socket), Error, refused);
    await server.send(bytes, from);
    assertEquals((await first).tries, 1);
    assertEquals((await server.arrived()).length, 0); // the second was not sent
  },
);

Deno.test("close() ends what waits", LIMIT, async (t) => {
  const rows: [string, (socket: EchoSocket) => Promise<unknown>][] = [
    ["a request", (socket) => request(socket, encode("hi"))],
    ["a probe", (socket) => probe(socket, { intervalSeconds: 60 })],
    [
      "a conversation that waits for an echo",
      (socket) => converse(socket, streamOf("hi\n"), collector().output),
    ],
    ["a conversation that waits for input", (socket) => {
      const input = new ReadableStream<Uint8Array>();
      return converse(socket, input, collector().output);
    }],
  ];
  for (const [name, run] of rows) {
    await t.step(name, async () => {
      await using server = new UdpPeer();
      using socket = await openTo(server, { timeoutSeconds: 3_600 });
      const closed = `the socket to 127.0.0.1:${server.addr.port} was closed`;
      const ended = assertRejects(() => run(socket), Error, closed);
      if (!name.endsWith("input")) await server.next();
      socket.close();
      await ended;
      socket.close(); // once more is no mistake
      await assertRejects(() => request(socket, encode("hi")), Error, closed);
    });
  }
});

Deno.test("a callback that throws ends what called it, in order", LIMIT, async (t) => {
  const fault = new Error("of the callback");
  const fail = (): never => {
    throw fault;
  };
  const failAt = (start: string) => ({ call }: TraceCall): void => {
    if (call.startsWith(start)) fail();
  };
  const quick = { timeoutSeconds: 0.01 };
  type Run = (server: UdpPeer, silent: UdpPeer) => Promise<unknown>;
  const withSocket = async (
    server: UdpPeer,
    options: OpenOptions,
    run: (socket: EchoSocket) => Promise<unknown>,
  ): Promise<void> => {
    using socket = await openTo(server, options);
    await run(socket);
  };
  const talk = (socket: EchoSocket, options: ConverseOptions): Promise<unknown> =>
    converse(socket, streamOf("a\nb\n"), collector().output, options);
  const rows: [string, Run][] = [
    ["onTrace, of open", (server) => openTo(server, { onTrace: failAt("listen") })],
    [
      "onTrace, of a send",
      (server) => withSocket(server, { onTrace: failAt("send") }, (s) => request(s, encode("hi"))),
    ],
    [
      "onTrace, of a receive",
      (server) =>
        withSocket(server, { onTrace: failAt("receive") }, (s) => request(s, encode("hi"))),
    ],
    [
      "onTrace, of a receive between requests",
      (_, silent) =>
        withSocket(silent, { onTrace: failAt("receive") }, async (socket) => {
          await silent.send("late", socket.addr);
          while (true) {
            await request(socket, encode(""), { echo: false });
            await turn();
          }
        }),
    ],
    [
      "onTrace, of a probe's send",
      (server) =>
        withSocket(server, { onTrace: failAt("send") }, (s) => probe(s, { intervalSeconds: 60 })),
    ],
    [
      "onRetry",
      (_, silent) => withSocket(silent, quick, (s) => request(s, encode("hi"), { onRetry: fail })),
    ],
    [
      "onTrace, of the close of an address that never answered",
      (server, silent) => {
        const options = { ...quick, onTrace: failAt("close") };
        const socket = new EchoSocket([silent.addr, server.addr], options);
        return request(socket, encode("hi"), { retries: 0 });
      },
    ],
    ["onReady", (server) => withSocket(server, {}, (s) => talk(s, { onReady: fail }))],
    [
      "onLost",
      (_, silent) => withSocket(silent, quick, (s) => talk(s, { retries: 0, onLost: fail })),
    ],
    [
      "onEcho",
      (server) => withSocket(server, {}, (s) => probe(s, { intervalSeconds: 60, onEcho: fail })),
    ],
    [
      "the promise of onEcho",
      (server) =>
        withSocket(server, {}, (s) =>
          probe(s, {
            intervalSeconds: 60,
            onEcho: () => Promise.reject(fault),
          })),
    ],
    [
      "onProgress",
      (server) =>
        withSocket(server, {}, (s) => probe(s, { intervalSeconds: 60, onProgress: fail })),
    ],
  ];
  for (const [name, run] of rows) {
    await t.step(name, async () => {
      await using server = new UdpPeer(echo);
      await using silent = new UdpPeer();
      assertEquals(await assertRejects(() => run(server, silent), Error), fault);
    });
  }
});

Deno.test("a callback that throws closes the socket, with its error", LIMIT, async () => {
  const fault = new Error("of the callback");
  await using server = new UdpPeer(echo);
  using socket = await openTo(server, {
    onTrace: ({ call }) => {
      if (call.startsWith("send")) throw fault;
    },
  });
  for (let times = 0; times < 2; times++) {
    const ask = (): Promise<unknown> => request(socket, encode("hi"));
    assertEquals(await assertRejects(ask, Error), fault);
  }
  assertEquals(socket.closed.reason, fault);
});

Deno.test("a signal that many probes share keeps no listener", LIMIT, async () => {
  await using server = new UdpPeer(echo);
  const { signal } = new AbortController();
  let listeners = 0;
  const [add, remove] = [signal.addEventListener, signal.removeEventListener];
  signal.addEventListener = (...args: Parameters<typeof add>) => {
    listeners++;
    add.apply(signal, args);
  };
  signal.removeEventListener = (...args: Parameters<typeof remove>) => {
    listeners--;
    remove.apply(signal, args);
  };
  for (let i = 0; i < 3; i++) {
    using socket = await openTo(server);
    await probe(socket, { count: 1, signal });
  }
  assertEquals(listeners, 0);
});
