/**
 * Every fault of the book, one test each: rude peers, hostile networks, a hostile terminal, a system
 * that has no more to give. The other side is always plain sockets, never our own client or server.
 * `deno task soak` does the same at full scale.
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
  ALL_SCRIPTS,
  assertSameBytes,
  type Bytes,
  decode,
  encode,
  exchange,
  fileUrl,
  freePort,
  join,
  LIMIT,
  type Program,
  PTY,
  readExactly,
  readToEnd,
  type Result,
  rudeServer,
  runScript,
  seededRandom,
  spawn,
  type SpawnOptions,
  writeAll,
} from "./_helpers.ts";
import {
  alive,
  askInFlood,
  besideDeaf,
  descriptors,
  dropRule,
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
  talk,
  timed,
  transfer,
  transferThroughClient,
} from "./_faults.ts";

const SERVERS = ["tcp_server.ts", "udp_server.ts"];
const MEGABYTE = 1_048_576;

/** A test that is ignored, with the reason in its name, where `lack` says what is missing. */
function test(name: string, lack: string, fn: (t: Deno.TestContext) => Promise<void>): void {
  Deno.test({ name: name + lack, ignore: lack !== "", ...LIMIT, fn });
}

/** The `--json` lines of some output. */
// deno-lint-ignore no-explicit-any
function eventsOf(stdout: string): any[] {
  return stdout.trim().split("\n").map((line) => JSON.parse(line));
}

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
  const { served, cpu, waits } = await starve(server, { idleSeconds: 1, freed: 3 });
  assert(served > 0 && served < 48, `${served} are served`);
  assertLess(cpu, 0.05); // of a core
  for (const wait of waits) assertLess(wait, 1);
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
  const start = performance.now();
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
    await seconds(0.4);
    assertEquals(await exchange(trickler, "x"), "x");
  }
  for (const waited of (await closing).slice(0, 3)) {
    assert(waited! > 0.95 && waited! < 2.5, `closed after ${waited} s`);
  }
  assertGreater(performance.now() - start, 1_000);
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
  assert(waited > 4.5 && waited < 7, `cut off after ${waited} s`);
  assertEquals(new Set(await finite), new Set([64 * block.length]));

  const { code, stdout, stderr } = await server.finish();
  assertEquals([code, stderr], [0, ""]);
  const events = eventsOf(stdout);
  const closes = events.filter(({ event }) => event === "close");
  const cut = closes.filter(({ reason }) => reason === "shutdown");
  const sum = (numbers: number[]): number => numbers.reduce((a, b) => a + b);
  const bytes = sum(closes.map((close) => close.bytes));
  const { seconds: _, ...shutdown } = events.at(-1);
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
    const bytes = encode("a line of text\n".repeat(6_000)); // 90 kB: the system takes it
    server.kill("SIGSTOP");
    await Promise.all(conns.map((conn) => writeAll(conn, bytes)));
    server.kill("SIGTERM");
    server.kill("SIGCONT");
    const sizes = await Promise.all(conns.map(async (conn) => (await readToEnd(conn)).length));
    assertEquals(sizes.filter((size) => size !== bytes.length), []);
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
  using silent = await Deno.connect({ port });
  using conn = await Deno.connect({ port });
  assertEquals(await exchange(conn, "hello\n"), "hello\n");
  async function chat(): Promise<void> {
    while (await exchange(conn, "hello\n") !== "");
  }
  const chatting = chat().catch(() => {}); // cut off
  server.kill("SIGTERM");
  assertEquals((await readToEnd(silent)).length, 0); // it has begun to end
  const [{ code }, waited] = await timed(server.stop("SIGTERM"));
  assertEquals(code, 143);
  assertLess(waited, 1);
  await chatting;
});

// ---- Clients, and servers that lie or die ----

/** What a server does with its one client, which is `gone` when it has ended. */
type Talk = (conn: Deno.TcpConn, gone: Promise<void>) => Promise<void>;

