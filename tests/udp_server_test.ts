/**
 * `udp_server.ts`: its exported `serve`, and the process, with honest peers and with a network that
 * fails.
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
  assertStringIncludes,
  assertThrows,
} from "@std/assert";
import { lookup } from "node:dns/promises";
import { serve } from "../udp_server.ts";
import {
  assertSameBytes,
  type Bytes,
  decode,
  encode,
  freePort,
  lastLine,
  LIMIT,
  LINUX,
  nextSentence,
  NO_SIGNALS,
  PTY,
  seededRandom,
  spawn,
  UdpPeer,
  unless,
  WINDOWS,
} from "./_helpers.ts";
import { address, shown, start, startFake, withClock } from "./_udp.ts";
import { NO_IPV6, NO_PTY } from "./_needs.ts";

// ---- Echoing ----

Deno.test("the first line tells the real address, and it answers there", LIMIT, async (t) => {
  const rows = [
    ["127.0.0.1", "127.0.0.1", false],
    ["::1", "[::1]", NO_IPV6],
    ["[::1]", "[::1]", NO_IPV6],
    ["0:0:0:0:0:0:0:1", "[::1]", NO_IPV6],
  ] as const;
  for (const [name, host, missing] of rows) {
    await t.step({
      ...unless(missing, name),
      fn: async () => {
        const args = ["--host", name, "--port", "0"];
        await using server = spawn("udp_server.ts", args, { allowNet: host });
        const line = await server.nextLine();
        assert(line.startsWith(`listening on udp ${host}:`), line);
        const port = Number(line.split(":").at(-1));
        const hostname = host.replace(/[[\]]/g, "");
        await using peer = new UdpPeer(undefined, { hostname });
        assertEquals(decode(await peer.ask("hello", address(hostname, port))), "hello");
        assertEquals(await server.nextLine(), `[${host}:${peer.addr.port}] hello`);
      },
    });
  }
});

Deno.test({
  ...unless(NO_IPV6 || WINDOWS && "Windows keeps the two apart", "on :: it answers over IPv4 too"),
  ...LIMIT,
  fn: async () => {
    await using server = start({ hostname: "::" });
    await using peer = new UdpPeer();
    assertEquals(decode(await peer.ask("hello", server.port)), "hello");
    const { peer: from } = await server.log.wait("message");
    assertEquals(from, `[::ffff:127.0.0.1]:${peer.addr.port}`);
  },
});

Deno.test("serve() is a fixture: at the end of its scope the port is free", LIMIT, async () => {
  const port = freePort();
  {
    await using _server = serve({ port });
    await using peer = new UdpPeer();
    assertEquals(decode(await peer.ask("hello", port)), "hello");
  }
  await using _next = new UdpPeer(undefined, { port });
});

Deno.test("an abort signal shuts the server down", LIMIT, async (t) => {
  await t.step("later", async () => {
    const stop = new AbortController();
    await using server = start({ signal: stop.signal });
    stop.abort();
    await server.finished;
    assertEquals(server.log.of("shutdown").length, 1);
  });

  await t.step("before the start", async () => {
    await using server = start({ signal: AbortSignal.abort() });
    await using peer = new UdpPeer();
    await peer.send("hello", server.port);
    await server.shutdown();
    assertEquals(server.log.of("message"), []);
  });
});

Deno.test("its events tell the whole story", LIMIT, async () => {
  await using server = start();
  await using peer = new UdpPeer();
  for (const sentence of ["hello", "", "\x1bGrüße\r\n", "stop\n"]) {
    assertEquals(decode(await peer.ask(sentence, server.port)), sentence);
  }
  await server.shutdown();
  const events = server.log.events.map((event) => {
    if (!("seconds" in event)) return event;
    assert(event.seconds >= 0 && event.seconds < 30);
    return { ...event, seconds: 0 };
  });
  const from = shown(peer.addr);
  assertEquals<unknown>(events, [
    { event: "listening", transport: "udp", hostname: "127.0.0.1", port: server.port },
    { event: "message", peer: from, bytes: 5, text: "hello" },
    { event: "message", peer: from, bytes: 0, text: "" },
    { event: "message", peer: from, bytes: 8, text: "\x1bGrüße" },
    { event: "message", peer: from, bytes: 4, text: "stop" },
    { event: "close", peer: from, reason: "stop", messages: 4, bytes: 20, seconds: 0 },
    { event: "shutdown", messages: 4, bytes: 20, unanswered: 0, seconds: 0 },
  ]);
});

Deno.test("a datagram of any size comes back whole, one for one", LIMIT, async (t) => {
  const random = seededRandom();
  await using server = spawn("udp_server.ts", ["--port", "0", "--quiet"]);
  const port = await server.port();
  await using peer = new UdpPeer();
  for (const size of [0, 1, 1_472, 8_193, 65_506, 65_507]) {
    await t.step(`${size} bytes`, async () => {
      const payload = random.bytes(size);
      assertSameBytes(await peer.ask(payload, port), payload);
      assertEquals((await peer.arrived()).length, 0);
    });
  }
});

Deno.test("200 peers at once are never mixed", LIMIT, async () => {
  const random = seededRandom();
  await using server = spawn("udp_server.ts", ["--port", "0", "--quiet"]);
  const port = await server.port();
  await using peers = new AsyncDisposableStack();
  const all = Array.from({ length: 200 }, () => peers.use(new UdpPeer()));
  for (let round = 0; round < 10; round++) {
    // All have a session; 40 datagrams are on their way: the system's buffer may not hold 200.
    for (let first = 0; first < 200; first += 40) {
      await Promise.all(
        all.slice(first, first + 40).map(async (peer, i) => {
          const sentence = `peer ${first + i} round ${round} ${"x".repeat(random.int(60))}`;
          assertEquals(decode(await peer.ask(sentence, port)), sentence);
        }),
      );
    }
  }
  for (const peer of all) assertEquals(await peer.arrived(), []);
  if (WINDOWS) return;
  const { stdout } = await server.stop();
  assertMatch(stdout, /^stopped.* 2000 messages, \d+ bytes, .* 0 not answered\n$/);
});

Deno.test("--no-echo prints and sends nothing back", LIMIT, async () => {
  await using server = spawn("udp_server.ts", ["--port", "0", "--no-echo"]);
  const port = await server.port();
  await using peer = new UdpPeer();
  await peer.send("hello", port);
  await peer.send("again", port);
  assertEquals(await nextSentence(server), "hello");
  assertEquals(await nextSentence(server), "again"); // so it is done with the first one
  assertEquals(await peer.arrived(), []);
});

// ---- What it prints ----

Deno.test("each datagram is printed on a line of its own, safe to see", LIMIT, async (t) => {
  const long = "ä".repeat(600);
  const rows: [string, string | Bytes, string][] = [
    ["a sentence", "How are you?", "How are you?"],
    ["of no bytes", "", ""],
    ["a final newline is not shown", "hello\n", "hello"],
    ["nor is that of Windows", "hello\r\n", "hello"],
    ["two lines are one sentence", "one\ntwo\n", "one\\u{a}two"],
    ["no line of its own", "x\n[127.0.0.1:7] forged\n", "x\\u{a}[127.0.0.1:7] forged"],
    ["C0, DEL, C1", "\x1b]0;x\x07\0\x7f\x9b", "\\u{1b}]0;x\\u{7}\\u{0}\\u{7f}\\u{9b}"],
    ["bidi controls", "\u202eevil\u2066\u061c", "\\u{202e}evil\\u{2066}\\u{61c}"],
    ["line separators", "a\u2028b\u2029c\x85d", "a\\u{2028}b\\u{2029}c\\u{85}d"],
    ["invalid UTF-8", new Uint8Array([0x61, 0xff, 0xc3]), "a\ufffd\ufffd"],
    ["a byte order mark", "\ufeffx", "\\u{feff}x"],
    ["a soft hyphen, a joiner", "st\u00adop \u200d", "st\\u{ad}op \\u{200d}"],
    ["a tab", "tab\there", "tab\there"],
    [
      "Persian",
      "\u0645\u06cc\u200c\u062e\u0648\u0627\u0647\u0645",
      "\u0645\u06cc\u200c\u062e\u0648\u0627\u0647\u0645",
    ],
    [
      "a family",
      "\u{1f468}\u200d\u{1f469}\u200d\u{1f467}",
      "\u{1f468}\u200d\u{1f469}\u200d\u{1f467}",
    ],
    ["1,000 bytes", "x".repeat(1_000), "x".repeat(1_000)],
    ["1,001 bytes", "x".repeat(1_001), `${"x".repeat(1_000)}… +1 bytes`],
    ["a line end is none of them", `${"x".repeat(1_000)}\r\n`, "x".repeat(1_000)],
    ["more than 1,000 bytes", "x".repeat(65_507), `${"x".repeat(1_000)}… +64507 bytes`],
    ["no character is cut", `x${long}`, `x${"ä".repeat(499)}… +202 bytes`],
  ];
  await using server = spawn("udp_server.ts", ["--port", "0"]);
  const port = await server.port();
  await using peer = new UdpPeer();
  for (const [name, sentence, expected] of rows) {
    await t.step(name, async () => {
      const bytes = typeof sentence === "string" ? encode(sentence) : sentence;
      assertSameBytes(await peer.ask(bytes, port), bytes);
      assertEquals(await server.nextLine(), `[${shown(peer.addr)}] ${expected}`);
    });
  }
});

Deno.test("--quiet prints no sentences and sessions", LIMIT, async () => {
  await using server = spawn("udp_server.ts", ["--port", "0", "--quiet", "--once"]);
  const port = await server.port();
  await using peer = new UdpPeer();
  await peer.ask("hello", port);
  await peer.ask("stop", port);
  const { code, stdout, stderr } = await server.finish();
  assertEquals([code, stderr], [0, ""]);
  assertMatch(stdout, /^stopped.* 2 messages, 9 bytes, .*\n$/);
});

Deno.test("a stdout that nobody reads never stalls an echo", LIMIT, async () => {
  const count = 3_000; // 3 MB of lines: a pipe takes 64 KiB of them, the server keeps 1 MiB
  await using server = spawn("udp_server.ts", ["--port", "0"]);
  const port = await server.port();
  await using peer = new UdpPeer();
  const sentence = encode("x".repeat(1_000));
  for (let i = 0; i < count; i++) assertEquals((await peer.ask(sentence, port)).length, 1_000);
  if (WINDOWS) return;
  const { code, stdout, stderr } = await server.stop();
  assertEquals(code, 0);
  const printed = stdout.split("\n").length - 1;
  const dropped = [...stderr.matchAll(/^udp_server: .* (\d+) lines dropped$/gm)]
    .reduce((sum, [, lines]) => sum + Number(lines), 0);
  assertGreater(dropped, 0);
  assertEquals(printed + dropped, count + 1); // stopped
});

Deno.test("a closed stdout ends it quickly and quietly", LIMIT, async () => {
  await using server = spawn("udp_server.ts", ["--port", "0"]);
  const port = await server.port();
  await server.stdout.close();
  await using peer = new UdpPeer();
  await peer.send("hello", port);
  const { signal, stderr } = await server.finish();
  assertEquals([signal, stderr], [null, ""]);
});

Deno.test("an address that is taken is one line", LIMIT, async () => {
  await using taken = new UdpPeer();
  await using server = spawn("udp_server.ts", ["--port", `${taken.addr.port}`]);
  const { code, stdout, stderr } = await server.finish();
  assertEquals([code, stdout], [1, ""]);
  assertMatch(stderr, /^udp_server: cannot receive on 127\.0\.0\.1:\d+: address [^\n]+\n$/);
  assertStringIncludes(stderr, shown(taken.addr));
});

// ---- Stop words and sessions ----

Deno.test("a session lasts from its first sentence to its stop word", LIMIT, async () => {
  const now = performance.now.bind(performance);
  let ahead = 5_000_000; // ms, of this test's clock
  performance.now = () => now() + ahead;
  try {
    await using server = start();
    await using peer = new UdpPeer();
    await peer.ask("hello", server.port);
    ahead += 1_000_000;
    await peer.ask("stop", server.port);
    assertEquals(Math.floor((await server.log.wait("close")).seconds / 1_000), 1);
    await peer.ask("stop", server.port);
    assertEquals(Math.floor((await server.log.wait("close", 2)).seconds / 1_000), 0);
  } finally {
    performance.now = now;
  }
});

Deno.test("a stop word is echoed, and its peer's session summed up", LIMIT, async (t) => {
  const words = ["stop", "exit", "stop\n", "exit\r\n", " \t\v\fstop\r ", `stop${" ".repeat(996)}`];
  words.push(`stop${" ".repeat(996)}\r\n`);
  for (const word of words) {
    await t.step(JSON.stringify(word.replace(/ {9,}/, "…")), async () => {
      await using server = start();
      await using peer = new UdpPeer();
      await peer.ask("hello", server.port);
      assertEquals(decode(await peer.ask(word, server.port)), word);
      const { seconds, ...close } = await server.log.wait("close");
      const bytes = 5 + word.length;
      const expected = { peer: shown(peer.addr), reason: "stop", messages: 2, bytes };
      assertEquals<unknown>(close, { event: "close", ...expected });
      assert(seconds >= 0 && seconds < 30);
    });
  }
});

Deno.test("what is not a stop word ends no session", LIMIT, async (t) => {
  const rows: [string, string][] = [
    ["nothing", ""],
    ["more than the word", "stop it"],
    ["in another case", "Stop"],
    ["two lines", "stop\nexit\n"],
    ["longer than what is printed", `stop${" ".repeat(1_000)}is not all`],
    ["of 1,001 bytes", `stop${" ".repeat(997)}`],
    ["with a blank that is none in ASCII", "stop\u3000"],
    ["with a no-break space", "\u00a0stop"],
    ["with a byte order mark", "\ufeffstop"],
  ];
  for (const quiet of [false, true]) {
    await using server = start({ quiet });
    await using peer = new UdpPeer();
    for (const [name, sentence] of rows) {
      await t.step(`${name}${quiet ? ", --quiet" : ""}`, async () => {
        assertEquals(decode(await peer.ask(sentence, server.port)), sentence);
        assertEquals(server.log.of("close").length, 0);
      });
    }
  }
});

Deno.test("stop ends this session alone, and its peer may start another", LIMIT, async () => {
  await using server = start();
  await using one = new UdpPeer();
  await using other = new UdpPeer();
  await other.ask("12345", server.port);
  await one.ask("123", server.port);
  await one.ask("stop", server.port);
  await other.ask("123", server.port);
  await one.ask("stop", server.port);
  await other.ask("exit", server.port);
  await server.log.wait("close", 3);
  const sessions = server.log.of("close").map(({ peer, messages, bytes }) => [
    peer,
    messages,
    bytes,
  ]);
  assertEquals(sessions, [
    [shown(one.addr), 2, 7],
    [shown(one.addr), 1, 4],
    [shown(other.addr), 3, 12],
  ]);
});

Deno.test("--stop can be repeated, --no-stop takes all words away", LIMIT, async (t) => {
  const rows: [string[], string[]][] = [
    [["--stop", "quit", "--stop", "that's all"], ["quit", "that's all"]],
    [["--no-stop"], []],
  ];
  for (const [args, expected] of rows) {
    await t.step(args.join(" "), async () => {
      await using server = spawn("udp_server.ts", ["--port", "0", "--json", ...args]);
      const { port } = JSON.parse(await server.nextLine());
      const closed: string[] = [];
      await using peer = new UdpPeer();
      for (const word of ["stop", "exit", "quit", "that's all", "end"]) {
        assertEquals(decode(await peer.ask(word, port)), word);
        for (let event; (event = JSON.parse(await server.nextLine())).text !== word;) {
          closed.push(event.event);
        }
      }
      assertEquals(closed, expected.map(() => "close"));
    });
  }
});

Deno.test("--once ends after the first peer that stops, exit 0", LIMIT, async () => {
  await using server = spawn("udp_server.ts", ["--port", "0", "--once"]);
  const port = await server.port();
  await using one = new UdpPeer();
  await using other = new UdpPeer();
  await one.ask("hello", port);
  assertEquals(decode(await other.ask("stop", port)), "stop");
  assertEquals(decode(await other.ask("stop", port)), "stop"); // its echo might have been lost
  const { code, stdout, stderr } = await server.finish();
  assertEquals([code, stderr], [0, ""]);
  assertMatch(stdout, new RegExp(`${shown(other.addr)} closed \\(stop\\): 1 message, 4 bytes, `));
  assertMatch(lastLine(stdout), /^stopped.* 3 messages, 13 bytes, .* 0 not answered$/);
});

Deno.test("--once: 2 s after the echo of the last stop word, and not before", LIMIT, async (t) => {
  const peer = address("127.0.0.1", 40_000);
  /** How many looks of 100 ms pass until it ends; it is given up after 100. */
  function ticksToEnd({ socket }: { socket: { closed: boolean } }, tick: () => void): number {
    for (let ticks = 1; ticks <= 100; ticks++) {
      tick();
      if (socket.closed) return ticks;
    }
    return Infinity;
  }

  const rows: [string, Parameters<typeof start>[0], number, number][] = [
    ["it is echoed", {}, 20, 22],
    ["over the lossy network", { duplicate: 1 }, 20, 22],
    ["with --no-echo there is nothing to send again", { echo: false }, 1, 1],
    ["--drop took the echo", { drop: 1 }, Infinity, Infinity],
    ["--drop-request took the word", { dropRequest: 1 }, Infinity, Infinity],
    ["its echo is delayed", { delayMs: 60_000 }, Infinity, Infinity],
    ["over --rate", { rate: 1 }, Infinity, Infinity],
    ["no stop word", { stopWords: ["end"] }, Infinity, Infinity],
  ];
  for (const [name, options, least, most] of rows) {
    await t.step(name, () =>
      withClock(async ({ tick }) => {
        await using server = startFake({ once: true, ...options });
        if (options?.rate) server.socket.deliver("hello", peer);
        server.socket.deliver("stop", peer);
        await server.socket.idle();
        const ticks = ticksToEnd(server, tick);
        assert(ticks >= least && ticks <= most, `${ticks}`);
      }));
  }

  await t.step(
    "one that is sent again is answered, and begins them anew",
    () =>
      withClock(async ({ tick }) => {
        await using server = startFake({ once: true });
        let echoes = 0;
        server.socket.onSend = () => void echoes++;
        for (let times = 1; times <= 3; times++) {
          server.socket.deliver("stop", peer);
          await server.socket.idle();
          assertEquals(echoes, times);
          for (let i = 0; i < 19; i++) tick();
          assert(!server.socket.closed);
        }
        assert(ticksToEnd(server, tick) <= 3);
      }),
  );

  await t.step(
    "the echo could not be sent, and then it could",
    () =>
      withClock(async ({ tick }) => {
        await using server = startFake({ once: true });
        server.socket.onSend = () => Promise.reject(new Error("Network is unreachable"));
        server.socket.deliver("stop", peer);
        await server.socket.idle();
        assertEquals(ticksToEnd(server, tick), Infinity);
        server.socket.onSend = () => {};
        server.socket.deliver("stop", peer);
        await server.socket.idle();
        assert(ticksToEnd(server, tick) <= 22);
      }),
  );

  await t.step("--drop took the first ones", async () => {
    await using server = start({ once: true, drop: 0.7, seed: 1 });
    await using client = new UdpPeer();
    let tries = 0;
    for (let echoes = 0; echoes === 0; echoes = (await client.arrived()).length) {
      await client.send("stop", server.port);
      await server.log.wait("close", ++tries);
    }
    assertGreater(tries, 1);
    assertEquals(server.log.of("shutdown").length, 0);
    await server.finished;
    assertEquals(server.log.of("shutdown")[0]!.dropped, tries - 1);
  });
});

