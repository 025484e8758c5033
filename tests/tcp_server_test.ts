/**
 * `tcp_server.ts`: what it echoes, and what it says of it; through its exported `serve`, and as a
 * process where the command line or stdout matter. How it ends is in `tcp_server_end_test.ts`.
 *
 * @module
 */

import {
  assert,
  assertEquals,
  assertGreater,
  assertLess,
  assertMatch,
  assertThrows,
} from "@std/assert";
import { formatEvent, serve, type ServerEvent, type TraceCall } from "../tcp_server.ts";
import {
  assertSameBytes,
  type Bytes,
  decode,
  encode,
  exchange,
  fileUrl,
  freePort,
  hasIpv6,
  join,
  LIMIT,
  LINUX,
  nextSentence,
  pieces,
  Program,
  readExactly,
  readToEnd,
  runScript,
  seededRandom,
  spawn,
  unless,
  WINDOWS,
  writeAll,
} from "./_helpers.ts";
import { aWhile, echoOf, refuses, start, watchReads } from "./_tcp.ts";

Deno.test("the first line tells the real address", LIMIT, async (t) => {
  for (
    const [host, shown, missing] of [
      ["127.0.0.1", "127.0.0.1", false],
      ["localhost", "(127\\.0\\.0\\.1|\\[::1\\])", false],
      ["::1", "\\[::1\\]", !hasIpv6() && "no IPv6 loopback here"],
    ] as const
  ) {
    await t.step({
      ...unless(missing, host),
      fn: async () => {
        await using server = spawn("tcp_server.ts", ["--host", host, "--port", "0"]);
        const line = await server.nextLine();
        assertMatch(line, new RegExp(`^listening on tcp ${shown}:\\d+$`));
        const port = Number(line.split(":").at(-1));
        using conn = await Deno.connect({ hostname: host, port });
        assertEquals(await exchange(conn, "hello"), "hello");
      },
    });
  }
});

Deno.test("serve() is a fixture: at the end of its scope nothing listens", LIMIT, async () => {
  const port = freePort();
  {
    await using _server = serve({ port });
    using conn = await Deno.connect({ port });
    assertEquals(await exchange(conn, "hello"), "hello");
  }
  assert(await refuses(port), "it still listens");
});

Deno.test("an abort signal shuts the server down", LIMIT, async (t) => {
  await t.step("later", async () => {
    const stop = new AbortController();
    await using server = start({ signal: stop.signal });
    using conn = await server.connect();
    assertEquals(await exchange(conn, "hello"), "hello");
    stop.abort();
    assertEquals(await conn.read(new Uint8Array(1)), null);
    conn.close();
    assertEquals((await server.log.wait("close")).reason, "shutdown");
    await server.log.wait("shutdown");
  });

  await t.step("before the start", async () => {
    const port = freePort();
    await using _server = start({ port, signal: AbortSignal.abort() });
    assert(await refuses(port), "it still listens");
  });
});

Deno.test("its events tell the whole story", LIMIT, async () => {
  await using server = start();
  {
    using conn = await server.connect();
    await exchange(conn, "hello\n\x1bGrüße\r\nst");
    await exchange(conn, "op\n");
    assertEquals(await conn.read(new Uint8Array(1)), null);
  }
  await server.log.wait("close");
  await server[Symbol.asyncDispose]();
  const peer = server.log.of("open")[0]!.peer;
  assertMatch(peer, /^127\.0\.0\.1:\d+$/);
  const events = server.log.events.map((event) =>
    "seconds" in event ? { ...event, seconds: 0 } : event
  );
  assertEquals<unknown>(events, [
    { event: "listening", transport: "tcp", hostname: "127.0.0.1", port: server.port },
    { event: "open", peer },
    { event: "message", peer, bytes: 5, text: "hello" },
    { event: "message", peer, bytes: 8, text: "\x1bGrüße" }, // without the CR
    { event: "message", peer, bytes: 4, text: "stop" },
    { event: "close", peer, reason: "stop", messages: 3, bytes: 21, seconds: 0 },
    { event: "shutdown", connections: 1, messages: 3, bytes: 21, seconds: 0 },
  ]);
});

Deno.test("many clients at once: each gets its own bytes, in order", LIMIT, async () => {
  const random = seededRandom();
  await using server = start();
  const clients = await Promise.all(Array.from({ length: 100 }, async () => ({
    conn: await server.connect(),
    sent: [] as Bytes[],
    received: [] as Bytes[],
  })));
  const owed = new Set<(typeof clients)[number]>();
  for (let step = 0; step < 5_000; step++) {
    const client = clients[random.int(clients.length)]!;
    if (owed.has(client) && random.int(2) === 0) {
      const length = join(client.sent).length - join(client.received).length;
      client.received.push(await readExactly(client.conn, length));
      owed.delete(client);
    } else if (client.sent.length < 20) {
      const bytes = random.bytes(1 + random.int(500));
      client.sent.push(bytes);
      await writeAll(client.conn, bytes);
      owed.add(client);
    }
  }
  for (const { conn, sent, received } of clients) {
    await conn.closeWrite();
    received.push(await readToEnd(conn));
    assertSameBytes(join(received), join(sent));
    conn.close();
  }
});

