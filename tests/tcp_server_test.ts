/**
 * `tcp_server.ts`: through its exported `serve`, and as a process where the command line, stdout or
 * signals matter.
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
import { serve, type ServeOptions, type ServerEvent } from "../tcp_server.ts";
import {
  assertSameBytes,
  type Bytes,
  decode,
  encode,
  EventLog,
  exchange,
  fileUrl,
  hasIpv6,
  join,
  LIMIT,
  pieces,
  type Program,
  readExactly,
  readToEnd,
  resetClient,
  seededRandom,
  spawn,
  writeAll,
} from "./_helpers.ts";

const LINUX = Deno.build.os === "linux";
const WINDOWS = Deno.build.os === "windows";

/** A server in this process, on a free port, with the log of its events. */
function start(options: ServeOptions = {}): AsyncDisposable & {
  port: number;
  log: EventLog<ServerEvent>;
  connect(): Promise<Deno.TcpConn>;
} {
  const log = new EventLog<ServerEvent>();
  const server = serve({ port: 0, onEvent: log.add, ...options });
  const { port } = server.addr;
  return { ...server, port, log, connect: () => Deno.connect({ port }) };
}

/** Whether nobody listens there. */
async function refuses(port: number): Promise<boolean> {
  try {
    (await Deno.connect({ port })).close();
    return false;
  } catch (error) {
    const { ConnectionRefused, ConnectionReset } = Deno.errors; // reset: the port was just closing
    if (error instanceof ConnectionRefused || error instanceof ConnectionReset) return true;
    throw error;
  }
}

const FLOOD_LINES = 4_000; // of 1,000 bytes: a pipe takes 64 KiB of them, the server keeps 1 MiB

/** Sends FLOOD_LINES lines, and expects their echo. */
async function flood(port: number): Promise<void> {
  const lines = encode(`${"x".repeat(999)}\n`.repeat(FLOOD_LINES));
  using conn = await Deno.connect({ port });
  assertSameBytes(await echoOf(conn, lines), lines);
}

function lastLine(text: string): string {
  return text.trimEnd().split("\n").at(-1)!;
}

/** What a process prints of the next sentence, without the peer. Other lines are passed over. */
async function nextSentence(server: Program): Promise<string> {
  while (true) {
    const [, sentence] = /^\[127\.0\.0\.1:\d+\] (.*)$/s.exec(await server.nextLine()) ?? [];
    if (sentence !== undefined) return sentence;
  }
}