Deno.test("of 10,001 peers the one that came first is forgotten", LIMIT, async () => {
  await using server = startFake();
  const { socket, log } = server;
  const others = Array.from(
    { length: 10_000 },
    (_, i) => address(`127.1.${i >> 7}.${i & 127}`, 5_000),
  );
  const first = address("127.0.0.1", 5_000);
  for (const peer of [first, ...others.slice(0, 9_999), first, others[9_999]!]) {
    socket.deliver("hello", peer);
  }
  await socket.idle();
  for (const peer of [others[0]!, others[9_999]!, first, others[1]!]) socket.deliver("stop", peer);
  await log.wait("close", 4);
  // The first one is new again, and took the place of the next: others[0] was asked before that.
  assertEquals(log.of("close").map(({ messages }) => messages), [2, 2, 1, 2]);
});

Deno.test("peers whose addresses read alike are not mixed", LIMIT, async () => {
  await using server = startFake();
  const { socket, log } = server;
  const peers = [
    address("127.0.0.1", 15_000),
    address("127.0.0.11", 5_000),
    address("127.0.0.1", 1_500),
    address("::1", 15_000),
    address("::1:1500", 1_500),
  ];
  const replies: string[] = [];
  socket.onSend = (bytes, to) => void replies.push(`${decode(bytes)} to ${shown(to)}`);
  for (const text of ["hello", "stop"]) {
    for (const [i, peer] of peers.entries()) socket.deliver(text === "stop" ? text : `${i}`, peer);
  }
  await socket.idle();
  const said = ["0", "1", "2", "3", "4", "stop", "stop", "stop", "stop", "stop"];
  assertEquals(replies, said.map((text, i) => `${text} to ${shown(peers[i % 5]!)}`));
  assertEquals(log.of("close").map(({ messages }) => messages), [2, 2, 2, 2, 2]);
});