Deno.test(
  "40 clients in full flow, and 40 more: each gets its own",
  LIMIT,
  async () => {
    const lines = 10_000;
    await using server = start({ quiet: true });

    async function flow(name: string): Promise<void> {
      const bytes = encode(
        `${name}: a line of 64 bytes`.padEnd(63, ".").concat("\n").repeat(lines),
      );
      using conn = await server.connect();
      assertSameBytes(await echoOf(conn, bytes), bytes);
    }

    for (const wave of [1, 2]) {
      await Promise.all(Array.from({ length: 40 }, (_, i) => flow(`wave ${wave}, client ${i}`)));
    }
    await server[Symbol.asyncDispose]();
    assertEquals(server.log.of("shutdown")[0]!.messages, 80 * lines);
  },
);

Deno.test("every byte is echoed, in order, however long and however cut", LIMIT, async (t) => {
  const random = seededRandom();
  const rows: [string, Bytes, number][] = [
    ["nothing", encode(""), 1],
    ["one byte", encode("x"), 1],
    ["all byte values", Uint8Array.from({ length: 256 }, (_, i) => i), 3],
    ["newlines alone", encode("\n".repeat(10_000)), 5_000],
    ["a line without an end", encode("x".repeat(3_000_000)), 100_000],
    ...[4_095, 4_096, 4_097, 16_384, 16_385, 20_480, 65_536].map((length) =>
      [`${length} bytes in one write`, random.bytes(length), Infinity] as [string, Bytes, number]
    ),
    ["2 MiB in random pieces", random.bytes(2_097_152), 20_000],
    ["20,000 bytes in small pieces", random.bytes(20_000), 40],
  ];
  await using server = start({ stopWords: [] });
  for (const [name, bytes, most] of rows) {
    await t.step(name, async () => {
      using conn = await server.connect();
      async function send(): Promise<void> {
        const cut = most === Infinity ? [bytes] : pieces(bytes, random, most);
        for (const piece of cut) await writeAll(conn, piece);
        await conn.closeWrite();
      }
      const [echo] = await Promise.all([readToEnd(conn), send()]);
      assertSameBytes(echo, bytes);
    });
  }
});

Deno.test(
  "a peer that reads late stalls itself alone, and then gets every byte",
  LIMIT,
  async () => {
    await using server = start({ stopWords: [] });
    using late = await server.connect();
    const bytes = seededRandom().bytes(12 * 1_048_576);
    let written = 0;
    async function send(): Promise<void> {
      while (written < bytes.length) written += await late.write(bytes.subarray(written));
      await late.closeWrite();
    }
    const sending = send();
    using conn = await server.connect();
    for (let before = -1; before < written;) { // until it moves no more
      before = written;
      for (let i = 0; i < 200; i++) assertEquals(await exchange(conn, "hello\n"), "hello\n");
    }
    assertLess(written, bytes.length);
    assertSameBytes(await readToEnd(late), bytes);
    await sending;
  },
);

Deno.test(
  "a shutdown waits for a peer that reads late: what was received is echoed",
  LIMIT,
  async () => {
    await using server = start({ stopWords: [] });
    using late = await server.connect();
    const bytes = seededRandom().bytes(6 * 1_048_576);
    const sending = writeAll(late, bytes);
    using conn = await server.connect();
    for (let i = 0; i < 200; i++) assertEquals(await exchange(conn, "hello\n"), "hello\n");
    const ended = server[Symbol.asyncDispose]();
    assertEquals(await readToEnd(conn), new Uint8Array()); // this one is silent
    assertSameBytes(await readToEnd(late), bytes);
    await sending;
    conn.close();
    late.close();
    await ended;
  },
);

Deno.test("each line is printed as it completes, an unfinished one at the end", LIMIT, async () => {
  await using server = spawn("tcp_server.ts", ["--port", "0"]);
  using conn = await Deno.connect({ port: await server.port() });
  for (const [sent, ...printed] of [["one\ntw", "one"], ["o\n\nthree\nfo", "two", "", "three"]]) {
    await writeAll(conn, sent!);
    for (const sentence of printed) assertEquals(await nextSentence(server), sentence);
  }
  await writeAll(conn, "ur");
  await conn.closeWrite();
  assertEquals(await nextSentence(server), "four");
  assertMatch(await server.nextLine(), /^127\.0\.0\.1:\d+ closed \(eof\): 5 messages, 19 bytes, /);
});

