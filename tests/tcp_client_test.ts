/**
 * `tcp_client.ts`: its exported `connect` and `converse`, and the process, against `tcp_server.ts`
 * and against servers that do what servers should not.
 *
 * @module
 */

import {
  assert,
  assertEquals,
  assertMatch,
  assertRejects,
  assertStringIncludes,
} from "@std/assert";
import { connect, converse, EchoError } from "../tcp_client.ts";
import { serve, type ServeOptions } from "../tcp_server.ts";
import {
  assertSameBytes,
  type Bytes,
  collector,
  decode,
  encode,
  freePort,
  hasIpv6,
  hasTool,
  LIMIT,
  pieces,
  PTY,
  readExactly,
  readToEnd,
  resetServer,
  rudeServer,
  runScript,
  seededRandom,
  spawn,
  writeAll,
} from "./_helpers.ts";

const LINUX = Deno.build.os === "linux";
const WINDOWS = Deno.build.os === "windows";
const HAS_PTY = hasTool("python3", "-c", "import pty");
const HAS_SOCAT = hasTool("socat", "-V");

type Talk = (conn: Deno.TcpConn) => Promise<void>;

/** A server in this process, and the client's arguments to reach it. */
function start(options: ServeOptions = {}): AsyncDisposable & { port: number; to: string[] } {
  const server = serve({ port: 0, ...options });
  const { port } = server.addr;
  return { ...server, port, to: ["--port", `${port}`] };
}

/** Time that passes: until a server that closes the silent has closed one. */
async function aWhile(): Promise<void> {
  await using server = start({ idleSeconds: 0.5 });
  using conn = await Deno.connect({ port: server.port });
  await readToEnd(conn);
}

/** One line of the client, without its end. */
function assertOneLine(stderr: string): void {
  assertMatch(stderr, /^tcp_client: [^\n]+\n$/);
}

Deno.test("arguments: each is sent as a line, the echoes are printed, done", LIMIT, async (t) => {
  await using server = start({ stopWords: [] });
  const rows: [string[], string][] = [
    [["hello"], "hello\n"],
    [["two words", "and more"], "two words\nand more\n"],
    [["007", "1e3", "0x10", "", "true", " x "], "007\n1e3\n0x10\n\ntrue\n x \n"],
    [["--", "-5", "--port", "--"], "-5\n--port\n--\n"],
    [["Grüße, 你好 😀"], "Grüße, 你好 😀\n"],
    [["two\nlines"], "two\nlines\n"],
    [["stop", "more"], "stop\nmore\n"],
  ];
  for (const [words, expected] of rows) {
    await t.step(JSON.stringify(words), async () => {
      const args = [...server.to, ...words];
      const { code, stdout, stderr } = await runScript("tcp_client.ts", args);
      assertEquals([code, stdout, stderr], [0, expected, ""]);
    });
  }
});

Deno.test("a pipe: stdout is what was sent, byte for byte", LIMIT, async (t) => {
  const random = seededRandom();
  await using server = start({ stopWords: [] });
  const rows: [string, Bytes][] = [
    ["nothing", encode("")],
    ["a line without an end", encode("hello")],
    ["all byte values", Uint8Array.from({ length: 256 }, (_, i) => i)],
    ["terminal controls", encode("\x1b]0;x\x07\u202e\x9b31m\0\r\n")],
    ["5 MiB of random bytes", random.bytes(5 * 1_048_576)],
  ];
  for (const [name, stdin] of rows) {
    await t.step(name, async () => {
      const { code, bytes, stderr } = await runScript("tcp_client.ts", server.to, { stdin });
      assertEquals([code, stderr], [0, ""]);
      assertSameBytes(bytes, stdin);
    });
  }

  await t.step("--quiet prints nothing, and compares all the same", async () => {
    const args = [...server.to, "--quiet"];
    const stdin = random.bytes(100_000);
    const { code, bytes, stderr } = await runScript("tcp_client.ts", args, { stdin });
    assertEquals([code, bytes.length, stderr], [0, 0, ""]);
  });
});

