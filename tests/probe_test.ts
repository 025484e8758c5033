/**
 * What the scripts show: the probe of both clients, its statistics and its pictures, `--json` and
 * `--trace` of all four.
 *
 * @module
 */

import {
  assert,
  assertEquals,
  assertGreaterOrEqual,
  assertLess,
  assertLessOrEqual,
  assertMatch,
  assertNotEquals,
  assertStringIncludes,
} from "@std/assert";
import * as tcp from "../tcp_client.ts";
import * as udp from "../udp_client.ts";
import { serve as serveTcp } from "../tcp_server.ts";
import { serve as serveUdp } from "../udp_server.ts";
import {
  decode,
  encode,
  hasTool,
  join,
  LIMIT,
  Program,
  PTY,
  readExactly,
  readToEnd,
  rudeServer,
  runScript,
  type Script,
  spawn,
  UdpPeer,
  writeAll,
} from "./_helpers.ts";

const LINUX = Deno.build.os === "linux";
const WINDOWS = Deno.build.os === "windows";
const HAS_PTY = hasTool("python3", "-c", "import pty");
const HAS_SOCAT = hasTool("socat", "-V");
const HAS_INETD = LINUX && hasTool("inetutils-inetd", "--version") &&
  hasTool("unshare", "--net", "nsenter", "--version");

const COUNTS = ["sent", "echoed", "lost", "duplicated", "reordered", "corrupt"];
const FIGURES = ["min", "avg", "max", "mdev", "p50", "p90", "p99"];
/** What no line of JSON may show as it is. */
const UNSAFE = /[\p{Cc}\u061c\u200e\u200f\u2028-\u202e\u2066-\u2069]/u;

type Summary = { [count: string]: number } & { rtt_ms?: Record<string, number> };

/** An echo server, with a script. */
function peerWith(script: Script): AsyncDisposable & UdpPeer & { to: string[] } {
  const peer = new UdpPeer(script);
  return Object.assign(peer, { to: ["--port", `${peer.addr.port}`] });
}

const echo: Script = ({ bytes, from }, _, self) => self.send(bytes, from);

/** The number that a probe carries. */
function numberOf(bytes: Uint8Array): number {
  return parseInt(decode(bytes.subarray(7, 15)), 16);
}

/** Runs a probe of the UDP client in this process. */
async function probeUdp(peer: UdpPeer, options: udp.ProbeOptions): Promise<udp.ProbeBook> {
  const socket = await udp.open({ port: peer.addr.port });
  try {
    return await udp.probe(socket, { intervalSeconds: 0, ...options });
  } finally {
    socket.close();
  }
}

/** Runs a probe of the TCP client in this process. */
async function probeTcp(port: number, options: tcp.ProbeOptions): Promise<tcp.ProbeBook> {
  using conn = await tcp.connect({ port });
  return await tcp.probe(conn, { intervalSeconds: 0, timeoutSeconds: 0.2, ...options });
}

/** The counts of a summary, in their order. */
function countsOf(text: string): number[] {
  const names = COUNTS.map((name) => `(\\d+) ${name}`).join(", ");
  const [, ...counts] = new RegExp(`^${names}$`, "m").exec(text) ?? [];
  return counts.map(Number);
}

// ---- Statistics ----

Deno.test("statistics are those computed by hand", LIMIT, async (t) => {
  const hundred = Array.from({ length: 100 }, (_, i) => i + 1);
  const rows: [string, number[], number[] | undefined][] = [
    // min, avg, max, mdev, p50, p90, p99
    ["of none there are none", [], undefined],
    ["one", [0.5], [0.5, 0.5, 0.5, 0, 0.5, 0.5, 0.5]],
    ["two", [3, 1], [1, 2, 3, 1, 1, 3, 3]],
    ["all equal", [4, 4, 4, 4], [4, 4, 4, 0, 4, 4, 4]],
    // The mean is 5; the squares of the differences, 9 1 1 1 0 0 4 16, have the mean 4.
    ["eight, unsorted", [9, 2, 4, 7, 4, 5, 5, 4], [2, 5, 9, 2, 4, 9, 9]],
    // Sum of squares 338,350: their mean less 50.5 squared is 833.25.
    ["one to a hundred", hundred, [1, 50.5, 100, 28.866, 50, 90, 99]],
    ["ten: the 9th is at 90 %", hundred.slice(0, 10), [1, 5.5, 10, 2.872, 5, 9, 10]],
    ["to the microsecond", [0.12345, 0.12355], [0.123, 0.124, 0.124, 0, 0.123, 0.124, 0.124]],
  ];
  for (const { name, roundTrips } of [{ name: "tcp", ...tcp }, { name: "udp", ...udp }]) {
    for (const [what, times, expected] of rows) {
      await t.step(`${name}: ${what}`, () => {
        const before = [...times];
        const figures = roundTrips(times);
        assertEquals(figures && Object.keys(figures), expected && FIGURES);
        assertEquals(figures && Object.values(figures), expected);
        assertEquals(times, before);
      });
    }
  }
});