/** Echoes the first `count` bytes, as `change` has them, and takes all that comes. */
function echoing(
  count: number,
  change = (bytes: Bytes): Bytes => bytes,
): (conn: Deno.TcpConn) => Promise<void> {
  return async (conn) => {
    const bytes = await readExactly(conn, count);
    await Promise.all([readToEnd(conn), writeAll(conn, change(bytes))]);
  };
}

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
      const [{ code, stderr }, waited] = await timed(client.finally(gone.resolve));
      assertMatch(stderr, message);
      assertMatch(stderr, /^tcp_client: .*\n$/); // one line
      assertEquals(code, 1);
      assertLess(waited, 4);
    });
  }

  for (const count of [1, 100_000]) {
    await t.step(`resets after ${count} bytes`, async () => {
      await using server = await resettingServer(count);
      const args = ["--port", `${server.port}`, "--timeout", "1"];
      const { code, stderr } = await runScript("tcp_client.ts", args, { stdin: input });
      assertMatch(stderr, /^tcp_client: .*reset.*: \d+ bytes were not echoed \(of \d+\)\n$/);
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
  await using client = spawn("tcp_client.ts", ["--port", port, "--timeout", "2"]);
  const feeding = feed(client);
  await client.stdout.until("x".repeat(1_000_000)); // the transfer is under way
  const rest = client.finish();
  server.kill("SIGSTOP"); // it echoes no more,
  await client.write(new Uint8Array(500_000)); // and is sent more than a pipe holds: echoes are owed
  server.kill("SIGKILL");
  const [{ code, stderr }, waited] = await timed(rest);
  assertMatch(stderr, /^tcp_client: .*: \d+ bytes were not echoed \(of \d+\)\n$/);
  assertEquals(code, 1);
  assertLess(waited, 2);
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
  assert(waited > 0.9 && waited < 3, `ended after ${waited} s`);
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

/** A UDP peer that answers each new datagram, and each one sent again, as `answer` says. */
function udpPeer(
  answer: (sentence: string, to: Deno.NetAddr, socket: Deno.DatagramConn) => Promise<unknown>,
  port = 0,
): { port: number } & AsyncDisposable {
  const socket = Deno.listenDatagram({ transport: "udp", hostname: "127.0.0.1", port });
  async function serve(): Promise<void> {
    for await (const [bytes, from] of socket) {
      await answer(decode(bytes), from as Deno.NetAddr, socket);
    }
  }
  const served = serve();
  return {
    port: (socket.addr as Deno.NetAddr).port,
    async [Symbol.asyncDispose](): Promise<void> {
      socket.close();
      await served;
    },
  };
}

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
      const args = ["--port", `${server.port}`, "first", "second", "third", "last"];
      const { code, stdout, stderr } = await runScript("udp_client.ts", args);
      assertEquals([code, stdout], [0, "first\nsecond\nthird\nlast\n"]);
      // Behind each sentence but the last a second echo of it; before each but the first an older one.
      const ignored = /^udp_client: ignored datagrams: (.*)\n$/.exec(stderr)?.[1];
      assertEquals(ignored, "4 strangers, 6 late, 4 different");
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
      const { code, stdout } = await runScript("udp_client.ts", [...args, "--timeout", "0.5"]);
      const { rtt_ms: _, ...counts } = eventsOf(stdout).at(-1);
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
  const args = ["--port", `${server.port}`, "--timeout", "0.02", "1", "2", "3", "4", "5"];
  const [{ code, stdout }, waited] = await timed(runScript("udp_client.ts", args));
  assertEquals([code, stdout], [0, "1\n2\n3\n4\n5\n"]);
  assertLess(waited, 5); // 0.3 s, or 1.9 s if each wait is twice the last; 20 s if all are kept
});

test("a UDP server that lies: exit 1, never taken for an echo", "", async (t) => {
  const rows: [string, (sentence: string) => string | undefined, RegExp][] = [
    ["less", (sentence) => sentence.slice(0, -1), /\b[12] different/],
    ["more", (sentence) => `${sentence}!`, /\b[12] different/],
    ["a flipped bit", (sentence) => sentence.replace("o", "n"), /\b[12] different/],
    ["nothing in it", () => "", /\b[12] different/],
    ["no answer", () => undefined, /no answer/],
  ];
  for (const [name, change, message] of rows) {
    await t.step(name, async () => {
      await using server = udpPeer(async (sentence, to, socket) => {
        const answer = change(sentence);
        if (answer !== undefined) await socket.send(encode(answer), to);
      });
      const args = ["--port", `${server.port}`, "--timeout", "0.05", "--retries", "1", "hello"];
      const { code, stdout, stderr } = await runScript("udp_client.ts", args);
      assertEquals([code, stdout], [1, ""]);
      assertMatch(
        stderr,
        /no answer from 127\.0\.0\.1:\d+ after 2 tries in 0\.\d+ s; is udp_server/,
      );
      assertMatch(stderr, message);
    });
  }
});

test("a UDP flood from one source: others are still answered", NEEDS.python, async (t) => {
  for (const args of [[], ["--rate", "100"]]) {
    await t.step(args.join(" ") || "no limit", async () => {
      await using server = spawn("udp_server.ts", ["--port", "0", ...args]);
      const port = await server.port();
      await using flooder = python(FLOOD_UDP, [port, 5_000_000]); // half a minute of it
      assertEquals(await flooder.nextLine(), "flooding");
      const [, waited] = await timed(askInFlood(port, 10));
      assertLess(waited, 5);
      assert(alive(flooder.pid), "the flood was over");
      assertEquals((await server.stop()).code, 0);
    });
  }
});

// ---- Permissions ----

/** What a script must be allowed for a port; and another port's, which is not enough. */
function permissionsOf(script: string, port: number): { exact: string; wrong: string } {
  const [here, there] = [`127.0.0.1:${port}`, `127.0.0.1:${port + 1}`];
  if (script === "udp_server.ts") return { exact: "127.0.0.1", wrong: here }; // replies go anywhere
  if (script === "udp_client.ts") {
    return { exact: `127.0.0.1:0,${here}`, wrong: `127.0.0.1:0,${there}` };
  }
  return { exact: here, wrong: there };
}

/** What a script says of a permission it lacks. */
function refusal(script: string, exact: string, given: string | false): string {
  const missing = exact.split(",").find((host) => !given || !given.split(",").includes(host));
  return `${script.slice(0, -3)}: no permission to use ${missing}. Add --allow-net=${exact}\n`;
}

/** A plain server for a client that says hello; nothing for a server. */
function plainPeer(script: string, port: number): AsyncDisposable | undefined {
  if (script === "tcp_client.ts") return rudeServer(echoing(6), port);
  if (script !== "udp_client.ts") return;
  return udpPeer((text, to, socket) => socket.send(encode(text), to), port);
}

/** Runs a script, and talks to it with plain sockets. */
async function tryOut(script: string, port: number, options: SpawnOptions): Promise<Result> {
  const words = script.endsWith("client.ts") ? ["hello"] : [];
  await using peer = plainPeer(script, port);
  await using program = spawn(script, ["--port", `${port}`, ...words], options);
  if (!peer) {
    await program.stdout.until("listening on");
    await (script === "tcp_server.ts" ? askTcp(port) : askUdp(port));
    if (options.via) await program.write("\x03"); // Ctrl-C
    else program.kill("SIGTERM");
  }
  return await program.finish();
}

async function askTcp(port: number): Promise<void> {
  using conn = await Deno.connect({ port });
  assertEquals(await exchange(conn, "hello\nstop\n"), "hello\nstop\n");
}

/** Asks from 127.0.0.2 as well, where no permission to reply reaches: that must not even prompt. */
async function askUdp(port: number): Promise<void> {
  await exchangeUdp(port, encode("hello"), { hostname: "127.0.0.2", answered: false });
  assertEquals(await exchangeUdp(port, encode("hello")), encode("hello"));
}

/** Sends a datagram from a new socket, and returns its answer. @throws Error if none comes in 3 s */
async function exchangeUdp(
  port: number,
  bytes: Bytes,
  { hostname = "127.0.0.1", answered = true } = {},
): Promise<Uint8Array> {
  const socket = Deno.listenDatagram({ transport: "udp", hostname, port: 0 });
  const late = Promise.withResolvers<never>();
  const timer = setTimeout(() => late.reject(new Error("no answer within 3 s")), 3_000);
  try {
    await socket.send(bytes, { transport: "udp", hostname: "127.0.0.1", port });
    return answered ? (await Promise.race([socket.receive(), late.promise]))[0] : bytes;
  } finally {
    clearTimeout(timer);
    socket.close();
  }
}

test("permissions: the exact ones do; without them one line, exit 1", "", async () => {
  async function check(script: string): Promise<void> {
    const port = freePort();
    const { exact, wrong } = permissionsOf(script, port);
    for (const allowNet of [false, wrong] as const) {
      const result = await runScript(script, ["--port", `${port}`], { allowNet });
      assertEquals([result.code, result.stdout], [1, ""]);
      assertEquals(result.stderr, refusal(script, exact, allowNet));
    }
    assertEquals((await tryOut(script, port, { allowNet: exact })).code, 0, script);
  }
  await Promise.all(ALL_SCRIPTS.map(check));
});

test("permissions on a terminal: asked for at the start, or never", NEEDS.python, async () => {
  async function check(script: string): Promise<void> {
    const port = freePort();
    const { exact, wrong } = permissionsOf(script, port);
    await using asked = spawn(script, ["--port", `${port}`], { allowNet: wrong, via: PTY });
    await asked.stdout.until("Allow?");
    const typing = setInterval(() => asked.write("n\n").catch(() => {}), 300); // it drops the first
    const { code, stdout } = await asked.finish().finally(() => clearInterval(typing));
    assertEquals(code, 1);
    assertStringIncludes(stdout.replaceAll("\r", ""), refusal(script, exact, wrong));

    const allowed = await tryOut(script, port, { allowNet: exact, via: PTY });
    assertEquals(allowed.code, 0, script);
    assert(!/Allow\?|requests net access/.test(allowed.stdout), allowed.stdout);
  }
  await Promise.all(ALL_SCRIPTS.map(check));
});

test("permissions: the TCP server, once it listens, cannot connect", "", async () => {
  const port = freePort();
  await using program = spawn("-", [`${port}`], { allowNet: `127.0.0.1:${port}` });
  await program.write(`
    import { main } from "${fileUrl("tcp_server.ts")}";
    main(["--port", Deno.args[0]]).then(Deno.exit);
    await Deno.connect({ hostname: "127.0.0.1", port: Number(Deno.args[0]) })
      .catch((error) => console.error(error.name));
  `);
  await program.end();
  assertEquals(await program.stderr.nextLine(), "NotCapable");
  assertEquals(await program.port(), port);
  await askTcp(port); // but it goes on accepting
  assertEquals((await program.stop()).code, 0);
});

// ---- Output ----

/** OSC 52 (the clipboard), CSI, bare and encoded C1, bidi, CR, BS, NUL, DEL, separators, no UTF-8. */
const HOSTILE = join([
  encode("\x1b]52;c;ZXZpbA==\x07\x1b[2J\x1b[31m\r\b\0\x7f\u009b2J\u202eevil\u2066\u2028\u061c"),
  new Uint8Array([0x9b, 0x32, 0x4a, 0xff, 0xfe, 0xc3, 0x0a]),
]);

/** Asserts that `bytes` are lines of text that steer no terminal. */
function assertHarmless(bytes: Bytes): void {
  const text = new TextDecoder("utf-8", { fatal: true }).decode(bytes);
  // deno-lint-ignore no-control-regex
  const unsafe = /[\0-\x09\x0b-\x1f\x7f-\x9f\u061c\u200e\u200f\u2028-\u202e\u2066-\u2069]/;
  assert(!unsafe.test(text), JSON.stringify(text));
}

/** Runs the command behind it with a terminal for stdout and stderr; its stdin is ours. */
const PTY_OUT = [
  "python3",
  "-c",
  `
import os, pty, subprocess, sys, termios
master, slave = pty.openpty()
attributes = termios.tcgetattr(slave)
attributes[1] &= ~termios.OPOST # a newline stays a newline
termios.tcsetattr(slave, termios.TCSANOW, attributes)
child = subprocess.Popen(sys.argv[1:], stdout=slave, stderr=slave)
os.close(slave)
try:
    while data := os.read(master, 65536): os.write(1, data)
except OSError: pass # the terminal's last user left
sys.exit(child.wait())`,
];

test("hostile bytes: what a server prints steers no terminal", "", async (t) => {
  for (const script of SERVERS) {
    for (const flag of ["--trace", "--json"]) {
      await t.step(`${script} ${flag}`, async () => {
        const port = freePort();
        await using server = spawn(script, ["--port", `${port}`, flag]);
        await server.stdout.until("listening");
        if (script === "tcp_server.ts") {
          using conn = await Deno.connect({ port });
          await writeAll(conn, HOSTILE);
          assertEquals(await readExactly(conn, HOSTILE.length), HOSTILE);
        } else assertEquals(await exchangeUdp(port, HOSTILE), HOSTILE);
        const { bytes, stdout, stderr, code } = await server.stop();
        assertEquals(code, 0);
        assertStringIncludes(stdout, "ZXZpbA=="); // it is there
        assertHarmless(bytes);
        assertHarmless(encode(stderr));
      });
    }
  }
});

test("hostile bytes: through a client to a pipe they stay as they are", "", async (t) => {
  await t.step("tcp_client.ts", async () => {
    await using server = rudeServer(echoing(HOSTILE.length));
    const { code, bytes } = await runScript("tcp_client.ts", ["--port", `${server.port}`], {
      stdin: HOSTILE,
    });
    assertEquals([code, bytes], [0, HOSTILE]);
  });
  await t.step("udp_client.ts", async () => {
    await using server = udpPeer((_, to, socket) => socket.send(HOSTILE.subarray(0, -1), to));
    const { code, bytes } = await runScript("udp_client.ts", ["--port", `${server.port}`], {
      stdin: HOSTILE,
    });
    assertEquals([code, bytes], [0, HOSTILE]);
  });
});

test("hostile bytes: through a client to a terminal they are escaped", NEEDS.python, async (t) => {
  for (const flag of ["--trace", "--json"]) {
    const options = { stdin: HOSTILE, via: PTY_OUT };
    await t.step(`tcp_client.ts ${flag}`, async () => {
      await using server = rudeServer(echoing(HOSTILE.length));
      const args = ["--port", `${server.port}`, flag];
      const { code, stdout, bytes } = await runScript("tcp_client.ts", args, options);
      assertEquals(code, 0);
      assertStringIncludes(stdout, "ZXZpbA==");
      assertHarmless(bytes);
    });
    await t.step(`udp_client.ts ${flag}`, async () => {
      await using server = udpPeer((_, to, socket) => socket.send(HOSTILE.subarray(0, -1), to));
      const args = ["--port", `${server.port}`, flag];
      const { code, stdout, bytes } = await runScript("udp_client.ts", args, options);
      assertEquals(code, 0);
      assertStringIncludes(stdout, "ZXZpbA==");
      assertHarmless(bytes);
    });
  }

  await t.step("tcp_client.ts, of a server that makes them up, byte by byte", async () => {
    await using server = rudeServer(async (conn) => {
      await readExactly(conn, 1);
      for (const byte of HOSTILE) await conn.write(new Uint8Array([byte]));
      await readToEnd(conn);
    });
    const result = await runScript("tcp_client.ts", ["--port", `${server.port}`], {
      stdin: "x".repeat(100),
      via: PTY_OUT,
    });
    assertEquals(result.code, 1);
    assertHarmless(result.bytes);
  });

  await t.step("tcp_client.ts --count", async () => {
    await using server = rudeServer(async (conn) => await writeAll(conn, join([HOSTILE, HOSTILE])));
    const args = ["--port", `${server.port}`, "--count", "1", "--timeout", "0.2"];
    const { code, bytes } = await runScript("tcp_client.ts", args, { via: PTY_OUT });
    assertEquals(code, 1);
    assertHarmless(encode(decode(bytes).replaceAll("\r\x1b[K", ""))); // its own status line
  });
});

test("stdout never read while 50 clients talk: no echo, no end stalls", "", async (t) => {
  await t.step("tcp_server.ts: what was dropped is counted", async () => {
    await using server = spawn("tcp_server.ts", ["--port", "0"]);
    await talk(await server.port());
    const { code, stdout, stderr } = await server.stop(); // this reads what is left
    const dropped = [...stderr.matchAll(/: (\d+) lines dropped$/gm)]
      .reduce((sum, [, count]) => sum + Number(count), 0);
    assertGreater(dropped, 0);
    const lines = 50 * 60 + 50 + 50 + 1; // sentences, opened, closed, stopped
    assertEquals([code, stdout.split("\n").length - 1 + dropped], [0, lines]);
  });

  await t.step("not even at the end, and stderr neither", async () => {
    async function check(script: string, redirect: string): Promise<void> {
      const via = ["sh", "-c", `exec "$@" ${redirect}`, "sh"];
      await using server = spawn(script, ["--port", "0"], { via });
      const port = await server.port();
      await (script === "tcp_server.ts" ? talk(port) : talkUdp(port));
      server.kill("SIGTERM");
      await eventually(`${script} ends`, () => !alive(server.pid), { ms: 4_000 });
      assertEquals((await server.finish()).code, 0);
    }
    const checks = [check("tcp_server.ts", ""), ...SERVERS.map((script) => check(script, "2>&1"))];
    const failed = (await Promise.allSettled(checks)).filter(({ status }) => status === "rejected");
    assertEquals(failed, []);
  });
});

/** 3 MB of sentences over UDP, and one whose sender is warned of. */
async function talkUdp(port: number): Promise<void> {
  const sentence = encode("x".repeat(1_000));
  for (let i = 0; i < 3_000; i++) assertEquals(await exchangeUdp(port, sentence), sentence);
  await askUdp(port);
}

test("--trace, and nobody reads stderr: no echo, no end stalls", "", async (t) => {
  for (const script of SERVERS) {
    await t.step(script, async () => {
      await using server = spawn(script, ["--port", "0", "--quiet", "--trace"]);
      const port = await server.port();
      if (script === "tcp_server.ts") {
        await talk(port, { clients: 5, exchanges: 500, line: "hello\n" });
      } else for (let i = 0; i < 1_000; i++) await exchangeUdp(port, encode("hello"));
      server.kill("SIGTERM");
      await server.stdout.until("stopped: ");
      assertEquals((await server.finish()).code, 0);
    });
  }
});

test("stdout closed while 50 clients talk: a quick and quiet end", "", async () => {
  await using server = spawn("tcp_server.ts", ["--port", "0"]);
  const talking = talk(await server.port(), { exchanges: Infinity }).catch(() => {}); // cut off
  await server.stdout.until("] xxx");
  await server.stdout.close();
  const [{ signal, stderr }, waited] = await timed(server.finish());
  assertEquals([signal, stderr], [null, ""]);
  assertLess(waited, 2);
  await talking;
});

test("stdout full while 50 clients talk: a quick and clear end", NEEDS.tmpfs, async () => {
  const script = 'mount -t tmpfs -o size=64k none /mnt && exec "$@" > /mnt/out';
  const via = ["unshare", "-m", "sh", "-c", script, "sh"];
  const port = freePort();
  await using server = spawn("tcp_server.ts", ["--port", `${port}`], { via });
  const out = `/proc/${server.pid}/root/mnt/out`;
  await eventually("it listens", () => readText(out).includes("listening"));
  const talking = talk(port).catch(() => {}); // cut off
  const [{ code, stderr }, waited] = await timed(server.finish());
  assertMatch(stderr, /^tcp_server: .*no space left on device.*\n$/i);
  assertEquals(code, 1);
  assertLess(waited, 3);
  await talking;
});

function readText(path: string): string {
  try {
    return Deno.readTextFileSync(path);
  } catch {
    return ""; // not there yet
  }
}

test("stdout full from the start: exit 1, one line that says so", NEEDS.linux, async (t) => {
  const full = ["sh", "-c", 'exec "$@" > /dev/full', "sh"];
  const noSpace = /^\w+: .*no space left on device.*\n$/i;
  for (const script of ALL_SCRIPTS) {
    await t.step(script, async () => {
      const port = freePort();
      await using _ = plainPeer(script, port);
      const args = ["--port", `${port}`, ...(script.endsWith("client.ts") ? ["hello"] : [])];
      const [result, waited] = await timed(
        runScript(script, args, { via: full }),
      );
      assertMatch(result.stderr, noSpace);
      assertEquals(result.code, 1);
      assertLess(waited, 3);
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
    await Promise.all([1, 2].map(() => transfer(port, 20 * MEGABYTE, { random })));
  });
  await t.step("through the client", async () => {
    await transferThroughClient(20 * MEGABYTE, { random, echo: true });
  });
  await t.step("through the client, without an echo", async () => {
    await transferThroughClient(20 * MEGABYTE, { random, echo: false });
  });
});