Deno.test("a line ends with LF or CRLF, and neither is of its text or bytes", LIMIT, async (t) => {
  const rows: [string, { bytes: number; text: string; more?: number }[]][] = [
    ["hello\n", [{ bytes: 5, text: "hello" }]],
    ["hello\r\n", [{ bytes: 5, text: "hello" }]],
    ["\r\n\n", [{ bytes: 0, text: "" }, { bytes: 0, text: "" }]],
    ["a\rb\r\r\n", [{ bytes: 4, text: "a\rb\r" }]],
    ["hello\r", [{ bytes: 6, text: "hello\r" }]], // the end of the stream is no line end
    [`${"x".repeat(1_000)}\r\n`, [{ bytes: 1_000, text: "x".repeat(1_000) }]],
    [`${"x".repeat(1_001)}\r\n`, [{ bytes: 1_001, text: "x".repeat(1_000), more: 1 }]],
    [`${"x".repeat(5_000)}\r\n`, [{ bytes: 5_000, text: "x".repeat(1_000), more: 4_000 }]],
  ];
  for (const cut of [false, true]) {
    for (const [text, expected] of rows) {
      const name = `${JSON.stringify(text.slice(-20))}, ${text.length} bytes`;
      await t.step(`${name}${cut ? ", byte by byte" : ""}`, async () => {
        await using server = start();
        using conn = await server.connect();
        const bytes = encode(text);
        for (const piece of cut && bytes.length < 1_500 ? pieces(bytes, ONE, 1) : [bytes]) {
          await writeAll(conn, piece);
          await readExactly(conn, piece.length); // so that it comes in a read of its own
        }
        await conn.closeWrite();
        await readToEnd(conn);
        const close = await server.log.wait("close");
        assertEquals([close.messages, close.bytes], [expected.length, bytes.length]);
        const { peer } = close;
        const messages = expected.map((message) => ({ event: "message", peer, ...message }));
        assertEquals<unknown>(server.log.of("message"), messages);
      });
    }
  }
});

/** Cuts into single bytes. */
const ONE = { int: () => 0, bytes: () => new Uint8Array() };

Deno.test(
  "of a long sentence 1,000 characters are printed, the rest is counted",
  LIMIT,
  async (t) => {
    await using server = spawn("tcp_server.ts", ["--port", "0"]);
    using conn = await Deno.connect({ port: await server.port() });

    for (
      const [length, printed] of [
        [999, "x".repeat(999)],
        [1_000, "x".repeat(1_000)],
        [1_001, `${"x".repeat(1_000)}… +1 bytes`],
        [100_000, `${"x".repeat(1_000)}… +99000 bytes`],
      ] as const
    ) {
      await t.step(`${length} bytes`, async () => {
        await exchange(conn, `${"x".repeat(length)}\n`);
        assertEquals(await nextSentence(server), printed);
      });
    }

    for (const char of ["é", "你", "😀"]) {
      for (const shift of [0, 1, 2, 3]) {
        await t.step(`no half of a ${char}, ${shift} bytes on`, async () => {
          const text = "x".repeat(shift) + char.repeat(2_000);
          await exchange(conn, `${text}\n`);
          const [, start = "", more] = /^(.*)… \+(\d+) bytes$/.exec(await nextSentence(server)) ??
            [];
          assert(text.startsWith(start) && start !== "", start);
          assert([...start].length <= 1_000, `${start.length} characters`);
          assertEquals(encode(start).length + Number(more), encode(text).length);
        });
      }
    }
  },
);

