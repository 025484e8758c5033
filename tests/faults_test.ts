/**
 * Every fault of the book, one test each: rude peers, hostile networks, a system that has no more to
 * give. The other side is always plain sockets, never our own client or server. Hostile terminals
 * and full disks are in `faults_output_test.ts`. `deno task soak` does the same at full scale.
 *
 * @module
 */

import { createServer } from "node:net";
import {
  assert,
  assertEquals,
  assertGreater,
  assertGreaterOrEqual,
  assertLess,
  assertMatch,
  assertStringIncludes,
} from "@std/assert";
import { serve } from "../tcp_server.ts";
import {
  assertSameBytes,
  type Bytes,
  encode,
  exchange,
  join,
  type Program,
  readExactly,
  readToEnd,
  rudeServer,
  runScript,
  seededRandom,
  spawn,
  writeAll,
} from "./_helpers.ts";
import {
  alive,
  askInFlood,
  besideDeaf,
  descriptors,
  dropRule,
  echoing,
  eventsOf,
  eventually,
  FEW_DESCRIPTORS,
  FLOOD_UDP,
  loaded,
  makeNetwork,
  NEEDS,
  PLAIN_TCP,
  PLAIN_UDP,
  python,
  resetBeforeAccept,
  resetInRead,
  resetInWrite,
  restart,
  seconds,
  selfConnects,
  sendEndlessLine,
  sendOnly,
  starve,
  type Talk,
  test,
  timed,
  transfer,
  transferThroughClient,
  udpPeer,
} from "./_faults.ts";

const SERVERS = ["tcp_server.ts", "udp_server.ts"];
const MEGABYTE = 1_048_576;

// ---- TCP: rude clients ----

test("resets: others are unaffected, all descriptors come back", NEEDS.python, async (t) => {
  await using server = spawn("tcp_server.ts", ["--port", "0", "--quiet"]);
  const port = await server.port();
  using honest = await Deno.connect({ port });
  assertEquals(await exchange(honest, "hello\n"), "hello\n");
  const baseline = descriptors(server.pid);
  for (
    const [reset, count] of [[resetBeforeAccept, 400], [resetInRead, 400], [
      resetInWrite,
      50,
    ]] as const
  ) {
    await t.step(`${reset.name} ×${count}`, async () => {
      await reset(server, port, count);
      assertEquals(await exchange(honest, "hello\n"), "hello\n");
      await eventually("the descriptors are back", () => descriptors(server.pid) === baseline);
    });
  }
  honest.close();
  const { code, stderr } = await server.stop();
  assertEquals([code, stderr], [0, ""]);
});

test("out of descriptors: alive, idle, one warning, then serves", NEEDS.linux, async () => {
  await using server = spawn("tcp_server.ts", ["--port", "0", "--quiet"], { via: FEW_DESCRIPTORS });
  const { served, cpu } = await starve(server, { idleSeconds: 1, freed: 3 });
  assert(served > 0 && served < 48, `${served} are served`);
  assertLess(cpu, 0.2); // of a core: without a pause between tries it takes all it gets
  const { code, stderr } = await server.stop();
  assertEquals(code, 0);
  assert(!stderr.includes("cannot accept"), "it warned twice"); // the system may warn as well
});

test("an endless line, and clients that never read: no growth", NEEDS.linux, async (t) => {
  await using server = spawn("tcp_server.ts", ["--port", "0"]);
  const port = await server.port();
  await t.step("an endless line", async () => {
    const load = (): Promise<void> => sendEndlessLine(port, 100 * MEGABYTE);
    const { growth } = await loaded(server, port, load, { exchanges: 10 });
    assertLess(growth, 16);
  });
  await t.step("and clients that never read", async () => {
    const load = (): Promise<void> => besideDeaf(port, () => sendEndlessLine(port, 100 * MEGABYTE));
    const { growth } = await loaded(server, port, load, { exchanges: 10 });
    assertLess(growth, 16);
  });
});