// ---- The UDP probe ----

/** Loses 3, 6 and 9, sends 5 twice, and takes 20 ms for each; `done` when all is sent. */
function lossyPeer(): ReturnType<typeof peerWith> & { done: () => Promise<unknown> } {
  const sent: Promise<void>[] = [];
  const peer = peerWith(({ bytes, from }, count, self) => {
    if ([3, 6, 9].includes(count)) return;
    for (let copies = count === 5 ? 2 : 1; copies > 0; copies--) {
      const { promise, resolve } = Promise.withResolvers<void>();
      setTimeout(() => resolve(self.send(bytes, from)), 20);
      sent.push(promise);
    }
  });
  return Object.assign(peer, { done: () => Promise.all(sent) });
}

function assertAbout20(ms: number): void {
  assert(ms > 18 && ms < 150, `${ms} ms is not about 20`);
}

Deno.test("3 of 12 lost, one twice, 20 ms each: the text says so", LIMIT, async () => {
  await using peer = lossyPeer();
  const args = [...peer.to, "--count", "12", "--interval", "0.01", "--timeout", "0.3"];
  const { code, stdout, stderr } = await runScript("udp_client.ts", args);
  assertEquals([code, stderr], [1, ""]);
  const lines = stdout.trimEnd().split("\n");
  const echoes = lines.slice(0, 9).map((line) =>
    new RegExp(`^64 bytes from 127\\.0\\.0\\.1:${peer.addr.port}: seq=(\\d+) time=([\\d.]+) ms$`)
      .exec(line)
  );
  assertEquals(echoes.map((echo) => Number(echo?.[1])), [1, 2, 4, 5, 7, 8, 10, 11, 12]);
  for (const echo of echoes) assertAbout20(Number(echo![2]));
  assertEquals(
    lines[9],
    "12 sent, 9 echoed, 3 lost, 1 duplicated, 0 reordered, 0 corrupt",
  );
  const figures =
    /^rtt min\/avg\/max\/mdev = ([\d.]+)\/([\d.]+)\/([\d.]+)\/[\d.]+ ms\n {4}p50\/p90\/p99 = ([\d.]+)\/([\d.]+)\/([\d.]+) ms$/
      .exec(lines.slice(10, 12).join("\n"))?.slice(1).map(Number);
  assertEquals(figures?.length, 6, lines[10]);
  figures!.forEach(assertAbout20);
  assertEquals(peer.count, 12); // no probe was sent again
  await peer.done();
});

Deno.test("3 of 12 lost, one twice, 20 ms each: the JSON says so", LIMIT, async () => {
  await using peer = lossyPeer();
  const args = [...peer.to, "-c", "12", "-i", "0.01", "-s", "100", "--timeout", "0.3", "--json"];
  const { code, stdout, stderr } = await runScript("udp_client.ts", args);
  assertEquals([code, stderr], [1, ""]);
  const lines = stdout.trimEnd().split("\n");
  assertEquals(lines.length, 10);
  const echoes = lines.slice(0, 9).map((line) => JSON.parse(line));
  for (const echo of echoes) {
    assertEquals(Object.keys(echo), ["event", "seq", "bytes", "rtt_ms"]);
    assertEquals([echo.event, echo.bytes], ["echo", 100]);
    assertAbout20(echo.rtt_ms);
  }
  assertEquals(echoes.map(({ seq }) => seq), [1, 2, 4, 5, 7, 8, 10, 11, 12]);
  assert(
    lines[9]!.startsWith(
      '{"event":"summary","sent":12,"echoed":9,"lost":3,"duplicated":1,"reordered":0,"corrupt":0,"rtt_ms":{"min":',
    ),
    lines[9],
  );
  const { rtt_ms } = JSON.parse(lines[9]!) as Summary;
  assertEquals(Object.keys(rtt_ms!), FIGURES);
  for (const name of FIGURES) if (name !== "mdev") assertAbout20(rtt_ms![name]!);
  assertEquals(rtt_ms!.min, Math.min(...echoes.map(({ rtt_ms }) => rtt_ms)));
  assertEquals(rtt_ms!.max, Math.max(...echoes.map(({ rtt_ms }) => rtt_ms)));
  await peer.done();
});