Deno.test({
  name: `a pipe, to an independent echo server${HAS_SOCAT ? "" : " (ignored: no socat here)"}`,
  ...LIMIT,
  ignore: !HAS_SOCAT,
  fn: async () => {
    const stdin = seededRandom().bytes(4 * 1_048_576);
    const args = ["-d", "-d", "TCP-LISTEN:0,bind=127.0.0.1", "EXEC:cat"];
    const quiet = { stdin: "null", stdout: "null" } as const;
    const socat = new Deno.Command("socat", { args, ...quiet, stderr: "piped" }).spawn();
    const reader = socat.stderr.getReader();
    let said = "";
    let port: string | undefined;
    while (!(port = /listening on .*:(\d+)\n/.exec(said)?.[1])) {
      const { value, done } = await reader.read();
      if (done) throw new Error(`socat does not listen: ${said}`);
      said += decode(value);
    }
    const { code, bytes, stderr } = await runScript("tcp_client.ts", ["--port", port], { stdin });
    assertEquals([code, stderr], [0, ""]);
    assertSameBytes(bytes, stdin);
    await reader.cancel();
    await socat.status;
  },
});

Deno.test("converse: random megabytes, however they are cut", LIMIT, async (t) => {
  const random = seededRandom();
  const bytes = random.bytes(5 * 1_048_576);

  await t.step("tcp_server.ts", async () => {
    await using server = start({ stopWords: [] });
    using conn = await connect({ port: server.port });
    const { output, bytes: received } = collector();
    const input = ReadableStream.from(pieces(bytes, random, 200_000));
    const { sent, echoed } = await converse(conn, input, output);
    assertEquals([sent, echoed], [bytes.length, bytes.length]);
    assertSameBytes(received(), bytes);
  });

  await t.step("a system that takes a little at a time", async () => {
    await using server = start({ stopWords: [] });
    using conn = await connect({ port: server.port });
    const write = conn.write.bind(conn);
    conn.write = (bytes) => write(bytes.subarray(0, 10_000));
    const { output, bytes: received } = collector();
    await converse(conn, ReadableStream.from([bytes]), output);
    assertSameBytes(received(), bytes);
  });

  await t.step("a server that reads late", async () => {
    await using server = rudeServer(async (conn) => {
      await aWhile(); // the client's writes fill what the systems hold
      for (let piece; (piece = await readExactly(conn, 65_536)).length > 0;) {
        await writeAll(conn, piece);
      }
    });
    using conn = await connect({ port: server.port });
    const { output, bytes: received } = collector();
    await converse(conn, ReadableStream.from([bytes]), output);
    assertSameBytes(received(), bytes);
  });

  await t.step("a server that cuts it otherwise", async () => {
    await using server = rudeServer(async (conn) => {
      for (let piece; (piece = await readExactly(conn, 1 + random.int(300_000))).length > 0;) {
        for (const part of pieces(piece, random, 100_000)) await writeAll(conn, part);
      }
    });
    using conn = await connect({ port: server.port });
    const { output, bytes: received } = collector();
    const input = ReadableStream.from(pieces(bytes, random, 200_000));
    await converse(conn, input, output);
    assertSameBytes(received(), bytes);
  });
});

Deno.test("converse leaves the connection and the output to their owners", LIMIT, async () => {
  await using server = start();
  const conn = await connect({ port: server.port });
  const { output, bytes } = collector();
  await converse(conn, ReadableStream.from([encode("hello\n")]), output);
  assertEquals(decode(bytes()), "hello\n");
  conn.close(); // a second close would throw
  await output.close(); // as would a close under a lock
});

Deno.test("converse fails as its input or its output fails", LIMIT, async (t) => {
  await using server = start();
  const failure = new Error("disk on fire");
  const fail = (): never => {
    throw failure;
  };
  const hello = (): ReadableStream<Uint8Array> => ReadableStream.from([encode("hello\n")]);
  const broken = new ReadableStream<Uint8Array>({ pull: fail });
  for (
    const [name, input, output] of [
      ["input", broken, collector().output],
      ["output", hello(), new WritableStream<Uint8Array>({ write: fail })],
    ] as const
  ) {
    await t.step(name, async () => {
      using conn = await connect({ port: server.port });
      assertEquals(await converse(conn, input, output).catch((error) => error), failure);
    });
  }
});