test("--idle 1: silent clients are closed, those that trickle are not", "", async () => {
  await using server = spawn("tcp_server.ts", ["--port", "0", "--idle", "1", "--json"]);
  const { port } = JSON.parse(await server.nextLine());
  using trickler = await Deno.connect({ port });
  /** How many seconds it was left alone. */
  async function silent(text: string): Promise<number> {
    using conn = await Deno.connect({ port });
    await exchange(conn, text);
    const [end, waited] = await timed(readToEnd(conn));
    assertEquals(end.length, 0);
    return waited;
  }
  async function deaf(): Promise<void> {
    using conn = await Deno.connect({ port });
    await sendOnly(conn, 1e9).catch(() => {}); // it is cut off: there is no orderly way
  }
  let closed = false;
  const closing = Promise.all([silent(""), silent("hello\n"), silent("half a line"), deaf()])
    .finally(() => closed = true);
  while (!closed) {
    await seconds(0.1);
    assertEquals(await exchange(trickler, "x"), "x");
  }
  for (const waited of (await closing).slice(0, 3)) assertGreater(waited!, 0.95);
  trickler.close();
  const events = eventsOf((await server.stop()).stdout);
  const reasons = events.filter(({ event }) => event === "close").map(({ reason }) => reason);
  assertEquals(reasons.sort(), ["eof", "idle", "idle", "idle", "idle"]);
});

test("--max-connections: one more waits until a place comes free", "", async (t) => {
  const args = ["--port", "0", "--max-connections", "3", "--json"];
  await using server = spawn("tcp_server.ts", args);
  const { port } = JSON.parse(await server.nextLine());
  const conns = await Promise.all([1, 2, 3].map(() => Deno.connect({ port })));
  for (const conn of conns) assertEquals(await exchange(conn, "hello\n"), "hello\n");
  const ways: [string, (conn: Deno.TcpConn) => Promise<unknown>][] = [
    ["at a close", (conn) => Promise.resolve(conn.close())],
    ["at a stop word", async (conn) => {
      assertEquals(await exchange(conn, "stop\n"), "stop\n");
      await readToEnd(conn);
      conn.close();
    }],
    ["at a reset", async (conn) => {
      await sendOnly(conn, 100_000); // its echo is unread: a close with unread bytes is a reset
      await readExactly(conn, 1);
      conn.close();
    }],
  ];
  for (const [name, leave] of ways) {
    await t.step(name, async () => {
      const next = await Deno.connect({ port }); // the system's queue takes it
      let served = false;
      const answer = exchange(next, "next\n").finally(() => served = true);
      for (let i = 0; i < 50; i++) {
        for (const conn of conns) assertEquals(await exchange(conn, "hello\n"), "hello\n");
      }
      assert(!served, "one too many is served");
      await leave(conns.shift()!);
      assertEquals(await answer, "next\n");
      conns.push(next);
    });
  }
  for (const conn of conns) conn.close();
  const events = eventsOf((await server.stop()).stdout);
  let [open, most] = [0, 0];
  for (const { event } of events) {
    open += Number(event === "open") - Number(event === "close");
    most = Math.max(most, open);
  }
  assertEquals(most, 3);
});

// ---- TCP: the end ----

test("input behind the end: every byte before it is echoed, and no reset", "", async (t) => {
  const random = seededRandom();
  const text = `${"a line\n".repeat(30_000)}`;

  await t.step("behind a stop word", async () => {
    await using server = spawn("tcp_server.ts", ["--port", "0", "--quiet"]);
    using conn = await Deno.connect({ port: await server.port() });
    const before = encode(`${text}stop\n`);
    const sending = writeAll(conn, join([before, random.bytes(3_000_000)]));
    const [echo] = await Promise.all([readToEnd(conn), sending]); // a reset would throw
    assertSameBytes(echo, before);
    for (let i = 0; i < 10; i++) { // it takes even more, for a while
      await writeAll(conn, text);
      await seconds(0.01);
    }
  });

  await t.step("behind a signal: what the client could send, unread", async () => {
    await using server = spawn("tcp_server.ts", ["--port", "0", "--quiet"]);
    using conn = await Deno.connect({ port: await server.port() });
    const bytes = encode(text.repeat(40)); // 8 MB: more than the system holds
    const sending = writeAll(conn, bytes);
    assertSameBytes(await readExactly(conn, 7), bytes.subarray(0, 7));
    server.kill("SIGTERM");
    const [echo] = await Promise.all([readToEnd(conn), sending]);
    assertSameBytes(echo, bytes.subarray(7));
    conn.close();
    assertEquals((await server.finish()).code, 0);
  });

  await t.step("behind a shutdown, after a silence, and not read yet", async () => {
    await using server = serve({ port: 0, quiet: true });
    using conn = await Deno.connect({ port: server.addr.port });
    assertEquals(await exchange(conn, "hello\n"), "hello\n");
    await seconds(0.35); // the connection looks idle
    await writeAll(conn, text);
    server.shutdown();
    assertSameBytes(await readToEnd(conn), encode(text));
  });
});

