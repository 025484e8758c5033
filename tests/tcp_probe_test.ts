/**
 * `tcp_client.ts --count`: a conversation of numbered lines, and what it tells of their round trips.
 *
 * @module
 */

import {
  assert,
  assertEquals,
  assertGreater,
  assertMatch,
  assertStringIncludes,
} from "@std/assert";
import {
  type Bytes,
  decode,
  join,
  LIMIT,
  NO_SIGNALS,
  PTY,
  readExactly,
  readToEnd,
  rudeServer,
  runScript,
  spawn,
  unless,
  writeAll,
} from "./_helpers.ts";
import { assertOneLine, aWhile, start } from "./_tcp.ts";
import { NO_PTY } from "./_needs.ts";

const ECHO = /^64 bytes from 127\.0\.0\.1:\d+: seq=(\d+) time=([\d.]+) ms$/;
const FIGURES = ["min", "avg", "max", "mdev", "p50", "p90", "p99", "jitter"];

/** What is said but for the word on an interval, which a busy machine cannot keep. */
function withoutInterval(stderr: string): string {
  return stderr.replace(/^tcp_client: the interval of \S+ s could not be kept: .*\n/m, "");
}

/** Treats each line of 64 bytes, until the client has no more. */
async function each(
  conn: Deno.TcpConn,
  treat: (line: Bytes, number: number) => Promise<void>,
): Promise<void> {
  for (let number = 1, line; (line = await readExactly(conn, 64)).length === 64; number++) {
    await treat(line, number);
  }
}

Deno.test("a line an echo, then the sum, the round trips and their histogram", LIMIT, async () => {
  await using server = start();
  const args = [...server.to, "-c", "5", "-i", "0"];
  const { code, stdout, stderr } = await runScript("tcp_client.ts", args);
  assertEquals([code, stderr], [0, ""]);
  const lines = stdout.trimEnd().split("\n");
  const echoes = lines.slice(0, 5).map((line) => ECHO.exec(line)?.[1]);
  assertEquals(echoes, ["1", "2", "3", "4", "5"]);
  const [sum, rtt, percentiles, ...bars] = lines.slice(5);
  assertEquals(sum, "5 sent, 5 echoed"); // a stream loses, doubles and reorders nothing
  assertMatch(rtt!, /^rtt min\/avg\/max\/mdev = [\d.]+\/[\d.]+\/[\d.]+\/[\d.]+ ms$/);
  assertMatch(percentiles!, /^ +p50\/p90\/p99 = [\d.]+\/[\d.]+\/[\d.]+ ms, jitter = [\d.]+ ms$/);
  const counts = bars.map((bar) => Number(/^ +to +\d+ (?:µs|ms|s) +(\d+)(?: █+)?$/.exec(bar)![1]));
  assertEquals(counts.reduce((a, b) => a + b), 5);
});

Deno.test("--json: an event an echo, and a summary", LIMIT, async () => {
  await using server = start();
  const args = [...server.to, "-c", "3", "-i", "0", "-s", "100", "--json"];
  const { code, stdout, stderr } = await runScript("tcp_client.ts", args);
  assertEquals([code, stderr], [0, ""]);
  const events = stdout.trimEnd().split("\n").map((line) => JSON.parse(line));
  assertEquals(events.map((event) => Object.keys(event)), [
    ...Array(3).fill(["time", "event", "seq", "bytes", "rtt_ms"]),
    ["time", "event", "sent", "echoed", "rtt_ms"],
  ]);
  for (const [i, { event, seq, bytes }] of events.slice(0, 3).entries()) {
    assertEquals([event, seq, bytes], ["echo", i + 1, 100]);
  }
  const summary = events[3];
  assertEquals([summary.event, summary.sent, summary.echoed], ["summary", 3, 3]);
  assertEquals(Object.keys(summary.rtt_ms), FIGURES);
  const times = events.slice(0, 3).map(({ rtt_ms }) => rtt_ms);
  assertEquals(summary.rtt_ms.min, Math.min(...times));
  assertEquals(summary.rtt_ms.max, Math.max(...times));
});