Deno.test("what a peer says cannot steer the terminal", LIMIT, async (t) => {
  await using server = spawn("tcp_server.ts", ["--port", "0", "--no-stop"]);
  using conn = await Deno.connect({ port: await server.port() });
  const rows: [string, string | number[], string][] = [
    ["C0", "\x1b]0;title\x07\0\b", "\\u{1b}]0;title\\u{7}\\u{0}\\u{8}"],
    ["a CR within, but not a tab", "a\tb\rc", "a\tb\\u{d}c"],
    ["a CR at the end belongs to the line's end, another does not", "hello\r\r", "hello\\u{d}"],
    ["DEL", "\x7f", "\\u{7f}"],
    ["C1", "\x80\x9b31m\x9f", "\\u{80}\\u{9b}31m\\u{9f}"],
    ...[
      "61c",
      "200e",
      "200f",
      "202a",
      "202b",
      "202c",
      "202d",
      "202e",
      "2066",
      "2067",
      "2068",
      "2069",
    ]
      .map((code): [string, string, string] => [
        `bidi control ${code}`,
        `a${String.fromCharCode(parseInt(code, 16))}b`,
        `a\\u{${code}}b`,
      ]),
    ...[
      "ad",
      "61c",
      "180e",
      "200b",
      "2060",
      "2061",
      "feff",
      "fff9",
      "e0001",
      "e0061",
    ]
      .map((code): [string, string, string] => [
        `what cannot be seen, ${code}`,
        `st${String.fromCodePoint(parseInt(code, 16))}op`,
        `st\\u{${code}}op`,
      ]),
    ["a joiner that joins nothing: at the start", "\u200dstop", "\\u{200d}stop"],
    ["behind a blank", "a \u200cb", "a \\u{200c}b"],
    ["behind a digit", "1\u200d2", "1\\u{200d}2"],
    ["behind another one", "a\u200d\u200db", "a\u200d\\u{200d}b"],
    ["behind what is not seen itself", "a\u2060\u200cb", "a\\u{2060}\\u{200c}b"],
    ["line separators", "a\u2028b\u2029c", "a\\u{2028}b\\u{2029}c"],
    ["invalid UTF-8", [0xff, 0x61, 0xc3, 0x62], "\ufffda\ufffdb"],
    ["a C1 byte alone is invalid UTF-8", [0x9b, 0x61], "\ufffda"],
    ["an overlong ESC", [0xc0, 0x9b], "\ufffd\ufffd"],
    ["text stays as it is", "Grüße, 你好 😀 \\u{1b} é", "Grüße, 你好 😀 \\u{1b} é"],
    ["Persian is written with a joiner", "می\u200cخواهم", "می\u200cخواهم"],
    ["Hindi, too, behind a mark", "क्\u200dष", "क्\u200dष"],
    ["a family", "👨\u200d👩\u200d👧", "👨\u200d👩\u200d👧"],
    ["behind the colour of a skin", "👩🏽\u200d🚀", "👩🏽\u200d🚀"],
    ["behind a variation selector", "❤\ufe0f\u200d🔥", "❤\ufe0f\u200d🔥"],
    ["a format that is seen", "\u0600١٢", "\u0600١٢"],
    ["a forged line stays behind its peer", "listening on tcp x", "listening on tcp x"],
  ];
  for (const [name, sent, printed] of rows) {
    await t.step(name, async () => {
      const bytes = typeof sent === "string" ? encode(sent) : Uint8Array.from(sent);
      await writeAll(conn, join([bytes, encode("\n")]));
      assertEquals(await nextSentence(server), printed);
    });
  }

  await t.step("random bytes", async () => {
    const random = seededRandom();
    await writeAll(conn, "\n");
    await echoOf(conn, random.bytes(100_000));
    for (let line = ""; !/ closed \(eof\)/.test(line);) {
      line = await server.nextLine();
      assertEquals(line.replace(UNSAFE, ""), line);
    }
  });
});

/** What may reach no terminal: of what is not seen only a tab may, and a joiner behind what it joins. */
const UNSAFE =
  /(?![\t\u0600-\u0605\u06dd\u070f\u08e2]|(?<=[\p{L}\p{M}\p{Extended_Pictographic}])[\u200c\u200d])[\p{Cc}\p{Cf}\p{Zl}\p{Zp}]/gu;

Deno.test("a stop word closes its connection", LIMIT, async (t) => {
  const rows: [string, string[] | undefined][] = [
    ["stop\n", undefined],
    ["exit\n", undefined],
    ["hello\nstop\n", undefined],
    [" \t stop \t \n", undefined],
    ["stop\r\n", undefined],
    [`stop${" ".repeat(500)}\n`, undefined],
    ["\v\f\t stop\v\f\t \r\n", undefined], // ASCII's blanks
    [`stop${" ".repeat(996)}\n`, undefined], // 1,000 bytes
    [`${" ".repeat(996)}exit\r\n`, undefined], // likewise, without its line end
    ["bye\n", ["quit", "bye"]],
    ["quit\n", ["quit", "bye"]],
    ["quit\n", [" quit\t"]],
    ["auf Wiedersehen, Grüße\n", ["auf Wiedersehen, Grüße"]],
  ];
  for (const [text, stop] of rows) {
    for (const cut of [false, true]) {
      await t.step(`${JSON.stringify(text)}${cut ? ", byte by byte" : ""}`, async () => {
        await using server = start(stop && { stopWords: stop });
        using conn = await server.connect();
        for (const piece of cut ? encode(text) : [text]) {
          await writeAll(conn, typeof piece === "string" ? piece : Uint8Array.of(piece));
        }
        assertEquals(decode(await readToEnd(conn)), text);
        conn.close();
        assertEquals((await server.log.wait("close")).reason, "stop");
      });
    }
  }
});

