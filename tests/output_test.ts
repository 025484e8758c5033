/**
 * What the scripts show to programs and to people: `--json` and `--trace` of all four.
 *
 * @module
 */

import {
  assert,
  assertEquals,
  assertGreaterOrEqual,
  assertNotEquals,
  assertStringIncludes,
} from "@std/assert";
import { serve as serveTcp } from "../tcp_server.ts";
import { serve as serveUdp } from "../udp_server.ts";
import { encode, join, LIMIT, readToEnd, runScript, spawn, UdpPeer, writeAll } from "./_helpers.ts";

/** What no line may show as it is. */
const UNSAFE = /[\p{Cc}\p{Cf}\p{Zl}\p{Zp}]/u;

/** One of our servers for each client. */
const PAIRS = [
  { script: "tcp_client.ts", serve: serveTcp },
  { script: "udp_client.ts", serve: serveUdp },
];

// ---- JSON ----

/** Lines of JSON, each safe to see, each with its time first, which is left out here. */
function parseLines(stdout: string): { [name: string]: unknown }[] {
  assert(stdout.endsWith("\n"));
  let last = "";
  return stdout.slice(0, -1).split("\n").map((line) => {
    assert(!UNSAFE.test(line), `unsafe: ${JSON.stringify(line)}`);
    const [, time] = /^\{"time":"(\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z)",/.exec(line) ?? [];
    assert(time !== undefined && time >= last, line);
    last = time;
    const { time: _, ...event } = JSON.parse(line);
    return event;
  });
}

const CONTROLS = String.fromCharCode(
  ...Array.from({ length: 160 }, (_, i) => i).filter((code) =>
    code !== 10 && (code < 32 || code > 126)
  ),
);

Deno.test("tcp_server.ts --json: only lines of JSON, whatever is sent", LIMIT, async () => {
  await using server = spawn("tcp_server.ts", ["--port", "0", "--json", "--once"]);
  const { port } = JSON.parse(await server.nextLine());
  using conn = await Deno.connect({ port });
  const invalid = new Uint8Array([0xff, 0xc3, 0x28, 0xe2, 0x82, 0x0a]);
  const sent = join([
    encode(`${CONTROLS}\n"\\\u2028\u202e\n`),
    invalid,
    encode(`${"x".repeat(1_048_576)}\n`),
    encode("unfinished"),
  ]);
  const writing = writeAll(conn, sent).then(() => conn.closeWrite());
  assertEquals((await readToEnd(conn)).length, sent.length);
  await writing;
  const { code, stdout, stderr } = await server.finish();
  assertEquals([code, stderr], [0, ""]);
  const [open, ...events] = parseLines(stdout);
  assertEquals(Object.keys(open!), ["event", "peer"]);
  const peer = open!.peer;
  assertEquals(events.slice(0, 5), [
    { event: "message", peer, bytes: encode(CONTROLS).length, text: CONTROLS.replace(/\r$/, "") },
    { event: "message", peer, bytes: 8, text: '"\\\u2028\u202e' },
    { event: "message", peer, bytes: 5, text: "\ufffd\ufffd(\ufffd" },
    { event: "message", peer, bytes: 1_048_576, text: "x".repeat(1_000), more: 1_047_576 },
    { event: "message", peer, bytes: 10, text: "unfinished" },
  ]);
  const totals = { messages: 5, bytes: sent.length };
  const [{ seconds: _1, ...close }, { seconds: _2, ...shutdown }] = events.slice(5) as [
    { seconds?: number },
    { seconds?: number },
  ];
  assertEquals<unknown>(close, { event: "close", peer, reason: "eof", ...totals });
  assertEquals<unknown>(shutdown, { event: "shutdown", connections: 1, ...totals });
  const fields = ["event", "peer", "reason", "messages", "bytes", "seconds"];
  assertEquals(events.slice(5).map((event) => Object.keys(event)), [
    fields,
    ["event", "connections", "messages", "bytes", "seconds"],
  ]);
});

Deno.test("udp_server.ts --json: only lines of JSON, whatever is sent", LIMIT, async () => {
  await using server = spawn("udp_server.ts", ["--port", "0", "--json", "--once"]);
  const first = await server.nextLine();
  const { port } = JSON.parse(first);
  const ready = { event: "listening", transport: "udp", hostname: "127.0.0.1", port };
  assertEquals(parseLines(`${first}\n`), [ready]);
  await using peer = new UdpPeer();
  const sent = [
    encode(`${CONTROLS}\n"`),
    new Uint8Array([0xff, 0xc3, 0x28, 0xe2, 0x82, 0x0a]),
    new Uint8Array(65_507).fill(0x78),
    new Uint8Array(),
    encode("stop"),
  ];
  for (const bytes of sent) await peer.ask(bytes, port);
  const { code, stdout, stderr } = await server.finish();
  assertEquals([code, stderr], [0, ""]);
  const events = parseLines(stdout);
  const from = `127.0.0.1:${peer.addr.port}`;
  const messages = events.slice(0, 5);
  assertEquals(messages.map(({ event, peer }) => [event, peer]), Array(5).fill(["message", from]));
  const withoutEnd = sent.map(({ length }, i) => i === 1 ? length - 1 : length);
  assertEquals(messages.map(({ bytes }) => bytes), withoutEnd);
  assertEquals(messages.map(({ text }) => text), [
    `${CONTROLS}\n"`,
    "\ufffd\ufffd(\ufffd",
    "x".repeat(1_000),
    "",
    "stop",
  ]);
  assertEquals(messages.map(({ more }) => more), [
    undefined,
    undefined,
    64_507,
    undefined,
    undefined,
  ]);
  const [close, shutdown] = events.slice(5);
  assertEquals(Object.keys(close!), ["event", "peer", "reason", "messages", "bytes", "seconds"]);
  assertEquals([close!.event, close!.reason, close!.messages], ["close", "stop", 5]);
  const fields = ["event", "messages", "bytes", "seconds", "unanswered"];
  assertEquals(Object.keys(shutdown!).toSorted(), fields.toSorted());
  assertEquals([shutdown!.event, shutdown!.messages], ["shutdown", 5]);
});

Deno.test("the clients --json: only lines of JSON, no character torn", LIMIT, async (t) => {
  // Its thousandth byte is within a character: 5 and then 9 for each three of them.
  const line = `${"x".repeat(5)}${"ä€😀".repeat(200)}\u2028${CONTROLS}`;
  const stdin = encode(`${line}\n${CONTROLS}\n`.repeat(30));
  for (const { script, serve } of PAIRS) {
    await t.step(script, async () => {
      await using server = serve({ port: 0 });
      const args = ["-p", `${server.addr.port}`, "--json"];
      const { code, stdout, stderr } = await runScript(script, args, { stdin });
      assertEquals([code, stderr], [0, ""]);
      const events = parseLines(stdout);
      assertEquals(events.pop()!.event, "summary");
      assertEquals(events.length, 60);
      for (const [i, { event, bytes, text, more = 0 }] of events.entries()) {
        const sentence = [line, CONTROLS][i % 2]!;
        const size = encode(sentence).length;
        assertEquals([event, bytes], ["echo", size]);
        assert(sentence.startsWith(`${text}`), "a character is torn");
        assertEquals(encode(`${text}`).length + Number(more), size);
        assertEquals(Number(more) > 0, size > 1_000);
        assert(size <= 1_000 || size - Number(more) > 996, `${more} more of ${size} bytes`);
      }
    });
  }
});

// ---- The ladder ----

type Rungs = [side: string, step: string, call: string, arrow: string, what: string][];

/** Of a rung: time, side, step, call, arrow; then what it is about. */
const RUNG =
  /^( *(\d+\.\d) ms (client|server) (\S+) +([a-zA-Z]+\([^)]*\)(?: = \w+)?) +)(──▶|◀──| │ ?) ?(.*)$/;