test("SIGTERM during 50 transfers: finished, or cut at 5 s; totals true; exit 0", "", async () => {
  await using server = spawn("tcp_server.ts", ["--port", "0", "--json"]);
  const { port } = JSON.parse(await server.nextLine());
  const block = encode("x".repeat(16_384)); // no newline: one message a connection
  const allUnderWay = Promise.withResolvers<void>();
  let underWay = 0;

  /** Sends `blocks`, the last ones after the signal; returns how many bytes came back. */
  async function run(blocks: number): Promise<number> {
    using conn = await Deno.connect({ port });
    let echoed = 0;
    async function receive(): Promise<void> {
      const buffer = new Uint8Array(65_536);
      for (let size; (size = await conn.read(buffer)) !== null; echoed += size) {
        if (echoed === 0 && ++underWay === 50) allUnderWay.resolve();
      }
    }
    async function send(): Promise<void> {
      for (let i = 0; i < blocks; i++) {
        await writeAll(conn, block);
        await allUnderWay.promise;
        if (blocks === Infinity) await seconds(0.01); // 5 s of it
      }
      await conn.closeWrite();
    }
    await Promise.all([receive(), send()]).catch((error) => {
      if (blocks < Infinity) throw error; // the endless ones are cut off
    });
    return echoed;
  }
  const finite = Promise.all(Array.from({ length: 40 }, () => run(64)));
  const endless = Promise.all(Array.from({ length: 10 }, () => run(Infinity)));
  await allUnderWay.promise;
  server.kill("SIGTERM");
  const [echoed, waited] = await timed(endless);
  assert(waited > 4.5 && waited < 15, `cut off after ${waited} s`);
  assertEquals(new Set(await finite), new Set([64 * block.length]));

  const { code, stdout, stderr } = await server.finish();
  assertEquals(code, 0);
  assertMatch(stderr, /^tcp_server: waiting for \d+ connections to end, 4\.\d s at most\n$/);
  const events = eventsOf(stdout);
  const closes = events.filter(({ event }) => event === "close");
  const cut = closes.filter(({ reason }) => reason === "shutdown");
  const sum = (numbers: number[]): number => numbers.reduce((a, b) => a + b);
  const bytes = sum(closes.map((close) => close.bytes));
  const { time: _, seconds: _seconds, ...shutdown } = events.at(-1);
  assertEquals(shutdown, { event: "shutdown", connections: 50, messages: 50, bytes });
  assertEquals([closes.length, cut.length], [50, 10]);
  assertEquals(bytes - sum(cut.map((close) => close.bytes)), 40 * 64 * block.length);
  assertGreaterOrEqual(sum(cut.map((close) => close.bytes)), sum(echoed));
});

