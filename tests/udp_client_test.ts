/**
 * `udp_client.ts`: its exported `open`, `request`, `converse` and timer, and the process, against
 * `udp_server.ts` and against scripted peers that lose, repeat, delay and change what they get.
 *
 * @module
 */

import {
  assert,
  assertEquals,
  assertGreater,
  assertGreaterOrEqual,
  assertLess,
  assertMatch,
  assertRejects,
  assertStringIncludes,
} from "@std/assert";
import { lookup } from "node:dns/promises";
import {
  converse,
  type EchoSocket,
  NoAnswerError,
  open,
  type OpenOptions,
  request,
  RetransmissionTimer,
  type Rung,
} from "../udp_client.ts";
import { serve } from "../udp_server.ts";
import {
  assertSameBytes,
  type Bytes,
  collector,
  decode,
  encode,
  hasIpv6,
  hasTool,
  LIMIT,
  PTY,
  runScript,
  type Script,
  seededRandom,
  spawn,
  UdpPeer,
  unless,
} from "./_helpers.ts";

const LINUX = Deno.build.os === "linux";
const WINDOWS = Deno.build.os === "windows";
const NO_PTY = !hasTool("python3", "-c", "import pty") && "no python3 with pty here";
const NO_IPV6 = !hasIpv6() && "no IPv6 loopback here";
const NO_SIGNALS = WINDOWS && "Windows has no signals";

/** What makes a peer an echo server. */
const echo: Script = ({ bytes, from }, _, self) => self.send(bytes, from);

/** The client's socket, for `await using`. */
async function openTo(
  { addr }: { addr: Deno.NetAddr },
  options: OpenOptions = {},
): Promise<EchoSocket & Disposable> {
  const socket = await open({ hostname: addr.hostname, port: addr.port, ...options });
  return Object.assign(socket, { [Symbol.dispose]: () => socket.close() });
}

/** Where the client finds a server. */
function to({ addr }: { addr: Deno.NetAddr }): string[] {
  return ["--port", `${addr.port}`];
}

/** A port where nobody listens. */
async function deadPort(): Promise<number> {
  await using peer = new UdpPeer();
  return peer.addr.port;
}

/** A stream of some chunks. */
function streamOf(...chunks: (string | Bytes)[]): ReadableStream<Uint8Array> {
  return ReadableStream.from(
    chunks.map((chunk) => typeof chunk === "string" ? encode(chunk) : chunk),
  );
}

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

    await t.step("the echo of bytes that were sent twice before is no sample", async () => {
      await using server = new UdpPeer(({ bytes, from }, count, self) => {
        if (count > 1) return self.send(bytes, from);
      });
      using socket = await openTo(server, { timeoutSeconds: 0.05 });
      assertEquals((await request(socket, encode("hello"))).tries, 2);
      assertEquals((await request(socket, encode("hello"))).tries, 1);
      assertGreater(socket.timer.rto, 50); // a sample would have made it the least
      assertEquals((await request(socket, encode("other"))).tries, 1);
      assertEquals(socket.timer.rto, 50);
    });
  },
);

// ---- One request ----