Deno.test("the first line tells the real address", LIMIT, async (t) => {
  for (
    const [host, shown, ignore] of [
      ["127.0.0.1", "127.0.0.1", false],
      ["localhost", "(127\\.0\\.0\\.1|\\[::1\\])", false],
      ["::1", "\\[::1\\]", !hasIpv6()],
    ] as const
  ) {
    await t.step({
      name: ignore ? `${host} (ignored: no IPv6 loopback here)` : host,
      ignore,
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
  let port: number;
  {
    await using server = serve({ port: 0 });
    port = server.addr.port;
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
    await using server = start({ signal: AbortSignal.abort() });
    assert(await refuses(server.port), "it still listens");
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
    { event: "message", peer, bytes: 9, text: "\x1bGrüße" },
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
  "more clients in full flow than it lends buffers to: each gets its own",
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

    for (const wave of [1, 2]) { // the second is lent what the first gave back
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
    ["a tab and a CR within", "a\tb\rc", "a\\u{9}b\\u{d}c"],
    ["a CR at the end belongs to the line's end", "hello\r", "hello"],
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
    ["line separators", "a\u2028b\u2029c", "a\\u{2028}b\\u{2029}c"],
    ["invalid UTF-8", [0xff, 0x61, 0xc3, 0x62], "\ufffda\ufffdb"],
    ["a C1 byte alone is invalid UTF-8", [0x9b, 0x61], "\ufffda"],
    ["an overlong ESC", [0xc0, 0x9b], "\ufffd\ufffd"],
    ["text stays as it is", "Grüße, 你好 😀 \\u{1b} é", "Grüße, 你好 😀 \\u{1b} é"],
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

/** What may reach no terminal. */
// deno-lint-ignore no-control-regex
const UNSAFE = /[\0-\x1f\x7f-\x9f\u061c\u200e\u200f\u2028-\u202e\u2066-\u2069]/g;

/** Sends `bytes`, half-closes, and returns all that comes back. */
async function echoOf(conn: Deno.TcpConn, bytes: Bytes): Promise<Bytes> {
  const [echo] = await Promise.all([
    readToEnd(conn),
    writeAll(conn, bytes).then(() => conn.closeWrite()),
  ]);
  return echo;
}

Deno.test("a stop word closes its connection", LIMIT, async (t) => {
  const rows: [string, string[] | undefined][] = [
    ["stop\n", undefined],
    ["exit\n", undefined],
    ["hello\nstop\n", undefined],
    [" \t stop \t \n", undefined],
    ["stop\r\n", undefined],
    [`stop${" ".repeat(500)}\n`, undefined],
    ["bye\n", ["quit", "bye"]],
    ["quit\n", ["quit", "bye"]],
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
  const rows: [string[], string, string][] = [
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

Deno.test("--once ends after the first connection, exit 0", LIMIT, async () => {
  await using server = spawn("tcp_server.ts", ["--port", "0", "--once"]);
  const port = await server.port();
  using conn = await Deno.connect({ port });
  assertEquals(await exchange(conn, "hello\n"), "hello\n");
  assert(await refuses(port), "it takes a second client");
  assertEquals(await exchange(conn, "stop\n"), "stop\n");
  assertEquals(await readToEnd(conn), new Uint8Array());
  conn.close();
  const { code, stdout, stderr } = await server.finish();
  assertEquals([code, stderr], [0, ""]);
  assertMatch(lastLine(stdout), /^stopped.* 1 connections?, 2 messages, 11 bytes, /);
});

Deno.test("--idle closes the silent, not those that trickle", LIMIT, async () => {
  await using server = spawn("tcp_server.ts", ["--port", "0", "--idle", "0.5"]);
  const port = await server.port();
  using trickler = await Deno.connect({ port });
  assertEquals(await exchange(trickler, "x"), "x");
  using silent = await Deno.connect({ port });
  let closed = false;
  const end = readToEnd(silent).then((bytes) => {
    closed = true;
    return bytes;
  });
  while (!closed) assertEquals(await exchange(trickler, "x"), "x");
  assertEquals(await end, new Uint8Array());
  silent.close();
  const silence = /^127\.0\.0\.1:\d+ closed \(idle\): 0 messages, 0 bytes, 0\.[5-9] s$/;
  await server.nextLine();
  await server.nextLine();
  assertMatch(await server.nextLine(), silence);
  assertEquals(await exchange(trickler, "still here\n"), "still here\n");
});

Deno.test("--idle counts what is received, where nothing is echoed", LIMIT, async () => {
  await using server = start({ idleSeconds: 0.3, echo: false });
  using trickler = await server.connect();
  using silent = await server.connect();
  let closed = false;
  const end = readToEnd(silent).then(() => closed = true);
  for (let count = 1; !closed; count++) {
    await writeAll(trickler, "x\n");
    await server.log.wait("message", count);
  }
  await end;
  silent.close();
  assertEquals((await server.log.wait("close")).bytes, 0);
  assertEquals(server.log.of("close").length, 1);
});

Deno.test("without --idle silence ends nothing", LIMIT, async () => {
  await using patient = start();
  using silent = await patient.connect();
  await patient.log.wait("open");
  await using strict = start({ idleSeconds: 0.2 }); // it is the clock
  using clock = await strict.connect();
  await readToEnd(clock);
  clock.close();
  assertEquals(await exchange(silent, "still here\n"), "still here\n");
});

Deno.test("--max-connections: the next waits until one leaves", LIMIT, async () => {
  await using server = start({ maxConnections: 2 });
  using first = await server.connect();
  assertEquals(await exchange(first, "1"), "1");
  using second = await server.connect();
  assertEquals(await exchange(second, "2"), "2");
  using third = await server.connect(); // the system's queue takes it
  await writeAll(third, "3");
  for (let i = 0; i < 100; i++) assertEquals(await exchange(first, "1"), "1");
  assertEquals(server.log.of("open").length, 2);
  second.close();
  assertEquals(decode(await readExactly(third, 1)), "3");
  assertEquals(server.log.of("open").length, 3);
});

Deno.test("--max-connections: a shutdown does not wait for a place", LIMIT, async () => {
  await using server = start({ maxConnections: 1 });
  using first = await server.connect();
  assertEquals(await exchange(first, "1"), "1");
  using second = await server.connect(); // in the queue: it is reset
  await writeAll(second, "2");
  const ended = server[Symbol.asyncDispose]();
  assertEquals(await readToEnd(first), new Uint8Array());
  first.close();
  await ended;
});

Deno.test({
  name: `--reuse-port: two servers share a port${LINUX ? "" : " (ignored: Linux only)"}`,
  ...LIMIT,
  ignore: !LINUX,
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

Deno.test("a signal ends it in order: all is echoed, totals, exit 0", LIMIT, async (t) => {
  for (const signal of ["SIGTERM", "SIGINT"] as const) {
    await t.step({
      name: WINDOWS ? `${signal} (ignored: Windows has no signals)` : signal,
      ignore: WINDOWS,
      fn: async () => {
        await using server = spawn("tcp_server.ts", ["--port", "0"]);
        const port = await server.port();
        using silent = await Deno.connect({ port });
        using talker = await Deno.connect({ port });
        assertEquals(await exchange(talker, "hello\n"), "hello\n");
        server.kill("SIGSTOP"); // what comes now, its system receives
        await writeAll(talker, "x".repeat(20_000));
        server.kill(signal);
        server.kill("SIGCONT");
        assertEquals(decode(await readToEnd(talker)), "x".repeat(20_000));
        assertEquals(await readToEnd(silent), new Uint8Array());
        assert(await refuses(port), "it takes a second client");
        silent.close();
        talker.close();
        const { code, stdout, stderr } = await server.finish();
        assertEquals([code, stderr], [0, ""]);
        assertMatch(stdout, /closed \(shutdown\): 2 messages, 20006 bytes, /);
        assertMatch(lastLine(stdout), /^stopped.* 2 connections?, 2 messages, 20006 bytes, /);
      },
    });
  }
});

Deno.test("a second signal ends it at once", LIMIT, async (t) => {
  for (const [signal, expected] of [["SIGTERM", 143], ["SIGINT", 130]] as const) {
    await t.step({
      name: WINDOWS ? `${signal} (ignored: Windows has no signals)` : `${signal}: ${expected}`,
      ignore: WINDOWS,
      fn: async () => {
        await using server = spawn("tcp_server.ts", ["--port", "0"]);
        using conn = await Deno.connect({ port: await server.port() });
        assertEquals(await exchange(conn, "hello\n"), "hello\n");
        server.kill(signal);
        await readToEnd(conn); // the server half-closed, and now waits for us
        const { code } = await server.stop(signal);
        assertEquals(code, expected);
      },
    });
  }
});

Deno.test({
  name: `nobody can hold up the end: a peer that does not close for 5 s, an unread stdout for 1 s${
    WINDOWS ? " (ignored: no signals)" : ""
  }`,
  ...LIMIT,
  ignore: WINDOWS,
  fn: async () => {
    const begin = performance.now();
    async function stopped(): Promise<void> {
      await using server = start();
      using conn = await server.connect();
      assertEquals(await exchange(conn, "stop\n"), "stop\n");
      await readToEnd(conn); // and does not close
      assertEquals((await server.log.wait("close")).reason, "stop");
    }
    async function terminated(): Promise<void> {
      await using server = spawn("tcp_server.ts", ["--port", "0", "--no-stop"]);
      const port = await server.port();
      using stubborn = await Deno.connect({ port }); // does not close
      assertEquals(await exchange(stubborn, "hello"), "hello");
      using deaf = await Deno.connect({ port }); // does not read
      const stuck = writeAll(deaf, new Uint8Array(64 * 1_048_576)).catch(() => {});
      using chatty = await Deno.connect({ port }); // does not pause
      assertEquals(await exchange(chatty, "hello"), "hello");
      async function chat(): Promise<void> {
        while (await exchange(chatty, "hello\n") !== "");
      }
      const chatting = chat().catch(() => {}); // or it is reset
      const { code, stdout, stderr } = await server.stop();
      assertEquals([code, stderr], [0, ""]);
      assertEquals(stdout.match(/ closed \(shutdown\): /g)?.length, 3);
      assertMatch(lastLine(stdout), /^stopped.* 3 connections, /);
      await Promise.all([stuck, chatting]);
    }
    async function unread(): Promise<void> {
      await using server = spawn("tcp_server.ts", ["--port", "0"]);
      await flood(await server.port());
      server.kill("SIGTERM");
      const lost = await server.stderr.nextLine();
      assertMatch(lost, /^tcp_server: stdout is not read: .*\d+ lines/);
      assertEquals((await server.finish()).code, 0);
    }
    await Promise.all([stopped(), terminated(), unread()]);
    const seconds = (performance.now() - begin) / 1000;
    assert(seconds > 4.5 && seconds < 8, `${seconds} s`);
  },
});

Deno.test("5,000 clients that connect and reset leave it serving", LIMIT, async () => {
  await using server = spawn("tcp_server.ts", ["--port", "0", "--quiet"]);
  const port = await server.port();
  using conn = await Deno.connect({ port });
  for (let i = 0; i < 50; i++) {
    await Promise.all(Array.from({ length: 100 }, () => resetClient(port)));
    assertEquals(await exchange(conn, "hello"), "hello");
  }
  conn.close();
  using later = await Deno.connect({ port });
  assertEquals(await exchange(later, "hello"), "hello");
  later.close();
  if (WINDOWS) return;
  const { code, stderr } = await server.stop();
  assertEquals([code, stderr], [0, ""]);
});

Deno.test({
  name: `400 resets before it could accept one leave it serving${LINUX ? "" : " (ignored: Linux)"}`,
  ...LIMIT,
  ignore: !LINUX,
  fn: async () => {
    await using server = spawn("tcp_server.ts", ["--port", "0", "--quiet"]);
    const port = await server.port();
    server.kill("SIGSTOP"); // the system still takes connections
    await Promise.all(Array.from({ length: 400 }, () => resetClient(port)));
    server.kill("SIGCONT");
    using conn = await Deno.connect({ port });
    assertEquals(await exchange(conn, "hello"), "hello");
    conn.close();
    const { code, stderr } = await server.stop();
    assertEquals([code, stderr], [0, ""]);
  },
});

Deno.test("a reset in mid-write ends its connection alone", LIMIT, async () => {
  await using server = start({ stopWords: [] });
  using conn = await server.connect();
  for (let i = 1; i <= 20; i++) {
    await resetClient(server.port, new Uint8Array(8 * 1_048_576));
    assertEquals((await server.log.wait("close", i)).reason, "reset");
    assertEquals(await exchange(conn, "hello"), "hello");
  }
});

Deno.test({
  name: `out of file descriptors it says so once, waits, and goes on${
    LINUX ? "" : " (ignored: Linux)"
  }`,
  ...LIMIT,
  ignore: !LINUX,
  fn: async () => {
    const via = ["sh", "-c", 'ulimit -n 48; exec "$@"', "sh"];
    await using server = spawn("tcp_server.ts", ["--port", "0", "--quiet"], { via });
    const port = await server.port();
    const conns = await Promise.all(Array.from({ length: 60 }, () => Deno.connect({ port })));
    assertMatch(await server.stderr.nextLine(), /^tcp_server: cannot accept: too many open files/i);
    for (const conn of conns) conn.close();
    using conn = await Deno.connect({ port });
    assertEquals(await exchange(conn, "hello"), "hello");
    conn.close();
    const { code, stderr } = await server.stop();
    assertEquals([code, stderr], [0, ""]);
  },
});

Deno.test(
  "a stdout that nobody reads stalls no echo: lines are dropped and counted",
  LIMIT,
  async () => {
    await using server = spawn("tcp_server.ts", ["--port", "0"]);
    await flood(await server.port());
    if (WINDOWS) return;
    const { code, stdout, stderr } = await server.stop();
    assertEquals(code, 0);
    const printed = stdout.split("\n").length - 1;
    const dropped = [...stderr.matchAll(/^tcp_server: .* (\d+) lines dropped$/gm)]
      .reduce((sum, [, lines]) => sum + Number(lines), 0);
    assertGreater(dropped, 0);
    assertEquals(printed + dropped, FLOOD_LINES + 3); // opened, closed, stopped
  },
);

Deno.test("a closed stdout ends it quickly and quietly", LIMIT, async () => {
  await using server = spawn("tcp_server.ts", ["--port", "0"]);
  const port = await server.port();
  await server.stdout.close();
  using conn = await Deno.connect({ port });
  await conn.write(encode("hello\n")).catch(() => {}); // it may have ended already
  const { signal, stderr } = await server.finish();
  assertEquals([signal, stderr], [null, ""]);
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

Deno.test("--json prints one object a line, safe to see", LIMIT, async () => {
  await using server = spawn("tcp_server.ts", ["--port", "0", "--json", "--once"]);
  const { port, ...first } = JSON.parse(await server.nextLine());
  assertEquals(first, { event: "listening", transport: "tcp", hostname: "127.0.0.1" });
  using conn = await Deno.connect({ port });
  await exchange(conn, "\x1b\u202e\nstop\n");
  conn.close();
  const { stdout } = await server.finish();
  assertEquals(stdout.replaceAll("\n", "").replace(UNSAFE, ""), stdout.replaceAll("\n", ""));
  const events = stdout.trim().split("\n").map((line) => JSON.parse(line));
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