/** The rungs of a `--trace`, their times and ports masked. */
function parseLadder(stderr: string): Rungs {
  let last = 0;
  const columns = new Set<number>();
  const rungs = stderr.trimEnd().split("\n").map((line): Rungs[number] => {
    const [, head, time, side, step, call, arrow, what] = RUNG.exec(line) ?? [];
    assert(what !== undefined, `no rung: ${line}`);
    assert(!/\d ms\b/.test(what), `a time of its own: ${line}`);
    assert([...line].length <= 80, `over 80 columns: ${line}`);
    columns.add(head!.length);
    assertGreaterOrEqual(Number(time), last);
    last = Number(time);
    const masked = what.replace(/127\.0\.0\.1:\d+/, "PEER");
    return [side!, step!, call!, arrow!.trim(), masked];
  });
  assertEquals([...columns].length, 1, `not aligned:\n${stderr}`);
  return rungs;
}

/** Three sentences, each once the one before is echoed; what both sides draw. */
async function ladders(pair: "tcp" | "udp"): Promise<{ server: Rungs; client: Rungs }> {
  await using server = spawn(`${pair}_server.ts`, ["--port", "0", "--once", "--trace"]);
  const port = `${await server.port()}`;
  await using client = spawn(`${pair}_client.ts`, ["--port", port, "--trace"]);
  for (const sentence of ["Hello, server!", "How are you?", "stop"]) {
    await client.write(`${sentence}\n`);
    assertEquals(await client.nextLine(), sentence);
  }
  const [ended, serverEnded] = [await client.finish(), await server.finish()];
  assertEquals([ended.code, serverEnded.code], [0, 0]);
  return { client: parseLadder(ended.stderr), server: parseLadder(serverEnded.stderr) };
}