Deno.test("request: an echo at once", LIMIT, async () => {
  await using server = new UdpPeer(echo);
  using socket = await openTo(server);
  const { tries, ms } = await request(socket, encode("hello"));
  assertEquals(tries, 1);
  assert(ms > 0 && ms < 1_000, `${ms} ms`);
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
  assert(ms < 20, `${ms} ms are of the last try alone`);
  assertEquals(socket.timer.rto, 160); // doubled three times; the round trip is not a sample
  const waits = times.slice(1).map((time, i) => time - times[i]!);
  for (const [i, least] of [20, 40, 80].entries()) {
    assertGreaterOrEqual(waits[i]!, least - 2); // two clocks, rounded
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
  const rungs: Rung[] = [];
  let came = Promise.withResolvers<void>();
  function onTrace(rung: Rung): void {
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
  assertMatch(
    error.message,
    /^cannot send to 127\.0\.0\.1:\d+: too long for a datagram here \(macOS: .*\)$/,
  );
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

// ---- The process ----

Deno.test("arguments: each is sent, the echoes are printed, done", LIMIT, async (t) => {
  await using server = new UdpPeer(echo);
  const left = "udp_client: input behind the stop word was not sent; --no-stop sends it\n";
  const rows: [string[], string[], string?][] = [
    [["hello"], ["hello"]],
    [["two words", "and more"], ["two words", "and more"]],
    [["--", "-5", "--port"], ["-5", "--port"]],
    [["Grüße, 你好 😀"], ["Grüße, 你好 😀"]],
    [["a", "stop", "b"], ["a", "stop"], left],
    [["a", "stop"], ["a", "stop"]],
    [["--no-stop", "stop", "b"], ["stop", "b"]],
    [["--stop", "quit", "stop", "quit", "b"], ["stop", "quit"], left],
  ];
  for (const [words, expected, said = ""] of rows) {
    await t.step(words.join(" "), async () => {
      const args = [...to(server), ...words];
      const { code, stdout, stderr } = await runScript("udp_client.ts", args);
      assertEquals(stdout, expected.map((text) => `${text}\n`).join(""));
      assertEquals([code, stderr], [said === "" ? 0 : 1, said]);
      // What is sent has no newline added.
      assertEquals((await server.arrived()).map(({ bytes }) => decode(bytes)), expected);
    });
  }
});

Deno.test("a pipe: stdout is what was sent, byte for byte", LIMIT, async (t) => {
  const random = seededRandom();
  await using server = serve({ port: 0 });
  const lines = Array.from({ length: 200 }, () => random.bytes(random.int(300)).map(noNewline));
  const rows: [string, Bytes][] = [
    ["nothing", encode("")],
    ["an empty line", encode("\n")],
    ["all byte values", Uint8Array.from({ length: 257 }, (_, i) => i === 256 ? 10 : i)],
    ["invalid UTF-8", new Uint8Array([0xff, 0xc3, 0x0a, 0x80, 0xe2, 0x82, 0x0a])],
    ["terminal controls", encode("\x1b]0;x\x07\u202e\x9b31m\0\r\n")],
    ["a byte order mark", encode("\ufeffhello\n")],
    ["200 random lines", Uint8Array.from(lines.flatMap((line) => [...line, 10]))],
    ["65,507 bytes in a line", encode(`${"x".repeat(65_507)}\n`)],
    ["a last line without an end", encode("hello\nhow are you?")],
  ];
  for (const [name, stdin] of rows) {
    await t.step(name, async () => {
      const { code, bytes, stderr } = await runScript("udp_client.ts", to(server), { stdin });
      assertEquals([code, stderr], [0, ""]);
      assertSameBytes(bytes, stdin);
    });
  }

  await t.step("--quiet prints nothing", async () => {
    const args = [...to(server), "--quiet", "hello"];
    const { code, stdout, stderr } = await runScript("udp_client.ts", args);
    assertEquals([code, stdout, stderr], [0, "", ""]);
  });
});

Deno.test("a sentence that is too long is refused before its end comes", LIMIT, async () => {
  await using server = new UdpPeer(echo);
  await using client = spawn("udp_client.ts", to(server)); // its input stays open
  await client.write("x".repeat(65_509));
  const { code, stderr } = await client.finish();
  assertMatch(stderr, /^udp_client: a sentence of 65509 bytes or more is refused: /);
  assertEquals([code, server.count], [1, 0]);
});

function noNewline(byte: number): number {
  return byte === 10 ? 11 : byte;
}

Deno.test("a sentence of 65,508 bytes is refused by name", LIMIT, async (t) => {
  await using server = serve({ port: 0 });
  const long = "x".repeat(65_508);
  const rows: [string, string[], string][] = [
    ["in a pipe", [], `hello\n${long}\nmore\n`],
    ["in a pipe, without an end", [], `hello\n${long}`],
    ["in the arguments", ["hello", long], ""],
    ["much longer", [], `hello\n${"x".repeat(1_000_000)}\n`],
  ];
  for (const [name, words, stdin] of rows) {
    await t.step(name, async () => {
      const args = [...to(server), ...words];
      const { code, stdout, stderr } = await runScript("udp_client.ts", args, { stdin });
      assertEquals([code, stdout], [1, "hello\n"]); // what came before it was said
      const bytes = name === "much longer" ? "\\d+ bytes or more" : "65508 bytes";
      assertMatch(
        stderr,
        new RegExp(`^udp_client: [^\\n]*${bytes} is refused[^\\n]*65507[^\\n]*\\n$`),
      );
    });
  }
});

Deno.test("without a server: no answer, how many tries, how long, exit 1", LIMIT, async (t) => {
  const rows: [string, string[], string, number][] = [
    ["by default", [], "4 tries", 0.15],
    ["--retries 1", ["--retries", "1"], "2 tries", 0.03],
    ["--retries 0", ["--retries", "0"], "1 try", 0.01],
  ];
  const port = await deadPort();
  for (const [name, args, tries, seconds] of rows) {
    await t.step(name, async () => {
      const all = ["--port", `${port}`, "--timeout", "0.01", ...args, "hello", "more"];
      const { code, stdout, stderr } = await runScript("udp_client.ts", all);
      assertEquals([code, stdout], [1, ""]);
      const [line, said] =
        /^udp_client: no answer from 127\.0\.0\.1:\d+ after \w+ \w+ in ([\d.]+) s; is udp_server\.ts running there\?\n$/
          .exec(stderr) ?? [];
      assert(line !== undefined, stderr);
      assertStringIncludes(line, `127.0.0.1:${port} after ${tries} in`);
      assertGreaterOrEqual(Number(said), seconds * 0.9);
      assertGreater(seconds + 2, Number(said));
    });
  }
});

Deno.test(
  "forty sentences through 50 % loss and 20 % duplicates: in order, once each",
  LIMIT,
  async () => {
    // Which try of a sentence is answered: of 80 tries 40. It does not hang on the order of replies,
    // so that a slow machine meets the same faults.
    const answered = [1, 3, 1, 3, 1, 3, 1, 3, 1, 3];
    const tries = new Map<string, number>();
    let replies = 0;
    await using server = new UdpPeer(async ({ bytes, from }, _, self) => {
      const sentence = decode(bytes);
      const number = Number(sentence.split(" ")[1]);
      tries.set(sentence, (tries.get(sentence) ?? 0) + 1);
      if (tries.get(sentence)! < answered[number % answered.length]!) return;
      for (let copies = ++replies % 5 === 0 ? 2 : 1; copies > 0; copies--) {
        await self.send(bytes, from);
      }
    });
    const stdin = Array.from({ length: 40 }, (_, i) => `sentence ${i}\n`).join("");
    const args = [...to(server), "--timeout", "0.01", "--retries", "9"];
    const { code, stdout, stderr } = await runScript("udp_client.ts", args, { stdin });
    assertEquals([code, stdout], [0, stdin]);
    assertMatch(stderr, /^udp_client: \d+ datagrams? of the server ignored: [^\n]+\n$/);
    assertGreaterOrEqual(server.count, 80);
  },
);

Deno.test("--retries 0: each loss is reported, exit 1", LIMIT, async () => {
  await using server = new UdpPeer((datagram, count, self) =>
    count % 3 === 0 ? undefined : self.send(datagram.bytes, datagram.from)
  );
  const stdin = Array.from({ length: 10 }, (_, i) => `${i + 1}\n`).join("");
  const args = [...to(server), "--timeout", "0.15", "--retries", "0"];
  const { code, stdout, stderr } = await runScript("udp_client.ts", args, { stdin });
  assertEquals([code, stdout], [1, "1\n2\n4\n5\n7\n8\n10\n"]);
  const numbers = [...stderr.matchAll(/^udp_client: sentence (\d+) is lost: .* after 1 try in /gm)];
  assertEquals(numbers.map(([, number]) => number), ["3", "6", "9"]);
  assertEquals((await server.arrived()).length, 10);
});

Deno.test("what is ignored is said at the end, and is no failure", LIMIT, async () => {
  await using stranger = new UdpPeer();
  await using server = new UdpPeer(async ({ bytes, from }, count, self) => {
    await stranger.send(bytes, from);
    await self.send("something else", from);
    await self.send(bytes, from);
    if (count === 1) await self.send(bytes, from);
  });
  const args = [...to(server), "one", "two"];
  const { code, stdout, stderr } = await runScript("udp_client.ts", args);
  assertEquals([code, stdout], [0, "one\ntwo\n"]);
  const lines = [
    "udp_client: 2 datagrams of strangers ignored",
    "udp_client: 3 datagrams of the server ignored: nothing waited for such bytes",
  ];
  assertEquals(stderr, lines.map((line) => `${line}\n`).join(""));
});

Deno.test("answers with other bytes are no echo, and not called silence", LIMIT, async (t) => {
  for (const [retries, tries, answers] of [[0, "1 try", "1 answer"], [1, "2 tries", "2 answers"]]) {
    await t.step(`${answers}`, async () => {
      await using server = new UdpPeer(({ bytes, from }, _, self) =>
        self.send(decode(bytes).toUpperCase(), from)
      );
      const args = [...to(server), "--timeout", "0.1", "--retries", `${retries}`, "hello"];
      const { code, stdout, stderr } = await runScript("udp_client.ts", args);
      assertEquals([code, stdout], [1, ""]);
      const said =
        `^udp_client: no echo from \\S+ after ${tries} in [\\d.]+ s: ${answers} had other bytes$`;
      assertMatch(stderr, new RegExp(said, "m"));
      assert(!/no answer|running there|different/.test(stderr), stderr);
    });
  }
});

Deno.test("--no-echo expects none", LIMIT, async (t) => {
  await t.step("of a server that sends none", async () => {
    await using server = new UdpPeer();
    const args = [...to(server), "--no-echo", "one", "stop"];
    const { code, stdout, stderr } = await runScript("udp_client.ts", args);
    assertEquals([code, stdout, stderr], [0, "", ""]);
    assertEquals((await server.arrived()).map(({ bytes }) => decode(bytes)), ["one", "stop"]);
  });

  await t.step("nor counts as wrong what comes all the same", async () => {
    await using server = new UdpPeer(echo);
    await using client = spawn("udp_client.ts", [...to(server), "--no-echo", "--trace"]);
    await client.write("one\ntwo\nthree\n");
    for (const text of ["one", "two", "three"]) {
      await client.stderr.until(`receive() = ${text.length}`);
    }
    await client.end();
    const { code, stdout, stderr } = await client.finish();
    assertEquals([code, stdout], [0, ""]);
    const said = /^udp_client: 3 datagrams of the server ignored: nothing waited for such bytes$/m;
    assertMatch(stderr, said);
    assert(!/different|late|lost/.test(stderr), stderr);
  });
});

Deno.test("an echo that is very late is not called a wrong one", LIMIT, async () => {
  await using server = new UdpPeer(async ({ bytes, from }, count, self) => {
    if (count === 18) await self.send("sentence 1", from); // 17 sentences old
    await self.send(bytes, from);
  });
  const stdin = Array.from({ length: 18 }, (_, i) => `sentence ${i + 1}\n`).join("");
  const { code, stdout, stderr } = await runScript("udp_client.ts", to(server), { stdin });
  assertEquals([code, stdout], [0, stdin]);
  const said = "udp_client: 1 datagram of the server ignored: nothing waited for such bytes\n";
  assertEquals(stderr, said);
});

Deno.test("input behind a stop word is told: exit 1", LIMIT, async (t) => {
  const left = "udp_client: input behind the stop word was not sent; --no-stop sends it\n";
  const rows: [string, string, string][] = [ // before its echo, right behind it
    ["in one piece", "more\n", ""],
    ["in another, a moment later", "", "more\n"],
    ["an empty line", "", "\n"],
    ["without an end", "mo", ""],
  ];
  for (const [name, before, behind] of rows) {
    await t.step(name, async () => {
      const stopped = Promise.withResolvers<void>();
      await using server = new UdpPeer(async ({ bytes, from }, _, self) => {
        await self.send(bytes, from);
        stopped.resolve();
      });
      await using client = spawn("udp_client.ts", to(server));
      await client.write(`stop\n${before}`);
      await stopped.promise;
      if (behind) await client.write(behind);
      if (name === "without an end") await client.end(); // till then it may go on
      const { code, stdout, stderr } = await client.finish();
      assertEquals([code, stdout, stderr], [1, "stop\n", left]);
      assertEquals(server.count, 1);
    });
  }
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
    const real = Deno.listenDatagram;
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
    }
  });
});

Deno.test({
  ...unless(!LINUX && "no /dev/zero", "a line without an end is refused"),
  ...LIMIT,
  fn: async () => {
    await using server = new UdpPeer(echo);
    const via = ["sh", "-c", 'exec "$@" < /dev/zero', "sh"];
    const { code, stderr } = await runScript("udp_client.ts", to(server), { via });
    assertMatch(stderr, /^udp_client: a sentence of \d+ bytes or more is refused: /);
    assertEquals([code, server.count], [1, 0]);
  },
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

Deno.test("it ends after the echo of a stop word, its input still open", LIMIT, async () => {
  await using server = serve({ port: 0 });
  await using client = spawn("udp_client.ts", to(server));
  for (const sentence of ["hello", "do not stop yet", "stop"]) {
    await client.write(`${sentence}\n`);
    assertEquals(await client.nextLine(), sentence);
  }
  const { code, stdout, stderr } = await client.finish();
  assertEquals([code, stdout, stderr], [0, "", ""]);
});

Deno.test({
  ...unless(NO_PTY, "at a terminal: a prompt, a line at a time, safe to see"),
  ...LIMIT,
  fn: async (t) => {
    await using server = new UdpPeer(echo);

    await t.step("a stop word ends it", async () => {
      await using client = spawn("udp_client.ts", to(server), { via: PTY });
      await client.stdout.until("> ");
      await client.write("hello\n");
      assertEquals(await client.stdout.until("> "), "hello\r\nhello\r\n> "); // typed, echoed
      await client.write("stop\n");
      const { code, stdout } = await client.finish();
      assertEquals([code, stdout], [0, "stop\r\nstop\r\n"]);
    });

    await t.step("so does Ctrl-D", async () => {
      await using client = spawn("udp_client.ts", to(server), { via: PTY });
      await client.stdout.until("> ");
      await client.write("\x04");
      const { code, stdout } = await client.finish();
      assertEquals(code, 0);
      assert(["\r\n", "^D\b\b\r\n"].includes(stdout)); // what the terminal shows of it
    });

    await t.step("and Ctrl-C, of which it dies", async () => {
      await using client = spawn("udp_client.ts", to(server), { via: PTY });
      await client.stdout.until("> ");
      await client.write("\x03");
      assertEquals((await client.finish()).code, 256 - 2); // -2, of SIGINT, as Python has it
    });

    await t.step("no echo can steer it", async () => {
      const args = [...to(server), "\x1b[31m\x9b\u202eGrüße\u2028", "\xff\t", "s\u00adt\ufeffop"];
      const { code, stdout } = await runScript("udp_client.ts", args, { via: PTY });
      const lines = ["\\u{1b}[31m\\u{9b}\\u{202e}Grüße\\u{2028}", "ÿ\t", "s\\u{ad}t\\u{feff}op"];
      assertEquals([code, stdout], [0, lines.map((line) => `${line}\r\n`).join("")]);
    });
  },
});

Deno.test(
  "the first signal ends it at once: it dies of it, as a shell must see",
  LIMIT,
  async (t) => {
    for (const expected of ["SIGINT", "SIGTERM"] as const) {
      await t.step({
        ...unless(NO_SIGNALS, expected),
        fn: async () => {
          await using server = new UdpPeer(); // it answers nothing
          await using client = spawn("udp_client.ts", [
            ...to(server),
            "--timeout",
            "3600",
            "hello",
          ]);
          await server.next();
          assertEquals((await client.stop(expected)).signal, expected);
        },
      });
    }
  },
);

Deno.test("a closed stdout ends it quickly and quietly", LIMIT, async () => {
  await using server = new UdpPeer(echo);
  await using client = spawn("udp_client.ts", to(server));
  await client.stdout.close();
  await client.write("hello\n");
  const { signal, stderr } = await client.finish();
  assertEquals([signal, stderr], [null, ""]);
});

Deno.test("names and addresses", LIMIT, async (t) => {
  await t.step("a name that is not found", async () => {
    const error = await assertRejects(() => open({ hostname: "no.such.host.invalid" }), Error);
    assertStringIncludes(error.message, 'cannot find the address of "no.such.host.invalid": ');
  });

  const rows: [string, string, string | false][] = [
    ["localhost", (await lookup("localhost")).address, false],
    ["127.1", "127.0.0.1", false],
    ["::1", "::1", NO_IPV6],
    ["[::1]", "::1", NO_IPV6],
    ["0:0:0:0:0:0:0:1", "::1", NO_IPV6],
  ];
  for (const [host, hostname, missing] of rows) {
    await t.step({
      ...unless(missing, host),
      fn: async () => {
        await using server = new UdpPeer(echo, { hostname });
        const args = [...to(server), "--host", host, "--timeout", "0.1", "--retries", "2", "hello"];
        const { addr: { port } } = server;
        const bare = [host, hostname, "127.0.0.1", "::1", "::", "0.0.0.0"];
        const allowNet = bare.flatMap((name) => {
          const shown = name.includes(":") && !name.startsWith("[") ? `[${name}]` : name;
          return [shown, `${shown}:0`, `${shown}:${port}`];
        }).join();
        const { code, stdout, stderr } = await runScript("udp_client.ts", args, { allowNet });
        assertEquals([code, stdout, stderr], [0, "hello\n", ""]);
      },
    });
  }
});

Deno.test("without its permission it says the flag to add, exit 1", LIMIT, async (t) => {
  await using server = new UdpPeer(echo);
  const { port } = server.addr;
  const needed = `--allow-net=127.0.0.1:0,127.0.0.1:${port}`;
  for (const allowNet of [false, `127.0.0.1:${port}`, "127.0.0.1:0", "localhost"] as const) {
    await t.step(`--allow-net=${allowNet}`.replace(`${port}`, "PORT"), async () => {
      const args = [...to(server), "hello"];
      const { code, stdout, stderr } = await runScript("udp_client.ts", args, { allowNet });
      assertEquals([code, stdout], [1, ""]);
      assertMatch(stderr, /^udp_client: [^\n]+\n$/);
      assertStringIncludes(stderr, needed);
    });
  }
  assertEquals(server.count, 0);
});

Deno.test("--json prints one object a sentence", LIMIT, async () => {
  await using server = new UdpPeer(echo);
  const stdin = new Uint8Array([
    ...encode("Grüße\n\x1b\u202e\n\n"),
    0xff,
    0x0a,
    ...encode("Hello\r\na"),
    0xe2,
    0x82,
  ]);
  const { code, stdout } = await runScript("udp_client.ts", [...to(server), "--json"], { stdin });
  assertEquals(code, 0);
  const time = /"time":"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z"/g;
  assertEquals(stdout.replaceAll(time, '"time":""').trimEnd().split("\n"), [
    '{"time":"","event":"echo","bytes":7,"text":"Grüße"}',
    '{"time":"","event":"echo","bytes":4,"text":"\\u001b\\u202e"}',
    '{"time":"","event":"echo","bytes":0,"text":""}',
    '{"time":"","event":"echo","bytes":1,"text":"\ufffd"}',
    '{"time":"","event":"echo","bytes":5,"text":"Hello"}',
    '{"time":"","event":"echo","bytes":3,"text":"a\ufffd"}',
  ]);
});

Deno.test({
  ...unless(NO_PTY, "at a terminal, one word of a server that does not answer yet"),
  ...LIMIT,
  fn: async (t) => {
    const port = await deadPort();
    const args = ["--port", `${port}`, "--timeout", "0.05", "--retries", "4"];
    for (const typed of [true, false]) {
      await t.step(typed ? "typed" : "of an argument", async () => {
        const words = typed ? [] : ["hello"];
        await using client = spawn("udp_client.ts", [...args, ...words], { via: PTY });
        if (typed) {
          await client.stdout.until("> ");
          await client.write("hello\n");
        }
        const { code, stdout } = await client.finish();
        assertEquals(code, 1);
        const said = stdout.match(/udp_client: no answer from \S+ yet; trying again\r\n/g);
        assertEquals(said?.length, 1, stdout);
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
  assert(ms > 28 && ms < 1_000, `${ms} ms`);
  await Promise.all(timers);
});