test(
  "SIGTERM while 600 clients have sent what is not read yet: all is echoed",
  NEEDS.linux,
  async () => {
    await using server = spawn("tcp_server.ts", ["--port", "0", "--quiet"]);
    const port = await server.port();
    const conns = await Promise.all(Array.from({ length: 600 }, () => Deno.connect({ port })));
    await Promise.all(conns.map((conn) => exchange(conn, "hello\n"))); // it has accepted them
    const bytes = encode("a line of text\n".repeat(1_000)); // 15 kB: the system takes it
    server.kill("SIGSTOP");
    await Promise.all(conns.map((conn) => writeAll(conn, bytes)));
    server.kill("SIGTERM");
    server.kill("SIGCONT");
    const sizes = await Promise.all(conns.map(async (conn) => (await readToEnd(conn)).length));
    const short = sizes.filter((size) => size !== bytes.length);
    assertEquals(short.length, 0, `of 600 clients: the first got ${short[0]} bytes`);
    for (const conn of conns) conn.close();
    assertEquals((await server.finish()).code, 0);
  },
);

test("a SIGTERM right behind the ready line: an orderly end", "", async () => {
  for (const script of SERVERS) {
    for (let i = 0; i < 3; i++) {
      await using server = spawn(script, ["--port", "0"]);
      await server.port();
      const { code, signal, stdout } = await server.stop();
      assertEquals([code, signal], [0, null], script);
      assertMatch(stdout, /^stopped: .*\n$/);
    }
  }
});

test("a second SIGTERM during transfers ends it at once: 143", "", async () => {
  await using server = spawn("tcp_server.ts", ["--port", "0", "--quiet"]);
  const port = await server.port();
  using _silent = await Deno.connect({ port });
  using conn = await Deno.connect({ port });
  assertEquals(await exchange(conn, "hello\n"), "hello\n");
  async function chat(): Promise<void> {
    while (await exchange(conn, "hello\n") !== "");
  }
  const chatting = chat().catch(() => {}); // cut off
  server.kill("SIGTERM");
  await server.stderr.until("waiting for 2 connections");
  const { code } = await server.stop("SIGTERM");
  assertEquals(code, 143); // and not 0, as when it has waited for them
  await chatting;
});

// ---- Clients, and servers that lie or die ----

test("a TCP server that lies: exit 1, and the client says how", "", async (t) => {
  const input = seededRandom().bytes(200_000);
  const [all, last] = [200_000, 199_999];
  const flip = (at: number) => (bytes: Bytes): Bytes => bytes.with(at, bytes[at]! ^ 8);
  const rows: [string, Talk, RegExp][] = [
    ["echoes nothing", echoing(0), /closed the connection: 200000 bytes were not echoed/],
    ["echoes less", echoing(150_000), /closed the connection: 50000 bytes were not echoed/],
    ["leaves the last byte out", echoing(last), /closed the connection: 1 bytes? .* not echoed/],
    ["echoes more", echoing(all, (bytes) => join([bytes, encode("xyz")])), /\b3 bytes too many/],
    ["flips a bit", echoing(all, flip(4_711)), /echo differs at byte 4711\b/],
    ["flips a bit of the last byte", echoing(all, flip(last)), /echo differs at byte 199999\b/],
    [
      "leaves a byte out, and adds one at the end",
      echoing(all, (bytes) => join([bytes.subarray(0, 9), bytes.subarray(10), encode("x")])),
      /echo differs at byte (9|1\d)\b/, // a byte may equal the next one
    ],
    [
      "never answers",
      async (conn, gone) => {
        await readToEnd(conn);
        await gone;
      },
      /nothing from \S+ for 1 s: 200000 bytes were not echoed/,
    ],
  ];
  for (const [name, talk, message] of rows) {
    await t.step(name, async () => {
      const gone = Promise.withResolvers<void>();
      await using server = rudeServer((conn) => talk(conn, gone.promise));
      const args = ["--port", `${server.port}`, "--timeout", "1"];
      const client = runScript("tcp_client.ts", args, { stdin: input });
      const { code, stderr } = await client.finally(gone.resolve);
      assertMatch(stderr, message);
      assertMatch(stderr, /^tcp_client: .*\n$/); // one line
      assertEquals(code, 1);
    });
  }

  for (const count of [1, 100_000]) {
    await t.step(`resets after ${count} bytes`, async () => {
      await using server = await resettingServer(count);
      const args = ["--port", `${server.port}`, "--timeout", "1"];
      const { code, stderr } = await runScript("tcp_client.ts", args, { stdin: input });
      // All that was sent so far may be echoed at that moment, but more was to come.
      const missing = ": \\d+ bytes were not echoed \\(of \\d+\\)| before the end of the input";
      assertMatch(stderr, new RegExp(`^tcp_client: .*reset.*(${missing})\\n$`));
      assertEquals(code, 1);
    });
  }
});