Deno.test("what is not a stop word closes nothing", LIMIT, async (t) => {
  const rows: [string, string[] | undefined][] = [
    ["STOP\n", undefined],
    ["stopp\n", undefined],
    ["sstop\n", undefined],
    ["sto\n", undefined],
    ["st op\n", undefined],
    ["stop it\n", undefined],
    ["don't stop\n", undefined],
    ["stop", undefined], // has no end yet
    ["st\nop\n", undefined],
    ["stop\0\n", undefined],
    ["stop\u3000\n", undefined], // no blank of ASCII's
    ["\u00a0stop\n", undefined],
    ["\ufeffstop\n", undefined],
    ["st\u00adop\n", undefined],
    [`stop${" ".repeat(997)}\n`, undefined], // 1,001 bytes
    ["\n", undefined],
    [`stop${" ".repeat(2_000)}it\n`, undefined],
    ["stop\nexit\n", ["bye"]],
    ["stop\nexit\nbye\n", []],
  ];
  for (const quiet of [false, true]) {
    for (const [text, stop] of rows) {
      await t.step(`${JSON.stringify(text).slice(0, 40)}${quiet ? ", quiet" : ""}`, async () => {
        await using server = start({ quiet, ...(stop && { stopWords: stop }) });
        using conn = await server.connect();
        assertEquals(await exchange(conn, text), text);
        assertEquals(await exchange(conn, " still here\n"), " still here\n");
      });
    }
  }
});

Deno.test("--stop can be repeated, --no-stop takes all words away", LIMIT, async (t) => {
  const longest = "x".repeat(100);
  const rows: [string[], string, string][] = [
    [["--stop", longest], `stop\n${longest}\nmore\n`, `stop\n${longest}\n`],
    [["--stop", "bye", "--stop=so long"], "stop\nso long\nmore\n", "stop\nso long\n"],
    [["--stop", "bye", "--stop=so long", "--quiet"], "exit\nbye\nmore\n", "exit\nbye\n"],
    [["--no-stop"], "stop\nexit\nmore\n", "stop\nexit\nmore\n"],
  ];
  for (const [args, sent, echoed] of rows) {
    await t.step(args.join(" "), async () => {
      await using server = spawn("tcp_server.ts", ["--port", "0", ...args]);
      using conn = await Deno.connect({ port: await server.port() });
      assertEquals(decode(await echoOf(conn, encode(sent))), echoed);
    });
  }
});

Deno.test("stop ends this connection alone", LIMIT, async () => {
  await using server = start();
  using other = await server.connect();
  assertEquals(await exchange(other, "hello\n"), "hello\n");
  using conn = await server.connect();
  await writeAll(conn, "stop\n");
  await readToEnd(conn);
  conn.close();
  await server.log.wait("close");
  assertEquals(await exchange(other, "hello again\n"), "hello again\n");
  using later = await server.connect();
  assertEquals(await exchange(later, "hello\n"), "hello\n");
});

Deno.test(
  "behind a stop line nothing is echoed, before it everything, and no reset",
  LIMIT,
  async (t) => {
    const random = seededRandom();
    const before = join([random.bytes(1_000_000), encode("\nstop\n")]);
    for (
      const [name, after] of [
        ["nothing behind", 0],
        ["a line behind", 10],
        ["a megabyte behind, still being sent", 1_000_000],
      ] as const
    ) {
      await t.step(name, async () => {
        // A random line that is a stop word would be a rare surprise: 1 in 2^32 a line, and seeded.
        await using server = start();
        using conn = await server.connect();
        let closed = false;
        async function read(): Promise<Bytes> {
          const echo = await readToEnd(conn); // a reset would throw
          closed = true;
          return echo;
        }
        const bytes = join([before, random.bytes(after)]);
        const [echo] = await Promise.all([read(), writeAll(conn, bytes)]);
        assertSameBytes(echo, before);
        assert(closed);
        conn.close();
        const { reason, bytes: received } = await server.log.wait("close");
        assertEquals([reason, received], ["stop", bytes.length]);
      });
    }
  },
);

Deno.test("--no-echo prints and sends nothing back", LIMIT, async () => {
  await using server = spawn("tcp_server.ts", ["--port", "0", "--no-echo"]);
  const port = await server.port();
  for (const end of ["eof", "stop"]) {
    using conn = await Deno.connect({ port });
    await writeAll(conn, `hello\n${end === "stop" ? "stop\n" : ""}`);
    if (end === "eof") await conn.closeWrite();
    assertEquals(await readToEnd(conn), new Uint8Array());
    assertEquals(await nextSentence(server), "hello");
  }
});

Deno.test({
  ...unless(!LINUX && "Linux only", "--reuse-port: two servers share a port"),
  ...LIMIT,
  fn: async () => {
    await using one = start({ reusePort: true });
    await using two = start({ reusePort: true, port: one.port });
    for (let i = 0; i < 200; i++) {
      using conn = await one.connect();
      assertEquals(await exchange(conn, "hello"), "hello");
    }
    const [a, b] = [one.log.of("open").length, two.log.of("open").length];
    assertEquals(a + b, 200);
    assertGreater(Math.min(a, b), 0);
  },
});