Deno.test("loss, repetition, overtaking and corruption are told apart", LIMIT, async (t) => {
  const held: { bytes: Uint8Array<ArrayBuffer>; from: Deno.NetAddr }[] = [];
  /** Holds one back until the next came. */
  const overtake = (number: number): Script => async (datagram, _, self) => {
    if (numberOf(datagram.bytes) === number) return void held.push(datagram);
    await self.send(datagram.bytes, datagram.from);
    for (const { bytes, from } of held.splice(0)) await self.send(bytes, from);
  };
  const change = (number: number, at: number): Script => ({ bytes, from }, _, self) => {
    if (numberOf(bytes) === number) bytes[at]! ^= 1;
    return self.send(bytes, from);
  };
  const rows: [string, Script, number[]][] = [
    // sent, echoed, lost, duplicated, reordered, corrupt
    ["all is well", echo, [5, 5, 0, 0, 0, 0]],
    ["the last is lost", (datagram, count, self) => {
      if (count < 5) return self.send(datagram.bytes, datagram.from);
    }, [5, 4, 1, 0, 0, 0]],
    ["each comes three times", async ({ bytes, from }, count, self) => {
      for (let copies = count < 5 ? 3 : 1; copies > 0; copies--) await self.send(bytes, from);
    }, [5, 5, 0, 8, 0, 0]],
    ["the second is overtaken", overtake(2), [5, 5, 0, 0, 1, 0]],
    ["a bit of the second's filling is turned", change(2, 40), [5, 4, 0, 0, 0, 1]],
    ["a bit of its number, so that it is nobody's", change(2, 7), [5, 4, 1, 0, 0, 1]],
    ["a bit of its run: it is another's", change(2, 0), [5, 4, 0, 0, 0, 1]],
    [
      "the second is cut short",
      ({ bytes, from }, count, self) =>
        self.send(count === 2 ? bytes.subarray(0, 60) : bytes, from),
      [5, 4, 0, 0, 0, 1],
    ],
    ["the second comes damaged, then whole", async ({ bytes, from }, count, self) => {
      if (count === 2) await self.send(bytes.toReversed(), from);
      await self.send(bytes, from);
    }, [5, 5, 0, 0, 0, 1]],
    ["the second comes whole, then damaged", async ({ bytes, from }, count, self) => {
      await self.send(bytes, from);
      if (count === 2) await self.send(bytes.with(40, 0), from);
    }, [5, 5, 0, 0, 0, 1]],
    ["an empty datagram besides", async ({ bytes, from }, count, self) => {
      if (count === 2) await self.send("", from);
      await self.send(bytes, from);
    }, [5, 5, 0, 0, 0, 1]],
  ];
  for (const [name, script, expected] of rows) {
    await t.step(name, async () => {
      await using peer = new UdpPeer(script);
      const book = await probeUdp(peer, { count: 5, intervalSeconds: 0.01, timeoutSeconds: 0.1 });
      const counts = book.counts();
      assertEquals(Object.keys(counts), COUNTS);
      assertEquals(Object.values(counts), expected);
      assertEquals(book.times.length, expected[1]);
    });
  }

  await t.step("a stranger's echo is none", async () => {
    await using stranger = new UdpPeer();
    await using peer = new UdpPeer(({ bytes, from }) => stranger.send(bytes, from));
    const book = await probeUdp(peer, { count: 2, timeoutSeconds: 0.1 });
    assertEquals(Object.values(book.counts()), [2, 0, 2, 0, 0, 0]);
  });
});