Deno.test("what it sends: numbered lines, each of --size bytes", LIMIT, async (t) => {
  for (const size of [16, 64, 65_507]) {
    await t.step(`${size} bytes`, async () => {
      const sent: Bytes[] = [];
      await using server = rudeServer(async (conn) => {
        for (let line; (line = await readExactly(conn, size)).length > 0;) {
          sent.push(line);
          await writeAll(conn, line);
        }
      });
      const args = ["--port", `${server.port}`, "-c", "3", "-i", "0", "-s", `${size}`];
      const { code, stdout } = await runScript("tcp_client.ts", args);
      assertEquals(code, 0);
      assertStringIncludes(stdout, `${size} bytes from `);
      assertEquals(sent.length, 3);
      for (const [i, line] of sent.entries()) {
        assertEquals(line.length, size);
        const text = decode(line);
        assertEquals([parseInt(text), text.indexOf("\n")], [i + 1, size - 1]);
      }
    });
  }
});

Deno.test("each goes out after the echo of the one before", LIMIT, async () => {
  await using server = rudeServer((conn) =>
    each(conn, async (line, number) => {
      await writeAll(conn, line.subarray(0, 63));
      if (number > 1) return await writeAll(conn, line.subarray(63));
      let early = false;
      const next = conn.read(new Uint8Array(1)).then((size) => {
        early = true;
        return size;
      });
      await aWhile();
      assert(!early, "the second line came before the first was back");
      await writeAll(conn, line.subarray(63));
      assertEquals(await next, 1);
      await writeAll(conn, join([new Uint8Array([0x32]), await readExactly(conn, 63)]));
    })
  );
  const args = ["--port", `${server.port}`, "-c", "3", "-i", "0"];
  const { code, stdout, stderr } = await runScript("tcp_client.ts", args);
  assertEquals([code, stderr], [0, ""]);
  assertStringIncludes(stdout, "\n3 sent, 3 echoed\n");
});

Deno.test(
  "-i: the time from one to the next, and a word where it cannot be kept",
  LIMIT,
  async (t) => {
    await t.step("kept", async () => {
      async function measure(): Promise<number> {
        const times: number[] = [];
        await using server = rudeServer((conn) =>
          each(conn, (line) => {
            times.push(performance.now());
            return writeAll(conn, line);
          })
        );
        const args = ["--port", `${server.port}`, "-c", "6", "-i", "0.05"];
        assertEquals((await runScript("tcp_client.ts", args)).code, 0);
        return times[5]! - times[0]!;
      }
      // On a busy machine the first may be seen late, and the rest look shorter: not each time.
      for (let tries = 4; await measure() < 5 * 50 - 10; tries--) assert(tries > 0, "not kept");
    });

    await t.step("not kept", async () => {
      // So many lines are more than may be sent before their echo comes.
      const [count, size] = [40, 65_507];
      await using server = rudeServer(async (conn) => {
        await aWhile();
        for (let i = 0; i < count; i++) await writeAll(conn, await readExactly(conn, size));
        await readToEnd(conn);
      });
      const args = ["--port", `${server.port}`, "-c", `${count}`, "-s", `${size}`, "-i", "0.001"];
      const { code, stderr } = await runScript("tcp_client.ts", args);
      assertEquals(code, 0);
      assertMatch(
        stderr,
        /^tcp_client: the interval of 0\.001 s could not be kept: it was 0\.\d+ s\n$/,
      );
    });
  },
);

Deno.test({
  ...unless(NO_SIGNALS, "a server that stalls shows in each line that was due meanwhile"),
  ...LIMIT,
  fn: async () => {
    await using server = spawn("tcp_server.ts", ["--port", "0", "--quiet"]);
    const args = ["--port", `${await server.port()}`, "-c", "40", "-i", "0.05", "--json"];
    await using client = spawn("tcp_client.ts", args);
    await client.nextLine();
    server.kill("SIGSTOP");
    await aWhile();
    await aWhile();
    server.kill("SIGCONT");
    const { code, stdout, stderr } = await client.finish();
    assertEquals([code, withoutInterval(stderr)], [0, ""]);
    const events = stdout.trimEnd().split("\n").map((line) => JSON.parse(line));
    assertEquals(events.at(-1).echoed, 40);
    const late = events.filter(({ event, rtt_ms }) => event === "echo" && rtt_ms > 200);
    assertGreater(late.length, 4); // one, if each waited for the echo of the one before
    const times = late.map(({ rtt_ms }) => rtt_ms);
    assertEquals(times, times.toSorted((a, b) => b - a)); // the first waited longest
  },
});