/** Echoes all, once the input has ended. */
async function echoAtTheEnd(conn: Deno.TcpConn): Promise<void> {
  await writeAll(conn, await readToEnd(conn));
}

Deno.test("an unusual server that echoes all is a success", LIMIT, async (t) => {
  const text = "hello world\n";
  const rows: [string, Talk, string[], boolean?][] = [
    ["drained: it echoes when the input has ended", echoAtTheEnd, []],
    ["byte by byte", async (conn) => {
      for (const byte of await readExactly(conn, text.length)) {
        await conn.write(Uint8Array.of(byte));
      }
      await readToEnd(conn);
    }, []],
    ["it half-closes first, after all is echoed", async (conn) => {
      await readToEnd(conn);
      await writeAll(conn, text);
      await conn.closeWrite();
    }, []],
    ["it stays open when all is echoed", async (conn) => {
      await writeAll(conn, await readToEnd(conn));
      await new Promise<void>((resolve) => {
        onceGone = resolve; // the client has ended
      });
    }, ["--timeout", "0.2"]],
    [
      "it closes after a stop word, the input still open",
      async (conn) => {
        await writeAll(conn, await readExactly(conn, text.length));
      },
      ["--stop", "hello world"],
      true,
    ],
  ];
  let onceGone = (): void => {};
  for (const [name, talk, args, open = false] of rows) {
    await t.step(name, async () => {
      await using server = rudeServer(talk);
      await using client = spawn("tcp_client.ts", ["--port", `${server.port}`, ...args]);
      await client.write(text);
      if (!open) await client.end();
      const { code, stdout, stderr } = await client.finish();
      onceGone();
      assertEquals([code, stdout, stderr], [0, text, ""]);
    });
  }

  await t.step("500,000 bytes, echoed when the input has ended", async () => {
    const stdin = seededRandom().bytes(500_000);
    await using server = rudeServer(echoAtTheEnd);
    const args = ["--port", `${server.port}`];
    const { code, bytes, stderr } = await runScript("tcp_client.ts", args, { stdin });
    assertEquals([code, stderr], [0, ""]);
    assertSameBytes(bytes, stdin);
  });

  await t.step("slower in all than --timeout, but never silent for so long", async () => {
    await using server = rudeServer(async (conn) => {
      for (const byte of await readExactly(conn, 7)) {
        await new Promise((resolve) => setTimeout(resolve, 100)); // it is a slow server
        await conn.write(Uint8Array.of(byte));
      }
    });
    const args = ["--port", `${server.port}`, "--timeout", "0.5", "slowly"];
    const { code, stdout, stderr } = await runScript("tcp_client.ts", args);
    assertEquals([code, stdout, stderr], [0, "slowly\n", ""]);
  });
});