Deno.test("an address that is taken is one line", LIMIT, async () => {
  await using server = start();
  const port = `${server.port}`;
  const error = assertThrows(() => serve({ port: server.port }), Error, `127.0.0.1:${port}`);
  assert(error.cause instanceof Deno.errors.AddrInUse);
  await using second = spawn("tcp_server.ts", ["--port", port]);
  const { code, stdout, stderr } = await second.finish();
  assertEquals([code, stdout], [1, ""]);
  assertEquals(stderr, `tcp_server: cannot listen on 127.0.0.1:${port}: address already in use\n`);
});

Deno.test("--quiet prints no connections and sentences", LIMIT, async () => {
  await using server = spawn("tcp_server.ts", ["--port", "0", "--quiet"]);
  using conn = await Deno.connect({ port: await server.port() });
  assertEquals(await exchange(conn, "hello\nstop\n"), "hello\nstop\n");
  assertEquals(await readToEnd(conn), new Uint8Array());
  conn.close();
  if (WINDOWS) return;
  const { stdout } = await server.stop();
  assertMatch(stdout, /^stopped.* 1 connection, 2 messages, 11 bytes, .*\n$/);
});

Deno.test("an echo in two writes waits for no ACK of the first", LIMIT, async () => {
  await using server = start();
  using conn = await server.connect();
  const times: number[] = [];
  for (let i = 0; i < 51; i++) {
    const sentAt = performance.now();
    await exchange(conn, "\n".repeat(400)); // of so many lines others have a turn in between
    times.push(performance.now() - sentAt);
  }
  assertLess(times.sort((a, b) => a - b)[25]!, 35); // by default it is 40 ms
});

Deno.test("--json prints one object a line, safe to see", LIMIT, async () => {
  await using server = spawn("tcp_server.ts", ["--port", "0", "--json", "--once"]);
  const { time: _, port, ...first } = JSON.parse(await server.nextLine());
  assertEquals(first, { event: "listening", transport: "tcp", hostname: "127.0.0.1" });
  using conn = await Deno.connect({ port });
  await exchange(conn, "\x1b\u202e\nstop\n");
  conn.close();
  const { stdout } = await server.finish();
  assertEquals(stdout.replaceAll("\n", "").replace(UNSAFE, ""), stdout.replaceAll("\n", ""));
  const events = stdout.trim().split("\n").map((line) => JSON.parse(line));
  for (const event of events) {
    assertEquals(Object.keys(event)[0], "time");
    assertEquals(event.time, new Date(event.time).toISOString());
  }
  const names = events.map(({ event }) => event);
  assertEquals(names, ["open", "message", "message", "close", "shutdown"]);
  assertEquals(events[1].text, "\x1b\u202e");
  assertEquals(events[3].reason, "stop");
});

Deno.test("once it listens it may connect nowhere", LIMIT, async () => {
  await using goal = start();
  const code = `
    import { main } from ${JSON.stringify(fileUrl("tcp_server.ts").href)};
    const before = await Deno.connect({ port: ${goal.port} }); // allowed so far
    before.close();
    main(["--port", "0"]);
    const error = await Deno.connect({ port: ${goal.port} }).catch((error) => error);
    console.error(error.name);
  `;
  await using server = spawn("-", [], { allowNet: "127.0.0.1" });
  await server.write(code);
  await server.end();
  const port = await server.port();
  assertEquals(await server.stderr.nextLine(), "NotCapable");
  using conn = await Deno.connect({ port });
  assertEquals(await exchange(conn, "hello"), "hello");
  assertEquals(goal.log.of("open").length, 1);
});

// ---- No connection takes anything from another ----

const FLOW = new Uint8Array(16 * 1_048_576).fill(0x78);

/** Sends to a server that echoes, and never reads, until no more is taken. */
async function stuff(conn: Deno.TcpConn, port: number): Promise<void> {
  let written = 0;
  async function send(): Promise<void> {
    for (let size; (size = await conn.write(FLOW.subarray(0, 262_144)));) written += size;
  }
  send().catch(() => {}); // to its end, that of the connection
  using other = await Deno.connect({ port });
  for (let before = -1; before < written;) {
    before = written;
    for (let i = 0; i < 100; i++) await exchange(other, "hello\n");
  }
}