Deno.test("probes are numbered, unlike each other, of the size asked for", LIMIT, async () => {
  await using peer = peerWith(echo);
  const runs: string[][] = [];
  for (const size of [16, 1_472, 65_507]) {
    const args = [...peer.to, "-c", "5", "-i", "0", "-s", `${size}`];
    const { code, stderr } = await runScript("udp_client.ts", args);
    assertEquals([code, stderr], [0, ""]);
    const payloads = (await peer.arrived()).map(({ bytes }) => bytes);
    assertEquals(payloads.map((bytes) => bytes.length), Array(5).fill(size));
    assertEquals(payloads.map(numberOf), [1, 2, 3, 4, 5]);
    runs.push(payloads.map(decode));
  }
  assertEquals(new Set(runs.flat()).size, 15);
  assertEquals(new Set(runs.flat().map((payload) => payload.slice(0, 7))).size, 3); // the run's own
});

Deno.test("where nothing comes back: all lost, no figures, exit 1", LIMIT, async (t) => {
  await using peer = peerWith(() => {});
  const args = [...peer.to, "-c", "3", "-i", "0.001", "--timeout", "0.05"];

  await t.step("text", async () => {
    const { code, stdout, stderr } = await runScript("udp_client.ts", args);
    assertEquals([code, stderr], [1, ""]);
    assertEquals(stdout, "3 sent, 0 echoed, 3 lost, 0 duplicated, 0 reordered, 0 corrupt\n");
    assertEquals((await peer.arrived()).length, 3); // none was sent again
  });

  await t.step("JSON", async () => {
    const { code, stdout } = await runScript("udp_client.ts", [...args, "--json"]);
    const summary =
      '{"event":"summary","sent":3,"echoed":0,"lost":3,"duplicated":0,"reordered":0,"corrupt":0}\n';
    assertEquals([code, stdout], [1, summary]);
  });
});

// ---- The TCP probe ----

Deno.test("the TCP probe, against servers of all kinds", LIMIT, async (t) => {
  /** Treats each of the probes, until the client has no more. */
  async function each(
    conn: Deno.TcpConn,
    treat: (bytes: Uint8Array<ArrayBuffer>, number: number) => Promise<void>,
  ): Promise<void> {
    for (let bytes; (bytes = await readExactly(conn, 64)).length === 64;) {
      await treat(bytes, numberOf(bytes));
    }
  }
  const rows: [string, (conn: Deno.TcpConn) => Promise<void>, number[]][] = [
    // sent, echoed, lost, duplicated, reordered, corrupt
    ["all is well", (conn) => each(conn, (bytes) => writeAll(conn, bytes)), [5, 5, 0, 0, 0, 0]],
    [
      "an echo in pieces is one echo",
      (conn) =>
        each(conn, async (bytes) => {
          for (let i = 0; i < 64; i += 7) await writeAll(conn, bytes.subarray(i, i + 7));
        }),
      [5, 5, 0, 0, 0, 0],
    ],
    [
      "a bit of the third is turned",
      (conn) =>
        each(conn, (bytes, number) => {
          if (number === 3) bytes[50]! ^= 1;
          return writeAll(conn, bytes);
        }),
      [5, 4, 0, 0, 0, 1],
    ],
    [
      "the third comes twice",
      (conn) =>
        each(conn, (bytes, number) => writeAll(conn, number === 3 ? join([bytes, bytes]) : bytes)),
      [5, 5, 0, 1, 0, 0],
    ],
    ["nothing comes back", (conn) => each(conn, async () => {}), [5, 0, 5, 0, 0, 0]],
    [
      "half of the last is missing",
      (conn) =>
        each(conn, (bytes, number) => writeAll(conn, number < 5 ? bytes : bytes.subarray(32))),
      [5, 4, 1, 0, 0, 0],
    ],
  ];
  for (const [name, talk, expected] of rows) {
    await t.step(name, async () => {
      await using server = rudeServer(talk);
      const book = await probeTcp(server.port, { count: 5 });
      assertEquals(Object.values(book.counts()), expected);
    });
  }

  await t.step("the server closes after the second: the probe ends there, exit 1", async () => {
    await using server = rudeServer(async (conn) => {
      for (let i = 0; i < 2; i++) await writeAll(conn, await readExactly(conn, 64));
    });
    const args = ["-p", `${server.port}`, "-c", "1000", "-i", "0.2", "--timeout", "3600"];
    const { code, stdout, stderr } = await runScript("tcp_client.ts", args);
    assertEquals([code, countsOf(stdout)[1]], [1, 2]);
    assertMatch(
      stderr,
      /^tcp_client: 127\.0\.0\.1:\d+ closed the connection after [23] of 1000 probes\n$/,
    );
    assertLessOrEqual(countsOf(stdout)[0]!, 3);
  });

  await t.step("so it does in the middle of a long wait, and leaves no timer behind", async () => {
    await using server = rudeServer(async (conn) => writeAll(conn, await readExactly(conn, 64)));
    const book = await probeTcp(server.port, { count: 5, intervalSeconds: 3_600 });
    assertEquals(Object.values(book.counts()), [1, 1, 0, 0, 0, 0]);
  });

  await t.step("the round trip is that of the bytes: 20 ms", async () => {
    await using server = rudeServer((conn) =>
      each(conn, async (bytes) => {
        await new Promise((resolve) => setTimeout(resolve, 20)); // a slow server
        await writeAll(conn, bytes);
      })
    );
    const args = ["-p", `${server.port}`, "-c", "3", "-i", "0.05", "--json"];
    const { code, stdout } = await runScript("tcp_client.ts", args);
    const events = stdout.trimEnd().split("\n").map((line) => JSON.parse(line));
    assertEquals([code, events.length], [0, 4]);
    for (const { rtt_ms } of events.slice(0, 3)) assertAbout20(rtt_ms);
    assertEquals(Object.keys(events[3]), ["event", ...COUNTS, "rtt_ms"]);
    assertEquals(Object.keys(events[3].rtt_ms), FIGURES);
  });
});

