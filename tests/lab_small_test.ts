/**
 * The small programs of the lab, docs/lab/task*, and what its page does with them: they serve one
 * another, in every pair; they break as it says; and each mend that it shows fits, and mends.
 *
 * @module
 */

import { assert, assertEquals, assertMatch, assertRejects } from "@std/assert";
import { readSections } from "./_docs.ts";
import {
  decode,
  encode,
  exchange,
  freePort,
  LIMIT,
  readExactly,
  readToEnd,
  resetClient,
  runScript,
  spawn,
  UdpPeer,
  unless,
  writeAll,
} from "./_helpers.ts";
import {
  assertEndsWith,
  connectTo,
  HAS_PYTHON,
  LANGUAGES,
  linesOf,
  nextReceived,
  patch,
  type Running,
  startClient,
  startServer,
} from "./_lab.ts";
import { serve as serveTcp } from "../tcp_server.ts";

const PAGE = "docs/lab/README.md";
const TASKS = [1, 2, 3, 4];
const SMALL = TASKS.flatMap((task) =>
  ["server", "client"].flatMap((side) => LANGUAGES.map((kind) => `task${task}_${side}.${kind}`))
);
const NO_PYTHON = !HAS_PYTHON && "needs python3";

/** A test of programs in a language: ignored, where that is Python and there is none. */
function test(kind: string, name: string, fn: () => Promise<void>): void {
  Deno.test({ ...unless(kind === "py" && NO_PYTHON, name), ...LIMIT, fn });
}

// ---- What the page shows ----

Deno.test("docs/lab: each small program has 10 to 30 lines, at most 80 columns, the steps in order", () => {
  for (const program of SMALL) {
    const lines = linesOf(program);
    assert(lines.length >= 10 && lines.length <= 30, `${program}: ${lines.length} lines`);
    for (const line of lines) assert(line.length <= 80, `${program}: ${line}`);
    const steps = [...lines.join("\n").matchAll(/Steps? (\S+?)(?: and (\d))?:/g)]
      .flatMap(([, step, second]) => second ? [step, second] : [step]);
    const all = program.includes("server")
      ? ["1", "2", "3", "4", "5", "6"]
      : ["1a", "1b", "1c", "1c.i", "1c.ii"];
    assertEquals(steps, all, program);
  }
});

const fences = readSections(PAGE).flatMap(({ title, fences }) =>
  fences.map(({ info, lines }) => ({ title, info, lines }))
);

/** The fences of the page with just these words behind the marks. */
function fencesOf(...info: string[]): string[][] {
  return fences.filter((fence) => fence.info.join(" ") === info.join(" "))
    .map(({ lines }) => lines);
}

Deno.test("docs/lab/README.md shows the programs of task 1 as they are", () => {
  for (const program of SMALL.filter((name) => name.startsWith("task1"))) {
    assertEquals(fencesOf(program.slice(-2), program), [linesOf(program)]);
  }
});

Deno.test("docs/lab/README.md shows what changes from task to task: applied, it gives the next", () => {
  for (const before of SMALL.filter((name) => !name.startsWith("task4"))) {
    const after = before.replace(/\d/, (task) => `${Number(task) + 1}`);
    const diffs = fencesOf("diff", before, after);
    assertEquals(diffs.length, 1, `${before}, ${after}`);
    assertEquals(patch(linesOf(before), diffs[0]!), linesOf(after));
  }
});

// ---- In every pair ----

const SENTENCE = "Grüß Gott, 你好";

/** A conversation of one client with a server. */
async function converse(task: number, running: Running, client: string): Promise<void> {
  const { port } = running;
  const isSmall = client.startsWith("task");
  const once = task < 3 ? [SENTENCE] : []; // the server closes after it
  await using talking = isSmall
    ? startClient(client, port)
    : spawn(client, ["--port", `${port}`, ...(task === 1 ? ["--no-echo"] : []), ...once]);
  if (isSmall) assertMatch(await talking.nextLine(), /^Type /);
  for (const sentence of task < 3 ? [SENTENCE] : [SENTENCE, "", "do not stop", "stop"]) {
    if (isSmall || task > 2) await talking.write(`${sentence}\n`);
    if (task > 1) {
      assertEquals(await talking.nextLine(), (isSmall ? "echo: " : "") + sentence);
    }
    assertEquals(await nextReceived(running), sentence);
  }
  // Its input is still open, if it is not given as an argument.
  const { code, stdout, stderr } = await talking.finish();
  assertEquals([code, stdout, stderr], [0, "", ""]);
}