// ---- Peers that are not answered ----

Deno.test("--rate: at most N replies at once, and N a second", LIMIT, async (t) => {
  await t.step(
    "what was not used comes back bit by bit, and no more than N of it",
    () =>
      withClock(async ({ set }) => {
        await using server = startFake({ rate: 4, quiet: true });
        let replies = 0;
        server.socket.onSend = () => void replies++;
        const rows = [[900, 4], [1_149, 4], [1_150, 5], [1_650, 7], [1_900, 8], [1e9, 12]] as const;
        for (const [time, expected] of rows) {
          set(time);
          for (let i = 0; i < 9; i++) server.socket.deliver("hello", address("127.0.0.1", 40_000));
          await server.socket.idle();
          assertEquals(replies, expected, `at ${time} ms`);
        }
      }),
  );

  await t.step("in any stretch of time, of each peer", () =>
    withClock(async ({ set }) => {
      const random = seededRandom();
      const rate = 10;
      await using server = startFake({ rate, quiet: true });
      const sentAt: number[][] = [[], []];
      let time = 0;
      server.socket.onSend = (_, { port }) => void sentAt[port - 40_000]!.push(time);
      for (; time < 10_000; time += 1 + random.int(40)) {
        set(time);
        for (const port of [40_000, 40_001]) {
          for (let i = random.int(5); i > 0; i--) {
            server.socket.deliver("hello", address("127.0.0.1", port));
          }
        }
        await server.socket.idle();
      }
      for (const times of sentAt) {
        assert(times.length > 95 && times.length <= 110, `${times.length} replies in 10 s`);
        for (let i = 0; i < times.length; i++) {
          for (let k = i; k < times.length; k++) {
            assertLessOrEqual(k - i + 1, rate + (times[k]! - times[i]!) * rate / 1_000 + 1e-6);
          }
        }
      }
    }));

  await t.step("over it they are counted, and it is said once", async () => {
    await using server = start({ rate: 3, quiet: true });
    await using greedy = new UdpPeer();
    await using modest = new UdpPeer();
    for (let i = 0; i < 100; i++) await greedy.send(`${i}`, server.port);
    assertEquals(decode(await modest.ask("hello", server.port)), "hello");
    await server.shutdown();
    const replies = (await greedy.arrived()).length;
    assert(replies >= 3, `${replies} replies`);
    const { messages, unanswered } = server.log.of("shutdown")[0]!;
    assertEquals(unanswered, messages - replies - 1);
    assertEquals(server.log.of("warning").length, 1);
    assertStringIncludes(server.log.of("warning")[0]!.text, "over --rate 3");
  });
});