Deno.test(
  "16 MiB flow through a large buffer beside those that hold what they can",
  LIMIT,
  async (t) => {
    const hold: Record<string, (conn: Deno.TcpConn, port: number) => Promise<unknown>> = {
      "that sent 10,000 bytes, and are silent": (conn) => exchange(conn, "x".repeat(10_000)),
      "that sent 4,096 bytes, and are silent": (conn) => exchange(conn, "x".repeat(4_096)),
      "that never read": stuff,
      "that said stop, and do not close": async (conn) => {
        await writeAll(conn, `${"x".repeat(10_000)}\nstop\n`);
        await readToEnd(conn);
      },
    };
    for (const [name, take] of Object.entries(hold)) {
      await t.step(`16 ${name}`, async () => {
        let peer = "";
        let reads = 0;
        const onTrace = (made: TraceCall): void => {
          if (made.peer === peer && made.call.startsWith("read() = ")) reads++;
        };
        await using server = start({ quiet: true, onTrace });
        const { port } = server;
        const conns = await Promise.all(Array.from({ length: 16 }, () => Deno.connect({ port })));
        await Promise.all(conns.map((conn) => take(conn, port)));
        using conn = await Deno.connect({ port });
        peer = `127.0.0.1:${conn.localAddr.port}`;
        assertEquals((await echoOf(conn, FLOW)).length, FLOW.length);
        for (const conn of conns) conn.close();
        assertLess(reads, FLOW.length / 16_384); // with a small buffer there are four times as many
      });
    }
  },
);

Deno.test(
  "line ends without number: beside 16 that send nothing else, another has its turn",
  LIMIT,
  async () => {
    let lines = 0;
    const onEvent = ({ event }: ServerEvent): unknown => event === "message" && lines++;
    await using server = start({ onEvent });
    const floods = Array.from({ length: 16 }, async () => {
      using conn = await server.connect();
      const some = new Uint8Array(65_536).fill(0x0a);
      const drained = readToEnd(conn).catch(() => {}); // it is cut in the end
      while (await conn.write(some).catch(() => 0) > 0);
      await drained;
    });
    using conn = await server.connect();
    const between: number[] = []; // lines, from a sentence to its echo
    for (let i = 0; i < 21; i++) {
      const before = lines;
      assertEquals(await exchange(conn, "hello\n"), "hello\n");
      between.push(lines - before);
    }
    assertLess(between.sort((a, b) => a - b)[10]!, 16 * 4_096);
    await server[Symbol.asyncDispose](); // also these it waits for no longer than for others
    await Promise.all(floods);
  },
);

// ---- Sentences without line ends ----

Deno.test(
  "the textbook's client sends no line ends: each sentence is printed, its stop obeyed",
  LIMIT,
  async (t) => {
    for (const quiet of [false, true]) {
      await t.step(quiet ? "--quiet" : "printed", async () => {
        await using server = start({ quiet });
        using conn = await server.connect();
        for (const [i, sentence] of ["Hello", "how are you", "stop"].entries()) {
          assertEquals(await exchange(conn, sentence), sentence);
          if (quiet) await aWhile();
          else assertEquals((await server.log.wait("message", i + 1)).text, sentence); // not at the end
        }
        assertEquals(await conn.read(new Uint8Array(1)), null);
        conn.close();
        await server[Symbol.asyncDispose]();
        const { messages, bytes } = server.log.of("shutdown")[0]!;
        assertEquals([messages, bytes], [3, 20]);
        if (!quiet) assertEquals(server.log.of("close")[0]!.reason, "stop");
      });
    }
  },
);

Deno.test("pieces that follow at once are one sentence, wherever it was cut", LIMIT, async () => {
  await using server = start();
  using conn = await server.connect();
  for (const byte of "not a stop") assertEquals(await exchange(conn, byte), byte);
  assertEquals((await server.log.wait("message")).text, "not a stop");
  assertEquals(await exchange(conn, "\r\n"), "\r\n"); // its line end, late: no sentence
  assertEquals(await exchange(conn, "\r\nmore\n"), "\r\nmore\n");
  const texts = server.log.of("message").map(({ text }) => text);
  assertEquals(texts, ["not a stop", "", "more"]);
});

// ---- Memory that is given back ----

Deno.test(
  "messages of 1 or 2 KiB need no large buffer, however many there are",
  LIMIT,
  async () => {
    let largest = 0; // of the buffers that are read into
    using _ = watchReads(({ length }) => largest = Math.max(largest, length));
    await using server = start({ quiet: true });
    using conn = await server.connect();
    for (const length of [1_024, 2_048]) {
      for (let i = 0; i < 5; i++) await exchange(conn, "x".repeat(length - 1) + "\n");
    }
    assertEquals(largest, 2_049);
  },
);