for (const task of TASKS) {
  const [server, client] = task === 4
    ? ["udp_server.ts", "udp_client.ts"]
    : ["tcp_server.ts", "tcp_client.ts"];
  const noEcho = task === 1 ? ["--no-echo"] : [];
  const servers = [...LANGUAGES.map((kind) => `task${task}_server.${kind}`), server];
  const clients = [...LANGUAGES.map((kind) => `task${task}_client.${kind}`), client];

  for (const name of servers) {
    const isFinished = name === server;
    const kind = name.slice(-2);
    test(kind, `docs/lab: ${name} serves the clients of task ${task}`, async () => {
      const others = clients.filter((one) =>
        !(isFinished && one === client) && (HAS_PYTHON || !one.endsWith(".py"))
      );
      const start = async (): Promise<Running> => {
        if (!isFinished) return await startServer(name);
        return await startFinished(name, noEcho);
      };
      if (isFinished || task > 2) { // it goes on
        await using running = await start();
        for (const one of others) await converse(task, running, one);
        return;
      }
      for (const one of others) {
        await using running = await start();
        await converse(task, running, one);
        assertEquals((await running.program.finish()).code, 0);
      }
    });
  }
}

// ---- Break it ----

for (const kind of LANGUAGES) {
  const isPython = kind === "py";
  const breaks = (what: string, fn: () => Promise<void>): void =>
    test(kind, `docs/lab, break it, ${kind}: ${what}`, fn);

  breaks("the client first", async () => {
    await using client = startClient(`task1_client.${kind}`, freePort());
    await assertEndsWith(client, /^(ConnectionRefusedError|error: .*ConnectionRefused): /m);
  });

  breaks("start the server again: only Python's first one cannot", async () => {
    for (const task of [1, 2]) {
      const port = freePort();
      for (const turn of [1, 2]) {
        if (turn === 2 && task === 1 && isPython) {
          await using again = startClient("task1_server.py", port);
          await assertEndsWith(again, /^OSError: \[Errno \d+\] Address already in use$/m);
          if (Deno.build.os !== "linux") break;
          // The old one must have had the option, too.
          const args = ["--port", `${port}`];
          const { code, stderr } = await runScript("tcp_server.ts", args);
          assertEquals(code, 1);
          assertMatch(stderr, /: address already in use$/m);
          break;
        }
        await using server = await startServer(`task${task}_server.${kind}`, port);
        using conn = await connectTo(port);
        await writeAll(conn, "Hello\n");
        assertEquals(decode(await readToEnd(conn)), task === 1 ? "" : "Hello\n");
        conn.close(); // the server was first
        assertEquals((await server.program.finish()).code, 0);
      }
    }
  });

  breaks("a sentence longer than the buffer", async () => {
    await using server = await startServer(`task2_server.${kind}`);
    using conn = await connectTo(server.port);
    await writeAll(conn, "x".repeat(1100));
    assertEquals(await readExactly(conn, 1024), encode("x".repeat(1024)));
    // Deno sends a FIN before the reset.
    const end = await readToEnd(conn).catch((error) => error);
    assert(end instanceof Deno.errors.ConnectionReset || !isPython && end.length === 0);
  });

  breaks("a character in two reads", async () => {
    await using server = await startServer(`task2_server.${kind}`);
    using conn = await connectTo(server.port);
    await writeAll(conn, "x".repeat(1023) + "ü");
    if (isPython) {
      await assertEndsWith(server.program, /^UnicodeDecodeError: .* in position 1023: /m);
    } else assertEquals(await nextReceived(server), "x".repeat(1023) + "\uFFFD");
  });

  breaks("a sentence in two pieces, two in one piece", async () => {
    await using server = await startServer(`task3_server.${kind}`);
    using conn = await connectTo(server.port);
    for (const piece of ["st", "op\n", "bye\nstop\n"]) {
      assertEquals(await exchange(conn, piece), piece); // it is open
      assertEquals(await nextReceived(server), piece.split("\n")[0]);
    }
    assertEquals(await exchange(conn, "stop\n"), "stop\n");
    assertEquals(await conn.read(new Uint8Array(1)), null);
  });

  breaks("a second client waits", async () => {
    await using server = await startServer(`task3_server.${kind}`);
    const first = await connectTo(server.port);
    await exchange(first, "I was here first\n");
    using second = await connectTo(server.port);
    await writeAll(second, "Is anybody there?\n");
    await exchange(first, "I am still here\n");
    first.close();
    assertEquals(decode(await readExactly(second, 18)), "Is anybody there?\n");
    for (const sentence of ["I was here first", "I am still here", "Is anybody there?"]) {
      assertEquals(await nextReceived(server), sentence);
    }
  });

  breaks("words after the end", async () => {
    await using server = await startServer(`task3_server.${kind}`);
    using conn = await connectTo(server.port);
    await writeAll(conn, "stop".padEnd(1024) + "and more");
    assertEquals((await readExactly(conn, 1024)).length, 1024);
    // Deno sends a FIN before the reset.
    const end = await readToEnd(conn).catch((error) => error);
    assert(end instanceof Deno.errors.ConnectionReset || !isPython && end.length === 0);
  });

  breaks("one reset ends the server", async () => {
    await using server = await startServer(`task3_server.${kind}`);
    await resetClient(server.port, encode("Hello\n"));
    await assertEndsWith(server.program, /^(ConnectionResetError|error: .*ConnectionReset): /m);
  });

  breaks("the server is killed: the client learns it when its user types", async () => {
    await using server = await startServer(`task3_server.${kind}`);
    await using client = startClient(`task3_client.${kind}`, server.port);
    assertMatch(await client.nextLine(), /^Type /);
    await client.write("Are you there?\n");
    assertEquals(await client.nextLine(), "echo: Are you there?");
    using conn = await connectTo(server.port);
    await server.program.stop("SIGKILL");
    await client.write("Hello?\n");
    const { code, stdout, stderr } = await client.finish();
    assertEquals([code, stdout, stderr], [0, "", ""]);
    // This one waited to be accepted, and is reset.
    await assertRejects(() => readToEnd(conn), Deno.errors.ConnectionReset);
  });

  breaks("the client first over UDP, a lost echo: it waits for ever", async () => {
    await using peer = new UdpPeer();
    await using client = startClient(`task4_client.${kind}`, peer.addr.port);
    await client.write("Can you hear me?\n");
    const { bytes, from } = await peer.next();
    assertEquals(decode(bytes), "Can you hear me?");
    await client.write("Hello?\n");
    await using silent = new UdpPeer();
    const args = ["--port", `${silent.addr.port}`, "--timeout", "0.05", "Can you hear me?"];
    assertEquals((await runScript("udp_client.ts", args)).code, 1); // it tried again, and gave up
    assertEquals(await peer.arrived(), []); // neither the second one nor the first one again
    await peer.send("Can you hear me?", from);
    assertEquals(decode((await peer.next()).bytes), "Hello?");
  });

  breaks("a stranger's reply is believed", async () => {
    await using peer = new UdpPeer();
    await using stranger = new UdpPeer();
    await using client = startClient(`task4_client.${kind}`, peer.addr.port);
    assertMatch(await client.nextLine(), /^Type /);
    await client.write("What is my balance?\n");
    await stranger.send("You are rich!", (await peer.next()).from);
    assertEquals(await client.nextLine(), "echo: You are rich!");
  });

  breaks("a datagram longer than the buffer, one that is no text", async () => {
    await using server = await startServer(`task4_server.${kind}`);
    await using peer = new UdpPeer();
    assertEquals((await peer.ask("x".repeat(1100), server.port)).length, 1024);
    assertEquals(decode(await peer.ask("Hello", server.port)), "Hello");
    const noText = new Uint8Array([0xff]);
    if (isPython) {
      await peer.send(noText, server.port);
      await assertEndsWith(server.program, /^UnicodeDecodeError: .* in position 0: /m);
    } else assertEquals(await peer.ask(noText, server.port), noText);
  });

  breaks("the server is killed, over UDP: a new one just goes on", async () => {
    await using server = await startServer(`task4_server.${kind}`);
    await using peer = new UdpPeer();
    assertEquals(decode(await peer.ask("one", server.port)), "one");
    await server.program.stop("SIGKILL");
    await peer.send("two", server.port);
    assertEquals(await peer.arrived(), []);
    await using _again = await startServer(`task4_server.${kind}`, server.port);
    assertEquals(decode(await peer.ask("three", server.port)), "three");
  });
}

