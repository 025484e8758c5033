/**
 * `udp_server.ts`: its exported `serve`, and the process, with honest peers, with forged datagrams,
 * and with a network that fails.
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
  assertStringIncludes,
} from "@std/assert";
import { lookup } from "node:dns/promises";
import { type EchoServer, serve, type ServeOptions, type ServerEvent } from "../udp_server.ts";
import {
  assertSameBytes,
  type Bytes,
  decode,
  encode,
  EventLog,
  hasIpv6,
  hasTool,
  LIMIT,
  type Program,
  PTY,
  seededRandom,
  spawn,
  UdpPeer,
} from "./_helpers.ts";

const LINUX = Deno.build.os === "linux";
const WINDOWS = Deno.build.os === "windows";
const HAS_PTY = hasTool("python3", "-c", "import pty");
const CAN_FORGE = LINUX && hasTool("python3", "-c", "import socket; socket.socket(17, 3, 8)");
const ROUNDS = 65_536; // after which a run of identical datagrams is broken

type Server = EchoServer & { port: number; log: EventLog<ServerEvent> };

/** A server in this process, and its events. */
function start(options: ServeOptions = {}): Server {
  const log = new EventLog<ServerEvent>();
  const server = serve({ port: 0, ...options, onEvent: log.add });
  return { ...server, port: server.addr.port, log };
}

/** The next sentence that a server prints, without its peer. */
async function nextSentence(server: Program): Promise<string> {
  while (true) {
    const [, sentence] = /^\[127\.0\.0\.1:\d+\] (.*)$/s.exec(await server.nextLine()) ?? [];
    if (sentence !== undefined) return sentence;
  }
}

/** The last line of an output. */
function lastLine(text: string): string {
  return text.trimEnd().split("\n").at(-1)!;
}

/** `127.0.0.1:12000` */
function shown({ hostname, port }: Deno.NetAddr): string {
  return `${hostname}:${port}`;
}

/** An address of a peer that is not there. */
function address(hostname: string, port: number): Deno.NetAddr {
  return { transport: "udp", hostname, port };
}

/** A socket without a network: datagrams from any address, at the speed of memory. */
class FakeSocket {
  readonly addr = address("127.0.0.1", 12_000);
  /** What is sent goes here. */
  onSend: (bytes: Uint8Array, to: Deno.NetAddr) => void | Promise<void> = () => {};
  closed = false;
  #waiting: [Uint8Array, Deno.NetAddr][] = [];
  #taken = 0; // of those; a shift of each would take its time
  #failure: Error | undefined;
  #wake = (): void => {};
  #idle = Promise.withResolvers<void>();

  /** A datagram that comes in. */
  deliver(data: string | Uint8Array, from: Deno.NetAddr): void {
    this.#waiting.push([typeof data === "string" ? encode(data) : data.slice(), from]);
    this.#wake();
  }

  /** The next receive fails. */
  fail(error: Error): void {
    this.#failure = error;
    this.#wake();
  }