// ---- Both ----

/** One of our servers for each client. */
const PAIRS = [
  { script: "tcp_client.ts", serve: serveTcp, probe: probeTcp },
  {
    script: "udp_client.ts",
    serve: serveUdp,
    probe: async (port: number, options: udp.ProbeOptions): Promise<udp.ProbeBook> => {
      const socket = await udp.open({ port });
      return await udp.probe(socket, options).finally(() => socket.close());
    },
  },
];

Deno.test("-i 0: the next goes out when the one before is back", LIMIT, async (t) => {
  for (const { script, serve, probe } of PAIRS) {
    await t.step(script, async () => {
      await using server = serve({ port: 0 });
      const seqs: number[] = [];
      const start = performance.now();
      const book = await probe(server.addr.port, {
        count: 300,
        intervalSeconds: 0,
        onEcho: ({ seq }) => seqs.push(seq),
      });
      assertLess(performance.now() - start, 3_000); // it takes that if each waits for 10 ms
      assertEquals(Object.values(book.counts()), [300, 300, 0, 0, 0, 0]);
      assertEquals(seqs, Array.from({ length: 300 }, (_, i) => i + 1));
    });
  }

  await t.step("or after 10 ms where it is not", async () => {
    await using peer = new UdpPeer();
    const book = await probeUdp(peer, { count: 5, timeoutSeconds: 0.01 });
    assertEquals(Object.values(book.counts()), [5, 0, 5, 0, 0, 0]);
  });
});

Deno.test("-i: the time from one probe to the next", LIMIT, async () => {
  const times: number[] = [];
  await using peer = new UdpPeer((datagram, _, self) => {
    times.push(performance.now());
    return echo(datagram, _, self);
  });
  await probeUdp(peer, { count: 6, intervalSeconds: 0.03 });
  assertEquals(times.length, 6);
  assertGreaterOrEqual(times[5]! - times[0]!, 5 * 30 - 10); // the first may come late
});

