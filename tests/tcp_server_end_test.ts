/**
 * `tcp_server.ts`: how connections and the server end, and what does not end them.
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
  decode,
  DEFAULTS,
  encode,
  EventLog,
  exchange,
  freePort,
  hasTool,
  lastLine,
  LIMIT,
  LINUX,
  NO_SIGNALS,
  readExactly,
  readToEnd,
  resetClient,
  spawn,
  unless,
  WINDOWS,
  writeAll,
} from "./_helpers.ts";
import { makeNetwork, python } from "./_faults.ts";
import { echoOf, refuses, start } from "./_tcp.ts";

const FLOOD_LINES = 4_000; // of 1,000 bytes: a pipe takes 64 KiB of them, the server keeps 1 MiB

/** Sends FLOOD_LINES lines, and expects their echo. */
async function flood(port: number): Promise<void> {
  const lines = encode(`${"x".repeat(999)}\n`.repeat(FLOOD_LINES));
  using conn = await Deno.connect({ port });
  assertSameBytes(await echoOf(conn, lines), lines);
}

/** How many lines a server reports on stderr as not printed. */
function missing(stderr: string): number {
  const reports = stderr.matchAll(/^tcp_server: stdout is [a-z ]+: (\d+) lines? (dropped|lost)$/gm);
  return [...reports].reduce((sum, [, lines]) => sum + Number(lines), 0);
}

Deno.test("--once ends after the first connection, exit 0", LIMIT, async () => {
  const port = freePort();
  await using server = spawn("tcp_server.ts", ["--port", `${port}`, "--once"]);
  await server.port();
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

Deno.test("a signal ends it in order: all is echoed, totals, exit 0", LIMIT, async (t) => {
  for (const signal of ["SIGTERM", "SIGINT", "SIGHUP"] as const) {
    await t.step({
      ...unless(NO_SIGNALS, signal),
      fn: async () => {
        const port = freePort();
        await using server = spawn("tcp_server.ts", ["--port", `${port}`]);
        await server.port();
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
        // On a busy machine the end takes longer than half a second, which the server reports.
        assertMatch(
          stderr,
          /^(tcp_server: waiting for \d connections? to end, 4\.5 s at most\n)?$/,
        );
        assertEquals(code, 0);
        assertMatch(stdout, /closed \(shutdown\): 2 messages, 20006 bytes, /);
        assertMatch(lastLine(stdout), /^stopped.* 2 connections?, 2 messages, 20006 bytes, /);
      },
    });
  }
});

Deno.test("a second signal ends it at once", LIMIT, async (t) => {
  for (const [signal, expected] of [["SIGTERM", 143], ["SIGINT", 130], ["SIGHUP", 129]] as const) {
    await t.step({
      ...unless(NO_SIGNALS, `${signal}: ${expected}`),
      fn: async () => {
        await using server = spawn("tcp_server.ts", ["--port", "0"]);
        using conn = await Deno.connect({ port: await server.port() });
        assertEquals(await exchange(conn, "hello\n"), "hello\n");
        server.kill(signal);
        await server.stderr.until("waiting for 1 connection"); // it is no longer the same signal
        const { code } = await server.stop(signal);
        assertEquals(code, expected);
      },
    });
  }
});

Deno.test({
  ...unless(
    NO_SIGNALS,
    "nobody can hold up the end: a peer that does not close for 5 s, an unread stdout for 3 s",
  ),
  ...LIMIT,
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
      using chatty = await Deno.connect({ port }); // does not stop
      assertEquals(await exchange(chatty, "hello"), "hello");
      async function chat(): Promise<void> {
        while (await exchange(chatty, "hello\n") !== "") {
          await new Promise((resolve) => setTimeout(resolve, 10)); // it is 5 s of that
        }
      }
      const chatting = chat().catch(() => {}); // or it is reset
      const { code, stdout, stderr } = await server.stop();
      assertEquals(code, 0);
      assertMatch(stderr, /^tcp_server: waiting for 3 connections to end, 4\.\d s at most\n$/);
      assertEquals(stdout.match(/ closed \(shutdown\): /g)?.length, 3);
      assertMatch(lastLine(stdout), /^stopped.* 3 connections, /);
      await Promise.all([stuck, chatting]);
    }
    async function unread(): Promise<void> {
      await using server = spawn("tcp_server.ts", ["--port", "0"]);
      await flood(await server.port());
      server.kill("SIGTERM");
      const stderr = decode(await server.stderr.rest());
      assertMatch(stderr, /^tcp_server: stdout is not read: \d+ lines lost\n$/m);
      assertEquals((await server.status).code, 0);
      const printed = decode(await server.stdout.rest()).split("\n").length - 1; // the pipe's
      assertEquals(printed + missing(stderr), FLOOD_LINES + 3); // opened, closed, stopped
    }
    await Promise.all([stopped(), terminated(), unread()]);
    const seconds = (performance.now() - begin) / 1000;
    assert(seconds > 4.5 && seconds < 20, `${seconds} s`);
  },
});