/** Starts a finished server. */
async function startFinished(name: string, args: string[] = []): Promise<Running> {
  const program = spawn(name, ["--port", "0", ...args]);
  const port = await program.port();
  return { program, port, [Symbol.asyncDispose]: () => program[Symbol.asyncDispose]() };
}

Deno.test(
  "docs/lab: what breaks the small programs does not break the finished ones",
  LIMIT,
  async (t) => {
    await t.step("tcp_server.ts", async () => {
      await using server = await startFinished("tcp_server.ts");
      await resetClient(server.port, encode("Hello\n"));
      using silent = await connectTo(server.port);
      using conn = await connectTo(server.port);
      const long = "x".repeat(1023) + "ü".repeat(100) + "\n";
      assertEquals(await exchange(conn, long), long);
      assertEquals(await exchange(conn, "st"), "st");
      assertEquals(await exchange(conn, "op\n"), "op\n");
      assertEquals(await conn.read(new Uint8Array(1)), null);
      assertEquals(await exchange(silent, "bye\nstop\n"), "bye\nstop\n");
      assertEquals(await silent.read(new Uint8Array(1)), null);
      for (const sentence of ["Hello", long.trim(), "stop", "bye", "stop"]) {
        assertEquals((await nextReceived(server)).slice(0, 900), sentence.slice(0, 900));
      }
    });

    await t.step("udp_server.ts", async () => {
      await using server = await startFinished("udp_server.ts");
      await using peer = new UdpPeer();
      for (const data of [encode("x".repeat(1100)), new Uint8Array([0xff])]) {
        assertEquals(await peer.ask(data, server.port), data);
      }
    });

    await t.step("udp_client.ts", async () => {
      await using stranger = new UdpPeer();
      await using peer = new UdpPeer(async ({ from }, count, self) => {
        await stranger.send("You are rich!", from);
        if (count > 1) await self.send("What is my balance?", from); // the first echo is lost
      });
      const args = ["--port", `${peer.addr.port}`, "--timeout", "0.05", "What is my balance?"];
      const { code, stdout } = await runScript("udp_client.ts", args);
      assertEquals([code, stdout], [0, "What is my balance?\n"]);
    });
  },
);

