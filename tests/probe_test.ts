/**
 * The probe of `udp_client.ts`, its statistics and its pictures, against peers that lose, double,
 * overtake and damage what they get, and what of it both clients share.
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
  assertStringIncludes,
} from "@std/assert";
import * as tcp from "../tcp_client.ts";
import { serve as serveTcp } from "../tcp_server.ts";
import * as udp from "../udp_client.ts";
import { serve } from "../udp_server.ts";
import { alive, eventually, residentMiB, seconds } from "./_faults.ts";
import {
  type Datagram,
  decode,
  fileUrl,
  hasTool,
  LIMIT,
  LINUX,
  NO_SIGNALS,
  Program,
  PTY,
  runScript,
  type Script,
  seededRandom,
  spawn,
  UdpPeer,
  unless,
  WINDOWS,
} from "./_helpers.ts";
import { NO_PTY, NO_SOCAT } from "./_needs.ts";

const HAS_INETD = LINUX && hasTool("inetutils-inetd", "--version") &&
  hasTool("unshare", "--net", "nsenter", "--version");
const NO_INETD = !HAS_INETD && "needs root, unshare, nsenter and inetutils-inetd";

const COUNTS = ["sent", "echoed", "lost", "duplicated", "reordered", "corrupt"];
const FIGURES = ["min", "avg", "max", "mdev", "p50", "p90", "p99", "jitter"];
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

/** Runs a probe in this process. */
async function probe(
  { port }: { port: number },
  options: udp.ProbeOptions,
): Promise<udp.ProbeBook> {
  const socket = await udp.open({ port });
  try {
    return await udp.probe(socket, { intervalSeconds: 0, ...options });
  } finally {
    socket.close();
  }
}

/** The counts of a summary, in their order; those that are not named are 0. */
function countsOf(text: string): number[] {
  const [line] = /^\d+ sent, .*$/m.exec(text) ?? [""];
  const counts = COUNTS.map((name) => Number(new RegExp(`(\\d+) ${name}`).exec(line)?.[1] ?? 0));
  const [, percent] = / lost \(([\d.]+) %\)/.exec(line) ?? [];
  assertEquals(Number(percent), Number((100 * counts[2]! / counts[0]!).toPrecision(3)), line);
  return counts;
}

// ---- Statistics ----