Deno.test("1,000 clients that connect and reset leave it serving", LIMIT, async () => {
  await using server = spawn("tcp_server.ts", ["--port", "0", "--quiet"]);
  const port = await server.port();
  using conn = await Deno.connect({ port });
  for (let i = 0; i < 10; i++) {
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
  ...unless(!LINUX && "Linux only", "400 resets before it could accept one leave it serving"),
  ...LIMIT,
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
  ...unless(!LINUX && "Linux only", "out of file descriptors it says so once, waits, and goes on"),
  ...LIMIT,
  fn: async () => {
    const via = ["sh", "-c", 'ulimit -n 48; exec "$@"', "sh"];
    await using server = spawn("tcp_server.ts", ["--port", "0", "--quiet"], { via });
    const port = await server.port();
    const conns = await Promise.all(Array.from({ length: 60 }, () => Deno.connect({ port })));
    const said = await server.stderr.nextLine();
    assertMatch(said, /^tcp_server: cannot accept: too many open files \(\d+ connections open; /);
    assertMatch(said, /"ulimit -n" /);
    assertGreater(Number(/(\d+) connections open/.exec(said)![1]), 5);
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
    assertMatch(stderr, /^(tcp_server: stdout is not read: \d+ lines? dropped\n)+$/);
    assertEquals(printed + missing(stderr), FLOOD_LINES + 3); // opened, closed, stopped
    assertMatch(stdout, /^127\.0\.0\.1:\d+ closed \(eof\): 4000 messages, 4000000 bytes, .*$/m);
    assertMatch(lastLine(stdout), /^stopped: 1 connection, 4000 messages, 4000000 bytes, /);
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

Deno.test({
  ...unless(NO_SIGNALS, "of lines that nobody read in time none is dropped that ends something"),
  ...LIMIT,
  fn: async () => {
    await using server = spawn("tcp_server.ts", ["--port", "0", "--json"]);
    const { port } = JSON.parse(await server.nextLine());
    await flood(port); // stdout is full
    for (let i = 0; i < 50; i++) {
      using conn = await Deno.connect({ port });
      const lines = encode("hello\n".repeat(800));
      assertSameBytes(await echoOf(conn, lines), lines);
    }
    server.kill("SIGTERM");
    const { code, stdout } = await server.finish(); // which reads
    assertEquals(code, 0);
    const events = stdout.trimEnd().split("\n").map((line) => JSON.parse(line))
      .filter(({ event }) => event !== "warning"); // of those that are dropped
    const messages = events.filter(({ event }) => event === "message");
    assertLess(messages.length, FLOOD_LINES + 50 * 800);
    const closes = events.filter(({ event }) => event === "close");
    assertEquals(closes.map((close) => close.messages), [FLOOD_LINES, ...Array(50).fill(800)]);
    assertEquals(events.at(-1).event, "shutdown");
    assertEquals(events.at(-1).messages, FLOOD_LINES + 50 * 800);
  },
});

Deno.test({
  ...unless(NO_SIGNALS, "a shutdown that takes longer says once what it waits for"),
  ...LIMIT,
  fn: async (t) => {
    for (const [count, who] of [[1, "1 connection"], [2, "2 connections"]] as const) {
      await t.step(who, async () => {
        await using server = spawn("tcp_server.ts", ["--port", "0"]);
        const port = await server.port();
        const conns = await Promise.all(
          Array.from({ length: count }, () => Deno.connect({ port })),
        );
        for (const conn of conns) assertEquals(await exchange(conn, "hello\n"), "hello\n");
        server.kill("SIGINT");
        const said = await server.stderr.nextLine();
        assertEquals(said, `tcp_server: waiting for ${who} to end, 4.5 s at most`);
        for (const conn of conns) conn.close();
        const { code, stderr } = await server.finish();
        assertEquals([code, stderr], [0, ""]);
      });
    }
  },
});

Deno.test({
  ...unless(NO_SIGNALS, "a signal that comes twice at once is one, as `deno task` sends it"),
  ...LIMIT,
  fn: async () => {
    await using server = spawn("tcp_server.ts", ["--port", "0"]);
    using conn = await Deno.connect({ port: await server.port() });
    assertEquals(await exchange(conn, "hello\n"), "hello\n");
    server.kill("SIGINT");
    server.kill("SIGTERM"); // another, or the system would make them one
    await server.stderr.until("waiting for 1 connection to end, 4.5 s at most\n");
    conn.close();
    const { code, stdout, stderr } = await server.finish();
    assertEquals([code, stderr], [0, ""]);
    assertMatch(lastLine(stdout), /^stopped: 1 connection, 1 message, 6 bytes, /);
  },
});

Deno.test({
  ...unless(NO_SIGNALS, "SIGTERM beside 100 clients that each sent 60 kB of line ends: all echoed"),
  ...LIMIT,
  fn: async () => {
    const sent = new Uint8Array(60_000).fill(0x0a);
    await using server = spawn("tcp_server.ts", ["--port", "0", "--json"]);
    const { port } = JSON.parse(await server.nextLine());
    const conns = await Promise.all(Array.from({ length: 100 }, () => Deno.connect({ port })));
    for (const conn of conns) await exchange(conn, "\n"); // it has accepted them
    await Promise.all(conns.map((conn) => writeAll(conn, sent)));
    server.kill("SIGTERM");
    const ending = server.finish();
    const echoes = await Promise.all(conns.map((conn) => readToEnd(conn).catch(() => undefined)));
    for (const conn of conns) conn.close();
    const { code, stdout, stderr } = await ending;
    assertEquals(code, 0);
    const events = stdout.trimEnd().split("\n").map((line) => JSON.parse(line));
    const { messages, bytes, time } = events.find(({ event }) => event === "shutdown");
    assertEquals(events.filter(({ event }) => event === "close").length, 100);
    const printed = events.filter(({ event }) => event === "message").length;
    assertEquals(printed + missing(stderr), messages);
    const waiting = events.find(({ text }) => /^waiting for .*, 4\.5 s at most$/.test(text));
    const ms = waiting ? Date.parse(time) - Date.parse(waiting.time) : 0;
    assertLess(ms, 8_000); // by its own clock, of which the grace has 4,500: it was 24 s
    if (ms > 4_000) return; // a busy machine: what is left is cut then
    assertEquals(bytes, 100 * (sent.length + 1)); // lines come behind the echoes
    for (const echo of echoes) assertEquals(echo?.length, sent.length);
  },
});

Deno.test("a shutdown does not wait for lines to be printed", LIMIT, async () => {
  const log: string[] = [];
  const stuck = new Promise<void>(() => {}); // nobody reads the output any more
  const printed = Promise.withResolvers<void>();
  const onEvent = ({ event }: { event: string }): Promise<void> | undefined => {
    log.push(event);
    if (event !== "message") return;
    printed.resolve();
    return stuck;
  };
  await using server = start({ onEvent });
  using conn = await server.connect();
  const lines = encode("a line\n".repeat(1_000));
  await writeAll(conn, lines);
  await printed.promise;
  const ended = server[Symbol.asyncDispose]();
  assertSameBytes(await readToEnd(conn), lines);
  conn.close();
  await ended;
  assertEquals(log.filter((event) => event === "message").length, 1_000);
});

// ---- Silence is that of the client ----

Deno.test("--idle: whose bytes the server still holds is not silent", LIMIT, async () => {
  const room = Promise.withResolvers<void>();
  const log = new EventLog<ServerEvent>();
  const onEvent = (event: ServerEvent): Promise<void> | undefined => {
    log.add(event);
    if (event.event === "message") return room.promise; // no room to print
  };
  await using server = start({ idleSeconds: 0.3, onEvent });
  using talker = await server.connect();
  await writeAll(talker, "a\nb\n");
  await log.wait("message");
  using silent = await server.connect(); // it is the clock
  await readToEnd(silent);
  silent.close();
  await log.wait("close");
  assertEquals(log.of("close").map(({ bytes }) => bytes), [0]); // that of the silent one
  room.resolve();
  assertEquals(decode(await readToEnd(talker)), "a\nb\n"); // until it is silent itself
  talker.close();
  assertEquals((await log.wait("close", 2)).reason, "idle");
});

Deno.test("--idle: nobody who sends is silent, however busy the server is", LIMIT, async () => {
  await using server = start({ idleSeconds: 0.2 });
  const lines = encode("x\n".repeat(65_536));
  await Promise.all(Array.from({ length: 8 }, async () => {
    using conn = await server.connect();
    assertSameBytes(await echoOf(conn, lines), lines);
  }));
  await server.log.wait("close", 8);
  assertEquals(new Set(server.log.of("close").map(({ reason }) => reason)), new Set(["eof"]));
});

// ---- As a library ----

/** A callback that fails at one event or call, as `how` says, and does nothing at others. */
function failingAt(name: string, how: "throws" | "rejects"): {
  failure: Error;
  onEvent: (event: ServerEvent) => unknown;
  onTrace: (call: { call: string }) => unknown;
} {
  const failure = new Error(`disk on fire at ${name}`);
  const fail = (what: string): unknown => {
    if (what !== name) return;
    if (how === "rejects") return Promise.reject(failure);
    throw failure;
  };
  return { failure, onEvent: ({ event }) => fail(event), onTrace: ({ call }) => fail(call) };
}

Deno.test("a callback that fails ends the server in order, with its error", LIMIT, async (t) => {
  for (const name of ["listening", "listen()"]) {
    await t.step(`${name} throws: serve throws, and the port is free`, () => {
      const { failure, onEvent, onTrace } = failingAt(name, "throws");
      const port = freePort();
      for (let i = 0; i < 2; i++) {
        assertEquals(thrownBy(() => serve({ port, onEvent, onTrace })), failure);
      }
    });
  }

  const calls = ["accept()", "read() = 6", "write(6)", "read() = null", "close()"];
  const events = ["open", "message", "close", "shutdown"];
  for (const how of ["throws", "rejects"] as const) {
    const first = how === "rejects" ? ["listening", "listen()"] : []; // throws: above
    for (const name of [...first, ...calls, ...events]) {
      await t.step(`${name} ${how}`, async () => {
        const { failure, onEvent, onTrace } = failingAt(name, how);
        const port = freePort();
        const server = serve({ port, onEvent, onTrace });
        const ended = server.finished.catch((error) => error);
        const conn = await Deno.connect({ port }).catch(() => undefined); // it may have ended
        await conn?.write(encode("hello\n")).catch(() => {});
        if (["read() = null", "close()", "close", "shutdown"].includes(name)) {
          await readExactly(conn!, 6);
          await conn!.closeWrite();
        }
        if (name === "shutdown") server.shutdown().catch(() => {});
        assertEquals(await ended, failure);
        while (!await refuses(port)); // the system may close it a moment later
        await conn?.read(new Uint8Array(9)).catch(() => {}); // closed, whatever came
        conn?.close();
      });
    }
  }
});

/** What a function throws. */
function thrownBy(fn: () => unknown): unknown {
  try {
    fn();
  } catch (error) {
    return error;
  }
}

Deno.test("options out of their bounds are a RangeError that names them", LIMIT, () => {
  const rows: [ServeOptions, string][] = [
    [{ port: -1 }, "port"],
    [{ port: 65_536 }, "port"],
    [{ port: 80.5 }, "port"],
    [{ maxConnections: 0 }, "maxConnections"],
    [{ maxConnections: NaN }, "maxConnections"],
    [{ maxConnections: Infinity }, "maxConnections"],
    [{ idleSeconds: -1 }, "idleSeconds"],
    [{ idleSeconds: 86_401 }, "idleSeconds"],
    [{ idleSeconds: NaN }, "idleSeconds"],
    [{ stopWords: [""] }, "stopWords"],
    [{ stopWords: ["x".repeat(101)] }, "stopWords"],
  ];
  const port = freePort();
  for (const [options, name] of rows) {
    const error = assertThrows(() => serve({ port, ...options }), RangeError);
    assert(error.message.startsWith(`${name} needs a value`), error.message);
  }
});

Deno.test("a number that is written with an exponent is in bounds", LIMIT, async () => {
  assertEquals(`${1e-7}`, "1e-7");
  await using server = serve({ port: 0, idleSeconds: 1e-7 });
  assertGreater(server.addr.port, 0);
});

Deno.test("of a signal that many servers shared no listener is left", LIMIT, async () => {
  const stop = new AbortController();
  const { signal } = stop;
  let listeners = 0;
  const { addEventListener, removeEventListener } = signal;
  signal.addEventListener = (...args: Parameters<typeof addEventListener>): void => {
    listeners++;
    addEventListener.apply(signal, args);
  };
  signal.removeEventListener = (...args: Parameters<typeof removeEventListener>): void => {
    listeners--;
    removeEventListener.apply(signal, args);
  };
  const servers = Array.from({ length: 20 }, () => serve({ port: 0, signal }));
  assertEquals(listeners, 20);
  for (const server of servers.slice(0, 10)) await server.shutdown();
  assertEquals(listeners, 10);
  stop.abort();
  await Promise.all(servers.map(({ finished }) => finished));
  assertEquals(listeners, 0);
});

// ---- A stdout that fails ----

/** A server whose stdout is the terminal of `python`, which closes it at the first line it gets. */
const LOST_TERMINAL = `
import os, pty, subprocess, sys
leader, follower = pty.openpty()
server = subprocess.Popen(sys.argv[1:], stdin=subprocess.DEVNULL, stdout=follower)
os.close(follower)
print(os.read(leader, 1000).decode().strip(), flush=True)
sys.stdin.readline()
os.close(leader)
print("closed", flush=True)
sys.stdin.readline()
server.terminate()
sys.exit(server.wait())
`;

Deno.test({
  ...unless(
    !hasTool("python3", "-c", "import pty") && "no python3 with a pty here",
    "a terminal that is gone is told once, and ends nothing",
  ),
  ...LIMIT,
  fn: async () => {
    const via = ["python3", "-c", LOST_TERMINAL];
    await using server = spawn("tcp_server.ts", ["--port", "0"], { via });
    const port = await server.port();
    await server.write("close it\n");
    assertEquals(await server.nextLine(), "closed");
    using conn = await Deno.connect({ port });
    assertEquals(await exchange(conn, "hello\n"), "hello\n");
    assertMatch(await server.stderr.nextLine(), /^tcp_server: cannot write to stdout: [^()]+$/);
    for (let i = 0; i < 1_000; i++) assertEquals(await exchange(conn, "hello\n"), "hello\n");
    conn.close();
    using later = await Deno.connect({ port });
    assertEquals(await exchange(later, "hello\n"), "hello\n");
    later.close();
    await server.write("end\n");
    const { code, stderr } = await server.finish();
    assertEquals([code, stderr], [0, ""]);
  },
});

Deno.test({
  ...unless(!LINUX && "no /dev/full here", "a full disk is told once, and ends nothing"),
  ...LIMIT,
  fn: async () => {
    const port = freePort();
    const via = ["sh", "-c", 'exec "$@" > /dev/full', "sh"];
    await using server = spawn("tcp_server.ts", ["--port", `${port}`], { via });
    const said = await server.stderr.nextLine();
    assertEquals(said, "tcp_server: cannot write to stdout: no space left on device");
    using conn = await Deno.connect({ port });
    for (let i = 0; i < 1_000; i++) assertEquals(await exchange(conn, "hello\n"), "hello\n");
    conn.close();
    const { code, stderr } = await server.stop();
    assertEquals([code, stderr], [0, ""]);
  },
});

// ---- What fails in a connection, or before it is one ----

/** A server that gets its connections from `accept`, in place of the system. */
function startWith(
  accept: (listener: Deno.TcpListener) => Promise<Deno.TcpConn>,
): ReturnType<typeof start> {
  const { listen } = Deno;
  try {
    Deno.listen = ((options: Deno.TcpListenOptions) => {
      const listener = listen(options);
      const calls: Partial<Deno.TcpListener> = { accept: () => accept(listener) };
      return new Proxy(listener, {
        get(target, name): unknown {
          const value = calls[name as "accept"] ?? Reflect.get(target, name, target);
          return typeof value === "function" && !(name in calls) ? value.bind(target) : value;
        },
      });
    }) as typeof Deno.listen;
    return start();
  } finally {
    Deno.listen = listen;
  }
}

/** As Deno says what its table does not know: an Error without a code. */
const NAMELESS = ["Network is down (os error 100)", "Host is down (os error 112)"];

Deno.test("what fails in a connection stays in it", LIMIT, async (t) => {
  for (const message of [...NAMELESS, "Network dropped connection on reset (os error 102)"]) {
    for (const call of ["read", "write"] as const) {
      await t.step(`${call}: ${message}`, async () => {
        let count = 0;
        await using server = startWith(async (listener) => {
          const conn = await listener.accept();
          if (++count > 1) return conn;
          const failing = (): Promise<never> => Promise.reject(new Error(message));
          Object.defineProperty(conn, call, { value: failing });
          return conn;
        });
        using first = await server.connect();
        await writeAll(first, "hello\n");
        const end = await first.read(new Uint8Array(1)).catch(() => null); // or a reset
        assertEquals(end, null);
        assertEquals((await server.log.wait("close")).reason, "reset");
        using second = await server.connect();
        assertEquals(await exchange(second, "hello\n"), "hello\n");
        second.close();
        await server[Symbol.asyncDispose]();
        assertEquals(server.log.of("shutdown")[0]!.connections, 2);
      });
    }
  }
});

Deno.test("a socket option that fails costs nobody the connection", LIMIT, async (t) => {
  for (const call of ["setNoDelay", "setKeepAlive"] as const) {
    await t.step(call, async () => {
      await using server = startWith(async (listener) => {
        const conn = await listener.accept();
        const fail = (): never => {
          throw new Deno.errors.InvalidData("Invalid argument (os error 22)"); // macOS: the client left
        };
        Object.defineProperty(conn, call, { value: fail });
        return conn;
      });
      using conn = await server.connect();
      assertEquals(decode(await echoOf(conn, encode("hello\n"))), "hello\n");
      assertEquals((await server.log.wait("close")).reason, "eof");
      assertEquals(server.log.of("warning"), []);
    });
  }
});

Deno.test("an accept that fails is no end", LIMIT, async (t) => {
  const rows: [string, () => Error][] = [
    ["NotConnected", () => new Deno.errors.NotConnected("Transport endpoint is not connected")],
    ["ConnectionAborted", () => new Deno.errors.ConnectionAborted("Software caused it")],
    ["ConnectionReset", () => new Deno.errors.ConnectionReset("Connection reset by peer")],
    [
      "EINVAL, as on macOS",
      () => Object.assign(new TypeError("Invalid argument"), { code: "EINVAL" }),
    ],
  ];
  for (const [name, error] of rows) {
    await t.step(`${name}: the client's own loss, and no pause`, async () => {
      let left = 100;
      await using server = startWith((listener) => {
        if (left-- > 0) return Promise.reject(error());
        return listener.accept();
      });
      const startedAt = performance.now();
      using conn = await server.connect();
      assertEquals(await exchange(conn, "hello\n"), "hello\n");
      assertLess(performance.now() - startedAt, 5_000); // and not 100 times 100 ms
      assertEquals(server.log.of("warning"), []);
    });
  }

  for (const message of NAMELESS) {
    await t.step(`${message}: a warning, once`, async () => {
      let left = 3;
      await using server = startWith((listener) => {
        return left-- > 0 ? Promise.reject(new Error(message)) : listener.accept();
      });
      using conn = await server.connect();
      assertEquals(await exchange(conn, "hello\n"), "hello\n");
      const reason = message.toLowerCase().replace(/ \(.*/, "");
      assertEquals(server.log.of("warning").map(({ text }) => text), [`cannot accept: ${reason}`]);
    });
  }
});

// ---- Clients that are gone and cannot say so ----

const TALK = `
import socket, sys
address, port, count = sys.argv[1:]
socks = [socket.create_connection((address, port)) for _ in range(int(count))]
for sock in socks:
    sock.sendall(b"hello")
    print(sock.recv(5).decode(), flush=True)
sys.stdin.read()
`;
import { NO_NETWORKS } from "./_needs.ts";

Deno.test({
  ...unless(NO_NETWORKS, "clients whose machine lost power do not keep their places"),
  ...LIMIT,
  fn: async () => {
    using near = makeNetwork();
    using far = makeNetwork();
    const [, , , name] = far.via; // ip netns exec NAME
    near.run(`ip link add near type veth peer name far netns ${name}
      ip addr add 10.77.0.1/24 dev near && ip link set near up
      cd /proc/sys/net/ipv4 # in 2 s, and not in 2 h
      echo 1 > tcp_keepalive_time; echo 1 > tcp_keepalive_intvl; echo 1 > tcp_keepalive_probes`);
    far.run("ip addr add 10.77.0.2/24 dev far && ip link set far up");

    const args = ["--host", "10.77.0.1", "--max-connections", "3", "--json"];
    await using server = spawn("tcp_server.ts", args, { via: near.via });
    await server.stdout.until('"listening"');
    await using clients = python(TALK, ["10.77.0.1", DEFAULTS.port, 3], { via: far.via });
    for (let i = 0; i < 3; i++) assertEquals(await clients.nextLine(), "hello");
    await using waiting = python(TALK, ["10.77.0.1", DEFAULTS.port, 1], { via: near.via });
    far.run("ip link set far down"); // nothing leaves there: no FIN, no reset
    assertEquals(await waiting.nextLine(), "hello");
    assertEquals((await server.stdout.until('"reason":"reset"')).match(/"close"/g)?.length, 1);
    await waiting.end();
  },
});