Deno.test("where it may not send it does not, and says it once", LIMIT, async (t) => {
  const args = ["--host", "0.0.0.0", "--port", "0", "--trace"]; // the trace shows what has come
  await t.step("to a host that is not permitted", async () => {
    await using server = spawn("udp_server.ts", args);
    const port = await server.port();
    await using peer = new UdpPeer();
    await peer.send("hello", port);
    const said = await server.stderr.until("only counted from now on\n");
    assertStringIncludes(said, `${shown(peer.addr)}: no permission, --allow-net=127.0.0.1;`);
    await peer.send("again", port);
    await server.stderr.until('"again"');
    if (WINDOWS) return;
    const { code, stdout, stderr } = await server.stop();
    assertEquals(code, 0);
    assert(!stderr.includes("not answering"), stderr);
    assertMatch(lastLine(stdout), /^stopped.* 2 not answered$/);
    assertEquals(await peer.arrived(), []);
  });

  await t.step({
    ...unless(!LINUX && "127.0.0.2 is on Linux only", "whatever hosts there are"),
    fn: async () => {
      await using server = spawn("udp_server.ts", args);
      const port = await server.port();
      let said = "";
      for (const hostname of ["127.0.0.1", "127.0.0.2", "127.0.0.3", "127.0.0.4"]) {
        await using peer = new UdpPeer(undefined, { hostname });
        await peer.send(hostname, port);
        said += await server.stderr.until(`"${hostname}"`);
      }
      const { stdout, stderr } = await server.stop();
      assertMatch(lastLine(stdout), /^stopped.* 4 not answered$/);
      const lines = (said + stderr).match(/^udp_server: not answering .*$/gm);
      assertEquals(lines?.length, 1, lines?.join("\n"));
    },
  });
});