Deno.test(
  "an echo that is not the exact line is the usual error, behind a sum",
  LIMIT,
  async (t) => {
    type Row = [
      name: string,
      talk: (conn: Deno.TcpConn) => Promise<void>,
      echoed: number,
      says: RegExp,
      interval?: string,
    ];
    const rows: Row[] = [
      [
        "a bit of the third is turned",
        (conn) =>
          each(conn, (line, number) => {
            if (number === 3) line[50]! ^= 1;
            return writeAll(conn, line);
          }),
        2,
        /echo differs at byte 178, from /,
      ],
      [
        "each comes twice",
        (conn) => each(conn, (line) => writeAll(conn, join([line, line]))),
        0,
        /: 64 bytes too many came from /,
        "0",
      ],
      [
        "each comes twice, while more is to be sent",
        (conn) => each(conn, (line) => writeAll(conn, join([line, line]))),
        0,
        /: 64 bytes too many came from |echo differs at byte 64, from /, // where the second was out
      ],
      [
        "the third comes twice",
        (conn) =>
          each(conn, (line, number) => writeAll(conn, number === 3 ? join([line, line]) : line)),
        2,
        /: 64 bytes too many came from /,
        "0",
      ],
      [
        "the second and the third are swapped",
        (conn) =>
          each(conn, (line, number) => {
            const other = number === 2 ? "3" : number === 3 ? "2" : undefined;
            if (other) line[0] = other.charCodeAt(0);
            return writeAll(conn, line);
          }),
        1,
        /echo differs at byte 64, from /,
      ],
      [
        "bytes that nobody asked for come first",
        async (conn) => {
          await writeAll(conn, "welcome");
          await each(conn, (line) => writeAll(conn, line));
        },
        0,
        /\d+ bytes too many came from |echo differs at byte 0, from /,
      ],
      [
        "nothing comes back",
        async (conn) => {
          await readToEnd(conn);
          await new Promise<void>((resolve) => onceGone = resolve);
        },
        0,
        /nothing from .* for 0\.3 s: (\d+) bytes were not echoed \(of \1\)/,
      ],
      [
        "half of the last is missing",
        (conn) =>
          each(conn, (line, number) => writeAll(conn, number < 5 ? line : line.subarray(32))),
        4,
        /echo differs at byte 256|32 bytes were not echoed \(of 320\)/,
      ],
      [
        "the server closes after the second",
        async (conn) => {
          for (let i = 0; i < 2; i++) await writeAll(conn, await readExactly(conn, 64));
        },
        2,
        /(closed the connection|connection reset).*(before the end of the input|bytes were not echoed)/,
      ],
    ];
    let onceGone = (): void => {};
    for (const [name, talk, echoed, says, interval = "0.02"] of rows) {
      await t.step(name, async () => {
        await using server = rudeServer(talk);
        const args = ["--port", `${server.port}`, "-c", "5", "-i", interval, "--timeout", "0.3"];
        const { code, stdout, stderr } = await runScript("tcp_client.ts", args)
          .finally(() => onceGone());
        assertEquals(code, 1);
        assertMatch(stdout, new RegExp(`^\\d sent, ${echoed} echoed$`, "m"));
        assertOneLine(withoutInterval(stderr));
        assertMatch(stderr, says);
      });
    }

    await t.step("the server closes in the middle of a long wait: at once, exit 1", async () => {
      await using server = rudeServer(async (conn) => writeAll(conn, await readExactly(conn, 64)));
      const args = ["--port", `${server.port}`, "-c", "5", "-i", "3600"];
      const { code, stdout, stderr } = await runScript("tcp_client.ts", args);
      assertEquals(code, 1);
      assertMatch(stdout, /^1 sent, 1 echoed$/m);
      assertMatch(stderr, /closed the connection before the end of the input\n$/);
    });

    await t.step("the server takes nothing", async () => {
      const gone = Promise.withResolvers<void>();
      await using server = rudeServer(() => gone.promise);
      const args = ["--port", `${server.port}`, "-c", "9", "-i", "0", "-s", "65507"];
      const { code, stdout, stderr } = await runScript("tcp_client.ts", [
        ...args,
        "--timeout",
        "0.3",
      ])
        .finally(gone.resolve);
      assertEquals(code, 1);
      assertMatch(stdout, /^1 sent, 0 echoed$/m);
      assertMatch(
        stderr,
        /nothing from .* for 0\.3 s: 65507 bytes were not echoed \(of 65507\)\n$/,
      );
    });
  },
);