Deno.test("Ctrl-C ends a probe with its summary", LIMIT, async (t) => {
  for (const { script, serve } of PAIRS) {
    await t.step({
      name: WINDOWS ? `${script} (ignored: Windows has no signals)` : `${script}: all is back`,
      ignore: WINDOWS,
      fn: async () => {
        await using server = serve({ port: 0 });
        const args = ["-p", `${server.addr.port}`, "-c", "1000", "-i", "3600"];
        await using client = spawn(script, args);
        assertMatch(await client.nextLine(), /: seq=1 time=[\d.]+ ms$/);
        const { code, stdout, stderr } = await client.stop("SIGINT");
        assertEquals([code, stderr], [0, ""]);
        assertEquals(countsOf(stdout), [1, 1, 0, 0, 0, 0]);
        assertStringIncludes(stdout, "\nrtt min/avg/max/mdev = ");
      },
    });
  }

  await t.step({
    name: WINDOWS ? "a loss (ignored: Windows has no signals)" : "with a loss: exit 1",
    ignore: WINDOWS,
    fn: async () => {
      await using peer = peerWith(() => {});
      await using client = spawn("udp_client.ts", [...peer.to, "-c", "9", "-i", "3600", "--json"]);
      await peer.next();
      const { code, stdout } = await client.stop("SIGINT");
      assertEquals([code, JSON.parse(stdout).lost], [1, 1]);
    },
  });
});

Deno.test("--quiet prints the summary alone", LIMIT, async (t) => {
  for (const { script, serve } of PAIRS) {
    await t.step(script, async () => {
      await using server = serve({ port: 0 });
      const args = ["-p", `${server.addr.port}`, "-c", "3", "-i", "0", "--quiet"];
      const { code, stdout } = await runScript(script, args);
      assertEquals(code, 0);
      assertMatch(stdout, /^3 sent, 3 echoed, 0 lost, 0 duplicated, 0 reordered, 0 corrupt\nrtt /);
      const json = (await runScript(script, [...args, "--json"])).stdout;
      assertMatch(json, /^\{"event":"summary","sent":3,[^\n]+\}\n$/);
    });
  }
});

Deno.test("the histogram: a bar for each step, its length the share", LIMIT, async () => {
  // 1, 2 and 3 ms late, and one 60 ms.
  const done: Promise<void>[] = [];
  await using peer = peerWith(({ bytes, from }, count, self) => {
    const { promise, resolve } = Promise.withResolvers<void>();
    setTimeout(() => resolve(self.send(bytes, from)), count === 8 ? 60 : count % 4);
    done.push(promise);
  });
  const { code, stdout } = await runScript("udp_client.ts", [...peer.to, "-c", "16", "-i", "0.02"]);
  assertEquals(code, 0);
  const echoed = [...stdout.matchAll(/time=([\d.]+) ms$/gm)].map(([, ms]) => Number(ms));
  assertEquals(echoed.length, 16);
  const lines = stdout.split("\nrtt ")[1]!.trimEnd().split("\n").slice(2);
  const units: Record<string, number> = { "µs": 0.001, ms: 1, s: 1_000 };
  const steps = lines.map((line) => {
    const [, edge, unit, count, bar] = /^ +to +(\d+) (µs|ms|s) +(\d+)(?: (█+))?$/.exec(line) ?? [];
    assert(unit !== undefined, line);
    assertLessOrEqual(line.length, 80);
    return { edge: Number(edge) * units[unit]!, count: Number(count), bar: bar?.length ?? 0 };
  });
  assertEquals(steps.map(({ count }) => count).reduce((a, b) => a + b), 16);
  const most = Math.max(...steps.map(({ count }) => count));
  for (const [i, { edge, count, bar }] of steps.entries()) {
    const below = i === 0 ? 0 : steps[i - 1]!.edge;
    assertEquals(count, echoed.filter((ms) => ms > below && ms <= edge).length, `to ${edge} ms`);
    if (i > 0) assert([2, 2.5].includes(Math.round(edge / below * 10) / 10), "1, 2, 5, 10 …");
    assertEquals(bar > 0, count > 0);
    assertEquals(bar, Math.ceil(count / most * Math.max(...steps.map(({ bar }) => bar))));
  }
  assert(steps.at(0)!.count > 0 && steps.at(-1)!.count > 0, "no empty steps around");
  assertGreaterOrEqual(steps.at(-1)!.edge, 60);
  await Promise.all(done);
});

Deno.test({
  name: `a live status at a terminal${HAS_PTY ? "" : " (ignored: no python3 with pty here)"}`,
  ...LIMIT,
  ignore: !HAS_PTY,
  fn: async () => {
    await using peer = peerWith(echo);
    const args = [...peer.to, "-c", "4", "-i", "0.15"];
    const { code, stdout } = await runScript("udp_client.ts", args, { via: PTY });
    assertEquals(code, 0);
    const [clear, ...shown] = stdout.split("\r\x1b[K"); // each begins an empty line
    assertEquals(clear, "");
    assert(shown.some((text) => /^\d sent, \d echoed, \d not yet$/.test(text)), stdout);
    const cleaned = shown.map((text) => text.endsWith("\n") ? text : "").join("");
    assertMatch(cleaned, /^(64 bytes from [^\n]*\r\n){4}4 sent, 4 echoed, 0 lost, /);
  },
});