Deno.test("an echo that is not what was sent: exit 1, and what is wrong", LIMIT, async (t) => {
  const text = "hello world\n"; // 12 bytes
  const long = "x".repeat(10_000);
  type Row = {
    name: string;
    talk?: Talk;
    server?: () => Promise<{ port: number } & AsyncDisposable>;
    args?: string[];
    stdin?: string | Bytes;
    open?: true; // the input does not end
    stdout?: string;
    says: string[];
  };
  const rows: Row[] = [
    {
      name: "three bytes less",
      talk: async (conn) => await writeAll(conn, (await readToEnd(conn)).subarray(0, -3)),
      stdout: text.slice(0, -3),
      says: ["closed the connection", "3 bytes were not echoed (of 12)"],
    },
    {
      name: "nothing, and a close",
      talk: async (conn) => void await readToEnd(conn),
      says: ["closed the connection", "12 bytes were not echoed (of 12)"],
    },
    {
      name: "two bytes more",
      talk: async (conn) => await writeAll(conn, `${decode(await readToEnd(conn))}!!`),
      says: ["2 bytes too many"],
    },
    {
      name: "bytes that nobody asked for",
      talk: async (conn) => {
        await writeAll(conn, "welcome");
        await readToEnd(conn);
      },
      stdin: "",
      open: true,
      says: ["7 bytes too many"],
    },
    {
      name: "an echo where none is expected",
      talk: echoAtTheEnd,
      args: ["--no-echo"],
      says: ["12 bytes too many"],
    },
    {
      name: "a flipped bit",
      talk: async (conn) => {
        const bytes = await readToEnd(conn);
        bytes[4_711]! ^= 0x10;
        await writeAll(conn, bytes);
      },
      stdin: long,
      says: ["echo differs at byte 4711"],
    },
    {
      name: "a flipped bit, beyond the window",
      talk: async (conn) => {
        for (let i = 0; i < 30; i++) await writeAll(conn, await readExactly(conn, 100_000));
        const [byte] = await readExactly(conn, 1);
        await writeAll(conn, Uint8Array.of(byte! ^ 1));
        await readToEnd(conn);
      },
      stdin: seededRandom().bytes(4_000_000),
      says: ["echo differs at byte 3000000"],
    },
    {
      name: "a reset",
      server: () => resetServer(12, 0),
      open: true,
      says: ["connection reset", "12 bytes were not echoed (of 12)"],
    },
    {
      name: "a reset, half of it echoed",
      server: () => resetServer(12, 6),
      open: true,
      stdout: text.slice(0, 6),
      says: ["connection reset", "6 bytes were not echoed (of 12)"],
    },
    {
      name: "no answer",
      talk: async (conn) => void await readToEnd(conn),
      args: ["--timeout", "0.2"],
      open: true,
      says: ["0.2 s", "12 bytes were not echoed (of 12)"],
    },
    {
      name: "no answer, and it does not even read",
      talk: async () => await new Promise<void>((resolve) => onceGone = resolve),
      args: ["--timeout", "0.2"],
      stdin: new Uint8Array(8_000_000),
      says: ["0.2 s", " bytes were not echoed (of "],
    },
    {
      name: "a close while the input is open, though nothing is owed",
      talk: async (conn) => await writeAll(conn, await readExactly(conn, 12)),
      open: true,
      stdout: text,
      says: ["closed the connection"],
    },
    {
      name: "a close after a stop word, under --no-stop",
      talk: async (conn) => await writeAll(conn, await readExactly(conn, 5)),
      args: ["--no-stop"],
      stdin: "stop\n",
      open: true,
      stdout: "stop\n",
      says: ["closed the connection"],
    },
    {
      name: "a close after a word that is none of the stop words",
      talk: async (conn) => await writeAll(conn, await readExactly(conn, 5)),
      args: ["--stop", "bye"],
      stdin: "stop\n",
      open: true,
      stdout: "stop\n",
      says: ["closed the connection"],
    },
  ];
  let onceGone = (): void => {};
  for (const { name, args = [], stdin = text, open, stdout, says, ...row } of rows) {
    await t.step(name, async () => {
      await using server = await row.server?.() ?? rudeServer(row.talk!);
      await using client = spawn("tcp_client.ts", ["--port", `${server.port}`, ...args]);
      const written = client.write(stdin).then(() => open ? undefined : client.end())
        .catch(() => {}); // it ended first
      const result = await client.finish();
      onceGone();
      await written;
      assertEquals(result.code, 1);
      assertOneLine(result.stderr);
      for (const words of [`127.0.0.1:${server.port}`, ...says]) {
        assertStringIncludes(result.stderr, words);
      }
      if (stdout !== undefined) assertEquals(result.stdout, stdout);
    });
  }
});

Deno.test("what stands behind a stop word is not echoed: exit 1, and how much", LIMIT, async () => {
  await using server = start();
  const stdin = "a\nstop\nb\n";
  const { code, stdout, stderr } = await runScript("tcp_client.ts", server.to, { stdin });
  assertEquals([code, stdout], [1, "a\nstop\n"]);
  assertOneLine(stderr);
  assertStringIncludes(stderr, "2 bytes were not echoed");
});