Deno.test("a connection that falls silent gives its large buffer back", LIMIT, async () => {
  const code = `
    import { serve } from ${JSON.stringify(fileUrl("tcp_server.ts").href)};
    import { watchReads } from ${JSON.stringify(fileUrl("tests/_tcp.ts").href)};
    let large; // the first large buffer that is read into
    watchReads((buffer) => {
      if (buffer.length > 60_000) large ??= new WeakRef(buffer);
    });
    const silence = Promise.withResolvers();
    const onEvent = ({ event }) => event === "message" && silence.resolve();
    const server = serve({ port: 0, onEvent });
    const conn = await Deno.connect({ port: server.addr.port });
    await conn.write(new Uint8Array(10_000));
    await silence.promise; // it ends the sentence
    console.log(large !== undefined);
    await new Promise((resolve) => setTimeout(resolve)); // a WeakRef that was made holds for a turn
    gc();
    console.log(large.deref() === undefined);
    Deno.exit();
  `;
  const args = ["run", "--v8-flags=--expose-gc", "--allow-all", "-"];
  const piped = { stdin: "piped", stdout: "piped", stderr: "piped" } as const;
  const child = new Deno.Command(Deno.execPath(), { args, cwd: fileUrl("."), ...piped }).spawn();
  await using program = new Program("-", child);
  await program.write(code);
  await program.end();
  const { stdout, stderr } = await program.finish();
  assertEquals([stdout, stderr], ["true\ntrue\n", ""]);
});

// ---- Warnings, once ----

Deno.test("--max-connections: a warning when it is first met, and only then", LIMIT, async () => {
  await using server = start({ maxConnections: 1 });
  for (let i = 0; i < 2; i++) {
    using first = await server.connect();
    assertEquals(await exchange(first, "hello\n"), "hello\n");
    using next = await server.connect();
    await server.log.wait("warning");
    first.close();
    assertEquals(await exchange(next, "hello\n"), "hello\n");
    next.close();
    await server.log.wait("close", 2 * i + 2);
  }
  assertEquals(server.log.of("warning").map(({ text }) => text), [
    "1 connection is open: others wait for an end",
  ]);
});

Deno.test("--help says what --max-connections and --idle cost", LIMIT, async () => {
  const { stdout } = await runScript("tcp_server.ts", ["--help"], { allowNet: false });
  const help = stdout.replaceAll("\n", " ");
  for (
    const words of [
      "has 5 s for it",
      "Silent clients keep their place at --max-connections: --idle frees it.",
      "lines are dropped and counted only when nobody took one for 1 s",
    ]
  ) assert(help.includes(words), words);
});

Deno.test({
  ...unless(
    !LINUX && "Linux only",
    "--reuse-port where the script is alone names the flag it needs",
  ),
  ...LIMIT,
  fn: async () => {
    const directory = await Deno.makeTempDir();
    try {
      await Deno.copyFile(fileUrl("tcp_server.ts"), `${directory}/tcp_server.ts`);
      const { imports } = JSON.parse(Deno.readTextFileSync(fileUrl("deno.json")));
      Deno.writeTextFileSync(`${directory}/deno.json`, JSON.stringify({ imports }));
      const run = (...flags: string[]): Program => {
        const script = ["tcp_server.ts", "--reuse-port", "--port", "0", "--once"];
        const args = ["run", "--allow-net=127.0.0.1", ...flags, ...script];
        const piped = { stdin: "piped", stdout: "piped", stderr: "piped" } as const;
        const command = new Deno.Command(Deno.execPath(), { args, cwd: directory, ...piped });
        return new Program("tcp_server.ts", command.spawn());
      };
      await using refused = run();
      const { code, stdout, stderr } = await refused.finish();
      const says = "tcp_server: --reuse-port needs --unstable-net\n";
      assertEquals([code, stdout, stderr], [1, "", says]);
      await using allowed = run("--unstable-net");
      using conn = await Deno.connect({ port: await allowed.port() });
      assertEquals(await exchange(conn, "stop\n"), "stop\n");
    } finally {
      await Deno.remove(directory, { recursive: true });
    }
  },
});

// ---- Lines that are expensive to print ----

Deno.test(
  "lines of control characters: beside 16 that sent many, another has its turn",
  LIMIT,
  async () => {
    const [clients, each] = [16, 300]; // lines of 1,000 bytes: the system holds them
    let [lines, askedAt, isFlooded] = [0, 0, false];
    const between: number[] = []; // lines, from a sentence to its turn
    const onEvent = (event: ServerEvent): void => {
      if (event.event !== "message") return;
      formatEvent(event); // which takes ten times as long as that of letters
      lines++;
      if (event.text === "hello") {
        between.push(lines - askedAt);
        askedAt = 0;
      } else if (isFlooded && askedAt === 0) {
        askedAt = lines;
        conn.write(encode("hello\n"));
      }
    };
    await using server = start({ onEvent });
    using conn = await server.connect();
    assertEquals(await exchange(conn, "hello\n"), "hello\n");
    between.length = 0;
    isFlooded = true;
    const many = encode(`${"\x01".repeat(999)}\n`.repeat(each));
    await Promise.all(Array.from({ length: clients }, async () => {
      using conn = await server.connect();
      assertSameBytes(await echoOf(conn, many), many);
    }));
    assertEquals(lines, clients * each + between.length + 1);
    assertLess(between.sort((a, b) => a - b).at(between.length >> 1)!, clients * 64);
  },
);