Deno.test("the probe ends where nothing more is taken, and says so", LIMIT, async () => {
  const gone = Promise.withResolvers<void>();
  await using server = rudeServer(() => gone.promise); // it never reads
  const args = ["-p", `${server.port}`, "-c", "1000", "-i", "0", "-s", "65507", "--timeout", "0.5"];
  const { code, stdout, stderr } = await runScript("tcp_client.ts", args).finally(gone.resolve);
  assertEquals([code, stderr], [1, "tcp_client: nothing more is taken for 0.5 s\n"]);
  assertEquals(countsOf(stdout)[1], 0);
});

Deno.test(
  "an echo that comes with other bytes beside it is not intact: exit 1",
  LIMIT,
  async () => {
    await using server = rudeServer(async (conn) => {
      await writeAll(conn, "x".repeat(64));
      for (let bytes; (bytes = await readExactly(conn, 64)).length === 64;) {
        await writeAll(conn, bytes);
      }
    });
    const { code, stdout } = await runScript("tcp_client.ts", [
      "-p",
      `${server.port}`,
      "-c",
      "2",
      "-i",
      "0",
    ]);
    assertEquals([code, countsOf(stdout)], [1, [2, 2, 0, 0, 0, 1]]);
  },
);

Deno.test({
  name: `the second signal ends a probe whose stdout nobody reads${
    WINDOWS ? " (ignored: Windows has no signals)" : ""
  }`,
  ...LIMIT,
  ignore: WINDOWS,
  fn: async () => {
    await using peer = peerWith(echo);
    await using client = spawn("udp_client.ts", [...peer.to, "-c", "1000000", "-i", "0"]);
    while (peer.count < 5_000) await peer.next(); // more lines than a pipe holds
    client.kill("SIGINT");
    client.kill("SIGTERM");
    const { code, stdout } = await client.finish();
    assert([130, 143].includes(code), `exit ${code}`);
    assert(!stdout.includes(" sent, "), "it was read to its end");
  },
});

Deno.test("after a loss, -i 0 goes on at once", LIMIT, async () => {
  await using peer = peerWith(({ bytes, from }, count, self) => {
    if (count !== 1) return self.send(bytes, from);
  });
  const start = performance.now();
  const book = await probeUdp(peer, { count: 300, timeoutSeconds: 0.1 });
  assertEquals(Object.values(book.counts()), [300, 299, 1, 0, 0, 0]);
  assertLess(performance.now() - start, 2_000); // 3 s, if each waited 10 ms
});

// ---- Independent servers ----

Deno.test({
  name: `it probes the echo service of inetd${
    HAS_INETD ? "" : " (ignored: needs root, unshare, nsenter and inetutils-inetd)"
  }`,
  ...LIMIT,
  ignore: !HAS_INETD,
  fn: async (t) => {
    // Its port is 7: it gets a network of its own, where that is free.
    const directory = await Deno.makeTempDir();
    const config = `${directory}/inetd.conf`;
    await Deno.writeTextFile(
      config,
      "echo dgram udp wait root internal\necho stream tcp nowait root internal\n",
    );
    const start = `ip link set lo up; exec inetutils-inetd -d -p${directory}/pid ${config}`;
    const args = ["--net", "sh", "-c", start];
    const piped = { stdin: "piped", stdout: "piped", stderr: "piped" } as const;
    const child = new Deno.Command("unshare", { args, ...piped }).spawn();
    try {
      await using inetd = new Program("inetd", child);
      for (let i = 0; i < 2; i++) await inetd.stderr.until("registered internal");
      const via = ["nsenter", "--target", `${child.pid}`, "--net"];
      for (const script of ["udp_client.ts", "tcp_client.ts"]) {
        await t.step(script, async () => {
          const probe = ["-p", "7", "-c", "10", "-i", "0.002", "--timeout", "5"];
          const { code, stdout, stderr } = await runScript(script, probe, { via });
          assertEquals([code, stderr], [0, ""]);
          assertEquals(countsOf(stdout), [10, 10, 0, 0, 0, 0]);
        });
      }
    } finally {
      await Deno.remove(directory, { recursive: true });
    }
  },
});