Deno.test(
  "the server's close after a stop word is a success, the input still open",
  LIMIT,
  async (t) => {
    const rows: [string, string[], string[]][] = [
      ["stop\n", [], ["stop", "exit"]],
      [" exit \r\n", [], ["stop", "exit"]],
      ["bye\n", ["--stop", "end", "--stop", "bye"], ["bye"]],
      [`${"x".repeat(5_000)}\nstop\n`, [], ["stop"]],
    ];
    for (const [text, args, stop] of rows) {
      await t.step(JSON.stringify(text.slice(-20)), async () => {
        await using server = start({ stopWords: stop });
        await using client = spawn("tcp_client.ts", [...server.to, ...args]);
        await client.write(text);
        const { code, stdout, stderr } = await client.finish();
        assertEquals([code, stdout, stderr], [0, text, ""]);
      });
    }
  },
);

Deno.test("--no-echo expects none", LIMIT, async (t) => {
  await using server = start({ echo: false });
  for (
    const [name, words, stdin] of [["arguments", ["a", "stop"], ""], [
      "a pipe",
      [],
      "a\nb",
    ]] as const
  ) {
    await t.step(name, async () => {
      const args = [...server.to, "--no-echo", ...words];
      const { code, stdout, stderr } = await runScript("tcp_client.ts", args, { stdin });
      assertEquals([code, stdout, stderr], [0, "", ""]);
    });
  }

  await t.step("the server's close after a stop word, the input still open", async () => {
    await using client = spawn("tcp_client.ts", [...server.to, "--no-echo"]);
    await client.write("stop\n");
    const { code, stdout, stderr } = await client.finish();
    assertEquals([code, stdout, stderr], [0, "", ""]);
  });
});

Deno.test("--timeout counts only where an echo is owed", LIMIT, async (t) => {
  await using server = start();

  await t.step("not while the person thinks", async () => {
    using conn = await connect({ port: server.port });
    const { output, bytes } = collector();
    const typed = new TransformStream<Uint8Array, Uint8Array>();
    const conversation = converse(conn, typed.readable, output, { timeoutSeconds: 0.2 });
    const keyboard = typed.writable.getWriter();
    await keyboard.write(encode("hello\n"));
    await aWhile();
    await keyboard.write(encode("still here\n"));
    await keyboard.close();
    await conversation;
    assertEquals(decode(bytes()), "hello\nstill here\n");
  });

  await t.step("not while the output takes its time", async () => {
    using conn = await connect({ port: server.port });
    let shown = "";
    const output = new WritableStream<Uint8Array>({
      write: async (bytes) => {
        await aWhile();
        shown += decode(bytes);
      },
    });
    const input = ReadableStream.from([encode("hello\n")]);
    await converse(conn, input, output, { timeoutSeconds: 0.2 });
    assertEquals(shown, "hello\n");
  });

  await t.step("but where it is: an EchoError", async () => {
    await using mute = rudeServer(async (conn) => void await readToEnd(conn));
    using conn = await connect({ port: mute.port });
    const input = new ReadableStream<Uint8Array>({ start: (c) => c.enqueue(encode("hello\n")) });
    await assertRejects(
      () => converse(conn, input, collector().output, { timeoutSeconds: 0.2 }),
      EchoError,
      "6 bytes were not echoed (of 6)",
    );
  });
});

Deno.test({
  name: `--timeout bounds the connect${LINUX ? "" : " (ignored: its full backlog is Linux's)"}`,
  ...LIMIT,
  ignore: !LINUX,
  fn: async () => {
    const options = { hostname: "127.0.0.1", port: 0, tcpBacklog: 1 }; // undeclared, but it works
    using listener = Deno.listen(options);
    const { port } = listener.addr;
    const waiting = [await Deno.connect({ port }), await Deno.connect({ port })]; // it is full
    const args = ["--port", `${port}`, "--timeout", "0.2", "hello"];
    const { code, stdout, stderr } = await runScript("tcp_client.ts", args);
    assertEquals([code, stdout], [1, ""]);
    assertMatch(stderr, /^tcp_client: cannot connect to 127\.0\.0\.1:\d+: no answer .*0\.2 s.*\n$/);
    for (const conn of waiting) conn.close();
  },
});