Deno.test({
  ...unless(NO_PTY, "at a terminal no peer raises a permission prompt"),
  ...LIMIT,
  fn: async () => {
    const args = ["--host", "0.0.0.0", "--port", "0", "--trace"];
    await using server = spawn("udp_server.ts", args, { via: PTY });
    await server.stdout.until("listening on udp 0.0.0.0:"); // with the first rung before or behind it
    const port = parseInt(await server.stdout.until("\n"));
    await using peer = new UdpPeer();
    await peer.send("hello", port);
    const said = await server.stdout.until("only counted from now on");
    assertMatch(said, /udp_server: not answering 127\.0\.0\.1:\d+: no permission, /);
    await peer.send("again", port);
    await server.stdout.until('"again"');
    await server.write("\x03"); // Ctrl-C
    const { code, stdout } = await server.finish();
    assertEquals(code, 0);
    assertMatch(stdout, /stopped.* 2 not answered\r?$/m); // behind ^C, and a rung is beside it
    assertEquals(await peer.arrived(), []);
  },
});

Deno.test("a name is the address that it is to the client", LIMIT, async () => {
  const host = (await lookup("localhost")).address;
  const shown = host.includes(":") ? `[${host}]` : host;
  const args = ["--host", "localhost", "--port", "0"];
  await using server = spawn("udp_server.ts", args, { allowNet: `localhost,${shown}` });
  assertStringIncludes(await server.nextLine(), `listening on udp ${shown}:`);
});