Deno.test(
  "docs/lab: a write to a peer that is gone succeeds once, in Deno as in Python",
  LIMIT,
  async () => {
    await using server = await startServer("task3_server.ts");
    using conn = await connectTo(server.port);
    await exchange(conn, "Are you there?\n");
    await server.program.stop("SIGKILL");
    assertEquals(await conn.write(encode("Hello?\n")), 7);
    assertEquals(await conn.read(new Uint8Array(10)), null);
    await assertRejects(() => conn.write(encode("Hello?\n")), Deno.errors.BrokenPipe);
  },
);

// ---- Mend it ----

const MEND_LINES = 10; // at most, without `@@`
const mends = fences.filter(({ info }) => info[0] === "diff" && info.length === 2)
  .map(({ title, info, lines }) => ({ title, program: info[1]!, lines }));
/** Where Deno's program needs no mend. */
const PYTHON_ONLY = ["Break it: start the server again", "Break it: a character in two reads"];

/** For the section of each mend: what a program that is mended does. */
const MENDED: Record<string, (mended: string, kind: string) => Promise<void>> = {
  async "Break it: the client first"(mended): Promise<void> {
    const port = freePort();
    await using client = startClient(mended, port);
    const { code, stderr } = await client.finish();
    const message = `nobody listens on port ${port}: start the server first\n`;
    assertEquals([code, stderr], [1, message]);
  },

  async "Break it: start the server again"(mended): Promise<void> {
    const port = freePort();
    for (let turn = 1; turn <= 2; turn++) {
      await using server = await startServer(mended, port);
      using conn = await connectTo(port);
      await writeAll(conn, "Hello\n");
      assertEquals((await readToEnd(conn)).length, 0); // the server was first
      assertEquals((await server.program.finish()).code, 0);
    }
  },

  async "Break it: a sentence longer than the buffer"(mended): Promise<void> {
    await using server = await startServer(mended);
    using conn = await connectTo(server.port);
    const long = "x".repeat(1100);
    assertEquals(await exchange(conn, long), long);
    await conn.closeWrite();
    assertEquals((await readToEnd(conn)).length, 0);
    assertEquals((await server.program.finish()).code, 0);
  },

  async "Break it: a character in two reads"(mended): Promise<void> {
    await using server = await startServer(mended);
    using conn = await connectTo(server.port);
    await writeAll(conn, "x".repeat(1023) + "ü");
    assertEquals((await readExactly(conn, 1024)).length, 1024);
    assertEquals(await nextReceived(server), "x".repeat(1023) + "\uFFFD");
  },

  async "Break it: everything is sent before anything is read"(mended, kind): Promise<void> {
    await using server = serveTcp({ port: 0, stopWords: [] });
    // In Deno what one read of the keyboard gives is a line: 64 KiB at most.
    const line = "x".repeat(kind === "py" ? 20_000_000 : 60_000);
    await using client = startClient(mended, server.addr.port);
    const written = client.write(`${line}\n`).then(() => client.end());
    const { code, stdout, stderr } = await client.finish();
    await written;
    assertEquals([code, stderr], [0, ""]);
    assert(stdout === `Type a sentence:\necho: ${line}\n`);
  },

  async "Break it: a sentence in two pieces, two in one piece"(mended, kind): Promise<void> {
    await using server = await startServer(mended);
    {
      using conn = await connectTo(server.port);
      if (kind === "ts") assertEquals(await exchange(conn, "st"), "st");
      else await writeAll(conn, "st"); // it is echoed when the line is whole
      await writeAll(conn, "op\n");
      assertEquals(decode(await readToEnd(conn)), kind === "ts" ? "op\n" : "stop\n");
    }
    using conn = await connectTo(server.port);
    await writeAll(conn, "bye\nstop\n");
    assertEquals(decode(await readToEnd(conn)), "bye\nstop\n");
    for (const sentence of ["stop", "bye", "stop"]) {
      assertEquals(await nextReceived(server), sentence);
    }
  },

  async "Break it: a second client waits"(mended): Promise<void> {
    await using server = await startServer(mended);
    using first = await connectTo(server.port);
    assertEquals(await exchange(first, "I was here first\n"), "I was here first\n");
    using second = await connectTo(server.port);
    assertEquals(await exchange(second, "Is anybody there?\n"), "Is anybody there?\n");
    assertEquals(await exchange(first, "I am still here\n"), "I am still here\n");
  },

  async "Break it: one reset ends the server"(mended): Promise<void> {
    await using server = await startServer(mended);
    for (let i = 0; i < 5; i++) await resetClient(server.port, encode("Hello\n"));
    using conn = await connectTo(server.port);
    assertEquals(await exchange(conn, "Hello\n"), "Hello\n");
  },

  async "Break it: the server is killed"(mended, kind): Promise<void> {
    await using server = await startServer(`task3_server.${kind}`);
    await using client = startClient(mended, server.port);
    assertMatch(await client.nextLine(), /^Type /);
    await client.write("Are you there?\n");
    assertEquals(await client.nextLine(), "echo: Are you there?");
    await server.program.stop("SIGKILL");
    const { code, stdout, stderr } = await client.finish(); // its input is still open
    const end = kind === "py" ? [1, "", "the server has closed the connection\n"] : [0, "", ""];
    assertEquals([code, stdout, stderr], end);
  },

  async "Break it: words after the end"(mended): Promise<void> {
    await using server = await startServer(mended);
    {
      using conn = await connectTo(server.port);
      await writeAll(conn, "stop".padEnd(1024) + "and more");
      assertEquals((await readToEnd(conn)).length, 1024); // and no reset
    }
    using conn = await connectTo(server.port);
    assertEquals(await exchange(conn, "Hello\n"), "Hello\n");
  },

  async "Break it: the client first, over UDP"(mended): Promise<void> {
    await using peer = new UdpPeer(async ({ bytes, from }, count, self) => {
      if (count === 2) await self.send(bytes, from);
    });
    await using client = startClient(mended, peer.addr.port);
    assertMatch(await client.nextLine(), /^Type /);
    await client.write("Can you hear me?\n");
    assertEquals(await client.nextLine(), "echo: Can you hear me?");
    await client.write("Hello?\n");
    const { code, stderr } = await client.finish();
    assertEquals([code, stderr], [1, "no answer: does the server run?\n"]);
    assert(peer.count >= 4, "it sent the second one again");
  },

  async "Break it: a stranger's reply is believed"(mended): Promise<void> {
    await using stranger = new UdpPeer();
    await using peer = new UdpPeer(async ({ bytes, from }, _, self) => {
      await stranger.send("You are rich!", from);
      await self.send(bytes, from);
    });
    await using client = startClient(mended, peer.addr.port);
    assertMatch(await client.nextLine(), /^Type /);
    await client.write("What is my balance?\n");
    assertEquals(await client.nextLine(), "echo: What is my balance?");
  },

  async "Break it: a datagram longer than the buffer, one that is no text"(mended): Promise<void> {
    await using server = await startServer(mended);
    await using peer = new UdpPeer();
    for (const data of [encode("x".repeat(65_507)), new Uint8Array([0xff]), encode("Hello")]) {
      const echo = peer.ask(data, server.port);
      await nextReceived(server); // or its stdout is full
      assertEquals(await echo, data);
    }
  },
};