Deno.test("--wait keeps trying until the server is up", LIMIT, async (t) => {
  await t.step("connect", async () => {
    const port = freePort();
    const connecting = connect({ port, waitSeconds: 20 });
    await assertRejects(() => Deno.connect({ port }), Deno.errors.ConnectionRefused); // its first try too
    await using _server = serve({ port });
    using conn = await connecting;
    assertEquals(conn.remoteAddr.port, port);
  });

  await t.step("the process", async () => {
    const port = freePort();
    await using client = spawn("tcp_client.ts", ["--port", `${port}`, "--wait", "20", "hello"]);
    await using _server = spawn("tcp_server.ts", ["--port", `${port}`]);
    const { code, stdout, stderr } = await client.finish();
    assertEquals([code, stdout, stderr], [0, "hello\n", ""]);
  });

  await t.step("but no longer than it is told", async () => {
    const port = freePort();
    const error = await connect({ port, waitSeconds: 0.2 }).catch((error) => error);
    assertMatch(error.message, /^cannot connect to 127\.0\.0\.1:\d+: connection refused/);
    assert(error.cause instanceof Deno.errors.ConnectionRefused);
  });
});

const ALONE = "ip link set lo up && echo 40000 40000 > /proc/sys/net/ipv4/ip_local_port_range";
const CAN_BE_ALONE = hasTool("unshare", "-rn", "sh", "-c", ALONE);

Deno.test({
  name: `a connection to itself is no server${
    CAN_BE_ALONE ? "" : " (ignored: no network namespace with one local port here)"
  }`,
  ...LIMIT,
  ignore: !CAN_BE_ALONE,
  fn: async () => {
    // In a network of its own with one local port, the first try is from that port to itself.
    const via = ["unshare", "-rn", "sh", "-c", `${ALONE} && exec "$@"`, "sh"];
    const args = ["--port", "40000", "hello"];
    const { code, stdout, stderr } = await runScript("tcp_client.ts", args, { via });
    assertEquals([code, stdout], [1, ""]);
    assertOneLine(stderr);
    assertStringIncludes(stderr, "cannot connect to 127.0.0.1:40000: connection refused");
  },
});

Deno.test(
  "a server that is killed ends a waiting client at once, exit 1, one line",
  LIMIT,
  async () => {
    await using server = spawn("tcp_server.ts", ["--port", "0"]);
    const port = await server.port();
    await using client = spawn("tcp_client.ts", ["--port", `${port}`, "--timeout", "600"]);
    await client.write("hello\n");
    assertEquals(await client.nextLine(), "hello");
    server.kill("SIGKILL");
    const { code, stdout, stderr } = await client.finish();
    assertEquals([code, stdout], [1, ""]);
    assertOneLine(stderr);
    assertMatch(stderr, /127\.0\.0\.1:\d+ closed the connection|connection reset/);
  },
);

Deno.test("names and addresses", LIMIT, async (t) => {
  for (const host of ["localhost", "::1"]) {
    const ignore = host === "::1" && !hasIpv6();
    await t.step({
      name: ignore ? `${host} (ignored: no IPv6 loopback here)` : host,
      ignore,
      fn: async () => {
        await using server = start({ hostname: host });
        const args = ["--host", host, ...server.to, "hello"];
        const { code, stdout, stderr } = await runScript("tcp_client.ts", args);
        assertEquals([code, stdout, stderr], [0, "hello\n", ""]);
      },
    });
  }
});

Deno.test("the first signal ends it at once", LIMIT, async (t) => {
  for (const [signal, expected] of [["SIGINT", 130], ["SIGTERM", 143]] as const) {
    await t.step({
      name: WINDOWS ? `${signal} (ignored: Windows has no signals)` : `${signal}: ${expected}`,
      ignore: WINDOWS,
      fn: async () => {
        await using server = start();
        await using client = spawn("tcp_client.ts", server.to);
        await client.write("hello\n");
        assertEquals(await client.nextLine(), "hello");
        const { code, stderr } = await client.stop(signal);
        assertEquals([code, stderr], [expected, ""]);
      },
    });
  }
});