  /** Waits until the server has taken all that came, and waits for more. */
  async idle(): Promise<void> {
    if (this.#taken < this.#waiting.length) this.#idle = Promise.withResolvers();
    await this.#idle.promise;
  }

  /** As of `Deno.DatagramConn`. */
  async receive(buffer: Uint8Array): Promise<[Uint8Array, Deno.Addr]> {
    while (this.#taken === this.#waiting.length && !this.#failure) {
      [this.#waiting, this.#taken] = [[], 0];
      this.#idle.resolve();
      if (this.closed) throw new Deno.errors.BadResource("Bad resource ID");
      await new Promise<void>((resolve) => this.#wake = resolve);
    }
    if (this.#failure) {
      const error = this.#failure;
      this.#failure = undefined;
      throw error;
    }
    const [bytes, from] = this.#waiting[this.#taken++]!;
    buffer.set(bytes);
    return [buffer.subarray(0, bytes.length), from];
  }

  /** As of `Deno.DatagramConn`. */
  async send(bytes: Uint8Array, to: Deno.Addr): Promise<number> {
    if (this.closed) throw new Deno.errors.BadResource("Bad resource ID");
    await this.onSend(bytes, to as Deno.NetAddr);
    return bytes.length;
  }

  /** As of `Deno.DatagramConn`. */
  close(): void {
    this.closed = true;
    this.#wake();
  }
}

/** A server on a fake socket. */
function startFake(options: ServeOptions = {}): Server & { socket: FakeSocket } {
  const real = Deno.listenDatagram;
  const socket = new FakeSocket();
  const deno = Deno as { listenDatagram: unknown };
  deno.listenDatagram = () => socket;
  try {
    return { ...start(options), socket };
  } finally {
    deno.listenDatagram = real;
  }
}

// ---- Echoing ----

Deno.test("the first line tells the real address, and it answers there", LIMIT, async (t) => {
  const rows = [["127.0.0.1", "127.0.0.1", false], ["::1", "[::1]", !hasIpv6()]] as const;
  for (const [hostname, host, ignore] of rows) {
    await t.step({
      name: ignore ? `${hostname} (ignored: no IPv6 loopback here)` : hostname,
      ignore,
      fn: async () => {
        await using server = spawn("udp_server.ts", ["--host", hostname, "--port", "0"]);
        const line = await server.nextLine();
        assert(line.startsWith(`listening on udp ${host}:`), line);
        const port = Number(line.split(":").at(-1));
        await using peer = new UdpPeer(undefined, { hostname });
        assertEquals(decode(await peer.ask("hello", address(hostname, port))), "hello");
        assertEquals(await server.nextLine(), `[${host}:${peer.addr.port}] hello`);
      },
    });
  }
});

Deno.test({
  name: `on :: it answers over IPv4 too${hasIpv6() ? "" : " (ignored: no IPv6 loopback here)"}`,
  ...LIMIT,
  ignore: !hasIpv6() || WINDOWS,
  fn: async () => {
    await using server = start({ hostname: "::" });
    await using peer = new UdpPeer();
    assertEquals(decode(await peer.ask("hello", server.port)), "hello");
    const { peer: from } = await server.log.wait("message");
    assertEquals(from, `[::ffff:127.0.0.1]:${peer.addr.port}`);
  },
});

Deno.test("serve() is a fixture: at the end of its scope the port is free", LIMIT, async () => {
  let port: number;
  {
    await using server = serve({ port: 0 });
    port = server.addr.port;
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
    { event: "message", peer: from, bytes: 10, text: "\x1bGrüße" },
    { event: "message", peer: from, bytes: 5, text: "stop" },
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
    ["a byte order mark", "\ufeffx", "\ufeffx"],
    ["1,000 bytes", "x".repeat(1_000), "x".repeat(1_000)],
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

Deno.test("a stop word is echoed, and its peer's session summed up", LIMIT, async (t) => {
  for (const word of ["stop", "exit", "stop\n", "exit\r\n"]) {
    await t.step(JSON.stringify(word), async () => {
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
  const { code, stdout, stderr } = await server.finish();
  assertEquals([code, stderr], [0, ""]);
  assertMatch(stdout, new RegExp(`${shown(other.addr)} closed \\(stop\\): 1 message, 4 bytes, `));
  assertMatch(lastLine(stdout), /^stopped.* 2 messages, 9 bytes, .* 0 not answered$/);
});

Deno.test("sessions are bounded: of 10,001 peers the oldest is forgotten", LIMIT, async () => {
  await using server = startFake();
  const { socket, log } = server;
  const others = Array.from(
    { length: 10_000 },
    (_, i) => address(`127.1.${i >> 7}.${i & 127}`, 5_000),
  );
  const oldest = address("127.0.0.1", 5_000);
  for (const peer of [oldest, ...others]) socket.deliver("hello", peer);
  await socket.idle();
  for (const peer of [others[1]!, others[9_999]!, oldest]) socket.deliver("stop", peer);
  await log.wait("close", 3);
  assertEquals(log.of("close").map(({ messages }) => messages), [2, 2, 1]);
});

// ---- Peers that are not answered ----

Deno.test(
  "--rate: the second begins with its first reply, not with the clock's",
  LIMIT,
  async () => {
    let now = 0;
    Object.defineProperty(performance, "now", { value: () => now, configurable: true });
    try {
      await using server = startFake({ rate: 3, quiet: true });
      let replies = 0;
      server.socket.onSend = () => void replies++;
      for (const [time, expected] of [[900, 3], [1_100, 3], [1_899, 3], [1_900, 6], [2_100, 6]]) {
        now = time!;
        for (let i = 0; i < 5; i++) server.socket.deliver("hello", address("127.0.0.1", 40_000));
        await server.socket.idle();
        assertEquals(replies, expected, `at ${time} ms`);
      }
    } finally {
      delete (performance as { now?: unknown }).now;
    }
  },
);

Deno.test("--rate limits the replies to one peer, for a second", LIMIT, async () => {
  await using server = start({ rate: 3, quiet: true });
  await using greedy = new UdpPeer();
  await using modest = new UdpPeer();
  const begin = performance.now();
  let [sent, replies] = [0, 0];
  while (replies < 7) { // 3 a second: they come in three different ones
    await greedy.send(`${++sent}`, server.port);
    replies += (await greedy.arrived()).length;
    if (sent === 100) assertEquals(decode(await modest.ask("hello", server.port)), "hello");
  }
  assertGreater(performance.now() - begin, 1_000);
  await server.shutdown();
  replies += (await greedy.arrived()).length;
  const { messages, unanswered } = server.log.of("shutdown")[0]!;
  assertEquals(unanswered, messages - replies - 1);
  assertEquals(server.log.of("warning").length, 1);
  assertStringIncludes(server.log.of("warning")[0]!.text, "over --rate 3");
});

/** Forges datagrams, then asks honestly; prints what a sniffer saw the server send meanwhile. */
const FORGE = `
import ctypes, json, socket, struct, sys
port = int(sys.argv[1])
target = socket.inet_aton("127.0.0.1")
raw = socket.socket(socket.AF_INET, socket.SOCK_RAW, socket.IPPROTO_RAW)
sniffer = socket.socket(socket.AF_PACKET, socket.SOCK_DGRAM, socket.htons(0x0800))
# Only UDP from that port (BPF): on a busy machine the rest would fill the buffer.
program = [(0x30, 0, 0, 9), (0x15, 0, 4, 17), (0xB1, 0, 0, 0), (0x48, 0, 0, 0),
           (0x15, 0, 1, port), (6, 0, 0, 65535), (6, 0, 0, 0)]
code = ctypes.create_string_buffer(b"".join(struct.pack("HBBI", *line) for line in program))
sniffer.setsockopt(socket.SOL_SOCKET, 26, struct.pack("HL", 7, ctypes.addressof(code)))
sniffer.setblocking(False)
for source in sys.argv[2:]:
    host, source_port = source.split(":")
    data = b"from " + source.encode()
    udp = struct.pack("!HHHH", int(source_port), port, 8 + len(data), 0)
    ip = struct.pack("!BBHHHBBH4s4s", 0x45, 0, 28 + len(data), 0, 0, 63, 17, 0,  # TTL 63
                     socket.inet_aton(host), target)
    raw.sendto(ip + udp + data, ("127.0.0.1", 0))
honest = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
honest.bind(("127.0.0.1", 0))
honest.settimeout(10)
honest.sendto(b"honest", ("127.0.0.1", port))
honest.recv(99)
seen = set()
try:
    while True:
        packet = sniffer.recv(65535)
        length = (packet[0] & 15) * 4
        ports = struct.unpack("!HH", packet[length:length + 4])
        if packet[9] == 17 and packet[8] != 63 and ports[0] == port:  # not forged itself
            seen.add(packet[length + 8:].decode())
except BlockingIOError:
    print(json.dumps(sorted(seen)))
`;

Deno.test({
  name: `forged datagrams get no reply and end nothing${
    CAN_FORGE ? "" : " (ignored: needs root and python3 on Linux)"
  }`,
  ...LIMIT,
  ignore: !CAN_FORGE,
  fn: async (t) => {
    // It may send to each of them: it is not for want of permission that it does not.
    const hosts = ["127.0.0.1", "127.0.0.2", "127.255.255.255", "224.0.0.1", "239.255.255.250"];
    const allowNet = [...hosts, "255.255.255.255", "0.0.0.0", "127.0.0.3"].join();
    await using server = spawn("udp_server.ts", ["--port", "0"], { allowNet });
    const port = await server.port();
    const forged = [
      "127.0.0.1:0",
      "127.0.0.1:7",
      "127.0.0.1:19",
      "127.0.0.1:1023",
      "127.0.0.1:2049",
      `127.0.0.1:${port}`,
      `127.0.0.2:${port}`,
      "224.0.0.1:5353",
      "239.255.255.250:1900",
      "255.255.255.255:40000",
      "127.255.255.255:40000",
    ];
    const args = ["-c", FORGE, `${port}`, ...forged, ...forged, "127.0.0.3:1024"];
    const python = await new Deno.Command("python3", { args }).output();
    assert(python.success, decode(python.stderr));
    const replies: string[] = JSON.parse(decode(python.stdout));

    await t.step("the honest are answered, and a sniffer sees it", () => {
      assert(replies.includes("honest"));
      assert(replies.includes("from 127.0.0.3:1024"));
    });
    for (const source of forged) {
      const name = source.replace(`:${port}`, ": its own port"); // not new with each run
      await t.step(name, () => assert(!replies.includes(`from ${source}`), "it is answered"));
    }
    await t.step("each reason is said once, each datagram counted", async () => {
      const { code, stdout, stderr } = await server.stop();
      assertEquals(code, 0);
      assertEquals(lastLine(stdout).split(", ").at(-1), `${forged.length * 2} not answered`);
      for (const why of ["source port 0", "service", "own", "multicast"]) {
        assertEquals(stderr.split("\n").filter((line) => line.includes(why)).length, 1, why);
      }
      assertMatch(stderr, /^(udp_server: not answering [^\n]+\n){4,5}$/);
    });
  },
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
    name: `whatever hosts there are${LINUX ? "" : " (ignored: 127.0.0.2 is on Linux only)"}`,
    ignore: !LINUX,
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
  name: `at a terminal no peer raises a permission prompt${
    HAS_PTY ? "" : " (ignored: no python3 with pty here)"
  }`,
  ...LIMIT,
  ignore: !HAS_PTY,
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
    assertMatch(lastLine(stdout), /^stopped.* 2 not answered$/);
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

// ---- Loops ----

Deno.test(
  "a datagram forged to come from another echo service dies after 65,536 rounds",
  LIMIT,
  async () => {
    // No raw socket is needed: the service's own first datagram is the forged one.
    await using service = new UdpPeer(({ bytes, from }, _, self) => self.send(bytes, from));
    await using server = start({ quiet: true, stopWords: [] });
    await service.send("forged", server.port);
    const { text } = await server.log.wait("warning");
    assertStringIncludes(text, `${shown(service.addr)}: one of 65536 identical datagrams`);
    assertEquals(service.count, ROUNDS - 1);
    await using peer = new UdpPeer();
    assertEquals(decode(await peer.ask("still here", server.port)), "still here");
    assertEquals(service.count, ROUNDS - 1);
  },
);

Deno.test("no loop lasts, whatever its datagrams", LIMIT, async (t) => {
  const most = 5 * ROUNDS;
  for (const count of [1, 2]) {
    await t.step(`${count} forged`, async () => {
      await using server = startFake({ quiet: true, stopWords: [] });
      const { socket } = server;
      const service = address("127.0.0.1", 40_000);
      let rounds = 0;
      socket.onSend = (bytes, to) => {
        if (++rounds < most) socket.deliver(bytes, to);
      };
      for (let i = 0; i < count; i++) socket.deliver(`forged ${i}`, service);
      await socket.idle();
      assert(rounds < most, `it goes on after ${rounds} rounds`);
    });
  }

  await t.step("two of these servers", async () => {
    await using one = startFake({ quiet: true, stopWords: [] });
    await using other = startFake({ quiet: true, stopWords: [] });
    let rounds = 0;
    const [first, second] = [address("127.0.0.1", 40_001), address("127.0.0.1", 40_002)];
    one.socket.onSend = (bytes) => {
      if (++rounds < most) other.socket.deliver(bytes, first);
    };
    other.socket.onSend = (bytes) => one.socket.deliver(bytes, second);
    one.socket.deliver("forged", second);
    await Promise.race([one.log.wait("warning"), other.log.wait("warning")]);
    assertLessOrEqual(rounds, ROUNDS);
  });

  await t.step("--duplicate swells none of them without end", async () => {
    await using server = startFake({ quiet: true, stopWords: [], duplicate: 1 });
    const { socket } = server;
    let replies = 0;
    socket.onSend = () => void replies++;
    const received = 2 * ROUNDS;
    const from = address("127.0.0.1", 40_000);
    for (let i = 0; i < received; i++) socket.deliver(`forged ${i % 2}`, from);
    await socket.idle();
    assertLessOrEqual(replies - received, 10_000);
  });
});

Deno.test("a stop word is no way around the loop guard and --rate", LIMIT, async (t) => {
  await t.step("a forged stop dies like any other datagram", async () => {
    await using a = serve({ port: 0, quiet: true });
    let echoes = 0;
    await using b = new UdpPeer(({ bytes, from }, _, self) => {
      echoes++;
      return self.send(bytes, from);
    });
    const ended = Promise.withResolvers<void>();
    // The last echo of b is not answered; the next sentence of another peer is behind it.
    await b.send("stop", a.addr.port);
    const check = setInterval(() => echoes === 65_535 && ended.resolve(), 20);
    await ended.promise;
    clearInterval(check);
    await using honest = new UdpPeer();
    assertEquals(decode(await honest.ask("hello", a.addr.port)), "hello");
    assertEquals(echoes, 65_535);
  });

  await t.step("over --rate it is not echoed, and ends no session", async () => {
    const log = new EventLog<ServerEvent>();
    await using server = serve({ port: 0, rate: 1, onEvent: log.add });
    await using peer = new UdpPeer();
    await peer.ask("hello", server.addr.port);
    for (let i = 0; i < 20; i++) await peer.send("stop", server.addr.port);
    await log.wait("message", 21);
    assertEquals((await peer.arrived()).length, 0);
    assertEquals(log.of("close"), []);
  });
});

Deno.test("a stop word ends the session if it is dealt with", LIMIT, async (t) => {
  const rows: [string, ServeOptions, number][] = [
    ["one that is left out as part of a loop does not", {}, ROUNDS - 1],
    ["without an echo it does", { echo: false }, ROUNDS],
    ["one whose reply --drop loses does", { drop: 1 }, ROUNDS - 1],
  ];
  for (const [name, options, closes] of rows) {
    await t.step(name, async () => {
      await using server = startFake(options);
      const peer = address("127.0.0.1", 40_000);
      for (let i = 0; i < ROUNDS; i++) server.socket.deliver("stop", peer);
      await server.socket.idle();
      const events = server.log.of("close");
      assertEquals(events.length, closes);
      assert(events.every(({ messages, bytes }) => messages === 1 && bytes === 4));
    });
  }
});

Deno.test("a peer that says different things loses nothing to that", LIMIT, async () => {
  await using server = startFake({ quiet: true, stopWords: [] });
  let replies = 0;
  server.socket.onSend = () => void replies++;
  const peer = address("127.0.0.1", 40_000);
  for (let i = 0; i <= ROUNDS; i++) server.socket.deliver(`sentence ${i}`, peer);
  await server.socket.idle();
  assertEquals(replies, ROUNDS + 1);
});

// ---- The lossy network ----

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
    name: WINDOWS ? "as a line (ignored: Windows has no signals)" : "as a line",
    ignore: WINDOWS,
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

  await t.step("those that are held at the end are sent", async () => {
    assertEquals(await repliesOf({ delayMs: 60_000 }, 20), sent);
  });

  await t.step("what is held is bounded", async () => {
    await using server = startFake({ delayMs: 60_000, quiet: true });
    const { socket, log } = server;
    let bytes = 0;
    socket.onSend = (datagram) => void (bytes += datagram.length);
    const large = new Uint8Array(65_507);
    for (let i = 0; i < 1_000; i++) socket.deliver(large, address("127.0.0.1", 40_000));
    await log.wait("warning");
    await socket.idle();
    await server.shutdown();
    assertGreater(bytes, 8 * 1_048_576);
    assertLessOrEqual(bytes, 32 * 1_048_576);
    assertEquals(log.of("warning").length, 1);
    assertEquals(log.of("shutdown")[0]!.unanswered, 1_000 - bytes / large.length);
  });

  await t.step("so it is where they are short: each takes memory of its own", async () => {
    await using server = startFake({ delayMs: 60_000, quiet: true });
    let sent = 0;
    server.socket.onSend = () => void sent++;
    for (let i = 0; i < 20_000; i++) server.socket.deliver("", address("127.0.0.1", 40_000));
    await server.socket.idle();
    await server.shutdown();
    assertGreater(sent, 10_000);
    assertLess(sent, 20_000);
    assertEquals(server.log.of("shutdown")[0]!.unanswered, 20_000 - sent);
  });

  await t.step("it ends only when they are sent, even if a datagram comes meanwhile", async () => {
    await using server = startFake({ delayMs: 60_000, quiet: true });
    const { socket } = server;
    const gate = Promise.withResolvers<void>();
    const sent: string[] = [];
    socket.onSend = async (bytes) => {
      await gate.promise;
      assert(!socket.closed);
      sent.push(decode(bytes));
    };
    socket.deliver("one", address("127.0.0.1", 40_000));
    socket.deliver("two", address("127.0.0.1", 40_000));
    await socket.idle();
    const ended = server.shutdown().then(() => [socket.closed, sent.toSorted()]);
    socket.deliver("late", address("127.0.0.1", 40_000));
    await new Promise((resolve) => setTimeout(resolve)); // a turn for all that can go on
    gate.resolve();
    const [closed, replies] = await ended;
    assertEquals([closed, replies], [true, ["one", "two"]], "it ended before its replies were out");
  });
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
      if (to.port === one.port) throw new Error("Network is unreachable (os error 101)");
      sent.push(decode(bytes));
    };
    for (let i = 0; i < 3; i++) {
      socket.deliver("lost", one);
      socket.deliver(`${i}`, other);
    }
    await socket.idle();
    assertEquals(sent, ["0", "1", "2"]);
    assertEquals(log.of("warning").length, 1);
    assertStringIncludes(log.of("warning")[0]!.text, "cannot send: network is unreachable");
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
    assertStringIncludes(log.of("warning")[0]!.text, "cannot receive: out of buffers");
  });
});

Deno.test("a signal ends it in order: totals, exit 0", LIMIT, async (t) => {
  for (const signal of ["SIGTERM", "SIGINT"] as const) {
    await t.step({
      name: WINDOWS ? `${signal} (ignored: Windows has no signals)` : signal,
      ignore: WINDOWS,
      fn: async () => {
        await using server = spawn("udp_server.ts", ["--port", "0"]);
        const port = await server.port();
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
      name: WINDOWS ? `${signal} (ignored: Windows has no signals)` : `${signal}: ${expected}`,
      ignore: WINDOWS,
      fn: async () => {
        // Its stdout is full, so that it waits a second for someone to read.
        await using server = spawn("udp_server.ts", ["--port", "0", "--trace"]);
        const port = await server.port();
        await using peer = new UdpPeer();
        for (let i = 0; i < 300; i++) await peer.ask("x".repeat(1_000), port);
        server.kill(signal);
        await server.stderr.until("close()");
        assertEquals((await server.stop(signal)).code, expected);
      },
    });
  }
});