/** A mended program, in a file of its own. */
async function mendedProgram(
  { title, program, lines }: { title: string; program: string; lines: string[] },
  folder: string,
): Promise<string> {
  const path = `${folder}/${title.replace(/\W+/g, "_")}_${program}`;
  await Deno.writeTextFile(path, patch(linesOf(program), lines).join("\n") + "\n");
  return path;
}

Deno.test("docs/lab/README.md: each section that breaks something shows its mend, in both languages", () => {
  assertEquals([...new Set(mends.map(({ title }) => title))].sort(), Object.keys(MENDED).sort());
  for (const title of Object.keys(MENDED)) {
    const kinds = mends.filter((mend) => mend.title === title).map(({ program }) =>
      program.slice(-2)
    );
    assertEquals(kinds, PYTHON_ONLY.includes(title) ? ["py"] : ["py", "ts"], title);
  }
  for (const { title, program, lines } of mends) {
    const count = lines.filter((line) => line !== "@@").length;
    assert(count <= MEND_LINES, `${title}, ${program}: ${count} lines`);
    for (const line of lines) assert(line.length <= 81, `${title}, ${program}: ${line}`);
  }
});

Deno.test("docs/lab/README.md: the mends are sound TypeScript", LIMIT, async () => {
  const folder = await Deno.makeTempDir();
  try {
    const inDeno = mends.filter(({ program }) => program.endsWith(".ts"));
    const paths = await Promise.all(inDeno.map((mend) => mendedProgram(mend, folder)));
    const args = ["check", "--no-config", "--unstable-net", ...paths];
    const { success, stderr } = await new Deno.Command(Deno.execPath(), { args }).output();
    assert(success, decode(stderr));
  } finally {
    await Deno.remove(folder, { recursive: true });
  }
});

for (const mend of mends) {
  const kind = mend.program.slice(-2);
  test(kind, `docs/lab, mend it, ${kind}: ${mend.title.replace("Break it: ", "")}`, async () => {
    const folder = await Deno.makeTempDir();
    try {
      await MENDED[mend.title]!(await mendedProgram(mend, folder), kind);
    } finally {
      await Deno.remove(folder, { recursive: true });
    }
  });
}