Deno.test("a closed stdout ends it quickly and quietly", LIMIT, async () => {
  await using server = start();
  await using client = spawn("tcp_client.ts", server.to);
  await client.write("hello\n");
  assertEquals(await client.nextLine(), "hello");
  await client.stdout.close();
  await client.write("more\n");
  const { signal, stderr } = await client.finish();
  assertEquals([signal, stderr], [null, ""]);
});

Deno.test("--json prints one object a line, safe to see", LIMIT, async () => {
  await using server = start();
  const { code, stdout } = await runScript("tcp_client.ts", [...server.to, "--json", "\x1b[31m"]);
  assertEquals(code, 0);
  assertEquals(stdout, '{"event":"echo","bytes":6,"text":"\\u001b[31m\\n"}\n');
});

Deno.test({
  name: `at a terminal${HAS_PTY ? "" : " (ignored: no python3 with a pty here)"}`,
  ...LIMIT,
  ignore: !HAS_PTY,
  fn: async (t) => {
    const via = PTY;

    await t.step("a prompt, a line at a time, Ctrl-D ends it", async () => {
      await using server = start();
      await using client = spawn("tcp_client.ts", server.to, { via });
      assertEquals(await client.stdout.until("> "), "> ");
      for (const sentence of ["hello", "", "Grüße"]) {
        await client.write(`${sentence}\n`);
        const shown = await client.stdout.until("> ");
        assertEquals(shown, `${sentence}\r\n${sentence}\r\n> `); // typed, then echoed
      }
      await client.write("\x04");
      const { code, stdout } = await client.finish();
      assertEquals([code, stdout], [0, "\r\n"]);
    });

    await t.step("the stop word ends it, without another prompt", async () => {
      await using server = start();
      await using client = spawn("tcp_client.ts", server.to, { via });
      await client.stdout.until("> ");
      await client.write("stop\n");
      const { code, stdout } = await client.finish();
      assertEquals([code, stdout], [0, "stop\r\nstop\r\n"]);
    });

    await t.step("Ctrl-C ends it: 130", async () => {
      await using server = start();
      await using client = spawn("tcp_client.ts", server.to, { via });
      await client.stdout.until("> ");
      await client.write("\x03");
      assertEquals((await client.finish()).code, 130);
    });

    await t.step("the server's end is noticed while the person types", async () => {
      await using server = spawn("tcp_server.ts", ["--port", "0"]);
      const port = await server.port();
      await using client = spawn("tcp_client.ts", ["--port", `${port}`], { via });
      await client.stdout.until("> ");
      await client.write("half a sen");
      await client.stdout.until("half a sen");
      server.kill("SIGKILL");
      const { code, stdout } = await client.finish();
      assertEquals(code, 1);
      assertMatch(stdout, /^\r\ntcp_client: [^\n]*127\.0\.0\.1:\d+[^\n]*\r\n$/);
    });

    await t.step("nothing that comes back can steer it", async () => {
      await using server = start();
      const words = ["\x1b]0;title\x07", "\x9b31m\u202e\u2028", "\x7f Grüße 你好"];
      const { code, stdout } = await runScript("tcp_client.ts", [...server.to, ...words], { via });
      assertEquals(code, 0);
      const lines = ["\\u{1b}]0;title\\u{7}", "\\u{9b}31m\\u{202e}\\u{2028}", "\\u{7f} Grüße 你好"];
      assertEquals(stdout, lines.map((line) => `${line}\r\n`).join(""));
    });

    await t.step("a character in two pieces is one, a broken one is U+FFFD", async () => {
      await using server = rudeServer(async (conn) => {
        const bytes = await readToEnd(conn);
        await writeAll(conn, bytes.subarray(0, 2)); // within the first character
        await conn.write(bytes.subarray(2));
      });
      const args = ["--port", `${server.port}`, "你\ud800"];
      const { code, stdout } = await runScript("tcp_client.ts", args, { via });
      assertEquals([code, stdout], [0, "你\ufffd\r\n"]);
    });
  },
});