Deno.test({
  name: `it probes socat${HAS_SOCAT ? "" : " (ignored: no socat here)"}`,
  ...LIMIT,
  ignore: !HAS_SOCAT,
  fn: async (t) => {
    for (const [script, listen] of [["udp_client.ts", "UDP"], ["tcp_client.ts", "TCP"]] as const) {
      await t.step(script, async () => {
        const args = ["-d", "-d", `${listen}-LISTEN:0,bind=127.0.0.1`, "PIPE"];
        const piped = { stdin: "piped", stdout: "piped", stderr: "piped" } as const;
        await using socat = new Program(
          "socat",
          new Deno.Command("socat", { args, ...piped }).spawn(),
        );
        await socat.stderr.until("127.0.0.1:");
        const port = await socat.stderr.nextLine();
        // Its pipe would merge two datagrams that are there at once.
        const probe = ["-p", port, "-c", "5", "-i", "0.05"];
        const { code, stdout, stderr } = await runScript(script, probe);
        assertEquals([code, stderr], [0, ""]);
        assertEquals(countsOf(stdout), [5, 5, 0, 0, 0, 0]);
      });
    }
  },
});

// ---- JSON ----

/** Lines of JSON, each safe to see. */
function parseLines(stdout: string): { [name: string]: unknown }[] {
  assert(stdout.endsWith("\n"));
  return stdout.slice(0, -1).split("\n").map((line) => {
    assert(!UNSAFE.test(line), `unsafe: ${JSON.stringify(line)}`);
    return JSON.parse(line);
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
  const ready = `{"event":"listening","transport":"udp","hostname":"127.0.0.1","port":${port}}`;
  assertEquals(first, ready);
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
  assertEquals(messages.map(({ bytes }) => bytes), sent.map(({ length }) => length));
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
  const line = `${"ä€😀".repeat(1_000)}\u2028${CONTROLS}`;
  const stdin = encode(`${line}\n`.repeat(30));
  for (const { script, serve } of PAIRS) {
    await t.step(script, async () => {
      await using server = serve({ port: 0 });
      const args = ["-p", `${server.addr.port}`, "--json"];
      const { code, stdout, stderr } = await runScript(script, args, { stdin });
      assertEquals([code, stderr], [0, ""]);
      const events = parseLines(stdout);
      for (const event of events) assertEquals(Object.keys(event), ["event", "bytes", "text"]);
      const ends = script.startsWith("udp") ? "\n" : ""; // a datagram has none
      const text = events.map(({ text }) => text + ends).join("");
      assert(text === decode(stdin), "it is not what was sent");
      const bytes = events.map(({ bytes }) => Number(bytes)).reduce((a, b) => a + b);
      assertEquals(bytes + ends.length * 30, stdin.length);
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
    assert([...line].length <= 80, `over 80 columns: ${line}`);
    columns.add(head!.length);
    assertGreaterOrEqual(Number(time), last);
    last = Number(time);
    const masked = what.replace(/127\.0\.0\.1:\d+/, "PEER").replace(/\d+\.\d ms/, "TIME");
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
    ["client", "i", "send(14)", "──▶", '"Hello, server!"'],
    ["client", "i", "receive() = 14", "◀──", '"Hello, server!" TIME'],
    ["client", "i", "send(12)", "──▶", '"How are you?"'],
    ["client", "i", "receive() = 12", "◀──", '"How are you?" TIME'],
    ["client", "i", "send(4)", "──▶", '"stop"'],
    ["client", "i", "receive() = 4", "◀──", '"stop" TIME'],
    ["client", "ii", "close()", "│", ""],
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
    ["client", "i", "read() = 15", "◀──", '"Hello, server!\\n" TIME'],
    ["client", "i", "write(13)", "──▶", '"How are you?\\n"'],
    ["client", "i", "read() = 13", "◀──", '"How are you?\\n" TIME'],
    ["client", "i", "write(5)", "──▶", '"stop\\n"'],
    ["client", "i", "read() = 5", "◀──", '"stop\\n" TIME'],
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