Deno.test("without its permission it says the flag to add, exit 1", LIMIT, async (t) => {
  for (const allowNet of [false, "127.0.0.1:12000", "localhost"] as const) {
    await t.step(`--allow-net=${allowNet}`, async () => {
      await using server = spawn("udp_server.ts", ["--port", "0"], { allowNet });
      const { code, stdout, stderr } = await server.finish();
      assertEquals([code, stdout], [1, ""]);
      assertMatch(stderr, /^udp_server: [^\n]*--allow-net=127\.0\.0\.1\n$/);
    });
  }
});

// ---- Failures and the end ----

Deno.test("a slow send keeps its bytes, and those who come next their order", LIMIT, async () => {
  await using server = startFake();
  const { socket } = server;
  const sent: string[] = [];
  socket.onSend = async (bytes, to) => {
    await new Promise((resolve) => setTimeout(resolve)); // a turn, for what should not happen
    sent.push(`${decode(bytes)} to ${to.port}`);
  };
  socket.deliver("one", address("127.0.0.1", 40_001));
  socket.deliver("two", address("127.0.0.1", 40_002));
  await socket.idle();
  assertEquals(sent, ["one to 40001", "two to 40002"]);
});

Deno.test("no send or receive that fails ends the server", LIMIT, async (t) => {
  const [one, other] = [address("127.0.0.1", 40_001), address("127.0.0.1", 40_002)];

  await t.step("send", async () => {
    await using server = startFake();
    const { socket, log } = server;
    const sent: string[] = [];
    socket.onSend = (bytes, to) => {
      if (to.port === one.port) {
        const message = "Netzwerk nicht erreichbar. (os error 101)"; // as other systems have it
        throw Object.assign(new Error(message), { code: "ENETUNREACH" });
      }
      sent.push(decode(bytes));
    };
    for (let i = 0; i < 3; i++) {
      socket.deliver("lost", one);
      socket.deliver(`${i}`, other);
    }
    await socket.idle();
    assertEquals(sent, ["0", "1", "2"]);
    assertEquals(log.of("warning").length, 1);
    assertStringIncludes(log.of("warning")[0]!.text, "cannot send: netzwerk nicht erreichbar;");
    await server.shutdown();
    assertEquals(log.of("shutdown")[0]!.unanswered, 3);
  });

  await t.step("receive", async () => {
    await using server = startFake();
    const { socket, log } = server;
    for (let i = 0; i < 2; i++) {
      socket.fail(new Error("Out of buffers (os error 105)"));
      socket.deliver(`${i}`, one);
      await log.wait("message", i + 1);
    }
    assertEquals(log.of("warning").length, 1);
    assertStringIncludes(
      log.of("warning")[0]!.text,
      "cannot receive: out of buffers",
    );
  });
});

