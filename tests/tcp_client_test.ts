/**
 * `tcp_client.ts` once it is connected: its exported `converse`, and the process, against
 * `tcp_server.ts` and against servers that do what servers should not. How it connects is in
 * `tcp_client_connect_test.ts`, how it probes in `tcp_probe_test.ts`, what a person sees in
 * `tcp_client_terminal_test.ts`.
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
import { connect, converse, type ConverseOptions, EchoError, talk } from "../tcp_client.ts";
import {
  assertSameBytes,
  type Bytes,
  collector,
  decode,
  encode,
  freePort,
  LIMIT,
  pieces,
  readExactly,
  readToEnd,
  resetServer,
  rudeServer,
  runScript,
  seededRandom,
  spawn,
  unless,
  WINDOWS,
  writeAll,
} from "./_helpers.ts";
import { assertOneLine, aWhile, start } from "./_tcp.ts";
import { NO_SOCAT } from "./_needs.ts";

const NO_SHELL = WINDOWS && "no sh here";

type Talk = (conn: Deno.TcpConn) => Promise<void>;

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
  ...unless(NO_SOCAT, "a pipe, to an independent echo server"),
  ...LIMIT,
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
      name: "one byte less",
      talk: async (conn) => await writeAll(conn, (await readToEnd(conn)).subarray(0, -1)),
      says: ["1 byte was not echoed (of 12)"],
    },
    {
      name: "one byte more",
      talk: async (conn) => await writeAll(conn, `${decode(await readToEnd(conn))}!`),
      says: ["1 byte too many"],
    },
    {
      name: "200,000 bytes more, in many reads",
      talk: async (conn) => {
        await writeAll(conn, `${decode(await readToEnd(conn))}${"!".repeat(200_000)}`);
      },
      says: ["200000 bytes too many"],
    },
    {
      name: "each line twice",
      talk: async (conn) => {
        const bytes = await readExactly(conn, 12);
        await writeAll(conn, bytes);
        await writeAll(conn, bytes);
        await readToEnd(conn);
      },
      says: ["12 bytes too many"],
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
      name: "a reset at a moment when nothing is owed",
      server: () => resetServer(12, 12),
      open: true,
      says: ["connection reset", "before the end of the input"],
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
      name: "no echo is expected, but it does not even read",
      talk: async () => await new Promise<void>((resolve) => onceGone = resolve),
      args: ["--no-echo", "--timeout", "0.5"],
      stdin: new Uint8Array(16_777_216),
      says: ["nothing is taken", "0.5 s"],
    },
    {
      name: "a close while the input is open, though nothing is owed",
      talk: async (conn) => await writeAll(conn, await readExactly(conn, 12)),
      open: true,
      stdout: text,
      says: ["closed the connection", "before the end of the input"],
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
  const [echo, summary, end] = stdout.split("\n");
  const { time, ...event } = JSON.parse(echo!);
  assertEquals(event, { event: "echo", bytes: 5, text: "\x1b[31m" });
  assertEquals(echo, `{"time":"${time}","event":"echo","bytes":5,"text":"\\u001b[31m"}`);
  const { time: later } = JSON.parse(summary!);
  assertEquals(
    summary,
    `{"time":"${later}","event":"summary","sent_bytes":6,"echoed_bytes":6}`,
  );
  assertEquals(end, "");
});

Deno.test(
  "--json: a line ends with LF or CRLF, and neither is of its text or bytes",
  LIMIT,
  async (t) => {
    type Echo = { bytes: number; text: string; more?: number };
    const rows: [name: string, input: string | Bytes, Echo[]][] = [
      ["LF", "Hello\n", [{ bytes: 5, text: "Hello" }]],
      ["CRLF", "Hello\r\n", [{ bytes: 5, text: "Hello" }]],
      ["empty", "\r\n\n", [{ bytes: 0, text: "" }, { bytes: 0, text: "" }]],
      ["CR alone", "a\rb\r", [{ bytes: 4, text: "a\rb\r" }]],
      ["1,000 and CRLF", `${"x".repeat(1_000)}\r\n`, [{ bytes: 1_000, text: "x".repeat(1_000) }]],
      [
        "1,001 and CRLF",
        `${"x".repeat(1_001)}\r\n`,
        [{ bytes: 1_001, text: "x".repeat(1_000), more: 1 }],
      ],
      [
        "a character that is not whole, at the very end",
        Uint8Array.of(0x61, 0xe2, 0x82),
        [{ bytes: 3, text: "a\ufffd" }],
      ],
    ];
    await using server = start({ stopWords: [] });
    for (const [name, stdin, expected] of rows) {
      await t.step(name, async () => {
        const { code, stdout, stderr } = await runScript(
          "tcp_client.ts",
          [...server.to, "--json"],
          {
            stdin,
          },
        );
        assertEquals([code, stderr], [0, ""]);
        const events = stdout.trimEnd().split("\n").map((line) => JSON.parse(line));
        assertEquals(events.pop().event, "summary");
        const wanted = expected.map((echo, i) => ({
          time: events[i]?.time,
          event: "echo",
          ...echo,
        }));
        assertEquals(events, wanted);
      });
    }

    await t.step("byte by byte", async () => {
      await using slow = rudeServer(async (conn) => {
        for (const byte of await readExactly(conn, 14)) await writeAll(conn, Uint8Array.of(byte));
        await readToEnd(conn); // closed before, it would be too early
      });
      const args = ["--port", `${slow.port}`, "--json"];
      const { stdout } = await runScript("tcp_client.ts", args, { stdin: "Hello\r\nworld\r\n" });
      assertEquals(
        stdout.trimEnd().split("\n").map((line) => JSON.parse(line).text),
        ["Hello", "world", undefined], // the last is the summary
      );
    });
  },
);

Deno.test("a stop word is to the client what it is to the server", LIMIT, async (t) => {
  const lines = [
    "stop\n",
    "exit\r\n",
    "\v\f\t stop\v\f\t \r\n",
    `stop${" ".repeat(996)}\n`, // 1,000 bytes
    `stop${" ".repeat(996)}\r\n`,
    `stop${" ".repeat(997)}\n`,
    `hello\n${" ".repeat(997)}stop\r\n`,
    "stop\u3000\n",
    "\u00a0stop\n",
    "\ufeffstop\n",
    "st\u00adop\n",
    "stop\0\n",
    "STOP\n",
    "\n",
  ];
  for (const line of lines) {
    await t.step(`${JSON.stringify(line.trimEnd())}, ${line.length} characters`, async () => {
      await using server = start();
      using conn = await server.connect();
      await writeAll(conn, line);
      await conn.closeWrite();
      await readToEnd(conn);
      conn.close();
      const isStop = (await server.log.wait("close")).reason === "stop";

      const length = encode(line).length;
      await using closing = rudeServer(async (conn) => {
        await writeAll(conn, await readExactly(conn, length));
      });
      using client = await connect({ port: closing.port });
      const input = new ReadableStream<Uint8Array>({ start: (c) => c.enqueue(encode(line)) }); // open
      const outcome = await converse(client, input, collector().output).catch((error) => error);
      if (isStop) assertEquals(outcome.echoed, length);
      else assert(outcome instanceof EchoError, `the client takes it for a stop word`);
    });
  }
});

Deno.test("a server that stays open is warned of only behind a stop word", LIMIT, async () => {
  await using server = start({ stopWords: [] });
  const warned: string[] = [];
  const warning = Promise.withResolvers<void>();
  async function say(text: string): Promise<() => Promise<unknown>> {
    const conn = await server.connect();
    const input = new TransformStream<Uint8Array, Uint8Array>();
    const echoed = Promise.withResolvers<void>();
    const ended = converse(conn, input.readable, collector().output, {
      onProgress: (now) => now.echoed === text.length ? echoed.resolve() : undefined,
      onWarning: () => {
        warned.push(text);
        warning.resolve();
      },
    }).finally(() => conn.close());
    const writer = input.writable.getWriter();
    await Promise.all([writer.write(encode(text)), echoed.promise]);
    return () => Promise.all([writer.close(), ended]);
  }
  const ends: (() => Promise<unknown>)[] = [];
  for (const text of ["hello\n", "stop\nhello\n", "stop\n"]) ends.push(await say(text));
  await warning.promise; // the others were silent for longer
  await Promise.all(ends.map((end) => end()));
  assertEquals(warned, ["stop\n"]);
});

Deno.test("input behind the stop word that was not sent is told: exit 1", LIMIT, async (t) => {
  await t.step("it comes when the server has closed", async () => {
    await using server = start();
    using conn = await connect({ port: server.port });
    let input: ReadableStreamDefaultController<Uint8Array>;
    const stream = new ReadableStream<Uint8Array>({ start: (c) => void (input = c) });
    const read = conn.read.bind(conn);
    conn.read = async (buffer) => {
      const size = await read(buffer);
      if (size === null) setTimeout(() => input.enqueue(encode("more\n"))); // now it is too late
      return size;
    };
    const conversation = converse(conn, stream, collector().output);
    input!.enqueue(encode("stop\n"));
    await assertRejects(
      () => conversation,
      EchoError,
      "input behind the stop word was not sent",
    );
  });

  await t.step("the process", async () => {
    await using server = start();
    await using client = spawn("tcp_client.ts", server.to);
    await client.write("stop\n");
    assertEquals(await client.nextLine(), "stop");
    await client.write("more\n");
    const { code, stderr } = await client.finish();
    assertEquals(code, 1);
    assertOneLine(stderr); // it was sent behind the server's last read, or not at all
    assertMatch(stderr, /input behind the stop word was not sent|5 bytes were not echoed/);
  });
});

Deno.test("an error that Deno does not know is an EchoError, in words", LIMIT, async (t) => {
  for (const call of ["read", "write"] as const) {
    await t.step(call, async () => {
      await using server = start();
      using conn = await connect({ port: server.port });
      const { [call]: real } = conn;
      let count = 0;
      const fail = (bytes: Uint8Array): Promise<number | null> => {
        if (call === "read" && count++ === 0) return real.call(conn, bytes);
        return Promise.reject(new Error("Network is down (os error 100)"));
      };
      Object.defineProperty(conn, call, { value: fail });
      const input = new ReadableStream<Uint8Array>({ start: (c) => c.enqueue(encode("hello\n")) });
      const outcome = converse(conn, input, collector().output, { timeoutSeconds: 1 });
      const error = await outcome.catch((error) => error);
      assert(error instanceof EchoError, `${error}`);
      assert(!/os error/.test(error.message), error.message);
    });
  }
});

Deno.test({
  ...unless(NO_SHELL, "stdin and stderr that cannot be used"),
  ...LIMIT,
  fn: async (t) => {
    await using server = start();
    const sh = (script: string): string[] => ["sh", "-c", script, "sh"];

    await t.step("a directory as stdin", async () => {
      const via = sh('exec "$@" < /');
      const { code, stderr } = await runScript("tcp_client.ts", server.to, { via });
      assertEquals([code, stderr], [1, "tcp_client: cannot read stdin: is a directory\n"]);
    });

    await t.step("arguments that are no UTF-8", async () => {
      const via = sh(`exec "$@" "$(printf '\\377\\376')"`);
      const { code, stdout, stderr } = await runScript("tcp_client.ts", server.to, { via });
      assertEquals([code, stdout], [2, ""]);
      assertOneLine(stderr);
      assertStringIncludes(stderr, "pipe");
    });

    await t.step("a full disk under stderr: --trace, and all is echoed", async () => {
      const via = sh('exec "$@" 2> /dev/full');
      const args = [...server.to, "--trace", "hello"];
      const { code, stdout } = await runScript("tcp_client.ts", args, { via });
      assertEquals([code, stdout], [0, "hello\n"]);
    });
  },
});

Deno.test(
  "--trace, and nobody reads stderr: nothing is held up, a signal neither",
  LIMIT,
  async () => {
    await using server = start({ quiet: true });
    await using client = spawn("tcp_client.ts", [...server.to, "--trace"]);
    for (let i = 0; i < 2_000; i++) { // a rung each way, of some 60 bytes
      await client.write("hello\n");
      assertEquals(await client.nextLine(), "hello");
    }
    if (WINDOWS) return;
    client.kill("SIGINT");
    assertEquals((await client.status).signal, "SIGINT");
  },
);

Deno.test("--trace: no time behind an echo that is not of its own bytes", LIMIT, async () => {
  // The first echo comes when two writes are out: whose time is it?
  await using server = rudeServer(async (conn) => {
    const bytes = await readExactly(conn, 12);
    await writeAll(conn, bytes.subarray(0, 6));
    await writeAll(conn, bytes.subarray(6));
  });
  const args = ["--port", `${server.port}`, "--trace"];
  await using client = spawn("tcp_client.ts", args);
  await client.write("first\n");
  await client.stderr.until("write(6)");
  await client.write("later\n");
  await client.end();
  const { stderr } = await client.finish();
  const reads = stderr.split("\n").filter((line) => line.includes("read() = "));
  assert(reads.length > 0);
  for (const line of reads) assertEquals(line.match(/\d ms/g)?.length, 1, line); // since the start
});

// ---- Sentences without line ends ----

Deno.test("a stop word without a line end: the server's close is a success", LIMIT, async (t) => {
  for (
    const [name, pieces] of [["in pieces", ["st", "op"]], ["after another", [
      "no",
      "stop",
    ]]] as const
  ) {
    await t.step(name, async () => {
      await using server = start();
      using conn = await connect({ port: server.port });
      const typed = new TransformStream<Uint8Array, Uint8Array>();
      const keyboard = typed.writable.getWriter();
      const { output, bytes } = collector();
      const conversation = converse(conn, typed.readable, output);
      for (const piece of pieces) {
        await keyboard.write(encode(piece)); // the input stays open
        if (piece === "no") await server.log.wait("message"); // silence ended it
      }
      const { sent, echoed } = await conversation;
      assertEquals([sent, echoed], [pieces.join("").length, sent]);
      assertEquals(decode(bytes()), pieces.join(""));
    });
  }

  await t.step("but not where it is the end of a longer sentence", async () => {
    await using server = rudeServer(async (conn) => {
      await writeAll(conn, await readExactly(conn, 7));
    });
    using conn = await connect({ port: server.port });
    const input = new ReadableStream<Uint8Array>({ start: (c) => c.enqueue(encode("no stop")) });
    await assertRejects(
      () => converse(conn, input, collector().output),
      EchoError,
      "closed the connection before the end of the input",
    );
  });
});

Deno.test(
  "a stop word in a pipe that closes too early is named, and --no-stop",
  LIMIT,
  async () => {
    await using server = start();
    const stdin = "a\nstop\nb\n";
    const { code, stdout, stderr } = await runScript("tcp_client.ts", server.to, { stdin });
    assertEquals([code, stdout], [1, "a\nstop\n"]);
    const closed = `tcp_client: 127.0.0.1:${server.port} closed at a stop word`;
    const says = "2 bytes were not echoed (of 9); --no-stop on both sides sends all";
    assertEquals(stderr, `${closed}: ${says}\n`);
  },
);

Deno.test(
  "--json: a sentence without a line end is printed when silence ends it",
  LIMIT,
  async () => {
    await using server = start();
    await using client = spawn("tcp_client.ts", [...server.to, "--json"]);
    const texts: unknown[] = [];
    for (const [i, sentence] of ["Hello", "how are you", "stop"].entries()) {
      await client.write(sentence);
      texts.push(JSON.parse(await client.nextLine()).text); // while its input is open
      await server.log.wait("message", i + 1); // silence ended it there, too
    }
    assertEquals(texts, ["Hello", "how are you", "stop"]);
    const { code, stdout } = await client.finish();
    assertEquals(code, 0);
    const { event, sent_bytes, echoed_bytes } = JSON.parse(stdout);
    assertEquals([event, sent_bytes, echoed_bytes], ["summary", 20, 20]);
  },
);

// ---- What it says besides ----

Deno.test(
  "two messages that look like an address are sent, with a word on it",
  LIMIT,
  async (t) => {
    await using server = start({ stopWords: [] });
    const rows: [string[], boolean][] = [
      [["127.0.0.1", "12001"], true],
      [["localhost", "80"], true],
      [["12001"], false],
      [["two words", "12001"], false],
      [["127.0.0.1", "12001", "hello"], false],
      [["room", "101a"], false],
    ];
    for (const [words, warned] of rows) {
      await t.step(words.join(" "), async () => {
        const { code, stdout, stderr } = await runScript("tcp_client.ts", [...server.to, ...words]);
        assertEquals([code, stdout], [0, words.map((word) => `${word}\n`).join("")]);
        const [host, port] = words;
        const sent = `tcp_client: "${host}" and "${port}" are sent as two messages`;
        const other = `another server is --host ${host} --port ${port}`;
        assertEquals(stderr, warned ? `${sent}; ${other}\n` : "");
      });
    }
  },
);

Deno.test("every --json run ends with a summary", LIMIT, async (t) => {
  type Row = [name: string, args: string[], stdin: string, code: number, events: unknown[]];
  await using server = start();
  const summary = (sent_bytes: number, echoed_bytes: number): unknown => ({
    event: "summary",
    sent_bytes,
    echoed_bytes,
  });
  const nowhere = freePort();
  const hint = `deno run --allow-net=127.0.0.1:${nowhere} tcp_server.ts --port ${nowhere}`;
  const address = `127.0.0.1:${server.port}`;
  const rows: Row[] = [
    ["--quiet prints nothing else", [...server.to, "-q", "hello"], "", 0, [summary(6, 6)]],
    ["nothing to send", [...server.to], "", 0, [summary(0, 0)]],
    ["an error", [...server.to, "-q"], "a\nstop\nb\n", 1, [
      {
        event: "error",
        text: `${address} closed at a stop word: 2 bytes were not echoed (of 9); ` +
          "--no-stop on both sides sends all",
      },
      summary(9, 7),
    ]],
    ["no server", ["-p", `${nowhere}`, "hello"], "", 1, [
      {
        event: "error",
        text: `cannot connect to 127.0.0.1:${nowhere}: connection refused. ` +
          `Start the server first: ${hint}`,
      },
      summary(0, 0),
    ]],
    ["a warning", [...server.to, "-q", "localhost", "80"], "", 0, [
      {
        event: "warning",
        text: '"localhost" and "80" are sent as two messages; ' +
          "another server is --host localhost --port 80",
      },
      summary(13, 13),
    ]],
  ];
  for (const [name, args, stdin, expected, events] of rows) {
    await t.step(name, async () => {
      const result = await runScript("tcp_client.ts", [...args, "--json"], { stdin });
      assertEquals(result.code, expected);
      const came = result.stdout.trimEnd().split("\n").map((line) => {
        const { time: _, ...event } = JSON.parse(line);
        return event;
      });
      assertEquals(came, events);
    });
  }
});

// ---- As a library ----

Deno.test("a callback that throws ends a conversation, with its error", LIMIT, async (t) => {
  const failure = new Error("disk on fire");
  const fail = (): never => {
    throw failure;
  };
  const failAt = (call: string): ConverseOptions => ({
    onTrace: (made) => made.call === call ? fail() : undefined,
  });
  const rows: [string, ConverseOptions][] = [
    ["onReady", { onReady: fail }],
    ["onProgress", { onProgress: fail }],
    ...["write(5)", "read() = 5"].map((call): [string, ConverseOptions] => [call, failAt(call)]),
    ["onWarning", { onWarning: fail }], // of a server that does not close
  ];
  await using server = start({ stopWords: [] });
  for (const [name, options] of rows) {
    await t.step(name, async () => {
      using conn = await connect({ port: server.port });
      const input = new ReadableStream<Uint8Array>({ start: (c) => c.enqueue(encode("stop\n")) });
      const outcome = converse(conn, input, collector().output, options);
      assertEquals(await outcome.catch((error) => error), failure);
    });
  }

  await t.step("talk closes the connection", async () => {
    const input = ReadableStream.from([encode("hello\n")]);
    const options = { port: server.port, onProgress: fail };
    assertEquals(
      await talk(input, collector().output, options).catch((error) => error),
      failure,
    );
    await server.log.wait("close", rows.length + 1);
  });
});

Deno.test("options out of their bounds are a RangeError that names them", LIMIT, async (t) => {
  const rows: [string, ConverseOptions][] = [
    ["timeoutSeconds", { timeoutSeconds: 0 }],
    ["timeoutSeconds", { timeoutSeconds: Infinity }],
    ["timeoutSeconds", { timeoutSeconds: NaN }],
    ["stopWords", { stopWords: [" "] }],
  ];
  await using server = start();
  using conn = await connect({ port: server.port });
  for (const [name, options] of rows) {
    await t.step(`${name} of ${Object.values(options)}`, async () => {
      const input = ReadableStream.from([encode("hello\n")]);
      const outcome = (): Promise<unknown> => converse(conn, input, collector().output, options);
      const { message } = await assertRejects(outcome, RangeError);
      assert(message.startsWith(`${name} needs a value`), message);
    });
  }
});