/** A server that echoes at least `count` bytes of its first client, and then resets it. */
async function resettingServer(count: number): Promise<{ port: number } & AsyncDisposable> {
  const server = createServer((socket) => {
    let echoed = 0;
    socket.on("error", () => {});
    socket.on("data", (bytes) => {
      echoed += bytes.length;
      socket.write(bytes, () => echoed >= count && socket.resetAndDestroy());
    });
  });
  await new Promise<void>((resolve) => server.listen(0, "127.0.0.1", resolve));
  return {
    port: (server.address() as { port: number }).port,
    [Symbol.asyncDispose]: () => new Promise((resolve) => server.close(() => resolve())),
  };
}

test("a server killed in mid-transfer: exit 1, and what is missing", NEEDS.python, async () => {
  await using server = python(PLAIN_TCP);
  const port = await server.nextLine();
  await using client = spawn("tcp_client.ts", ["--port", port, "--timeout", "20"]);
  const feeding = feed(client);
  await client.stdout.until("x".repeat(1_000_000)); // the transfer is under way
  const rest = client.finish();
  server.kill("SIGSTOP"); // it echoes no more,
  await client.write(new Uint8Array(500_000)); // and is sent more than a pipe holds: echoes are owed
  server.kill("SIGKILL");
  const { code, stderr } = await rest;
  // What it sees is the reset, and not that nothing comes for 20 s.
  assertMatch(stderr, /^tcp_client: (?!nothing).*: \d+ bytes were not echoed \(of \d+\)\n$/);
  assertEquals(code, 1);
  await feeding;
});

test("a server cut off by a packet filter: the same, in time", NEEDS.namespace, async () => {
  using network = makeNetwork();
  await using server = python(PLAIN_TCP, [], network);
  const port = await server.nextLine();
  const args = ["--port", port, "--timeout", "1"];
  await using client = spawn("tcp_client.ts", args, { via: network.via });
  const feeding = feed(client);
  await client.stdout.until("x".repeat(1_000_000));
  const rest = client.finish();
  network.run(dropRule("meta l4proto tcp"));
  const [{ code, stderr }, waited] = await timed(rest);
  assertMatch(
    stderr,
    /^tcp_client: nothing from .* for 1 s: \d+ bytes were not echoed \(of \d+\)\n$/,
  );
  assertEquals(code, 1);
  assertGreater(waited, 0.9);
  await feeding;
});

/** Gives a program more input than it will live to read. */
async function feed(program: Program): Promise<void> {
  const bytes = encode("x".repeat(65_536));
  try {
    while (true) await program.write(bytes);
  } catch {
    // It has ended.
  }
}

test("a dead port: a connection to oneself is none", NEEDS.namespace, async () => {
  using network = makeNetwork();
  const { plain, ours, odd } = await selfConnects(network, 2_000);
  assertGreater(plain, 0); // or nothing was proved
  assertEquals([ours, odd], [0, []]);
});

// ---- UDP ----

const SENTENCES = Array.from({ length: 25 }, (_, i) => `sentence ${i + 1}\n`).join("");