Deno.test("statistics are those computed by hand", LIMIT, async (t) => {
  const hundred = Array.from({ length: 100 }, (_, i) => i + 1);
  const rows: [string, number[], number[]][] = [
    // min, avg, max, mdev, p50, p90, p99, jitter
    ["one", [0.5], [0.5, 0.5, 0.5, 0, 0.5, 0.5, 0.5, 0]],
    ["two", [3, 1], [1, 2, 3, 1, 1, 3, 3, 2]],
    ["all equal", [4, 4, 4, 4], [4, 4, 4, 0, 4, 4, 4, 0]],
    // The mean is 5; the squares of the differences, 9 1 1 1 0 0 4 16, have the mean 4. From one to
    // the next: 7 2 3 3 1 0 1, of which the mean is 17/7.
    ["eight, unsorted", [9, 2, 4, 7, 4, 5, 5, 4], [2, 5, 9, 2, 4, 9, 9, 2.429]],
    // Sum of squares 338,350: their mean less 50.5 squared is 833.25.
    ["one to a hundred", hundred, [1, 50.5, 100, 28.866, 50, 90, 99, 1]],
    ["ten: the 9th is at 90 %", hundred.slice(0, 10), [1, 5.5, 10, 2.872, 5, 9, 10, 1]],
    ["to the microsecond", [0.1234, 0.1256], [
      0.123,
      0.125,
      0.126,
      0.001,
      0.123,
      0.126,
      0.126,
      0.002,
    ]],
  ];
  for (const { name, roundTrips } of [{ name: "tcp", ...tcp }, { name: "udp", ...udp }]) {
    for (const [what, times, expected] of rows) {
      await t.step(`${name}: ${what}`, () => {
        const before = [...times];
        const figures = roundTrips(times);
        assertEquals(Object.keys(figures), FIGURES);
        assertEquals(Object.values(figures), expected);
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

/** What else is on stderr: on a busy machine it may say that the interval was longer. */
function besideInterval(stderr: string): string {
  return stderr.replace(/^\w+: the interval of .*\n/m, "");
}

function assertAbout20(ms: number): void {
  assert(ms > 18 && ms < 10_000, `${ms} ms is not about 20`); // a busy machine takes its time
}

Deno.test("3 of 12 lost, one twice, 20 ms each: the text says so", LIMIT, async () => {
  await using peer = lossyPeer();
  const args = [...peer.to, "--count", "12", "--interval", "0.01", "--timeout", "1"];
  const { code, stdout, stderr } = await runScript("udp_client.ts", args);
  assertEquals([code, besideInterval(stderr)], [1, ""]);
  const lines = stdout.trimEnd().split("\n");
  const echoes = lines.slice(0, 9).map((line) =>
    new RegExp(`^64 bytes from 127\\.0\\.0\\.1:${peer.addr.port}: seq=(\\d+) time=([\\d.]+) ms$`)
      .exec(line)
  );
  assertEquals(echoes.map((echo) => Number(echo?.[1])), [1, 2, 4, 5, 7, 8, 10, 11, 12]);
  for (const echo of echoes) assertAbout20(Number(echo![2]));
  assertEquals(
    lines[9],
    "12 sent, 9 echoed, 3 lost (25 %), 1 duplicated",
  );
  const figures =
    /^rtt min\/avg\/max\/mdev = ([\d.]+)\/([\d.]+)\/([\d.]+)\/[\d.]+ ms\n {4}p50\/p90\/p99 = ([\d.]+)\/([\d.]+)\/([\d.]+) ms, jitter = [\d.]+ ms$/
      .exec(lines.slice(10, 12).join("\n"))?.slice(1).map(Number);
  assertEquals(figures?.length, 6, lines[10]);
  figures!.forEach(assertAbout20);
  assertEquals(peer.count, 12); // no probe was sent again
  await peer.done();
});

Deno.test("3 of 12 lost, one twice, 20 ms each: the JSON says so", LIMIT, async () => {
  await using peer = lossyPeer();
  const args = [...peer.to, "-c", "12", "-i", "0.01", "-s", "100", "--timeout", "1", "--json"];
  const { code, stdout, stderr } = await runScript("udp_client.ts", args);
  assertEquals([code, besideInterval(stderr)], [1, ""]);
  const lines = stdout.trimEnd().split("\n").filter((line) => !line.includes('"the interval of '));
  assertEquals(lines.length, 10);
  const echoes = lines.slice(0, 9).map((line) => JSON.parse(line));
  for (const echo of echoes) {
    assertEquals(Object.keys(echo), ["time", "event", "seq", "bytes", "rtt_ms"]);
    assertEquals([echo.event, echo.bytes], ["echo", 100]);
    assertAbout20(echo.rtt_ms);
  }
  assertEquals(echoes.map(({ seq }) => seq), [1, 2, 4, 5, 7, 8, 10, 11, 12]);
  assert(
    lines[9]!.replace(/^\{"time":"[^"]+",/, "{").startsWith(
      '{"event":"summary","sent":12,"echoed":9,"lost":3,"duplicated":1,"reordered":0,"corrupt":0,"rtt_ms":{"min":',
    ),
    lines[9],
  );
  const { rtt_ms } = JSON.parse(lines[9]!) as Summary;
  assertEquals(Object.keys(rtt_ms!), FIGURES);
  for (const name of FIGURES.slice(0, -1)) if (name !== "mdev") assertAbout20(rtt_ms![name]!);
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
    ["each comes three times, the last as well", async ({ bytes, from }, _, self) => {
      for (let copies = 3; copies > 0; copies--) await self.send(bytes, from);
    }, [5, 5, 0, 10, 0, 0]],
    ["the second is overtaken", overtake(2), [5, 5, 0, 0, 1, 0]],
    ["a bit of the second's filling is turned", change(2, 40), [5, 4, 0, 0, 0, 1]],
    ["a bit of its number, so that it is nobody's", change(2, 7), [5, 4, 0, 0, 0, 1]],
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
      const book = await probe(peer.addr, { count: 5, intervalSeconds: 0.01, timeoutSeconds: 0.1 });
      const counts = book.counts();
      assertEquals(Object.keys(counts), COUNTS);
      assertEquals(Object.values(counts), expected);
      assertEquals(book.times.length, expected[1]);
    });
  }

  await t.step("a stranger's echo is none", async () => {
    await using stranger = new UdpPeer();
    await using peer = new UdpPeer(({ bytes, from }) => stranger.send(bytes, from));
    const book = await probe(peer.addr, { count: 2, timeoutSeconds: 0.1 });
    assertEquals(Object.values(book.counts()), [2, 0, 2, 0, 0, 0]);
  });
});

Deno.test("probes are numbered, unlike each other, of the size asked for", LIMIT, async () => {
  await using peer = peerWith(echo);
  const runs: string[][] = [];
  for (const size of [16, 1_472, 65_507]) {
    const args = [...peer.to, "-c", "5", "-i", "0.1", "-s", `${size}`];
    const { code, stderr } = await runScript("udp_client.ts", args);
    assertEquals([code, besideInterval(stderr)], [0, ""]);
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
    assertEquals([code, besideInterval(stderr)], [1, ""]);
    assertEquals(stdout, "3 sent, 0 echoed, 3 lost (100 %)\n");
    assertEquals((await peer.arrived()).length, 3); // none was sent again
  });

  await t.step("JSON", async () => {
    const { code, stdout } = await runScript("udp_client.ts", [...args, "--json"]);
    const summary =
      '{"event":"summary","sent":3,"echoed":0,"lost":3,"duplicated":0,"reordered":0,"corrupt":0}\n';
    const shown = stdout.replaceAll(/^\{"time":"[^"]+",/gm, "{")
      .replace(/^\{"event":"warning","text":"the interval of .*\n/, ""); // on a busy machine
    assertEquals([code, shown], [1, summary]);
  });
});

Deno.test("damage of any bit is corrupt, and nothing else", LIMIT, async () => {
  const damaged = new Set<number>(); // the bits, of the first 16 bytes
  await using peer = peerWith(({ bytes, from }, count, self) => {
    if (count % 2 === 0) return self.send(bytes, from);
    const bit = (count - 1) / 2;
    damaged.add(bit);
    bytes[bit >> 3]! ^= 1 << (bit & 7);
    return self.send(bytes, from);
  });
  const book = await probe(peer.addr, { count: 256, timeoutSeconds: 0.1 });
  assertEquals(damaged.size, 128);
  assertEquals(Object.values(book.counts()), [256, 128, 0, 0, 0, 128]);
});

Deno.test(
  "damage of a fifth, at random: each is corrupt, none is lost or anybody else's",
  LIMIT,
  async () => {
    const random = seededRandom();
    let damaged = 0;
    await using peer = peerWith(({ bytes, from }, _, self) => {
      if (random.int(5) === 0) {
        damaged++;
        for (let bits = 1 + random.int(3); bits > 0; bits--) {
          bytes[random.int(16)]! ^= 1 << random.int(8); // perhaps the same bit twice
        }
      }
      return self.send(bytes, from);
    });
    const book = await probe(peer.addr, { count: 500, size: 16, timeoutSeconds: 0.1 });
    const [sent, echoed, lost, duplicated, reordered, corrupt] = Object.values(book.counts());
    assertEquals([sent, lost, duplicated, reordered], [500, 0, 0, 0]);
    assertEquals(echoed! + corrupt!, 500);
    assert(corrupt! > damaged / 2 && corrupt! <= damaged, `${corrupt} of ${damaged}`);
  },
);

Deno.test("a percentage is 0 or 100 only where it is exact", LIMIT, async (t) => {
  const rows: [number, number, string][] = [ // sent, lost
    [1, 1, "100"],
    [10_000, 9_996, "99.96"],
    [1_000_000, 999_999, "99.9999"],
    [1_000_000, 1, "0.0001"],
    [1_000, 995, "99.5"],
    [3, 1, "33.3"],
    [5, 0, "0"],
  ];
  for (const [sent, lost, percent] of rows) {
    await t.step(`${lost} of ${sent}`, () => {
      const extras = { duplicated: 0, reordered: 0, corrupt: 0 };
      assertEquals(
        udp.formatCounts({ sent, echoed: sent - lost, lost, ...extras }),
        `${sent} sent, ${sent - lost} echoed, ${lost} lost (${percent} %)`,
      );
    });
  }
});

// ---- Times ----

/** A server whose echoes take `ms`; `done` when all are sent. */
function slowPeer(ms: number): ReturnType<typeof peerWith> & { done: () => Promise<unknown> } {
  const sent: Promise<void>[] = [];
  const peer = peerWith(({ bytes, from }, _, self) => {
    const { promise, resolve } = Promise.withResolvers<void>();
    setTimeout(() => resolve(self.send(bytes, from)), ms);
    sent.push(promise);
  });
  return Object.assign(peer, { done: () => Promise.all(sent) });
}

Deno.test(
  "a probe is lost when its time and twice the longest round trip are over",
  LIMIT,
  async (t) => {
    await t.step("the first echo of all is waited for, where no --timeout is given", async () => {
      await using peer = slowPeer(1_200);
      const { code, stdout } = await runScript("udp_client.ts", [...peer.to, "-c", "1"]);
      assertEquals([code, countsOf(stdout)], [0, [1, 1, 0, 0, 0, 0]]);
      await peer.done();
    });

    await t.step("but not where one is given", async () => {
      await using peer = slowPeer(1_200);
      const args = [...peer.to, "-c", "1", "--timeout", "0.1"];
      const { code, stdout } = await runScript("udp_client.ts", args);
      assertEquals([code, countsOf(stdout)], [1, [1, 0, 1, 0, 0, 0]]);
      await peer.done();
    });

    await t.step("the last are waited for as long as the others took, and again", async () => {
      await using peer = slowPeer(1_200); // longer than it waits for copies
      const options = { count: 15, intervalSeconds: 0.1, timeoutSeconds: 0.01 };
      const book = await probe(peer.addr, options);
      assertEquals(Object.values(book.counts()), [15, 15, 0, 0, 0, 0]);
      await peer.done();
    });
  },
);

Deno.test(
  "probes go out when they are due: a server that stalls shows in all that wait",
  LIMIT,
  async () => {
    const held: Datagram[] = [];
    await using peer = peerWith(async (datagram, count, self) => {
      held.push(datagram);
      if (count < 10) return; // it stalls
      for (const { bytes, from } of held.splice(0)) await self.send(bytes, from);
    });
    const book = await probe(peer.addr, { count: 10, intervalSeconds: 0.02, timeoutSeconds: 5 });
    assertEquals(book.times, book.times.toSorted((a, b) => b - a)); // the first waited longest
    assertGreaterOrEqual(book.times[0]!, 9 * 20 - 10);
  },
);

Deno.test("while the lines of echoes wait for room, no probe is sent", LIMIT, async () => {
  await using peer = peerWith(echo);
  const room = Promise.withResolvers<void>();
  const seqs: number[] = [];
  const book = await probe(peer.addr, {
    count: 3,
    onEcho: async ({ seq }) => {
      seqs.push(seq);
      if (seq > 1) return;
      await seconds(0.05); // others would be sent every 10 ms
      assertEquals(peer.count, 1);
      room.resolve();
      await room.promise;
    },
  });
  assertEquals([seqs, book.counts().echoed], [[1, 2, 3], 3]);
});

Deno.test("-i 0: the next goes out when the one before is back", LIMIT, async (t) => {
  await t.step("and no later", async () => {
    await using server = serve({ port: 0 });
    const seqs: number[] = [];
    const start = performance.now();
    const book = await probe(server.addr, { count: 300, onEcho: ({ seq }) => seqs.push(seq) });
    assertLess(performance.now() - start, 3_000); // it takes that if each waits for 10 ms
    assertEquals(Object.values(book.counts()), [300, 300, 0, 0, 0, 0]);
    assertEquals(seqs, Array.from({ length: 300 }, (_, i) => i + 1));
  });

  await t.step("or after 10 ms where it is not", async () => {
    await using peer = new UdpPeer();
    const book = await probe(peer.addr, { count: 5, timeoutSeconds: 0.01 });
    assertEquals(Object.values(book.counts()), [5, 0, 5, 0, 0, 0]);
  });
});

Deno.test("a wait that is shorter than a round trip ends no probe", LIMIT, async () => {
  await using server = serve({ port: 0 });
  const args = ["-p", `${server.addr.port}`, "-c", "20", "-i", "0.001", "--timeout", "0.001"];
  for (let i = 0; i < 3; i++) {
    const { stdout, stderr } = await runScript("udp_client.ts", args);
    const [sent, echoed, lost, ...others] = countsOf(stdout);
    assertEquals([sent, echoed! + lost!, ...others], [20, 20, 0, 0, 0]);
    assertEquals(besideInterval(stderr).replace(/^udp_client: \d+ datagrams? of .*\n/, ""), "");
  }
});

Deno.test("probes go out in their order, however fast", LIMIT, async () => {
  await using peer = peerWith(echo);
  for (const interval of ["0.0001", "0.001", "0.002"]) {
    const args = [...peer.to, "-c", "400", "-i", interval, "--quiet", "--timeout", "1"];
    const { stdout } = await runScript("udp_client.ts", args);
    const numbers = (await peer.arrived()).map(({ bytes }) => numberOf(bytes));
    assertEquals(numbers, numbers.toSorted((a, b) => a - b), `-i ${interval}`);
    assertEquals(countsOf(stdout)[4], 0, stdout);
  }
});

Deno.test(
  "probes that are too long for this system are lost, and it is said why",
  LIMIT,
  async () => {
    // As a macOS would have it: 9,216 bytes at most.
    const code = `
    Object.defineProperty(Deno, "build", { value: { ...Deno.build, os: "darwin" } });
    const real = Deno.listenDatagram;
    Deno.listenDatagram = (options) => {
      const socket = real(options);
      socket.send = () => {
        const error = new Error("Message too long (os error 40)");
        return Promise.reject(Object.assign(error, { code: "EMSGSIZE" }));
      };
      return socket;
    };
    const { main } = await import("${fileUrl("udp_client.ts")}");
    const code = await main(Deno.args);
    setTimeout(() => Deno.exit(code), 300); // its last lines are out by then
  `;
    await using peer = peerWith(echo);
    const args = [...peer.to, "-c", "3", "-i", "0", "-s", "9217", "--timeout", "0.1"];
    const { code: exit, stdout, stderr } = await runScript("-", args, {
      stdin: code,
      allowNet: `127.0.0.1:0,127.0.0.1:${peer.addr.port}`,
    });
    assertEquals([exit, countsOf(stdout)], [1, [3, 0, 3, 0, 0, 0]]);
    assertMatch(stderr, /^udp_client: cannot send to [^\n]*net\.inet\.udp\.maxdgram[^\n]*\n$/);
  },
);

Deno.test("-i: the time from one probe to the next", LIMIT, async () => {
  async function measure(): Promise<number> {
    const times: number[] = [];
    await using peer = new UdpPeer((datagram, _, self) => {
      times.push(performance.now());
      return echo(datagram, _, self);
    });
    await probe(peer.addr, { count: 6, intervalSeconds: 0.03 });
    assertEquals(times.length, 6);
    return times[5]! - times[0]!;
  }
  // On a busy machine the first may be seen late, and the rest look shorter: not each time.
  for (let tries = 4; await measure() < 5 * 30 - 10; tries--) assert(tries > 0, "not kept");
});

Deno.test("-i: one message alone, however late, misses no interval", LIMIT, async (t) => {
  await using overTcp = serveTcp({ port: 0 });
  await using overUdp = serve({ port: 0 });
  const rows = [["tcp_client.ts", overTcp.addr], ["udp_client.ts", overUdp.addr]] as const;
  for (const [script, { port }] of rows) {
    await t.step(script, async () => {
      // Its clock is 10 s ahead when it starts.
      const stdin = `
        const now = performance.now.bind(performance);
        performance.now = () => now() + 10_000;
        const { main } = await import("${fileUrl(script)}");
        Deno.exitCode = await main(Deno.args);
      `;
      const args = ["--port", `${port}`, "--count", "1", "--interval", "0.001"];
      const allowNet = `127.0.0.1:0,127.0.0.1:${port}`;
      const { code, stdout, stderr } = await runScript("-", args, { stdin, allowNet });
      assertEquals([code, stderr], [0, ""]);
      assertMatch(stdout, /^1 sent, 1 echoed/m);
    });
  }
});

Deno.test("Ctrl-C ends a probe with its summary", LIMIT, async (t) => {
  await t.step({
    ...unless(NO_SIGNALS, "all is back"),
    fn: async () => {
      await using server = serve({ port: 0 });
      const args = ["-p", `${server.addr.port}`, "-c", "1000", "-i", "3600"];
      await using client = spawn("udp_client.ts", args);
      assertMatch(await client.nextLine(), /: seq=1 time=[\d.]+ ms$/);
      const { code, stdout, stderr } = await client.stop("SIGINT");
      assertEquals([code, stderr], [0, ""]);
      assertEquals(countsOf(stdout), [1, 1, 0, 0, 0, 0]);
      assertStringIncludes(stdout, "\nrtt min/avg/max/mdev = ");
    },
  });

  await t.step({
    ...unless(NO_SIGNALS, "what is under way is waited for: it is not lost"),
    fn: async () => {
      await using peer = peerWith(() => {});
      const args = [...peer.to, "-c", "100", "-i", "3600", "--timeout", "20"];
      await using client = spawn("udp_client.ts", args);
      const { bytes, from } = await peer.next();
      client.kill("SIGINT");
      await seconds(0.3); // a round trip
      await peer.send(bytes, from);
      const { code, stdout } = await client.finish();
      assertEquals([code, countsOf(stdout)], [0, [1, 1, 0, 0, 0, 0]]);
    },
  });

  await t.step({
    ...unless(NO_SIGNALS, "what does not come is lost: exit 1"),
    fn: async () => {
      await using peer = peerWith(() => {});
      const args = [...peer.to, "-c", "9", "-i", "3600", "--json", "--timeout", "0.5"];
      await using client = spawn("udp_client.ts", args);
      await peer.next();
      const { code, stdout } = await client.stop("SIGINT");
      assertEquals([code, JSON.parse(stdout).lost], [1, 1]);
    },
  });

  await t.step({
    ...unless(NO_SIGNALS, "a second signal does not wait"),
    fn: async () => {
      await using peer = peerWith(() => {});
      const args = [...peer.to, "-c", "9", "-i", "3600", "--timeout", "3600", "--trace"];
      await using client = spawn("udp_client.ts", args);
      await peer.next();
      client.kill("SIGINT");
      const second = setInterval(() => client.kill("SIGTERM"), 100); // when the first is dealt with
      const { code } = await client.finish().finally(() => clearInterval(second));
      assertEquals(code, 143);
    },
  });
});

Deno.test("--quiet prints the summary alone", LIMIT, async () => {
  await using server = serve({ port: 0 });
  const args = ["-p", `${server.addr.port}`, "-c", "3", "-i", "0", "--quiet"];
  const { code, stdout } = await runScript("udp_client.ts", args);
  assertEquals(code, 0);
  assertMatch(stdout, /^3 sent, 3 echoed, 0 lost \(0 %\)\nrtt /);
  const json = (await runScript("udp_client.ts", [...args, "--json"])).stdout;
  assertMatch(json, /^\{"time":"[^"]+","event":"summary","sent":3,[^\n]+\}\n$/);
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

Deno.test("the histogram: its last row has no upper end", LIMIT, async () => {
  // A thousand times as fast a clock, for the timers as well: 11 ms are 11 s.
  const code = `
    const [now, later] = [performance.now.bind(performance), setTimeout];
    performance.now = () => now() * 1000;
    globalThis.setTimeout = (call, ms, ...args) => later(call, ms / 1000, ...args);
    const { main } = await import("${fileUrl("udp_client.ts")}");
    const code = await main(Deno.args);
    later(() => Deno.exit(code), 100); // its last lines are out by then
  `;
  const timers: Promise<void>[] = [];
  await using peer = peerWith(({ bytes, from }, _, self) => {
    const { promise, resolve } = Promise.withResolvers<void>();
    setTimeout(() => resolve(self.send(bytes, from)), 12); // a slow server
    timers.push(promise);
  });
  const args = [...peer.to, "--count", "1", "--timeout", "3600", "--quiet"];
  const { stdout } = await runScript("-", args, {
    stdin: code,
    allowNet: `127.0.0.1:0,127.0.0.1:${peer.addr.port}`,
  });
  const [last] = stdout.trimEnd().split("\n").slice(-1);
  assertMatch(last!, /^ +over 10 s +1 █+$/);
  assert(!/ to 10 s /.test(stdout), stdout);
  await Promise.all(timers);
});

Deno.test({
  ...unless(NO_PTY, "a live status at a terminal, where nothing else is printed"),
  ...LIMIT,
  fn: async (t) => {
    for (const extra of [["--quiet"], [], ["--trace"], ["--quiet", "--trace"]]) {
      await t.step(extra.join(" ") || "none of --quiet, --trace", async () => {
        await using peer = peerWith(echo);
        const args = [...peer.to, "-c", "4", "-i", "0.25", ...extra];
        const { code, stdout } = await runScript("udp_client.ts", args, { via: PTY });
        assertEquals(code, 0);
        const [head, ...shown] = stdout.split("\r\x1b[K"); // each begins an empty line
        if (extra.join() !== "--quiet") return assertEquals(shown, []);
        assertEquals(head, "");
        assert(shown.some((text) => /^\d sent, \d echoed, \d not yet$/.test(text)), stdout);
        const cleaned = shown.map((text) => text.endsWith("\n") ? text : "").join("");
        assertMatch(cleaned, /^4 sent, 4 echoed, 0 lost \(0 %\)\r\nrtt /);
      });
    }
  },
});

Deno.test({
  ...unless(
    WINDOWS && "Windows has no signals" || !LINUX && "needs Linux",
    "a stdout that nobody reads: no growth, and the first signal ends it",
  ),
  timeout: 2 * LIMIT.timeout,
  fn: async () => {
    await using peer = peerWith(echo);
    await using client = spawn("udp_client.ts", [...peer.to, "-c", "1000000", "-i", "0"], {
      killMs: 55_000,
    });
    while (peer.count < 30_000) await peer.next(); // far more lines than it keeps
    const before = residentMiB(client.pid);
    while (peer.count < 80_000) await peer.next();
    const growth = residentMiB(client.pid) - before;
    client.kill("SIGINT");
    await eventually("it ends", () => !alive(client.pid)); // still nobody reads
    assertLess(growth, 24); // at 800 bytes each it was 40
    const { signal } = await client.finish();
    assertEquals(signal, null);
  },
});

Deno.test("after a loss, -i 0 goes on at once", LIMIT, async () => {
  await using peer = peerWith(({ bytes, from }, count, self) => {
    if (count !== 1) return self.send(bytes, from);
  });
  const start = performance.now();
  const book = await probe(peer.addr, { count: 300, timeoutSeconds: 0.1 });
  assertEquals(Object.values(book.counts()), [300, 299, 1, 0, 0, 0]);
  assertLess(performance.now() - start, 3_000); // it takes that if each waits for 10 ms
});

// ---- Independent servers ----

Deno.test({
  ...unless(NO_INETD, "it probes the echo service of inetd"),
  ...LIMIT,
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
          assertStringIncludes(stdout, "\n10 sent, 10 echoed");
        });
      }
    } finally {
      await Deno.remove(directory, { recursive: true });
    }
  },
});

Deno.test({
  ...unless(NO_SOCAT, "it probes socat"),
  ...LIMIT,
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
        // Its pipe merges two datagrams that are there at once, as on a busy machine they may be.
        const probe = ["-p", port, "-c", "3", "-i", "0.3"];
        const { code, stdout, stderr } = await runScript(script, probe);
        assertEquals([code, besideInterval(stderr)], [0, ""]);
        assertStringIncludes(stdout, "\n3 sent, 3 echoed");
      });
    }
  },
});