Deno.test("--trace over UDP: the ladder of both sides", LIMIT, async () => {
  const { client, server } = await ladders("udp");
  assertEquals(client, [
    ["client", "1b", "listenDatagram()", "│", "PEER"],
    ["client", "i", "send(14)", "──▶", 'PEER "Hello, server!"'],
    ["client", "i", "receive() = 14", "◀──", 'PEER "Hello, server!"'],
    ["client", "i", "send(12)", "──▶", 'PEER "How are you?"'],
    ["client", "i", "receive() = 12", "◀──", 'PEER "How are you?"'],
    ["client", "i", "send(4)", "──▶", 'PEER "stop"'],
    ["client", "i", "receive() = 4", "◀──", 'PEER "stop"'],
    ["client", "ii", "close()", "│", "PEER"],
  ]);
  assertEquals(server, [
    ["server", "1-2", "listenDatagram()", "│", "PEER"],
    ["server", "5", "receive() = 14", "──▶", 'PEER "Hello, server!"'],
    ["server", "5", "send(14)", "◀──", 'PEER "Hello, server!"'],
    ["server", "5", "receive() = 12", "──▶", 'PEER "How are you?"'],
    ["server", "5", "send(12)", "◀──", 'PEER "How are you?"'],
    ["server", "5", "receive() = 4", "──▶", 'PEER "stop"'],
    ["server", "5", "send(4)", "◀──", 'PEER "stop"'],
    ["server", "6", "close()", "│", "PEER"],
  ]);
});