Deno.test("a peer that is gone, as Windows tells of it, costs no pause", LIMIT, async () => {
  await using server = startFake();
  const { socket, log } = server;
  // Fifty pauses would be 5 s; the median of the waits does not hang on how busy the machine is.
  const waits: number[] = [];
  for (let i = 1; i <= 50; i++) {
    const start = performance.now();
    socket.fail(new Deno.errors.ConnectionReset("connection reset"));
    await Promise.resolve();
    socket.deliver("hello", address("127.0.0.1", 40_000));
    await log.wait("message", i);
    waits.push(performance.now() - start);
  }
  assertLess(waits.toSorted((a, b) => a - b)[25]!, 50);
  assertEquals(log.of("warning"), []);
});

Deno.test("a reply that is too long for this system names what to set", LIMIT, async () => {
  await using server = startFake();
  server.socket.onSend = ({ length }) => {
    if (length <= 9_216) return;
    throw Object.assign(new Error("Message too long (os error 40)"), { code: "EMSGSIZE" });
  };
  server.socket.deliver(new Uint8Array(9_217), address("127.0.0.1", 40_000));
  const { text } = await server.log.wait("warning");
  assertStringIncludes(text, "net.inet.udp.maxdgram");
});

Deno.test("one of anything is said as one", LIMIT, async () => {
  await using server = spawn("udp_server.ts", ["--port", "0", "--once"]);
  const port = await server.port();
  await using peer = new UdpPeer();
  await peer.ask("x", port);
  await using other = new UdpPeer();
  await other.ask("stop", port);
  const { stdout } = await server.finish();
  assertMatch(stdout, / closed \(stop\): 1 message, 4 bytes, /);
  assertMatch(stdout, /^stopped: 2 messages, 5 bytes, /m);
});

Deno.test("a signal ends it in order: totals, exit 0", LIMIT, async (t) => {
  for (const signal of ["SIGTERM", "SIGINT"] as const) {
    await t.step({
      ...unless(NO_SIGNALS, signal),
      fn: async () => {
        const port = freePort();
        await using server = spawn("udp_server.ts", ["--port", `${port}`]);
        await server.port();
        await using one = new UdpPeer();
        await using other = new UdpPeer();
        for (const peer of [one, other, one]) await peer.ask("hello\n", port);
        const { code, stdout, stderr } = await server.stop(signal);
        assertEquals([code, stderr], [0, ""]);
        assertMatch(
          lastLine(stdout),
          /^stopped: 3 messages, 18 bytes, \d+\.\d s, 0 not answered$/,
        );
        await using _next = new UdpPeer(undefined, { port }); // it is free again
      },
    });
  }
});

Deno.test("a second signal ends it at once", LIMIT, async (t) => {
  for (const [signal, expected] of [["SIGTERM", 143], ["SIGINT", 130]] as const) {
    await t.step({
      ...unless(NO_SIGNALS, `${signal}: ${expected}`),
      fn: async () => {
        // Its stdout is full, so that it waits three seconds for someone to read.
        await using server = spawn("udp_server.ts", ["--port", "0", "--trace"]);
        const port = await server.port();
        await using peer = new UdpPeer();
        for (let i = 0; i < 300; i++) await peer.ask("x".repeat(1_000), port);
        server.kill(signal);
        await server.stderr.until("close()");
        await new Promise((resolve) => setTimeout(resolve, 600)); // sooner it would be the same one
        assertEquals((await server.stop(signal)).code, expected);
      },
    });
  }
});

// ---- As a library ----

/** What a promise rejects with. */
async function failureOf(promise: Promise<unknown>): Promise<unknown> {
  try {
    await promise;
  } catch (error) {
    return error;
  }
}

Deno.test("an option out of its bounds is a RangeError that names it", LIMIT, async (t) => {
  const rows: [Parameters<typeof serve>[0], string][] = [
    [{ port: -1 }, "port needs a value, a whole number from 0 to 65535"],
    [{ port: 65_536 }, "port"],
    [{ port: 1.5 }, "port"],
    [{ rate: -1 }, "rate"],
    [{ rate: NaN }, "rate"],
    [{ rate: Infinity }, "rate"],
    [{ drop: NaN }, "drop needs a value, a number from 0 to 1, not"],
    [{ drop: 1.1 }, "drop"],
    [{ dropRequest: NaN }, "dropRequest"],
    [{ duplicate: -0.1 }, "duplicate"],
    [{ corrupt: 2 }, "corrupt"],
    [{ delayMs: 60_001 }, "delayMs"],
    [{ delayMs: Infinity }, "delayMs"],
    [{ seed: -1 }, "seed"],
    [{ seed: 2 ** 32 }, "seed"],
    [{ stopWords: [""] }, "stopWords"],
    [{ stopWords: ["x".repeat(101)] }, "stopWords"],
  ];
  for (const [options, message] of rows) {
    await t.step(Object.entries(options!).flat().join(": ").slice(0, 30), () => {
      const error = assertThrows(() => serve({ port: 0, ...options }), RangeError);
      assertStringIncludes(error.message, message);
    });
  }

  await t.step("what is undefined is left out", async () => {
    // deno-lint-ignore no-explicit-any
    await using _server = serve({ port: 0, drop: undefined, rate: undefined } as any);
  });
});