Deno.test(
  "an echo in pieces is one echo, its round trip that of its last byte",
  LIMIT,
  async () => {
    await using server = rudeServer((conn) =>
      each(conn, async (line) => {
        await writeAll(conn, line.subarray(0, 32));
        await new Promise((resolve) => setTimeout(resolve, 30)); // it is a slow server
        await writeAll(conn, line.subarray(32));
      })
    );
    const args = ["--port", `${server.port}`, "-c", "3", "-i", "0"];
    const { code, stdout, stderr } = await runScript("tcp_client.ts", args);
    assertEquals([code, stderr], [0, ""]);
    const times = stdout.split("\n").slice(0, 3).map((line) => Number(ECHO.exec(line)?.[2]));
    for (const ms of times) assert(ms > 28 && ms < 10_000, `${ms} ms`);
  },
);

Deno.test(
  "the first signal ends it with a sum, once what is under way is back",
  LIMIT,
  async (t) => {
    for (const signal of ["SIGINT", "SIGTERM"] as const) {
      await t.step({
        ...unless(NO_SIGNALS, `${signal} between two lines`),
        fn: async () => {
          await using server = start();
          await using client = spawn("tcp_client.ts", [...server.to, "-c", "1000", "-i", "3600"]);
          assertMatch(await client.nextLine(), ECHO);
          const { code, stdout, stderr } = await client.stop(signal);
          assertEquals([code, stderr], [0, ""]);
          assertMatch(stdout, /^1 sent, 1 echoed\nrtt min\/avg\/max\/mdev = /);
        },
      });
    }

    await t.step({
      ...unless(NO_SIGNALS, "SIGINT while an echo is under way"),
      fn: async () => {
        const came = Promise.withResolvers<void>();
        const signalled = Promise.withResolvers<void>();
        await using server = rudeServer((conn) =>
          each(conn, async (line) => {
            came.resolve();
            await signalled.promise;
            await aWhile();
            await writeAll(conn, line);
          })
        );
        await using client = spawn("tcp_client.ts", [
          "--port",
          `${server.port}`,
          "-c",
          "9",
          "-i",
          "0",
        ]);
        await came.promise;
        client.kill("SIGINT");
        signalled.resolve();
        const { code, stdout, stderr } = await client.finish();
        assertEquals([code, stderr], [0, ""]);
        assertMatch(stdout, /^1 sent, 1 echoed$/m);
      },
    });

    await t.step({
      ...unless(NO_SIGNALS, "a signal that comes twice at once is one"),
      fn: async () => {
        const came = Promise.withResolvers<void>();
        const signalled = Promise.withResolvers<void>();
        await using server = rudeServer((conn) =>
          each(conn, async (line) => {
            came.resolve();
            await signalled.promise;
            await aWhile(); // both signals were taken
            await writeAll(conn, line);
          })
        );
        const args = ["--port", `${server.port}`, "-c", "9", "-i", "3600"];
        await using client = spawn("tcp_client.ts", args);
        await came.promise;
        client.kill("SIGINT");
        client.kill("SIGTERM"); // another, or the system would make them one
        signalled.resolve();
        const { code, stdout, stderr } = await client.finish();
        assertEquals([code, stderr], [0, ""]);
        assertMatch(stdout, /^1 sent, 1 echoed$/m);
      },
    });

    await t.step({
      ...unless(NO_SIGNALS, "a second signal ends it at once"),
      fn: async () => {
        const came = Promise.withResolvers<void>();
        const gone = Promise.withResolvers<void>();
        await using server = rudeServer((conn) => {
          readExactly(conn, 64).then(() => came.resolve());
          return gone.promise;
        });
        const args = ["--port", `${server.port}`, "-c", "9", "--timeout", "600"];
        await using client = spawn("tcp_client.ts", args);
        await came.promise;
        client.kill("SIGINT");
        let ended = false;
        const end = client.finish().finally(() => ended = true);
        for (await aWhile(); !ended; await aWhile()) client.kill("SIGTERM"); // from then on a second one
        gone.resolve();
        assertEquals((await end).code, 143);
      },
    });
  },
);