test("UDP through 20 % real loss: each sentence once, in order", NEEDS.namespace, async (t) => {
  using network = makeNetwork();
  network.run(dropRule("meta l4proto udp numgen random mod 100 < 20"));
  await using server = python(PLAIN_UDP, [], network);
  const port = await server.nextLine();
  const { via } = network;

  await t.step("resent until it is there", async () => {
    const args = ["--port", port, "--timeout", "0.02", "--retries", "30"];
    const stdin = SENTENCES.slice(0, SENTENCES.indexOf("sentence 9")); // more: more luck, as waits double
    const result = await runScript("udp_client.ts", args, { via, stdin });
    assertEquals([result.code, result.stdout], [0, stdin]);
  });

  await t.step("or reported, if it is not to be resent", async () => {
    const args = ["--port", port, "--timeout", "0.05", "--retries", "0", "--no-stop"];
    const { code, stdout, stderr } = await runScript("udp_client.ts", args, {
      via,
      stdin: SENTENCES,
    });
    const lost = [...stderr.matchAll(/sentences? (\d+)(?: to (\d+))? (?:is|are) lost/g)]
      .flatMap(([, first, last = first]) => {
        const length = Number(last) - Number(first) + 1;
        return Array.from({ length }, (_, i) => Number(first) + i);
      });
    assertGreater(lost.length, 0); // one run in 70,000 loses none
    const sentences = SENTENCES.trim().split("\n");
    const arrived = sentences.filter((_, i) => !lost.includes(i + 1));
    assertEquals([code, stdout.trim().split("\n")], [1, arrived]);
  });

  await t.step("a probe counts what is lost", async () => {
    const args = ["--port", port, "--count", "200", "--interval", "0.002", "--timeout", "0.3"];
    const { code, stdout } = await runScript("udp_client.ts", [...args, "--json"], { via });
    const { sent, echoed, lost, ...others } = eventsOf(stdout).at(-1);
    assertEquals([code, sent, echoed + lost], [1, 200, 200]);
    assert(lost > 30 && lost < 120, `${lost} lost, where 72 of 200 are to be expected`);
    const { duplicated, reordered, corrupt } = others;
    assertEquals([duplicated, reordered, corrupt], [0, 0, 0]);
  });
});

test("UDP late, twice, out of order, from strangers: each once, in order", "", async (t) => {
  const stranger = Deno.listenDatagram({ transport: "udp", hostname: "127.0.0.1", port: 0 });
  try {
    await t.step("sentences", async () => {
      let before = "";
      await using server = udpPeer(async (sentence, to, socket) => {
        await stranger.send(encode(sentence), to); // the right bytes, but not from the server
        if (before) await socket.send(encode(before), to); // late
        await socket.send(encode(`${sentence}!`), to); // other bytes
        await socket.send(encode(sentence), to);
        if (sentence !== "last") await socket.send(encode(sentence), to); // twice
        before = sentence;
      });
      // With time enough none is sent again, however busy this machine is.
      const to = ["--port", `${server.port}`, "--timeout", "20"];
      const args = [...to, "first", "second", "third", "last"];
      const { code, stdout, stderr } = await runScript("udp_client.ts", args);
      assertEquals([code, stdout], [0, "first\nsecond\nthird\nlast\n"]);
      // Behind each sentence but the last a second echo of it; before each but the first an older one.
      const lines = [
        "udp_client: 4 datagrams of strangers ignored",
        "udp_client: 10 datagrams of the server ignored: nothing waited for such bytes",
      ];
      assertEquals(stderr.trimEnd().split("\n"), lines);
    });

    await t.step("probes", async () => {
      let held: string[] = [];
      await using server = udpPeer(async (probe, to, socket) => {
        held.push(probe);
        if (held.length < 12) return;
        const [a, b, c, d, e, ...others] = held.map(encode);
        for (const bytes of [b!, a!, c!, c!, d!.with(40, 0), ...others]) {
          await socket.send(bytes, to);
        }
        await stranger.send(e!, to); // e itself is lost
        held = [];
      });
      const args = ["--port", `${server.port}`, "--count", "12", "--interval", "0.005", "--json"];
      const { code, stdout } = await runScript("udp_client.ts", [...args, "--timeout", "2"]);
      const summary = eventsOf(stdout).find(({ event }) => event === "summary");
      const { rtt_ms: _, time: _time, ...counts } = summary;
      const book = { sent: 12, echoed: 10, lost: 1, duplicated: 1, reordered: 1, corrupt: 1 };
      assertEquals([code, counts], [1, { event: "summary", ...book }]);
    });
  } finally {
    stranger.close();
  }
});