Deno.test(
  "a callback that throws ends the server, and finished rejects with it",
  LIMIT,
  async (t) => {
    const thrown = new Error("of the caller");
    const events = ["message", "close", "warning", "shutdown"];
    const calls = ["receive() = 5", "send(5)", "close()", "--drop"];

    /** Says things to a server until it ends. Returns how `finished` ended, and if it is closed. */
    async function outcome(options: Parameters<typeof serve>[0]): Promise<[unknown, boolean]> {
      // The caller's callbacks are in place of the log of the helper.
      const server = startFake({}, (given) => serve({ ...given, ...options }));
      const { socket } = server;
      const ended = failureOf(server.finished);
      for (
        const [text, port] of [["hello", 40_000], ["forged", 2_049], ["stop", 40_000]] as const
      ) {
        if (!socket.closed) socket.deliver(text, address("127.0.0.1", port));
        await Promise.race([socket.idle(), ended]);
      }
      await failureOf(server.shutdown());
      return [await ended, socket.closed];
    }

    for (const async of [false, true]) {
      for (const name of events) {
        await t.step(`onEvent, at ${name}${async ? ", by its promise" : ""}`, async () => {
          const onEvent = ({ event }: { event: string }): void | Promise<void> => {
            if (event !== name) return;
            if (async) return Promise.reject(thrown);
            throw thrown;
          };
          const [error, closed] = await outcome({ onEvent });
          assertEquals(error, thrown);
          assert(closed);
        });
      }
    }

    for (const name of ["listenDatagram()", ...calls]) {
      await t.step(`onTrace, at ${name}, by its promise`, async () => {
        const onTrace = ({ call }: { call: string }): void | Promise<void> => {
          if (call === name) return Promise.reject(thrown);
        };
        const [error, closed] = await outcome({ onTrace, drop: name === "--drop" ? 1 : 0 });
        assertEquals(error, thrown);
        assert(closed);
      });
    }

    for (const name of calls) {
      for (const delayMs of [0, 0.001]) {
        await t.step(`onTrace, at ${name}${delayMs ? ", --delay" : ""}`, async () => {
          const sent = Promise.withResolvers<void>();
          const onTrace = ({ call }: { call: string }): void => {
            if (call.startsWith("send")) sent.resolve();
            if (call === name) throw thrown;
          };
          const [error, closed] = await outcome({
            onTrace,
            drop: name === "--drop" ? 1 : 0,
            delayMs,
          });
          // What is delayed may be dropped at the end, and then it is not sent.
          if (name !== "send(5)" || delayMs === 0) assertEquals(error, thrown);
          assert(closed);
        });
      }
    }

    for (
      const [name, throwing] of [
        ["onEvent, at listening", {
          onEvent: (): void => {
            throw thrown;
          },
        }],
        ["onTrace, at listenDatagram()", {
          onTrace: (): void => {
            throw thrown;
          },
        }],
      ] as const
    ) {
      await t.step(`${name}: the port is free again`, async () => {
        const port = freePort();
        assertEquals(assertThrows(() => serve({ port, ...throwing })), thrown);
        await using _next = serve({ port });
      });
    }
  },
);

Deno.test("what a callback returns is no matter", LIMIT, async () => {
  const events: string[] = [];
  const calls: string[] = [];
  await using server = serve({
    port: 0,
    onEvent: ({ event }) => events.push(event) as unknown as void,
    onTrace: ({ call }) => calls.push(call) as unknown as void,
  });
  await using peer = new UdpPeer();
  assertEquals(decode(await peer.ask("hello", server.addr.port)), "hello");
  await server.shutdown();
  assertEquals(events, ["listening", "message", "shutdown"]);
  assertEquals(calls, ["listenDatagram()", "receive() = 5", "send(5)", "close()"]);
});

Deno.test("no listener is left on the caller's signal", LIMIT, async () => {
  const stop = new AbortController();
  const counts = { addEventListener: 0, removeEventListener: 0 };
  for (const name of ["addEventListener", "removeEventListener"] as const) {
    const real = stop.signal[name].bind(stop.signal) as (...args: unknown[]) => void;
    Object.assign(stop.signal, {
      [name]: (...args: unknown[]) => {
        counts[name]++;
        real(...args);
      },
    });
  }
  for (let i = 0; i < 3; i++) {
    await using server = serve({ port: 0, signal: stop.signal });
    await server.shutdown();
  }
  assertEquals(counts, { addEventListener: 3, removeEventListener: 3 });
});

Deno.test("no local port is free: the error names that", LIMIT, () => {
  const real = Deno.listenDatagram;
  const deno = Deno as { listenDatagram: unknown };
  deno.listenDatagram = () => {
    throw new Deno.errors.AddrInUse("Address already in use (os error 98)");
  };
  try {
    const free = assertThrows(() => serve({ port: 0 }), Error);
    assertEquals(free.message, "cannot receive on 127.0.0.1:0: no local port is free");
    const taken = assertThrows(() => serve({ port: 12_000 }), Error);
    assertEquals(taken.message, "cannot receive on 127.0.0.1:12000: address already in use");
  } finally {
    deno.listenDatagram = real;
  }
});