Deno.test("--quiet prints the sum alone", LIMIT, async () => {
  await using server = start();
  const args = [...server.to, "-c", "3", "-i", "0", "--quiet"];
  const { code, stdout } = await runScript("tcp_client.ts", args);
  assertEquals(code, 0);
  assertMatch(stdout, /^3 sent, 3 echoed\nrtt /);
  const json = (await runScript("tcp_client.ts", [...args, "--json"])).stdout;
  assertMatch(json, /^\{"time":"[^"]+","event":"summary","sent":3,"echoed":3,[^\n]+\}\n$/);
});

Deno.test({
  ...unless(NO_PTY, "at a terminal: a live status under --quiet, and in the way of no other line"),
  ...LIMIT,
  fn: async (t) => {
    const run = async (...args: string[]): Promise<string> => {
      await using server = start();
      const { code, stdout } = await runScript("tcp_client.ts", [...server.to, ...args], {
        via: PTY,
      });
      assertEquals(code, 0);
      return stdout;
    };

    await t.step("--quiet", async () => {
      const [clear, ...shown] = (await run("-c", "4", "-i", "0.2", "-q")).split("\r\x1b[K");
      assertEquals(clear, "");
      assertGreater(shown.length, 2);
      for (const status of shown.slice(0, -1)) assertMatch(status, /^\d sent, \d echoed$/);
      assertMatch(shown.at(-1)!, /^4 sent, 4 echoed\r\nrtt /);
    });

    for (const args of [["--trace"], ["--trace", "-q"], []]) {
      await t.step(args.join(" ") || "without --quiet", async () => {
        const stdout = await run("-c", "4", "-i", "0.2", ...args);
        const rungs = stdout.split("\r\n").filter((line) => line.includes("ms client"));
        assertEquals(rungs.length > 0, args.length > 0);
        for (const rung of rungs) assertMatch(rung, /^ *[\d.]+ ms client /);
        assert(!stdout.includes("\x1b"), "no status is drawn");
      });
    }
  },
});

Deno.test("--trace: one time for one echo", LIMIT, async () => {
  await using server = start();
  const args = [...server.to, "-c", "3", "-i", "0", "--trace"];
  const { stdout, stderr } = await runScript("tcp_client.ts", args);
  const reads = stderr.split("\n").filter((line) => line.includes("read() = 64"));
  assertEquals(reads.length, 3);
  for (const [i, rung] of reads.entries()) {
    const [, ...times] = [...rung.matchAll(/([\d.]+) ms/g)].map(([, ms]) => Number(ms));
    const told = Number(ECHO.exec(stdout.split("\n")[i]!)![2]);
    for (const ms of times) assertEquals(ms.toFixed(1), told.toFixed(1), rung);
  }
});

Deno.test(
  "--trace, and nobody reads stderr: nothing is held up, a signal neither",
  LIMIT,
  async (t) => {
    await t.step("to its end", async () => {
      await using server = start({ quiet: true });
      const args = [...server.to, "-c", "3000", "-i", "0", "--trace"];
      await using client = spawn("tcp_client.ts", args); // 6,000 rungs, of some 70 bytes
      const stdout = decode(await client.stdout.rest());
      assertStringIncludes(stdout, "\n3000 sent, 3000 echoed\n");
      assertEquals((await client.status).code, 0);
    });

    for (const signal of ["SIGINT", "SIGTERM"] as const) {
      await t.step({
        ...unless(NO_SIGNALS, signal),
        fn: async () => {
          await using server = start({ quiet: true });
          const args = [...server.to, "-c", "1000000", "-i", "0", "--trace"];
          await using client = spawn("tcp_client.ts", args);
          await client.stdout.until("seq=2000 ");
          client.kill(signal);
          const stdout = decode(await client.stdout.rest());
          assertMatch(stdout, /^(\d+) sent, \1 echoed$/m);
          assertEquals((await client.status).code, 0);
        },
      });
    }
  },
);

Deno.test({
  ...unless(NO_SIGNALS, "nobody reads stdout: the first signal ends it"),
  ...LIMIT,
  fn: async () => {
    const enough = Promise.withResolvers<void>();
    await using server = rudeServer((conn) =>
      each(conn, (line, number) => {
        if (number === 5_000) enough.resolve(); // more lines than a pipe holds
        return writeAll(conn, line);
      })
    );
    const args = ["--port", `${server.port}`, "-c", "1000000", "-i", "0"];
    await using client = spawn("tcp_client.ts", args);
    await enough.promise;
    client.kill("SIGINT");
    const { code, signal } = await client.status;
    assertEquals([code, signal], [0, null]);
  },
});

Deno.test("it ends as a client should: the server reads the end of the stream", LIMIT, async () => {
  let rest: Bytes | undefined;
  await using server = rudeServer(async (conn) => {
    for (let i = 0; i < 3; i++) await writeAll(conn, await readExactly(conn, 64));
    rest = await readToEnd(conn);
  });
  const args = ["--port", `${server.port}`, "-c", "3", "-i", "0"];
  assertEquals((await runScript("tcp_client.ts", args)).code, 0);
  assertEquals(rest, new Uint8Array());
});