test("UDP, each first two tries lost: waits do not pile up over the sentences", "", async () => {
  const tries = new Map<string, number>();
  await using server = udpPeer(async (sentence, to, socket) => {
    const count = (tries.get(sentence) ?? 0) + 1;
    tries.set(sentence, count);
    if (count > 2) await socket.send(encode(sentence), to);
  });
  const to = ["--port", `${server.port}`, "--timeout", "0.02", "--retries", "9"];
  const args = [...to, "1", "2", "3", "4", "5"];
  const [{ code, stdout }, waited] = await timed(runScript("udp_client.ts", args));
  assertEquals([code, stdout], [0, "1\n2\n3\n4\n5\n"]);
  assertLess(waited, 15); // 0.3 s, or 1.9 s if each wait is twice the last; 20 s if all are kept
});

const WRONG = /no echo from \S+ after 2 tries in [\d.]+ s: (1 answer|2 answers) had other bytes\n/;

test("a UDP server that lies: exit 1, never taken for an echo", "", async (t) => {
  const rows: [string, (sentence: string) => string | undefined, RegExp][] = [
    ["less", (sentence) => sentence.slice(0, -1), WRONG],
    ["more", (sentence) => `${sentence}!`, WRONG],
    ["a flipped bit", (sentence) => sentence.replace("o", "n"), WRONG],
    ["nothing in it", () => "", WRONG],
    ["no answer", () => undefined, /no answer from \S+ after 2 tries in [\d.]+ s; is udp_server/],
  ];
  const results = await Promise.all(rows.map(async ([, change]) => {
    await using server = udpPeer(async (sentence, to, socket) => {
      const answer = change(sentence);
      if (answer !== undefined) await socket.send(encode(answer), to);
    });
    const args = ["--port", `${server.port}`, "--timeout", "0.3", "--retries", "1", "hello"];
    return await runScript("udp_client.ts", args);
  }));
  for (const [i, [name, , message]] of rows.entries()) {
    await t.step(name, () => {
      const { code, stdout, stderr } = results[i]!;
      assertEquals([code, stdout], [1, ""]);
      assertMatch(stderr, message);
    });
  }
});

test("a UDP flood from one source: others are still answered", NEEDS.python, async (t) => {
  for (const args of [[], ["--rate", "100"]]) {
    await t.step(args.join(" ") || "no limit", async () => {
      await using server = spawn("udp_server.ts", ["--port", "0", ...args]);
      const port = await server.port();
      await using flooder = python(FLOOD_UDP, [port, 1e12]); // without an end
      assertEquals(await flooder.nextLine(), "flooding");
      await askInFlood(port, 10);
      assert(alive(flooder.pid), "the flood was over");
      assertEquals((await server.stop()).code, 0);
    });
  }
});

// ---- Starts ----

test("killed and restarted on the same port: it binds each time", "", async () => {
  for (const script of SERVERS) await restart(script, 5);
});

test("a second instance on the same port: one line, exit 1", "", async () => {
  async function check(script: string): Promise<void> {
    await using first = spawn(script, ["--port", "0"]);
    const port = await first.port();
    const { code, stdout, stderr } = await runScript(script, ["--port", `${port}`]);
    assertEquals([code, stdout], [1, ""]);
    assertMatch(
      stderr,
      /^\w+: cannot (listen|receive) on 127\.0\.0\.1:\d+: address already in use.*\n$/,
    );
    assertStringIncludes(stderr, `127.0.0.1:${port}`);
  }
  await Promise.all(SERVERS.map(check));
});

// ---- Volume ----

test("random bytes in random chunks at random times: identical", "", async (t) => {
  const random = seededRandom();
  await t.step("from the server", async () => {
    await using server = spawn("tcp_server.ts", ["--port", "0", "--no-stop", "--quiet"]);
    const port = await server.port();
    await Promise.all([1, 2].map(() => transfer(port, 8 * MEGABYTE, { random })));
  });
  await t.step("through the client", async () => {
    await transferThroughClient(8 * MEGABYTE, { random, echo: true });
  });
  await t.step("through the client, without an echo", async () => {
    await transferThroughClient(8 * MEGABYTE, { random, echo: false });
  });
});