Deno.test("--trace over TCP: the ladder of both sides", LIMIT, async () => {
  const { client, server } = await ladders("tcp");
  // Its own half-close races with the end, as the server closed first.
  assertEquals(client.filter(([, , call]) => call !== "closeWrite()"), [
    ["client", "1c", "connect()", "──▶", "PEER"],
    ["client", "i", "write(15)", "──▶", '"Hello, server!\\n"'],
    ["client", "i", "read() = 15", "◀──", '"Hello, server!\\n"'],
    ["client", "i", "write(13)", "──▶", '"How are you?\\n"'],
    ["client", "i", "read() = 13", "◀──", '"How are you?\\n"'],
    ["client", "i", "write(5)", "──▶", '"stop\\n"'],
    ["client", "i", "read() = 5", "◀──", '"stop\\n"'],
    ["client", "i", "read() = null", "◀──", "FIN (inferred)"],
    ["client", "ii", "close()", "│", ""],
  ]);
  const rungs = server.map(([, step, call, arrow, what]) => [step, call, arrow, what]);
  assertEquals(rungs.filter(([, call]) => call !== "close()"), [
    ["1-3", "listen()", "│", "PEER"],
    ["4", "accept()", "──▶", "PEER"],
    ["5", "read() = 15", "──▶", 'PEER "Hello, server!\\n"'],
    ["5", "write(15)", "◀──", 'PEER "Hello, server!\\n"'],
    ["5", "read() = 13", "──▶", 'PEER "How are you?\\n"'],
    ["5", "write(13)", "◀──", 'PEER "How are you?\\n"'],
    ["5", "read() = 5", "──▶", 'PEER "stop\\n"'],
    ["5", "write(5)", "◀──", 'PEER "stop\\n"'],
    ["6", "closeWrite()", "◀──", "PEER FIN (inferred)"],
    ["5", "read() = null", "──▶", "PEER FIN (inferred)"],
  ]);
  assertEquals(rungs.filter(([, call]) => call === "close()").length, 2); // listener, connection
});

Deno.test("--trace is readable whatever the bytes", LIMIT, async (t) => {
  const stdin = join([encode(`${CONTROLS}\n`), encode(`${"\u2028".repeat(30)}\n`)]);
  for (const [pair, { serve }] of [["tcp", PAIRS[0]!], ["udp", PAIRS[1]!]] as const) {
    await t.step(pair, async () => {
      await using server = serve({ port: 0 });
      const args = ["-p", `${server.addr.port}`, "--trace", "--quiet"];
      const { code, stderr } = await runScript(`${pair}_client.ts`, args, { stdin });
      assertEquals(code, 0);
      const rungs = parseLadder(stderr);
      assert(rungs.some(([, , call]) => /^(read|receive)\(\) = \d/.test(call)));
      for (const rung of rungs) assert(!UNSAFE.test(rung.join(" ")), rung.join(" "));
    });
  }
});

Deno.test(
  "--trace: a lost datagram is seen to be sent again, a dropped one to be",
  LIMIT,
  async () => {
    const args = ["--port", "0", "--drop", "1", "--trace"];
    await using server = spawn("udp_server.ts", args);
    const port = `${await server.port()}`;
    const ask = ["--port", port, "--timeout", "0.05", "--retries", "1", "--trace", "hello"];
    const { code, stderr } = await runScript("udp_client.ts", ask);
    assertEquals(code, 1);
    const calls = parseLadder(stderr.replace(/^udp_client: .*\n/gm, "")).map(([, , call]) => call);
    assertEquals(calls, ["listenDatagram()", "send(5)", "send(5)", "close()"]);
    assertStringIncludes(await server.stderr.until("--drop"), "receive() = 5");
    assertNotEquals(await server.stderr.nextLine(), "");
  },
);

Deno.test("--trace: what a probe says of an echo is its one time", LIMIT, async () => {
  await using peer = new UdpPeer(({ bytes, from }, _, self) => self.send(bytes, from));
  const args = ["-p", `${peer.addr.port}`, "--count", "3", "--interval", "0", "--trace"];
  const { code, stdout, stderr } = await runScript("udp_client.ts", args);
  assertEquals([code, stdout.match(/ time=[\d.]+ ms$/gm)?.length], [0, 3]);
  const calls = parseLadder(stderr).map(([, , call]) => call);
  assertEquals(calls.filter((call) => call.startsWith("receive()")).length, 3);
});
