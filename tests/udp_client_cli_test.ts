/**
 * `udp_client.ts` as a process, against `udp_server.ts` and against scripted peers: its arguments,
 * pipes and terminals, what it says and how it ends.
 *
 * @module
 */

import {
  assert,
  assertEquals,
  assertGreater,
  assertGreaterOrEqual,
  assertMatch,
  assertRejects,
  assertStringIncludes,
} from "@std/assert";
import { lookup } from "node:dns/promises";
import { open } from "../udp_client.ts";
import { serve } from "../udp_server.ts";
import {
  assertSameBytes,
  type Bytes,
  decode,
  encode,
  freePort,
  LIMIT,
  LINUX,
  NO_SIGNALS,
  PTY,
  runScript,
  type Script,
  seededRandom,
  spawn,
  UdpPeer,
  unless,
} from "./_helpers.ts";
import { echo, to } from "./_udp.ts";
import { NO_IPV6, NO_PTY } from "./_needs.ts";

Deno.test("arguments: each is sent, the echoes are printed, done", LIMIT, async (t) => {
  await using server = new UdpPeer(echo);
  const left = "udp_client: input behind the stop word was not sent; --no-stop sends it\n";
  const rows: [string[], string[], string?][] = [
    [["hello"], ["hello"]],
    [["two words", "and more"], ["two words", "and more"]],
    [["--", "-5", "--port"], ["-5", "--port"]],
    [["Grüße, 你好 😀"], ["Grüße, 你好 😀"]],
    [["a", "stop", "b"], ["a", "stop"], left],
    [["a", "stop"], ["a", "stop"]],
    [["--no-stop", "stop", "b"], ["stop", "b"]],
    [["--stop", "quit", "stop", "quit", "b"], ["stop", "quit"], left],
  ];
  for (const [words, expected, said = ""] of rows) {
    await t.step(words.join(" "), async () => {
      const args = [...to(server), ...words];
      const { code, stdout, stderr } = await runScript("udp_client.ts", args);
      assertEquals(stdout, expected.map((text) => `${text}\n`).join(""));
      assertEquals([code, stderr], [said === "" ? 0 : 1, said]);
      // What is sent has no newline added.
      assertEquals((await server.arrived()).map(({ bytes }) => decode(bytes)), expected);
    });
  }
});

Deno.test("a pipe: stdout is what was sent, byte for byte", LIMIT, async (t) => {
  const random = seededRandom();
  await using server = serve({ port: 0 });
  const lines = Array.from({ length: 200 }, () => random.bytes(random.int(300)).map(noNewline));
  const rows: [string, Bytes][] = [
    ["nothing", encode("")],
    ["an empty line", encode("\n")],
    ["all byte values", Uint8Array.from({ length: 257 }, (_, i) => i === 256 ? 10 : i)],
    ["invalid UTF-8", new Uint8Array([0xff, 0xc3, 0x0a, 0x80, 0xe2, 0x82, 0x0a])],
    ["terminal controls", encode("\x1b]0;x\x07\u202e\x9b31m\0\r\n")],
    ["a byte order mark", encode("\ufeffhello\n")],
    ["200 random lines", Uint8Array.from(lines.flatMap((line) => [...line, 10]))],
    ["65,507 bytes in a line", encode(`${"x".repeat(65_507)}\n`)],
    ["a last line without an end", encode("hello\nhow are you?")],
  ];
  for (const [name, stdin] of rows) {
    await t.step(name, async () => {
      const { code, bytes, stderr } = await runScript("udp_client.ts", to(server), { stdin });
      assertEquals([code, withoutRetries(stderr)], [0, ""]);
      assertSameBytes(bytes, stdin);
    });
  }

  await t.step("--quiet prints nothing", async () => {
    const args = [...to(server), "--quiet", "hello"];
    const { code, stdout, stderr } = await runScript("udp_client.ts", args);
    assertEquals([code, stdout, stderr], [0, "", ""]);
  });
});

Deno.test("a sentence that is too long is refused before its end comes", LIMIT, async () => {
  await using server = new UdpPeer(echo);
  await using client = spawn("udp_client.ts", to(server)); // its input stays open
  await client.write("x".repeat(65_509));
  const { code, stderr } = await client.finish();
  assertMatch(stderr, /^udp_client: a sentence of 65509 bytes or more is refused: /);
  assertEquals([code, server.count], [1, 0]);
});

/** What a client reports but for second tries: between 200 sentences, a busy machine may pause. */
function withoutRetries(stderr: string): string {
  return stderr
    .replace(/^udp_client: no answer from \S+ yet; trying again\n/gm, "")
    .replace(/^udp_client: \d+ datagrams? of the server ignored: nothing waited for .*\n/m, "");
}

function noNewline(byte: number): number {
  return byte === 10 ? 11 : byte;
}

Deno.test("a sentence of 65,508 bytes is refused by name", LIMIT, async (t) => {
  await using server = serve({ port: 0 });
  const long = "x".repeat(65_508);
  const rows: [string, string[], string][] = [
    ["in a pipe", [], `hello\n${long}\nmore\n`],
    ["in a pipe, without an end", [], `hello\n${long}`],
    ["in the arguments", ["hello", long], ""],
    ["much longer", [], `hello\n${"x".repeat(1_000_000)}\n`],
  ];
  for (const [name, words, stdin] of rows) {
    await t.step(name, async () => {
      const args = [...to(server), ...words];
      const { code, stdout, stderr } = await runScript("udp_client.ts", args, { stdin });
      assertEquals([code, stdout], [1, "hello\n"]); // what came before it was said
      const bytes = name === "much longer" ? "\\d+ bytes or more" : "65508 bytes";
      assertMatch(
        stderr,
        new RegExp(`^udp_client: [^\\n]*${bytes} is refused[^\\n]*65507[^\\n]*\\n$`),
      );
    });
  }
});

Deno.test("without a server: no answer, how many tries, how long, exit 1", LIMIT, async (t) => {
  const rows: [string, string[], string, number][] = [
    ["by default", [], "4 tries", 0.15],
    ["--retries 1", ["--retries", "1"], "2 tries", 0.03],
    ["--retries 0", ["--retries", "0"], "1 try", 0.01],
  ];
  const port = freePort();
  for (const [name, args, tries, seconds] of rows) {
    await t.step(name, async () => {
      const all = ["--port", `${port}`, "--timeout", "0.01", ...args, "hello", "more"];
      const { code, stdout, stderr } = await runScript("udp_client.ts", all);
      assertEquals([code, stdout], [1, ""]);
      const [line, again, said] =
        /^(udp_client: no answer from \S+ yet; trying again\n)?udp_client: no answer from 127\.0\.0\.1:\d+ after \w+ \w+ in ([\d.]+) s; is udp_server\.ts running there\?\n$/
          .exec(stderr) ?? [];
      assert(line !== undefined, stderr);
      assertEquals(again === undefined, tries === "1 try");
      assertStringIncludes(line, `127.0.0.1:${port} after ${tries} in`);
      assertGreaterOrEqual(Number(said), seconds * 0.9);
      assertGreater(seconds + 2, Number(said));
    });
  }
});

Deno.test(
  "forty sentences through 50 % loss and 20 % duplicates: in order, once each",
  LIMIT,
  async () => {
    // Which try of a sentence is answered: of 80 tries 40. It does not hang on the order of replies,
    // so that a slow machine meets the same faults.
    const answered = [1, 3, 1, 3, 1, 3, 1, 3, 1, 3];
    const tries = new Map<string, number>();
    let replies = 0;
    await using server = new UdpPeer(async ({ bytes, from }, _, self) => {
      const sentence = decode(bytes);
      const number = Number(sentence.split(" ")[1]);
      tries.set(sentence, (tries.get(sentence) ?? 0) + 1);
      if (tries.get(sentence)! < answered[number % answered.length]!) return;
      for (let copies = ++replies % 5 === 0 ? 2 : 1; copies > 0; copies--) {
        await self.send(bytes, from);
      }
    });
    const stdin = Array.from({ length: 40 }, (_, i) => `sentence ${i}\n`).join("");
    const args = [...to(server), "--timeout", "0.01", "--retries", "9"];
    const { code, stdout, stderr } = await runScript("udp_client.ts", args, { stdin });
    assertEquals([code, stdout], [0, stdin]);
    assertMatch(
      stderr,
      /^udp_client: no answer from \S+ yet; trying again\nudp_client: \d+ datagrams? of the server ignored: [^\n]+\n$/,
    );
    assertGreaterOrEqual(server.count, 80);
  },
);

Deno.test("--retries 0: each loss is reported, exit 1", LIMIT, async () => {
  await using server = new UdpPeer((datagram, count, self) =>
    count % 3 === 0 ? undefined : self.send(datagram.bytes, datagram.from)
  );
  const stdin = Array.from({ length: 10 }, (_, i) => `${i + 1}\n`).join("");
  const args = [...to(server), "--timeout", "0.15", "--retries", "0"];
  const { code, stdout, stderr } = await runScript("udp_client.ts", args, { stdin });
  assertEquals([code, stdout], [1, "1\n2\n4\n5\n7\n8\n10\n"]);
  const numbers = [...stderr.matchAll(/^udp_client: sentence (\d+) is lost: .* after 1 try in /gm)];
  assertEquals(numbers.map(([, number]) => number), ["3", "6", "9"]);
  assertEquals((await server.arrived()).length, 10);
});

Deno.test("what is ignored is said at the end, and is no failure", LIMIT, async () => {
  await using stranger = new UdpPeer();
  await using server = new UdpPeer(async ({ bytes, from }, count, self) => {
    await stranger.send(bytes, from);
    await self.send("something else", from);
    await self.send(bytes, from);
    if (count === 1) await self.send(bytes, from);
  });
  const args = [...to(server), "one", "two"];
  const { code, stdout, stderr } = await runScript("udp_client.ts", args);
  assertEquals([code, stdout], [0, "one\ntwo\n"]);
  const lines = [
    "udp_client: 2 datagrams of strangers ignored",
    "udp_client: 3 datagrams of the server ignored: nothing waited for such bytes",
  ];
  assertEquals(stderr, lines.map((line) => `${line}\n`).join(""));
});

Deno.test("answers with other bytes are no echo, and not called silence", LIMIT, async (t) => {
  for (const [retries, tries, answers] of [[0, "1 try", "1 answer"], [1, "2 tries", "2 answers"]]) {
    await t.step(`${answers}`, async () => {
      await using server = new UdpPeer(({ bytes, from }, _, self) =>
        self.send(decode(bytes).toUpperCase(), from)
      );
      const args = [...to(server), "--timeout", "0.1", "--retries", `${retries}`, "hello"];
      const { code, stdout, stderr } = await runScript("udp_client.ts", args);
      assertEquals([code, stdout], [1, ""]);
      const said =
        `^udp_client: no echo from \\S+ after ${tries} in [\\d.]+ s: ${answers} had other bytes$`;
      assertMatch(stderr, new RegExp(said, "m"));
      assert(!/no answer|running there|different/.test(stderr), stderr);
    });
  }
});

Deno.test("--no-echo expects none", LIMIT, async (t) => {
  await t.step("of a server that sends none", async () => {
    await using server = new UdpPeer();
    const args = [...to(server), "--no-echo", "one", "stop"];
    const { code, stdout, stderr } = await runScript("udp_client.ts", args);
    assertEquals([code, stdout, stderr], [0, "", ""]);
    assertEquals((await server.arrived()).map(({ bytes }) => decode(bytes)), ["one", "stop"]);
  });

  await t.step("nor counts as wrong what comes all the same", async () => {
    await using server = new UdpPeer(echo);
    await using client = spawn("udp_client.ts", [...to(server), "--no-echo", "--trace"]);
    await client.write("one\ntwo\nthree\n");
    for (const text of ["one", "two", "three"]) {
      await client.stderr.until(`receive() = ${text.length}`);
    }
    await client.end();
    const { code, stdout, stderr } = await client.finish();
    assertEquals([code, stdout], [0, ""]);
    const said = /^udp_client: 3 datagrams of the server ignored: nothing waited for such bytes$/m;
    assertMatch(stderr, said);
    assert(!/different|late|lost/.test(stderr), stderr);
  });
});

Deno.test("an echo that is very late is not called a wrong one", LIMIT, async () => {
  await using server = new UdpPeer(async ({ bytes, from }, count, self) => {
    if (count === 18) await self.send("sentence 1", from); // 17 sentences old
    await self.send(bytes, from);
  });
  const stdin = Array.from({ length: 18 }, (_, i) => `sentence ${i + 1}\n`).join("");
  const { code, stdout, stderr } = await runScript("udp_client.ts", to(server), { stdin });
  assertEquals([code, stdout], [0, stdin]);
  const said = "udp_client: 1 datagram of the server ignored: nothing waited for such bytes\n";
  assertEquals(stderr, said);
});

Deno.test("input behind a stop word is told: exit 1", LIMIT, async (t) => {
  const left = "udp_client: input behind the stop word was not sent; --no-stop sends it\n";
  const rows: [string, string, string][] = [ // before its echo, right behind it
    ["in one piece", "more\n", ""],
    ["in another, a moment later", "", "more\n"],
    ["an empty line", "", "\n"],
    ["without an end", "mo", ""],
  ];
  for (const [name, before, behind] of rows) {
    await t.step(name, async () => {
      const stopped = Promise.withResolvers<void>();
      await using server = new UdpPeer(async ({ bytes, from }, _, self) => {
        await self.send(bytes, from);
        stopped.resolve();
      });
      await using client = spawn("udp_client.ts", to(server));
      await client.write(`stop\n${before}`);
      await stopped.promise;
      if (behind) await client.write(behind);
      if (name === "without an end") await client.end(); // till then it may go on
      const { code, stdout, stderr } = await client.finish();
      assertEquals([code, stdout, stderr], [1, "stop\n", left]);
      assertEquals(server.count, 1);
    });
  }
});

Deno.test({
  ...unless(!LINUX && "no /dev/zero", "a line without an end is refused"),
  ...LIMIT,
  fn: async () => {
    await using server = new UdpPeer(echo);
    const via = ["sh", "-c", 'exec "$@" < /dev/zero', "sh"];
    const { code, stderr } = await runScript("udp_client.ts", to(server), { via });
    assertMatch(stderr, /^udp_client: a sentence of \d+ bytes or more is refused: /);
    assertEquals([code, server.count], [1, 0]);
  },
});

Deno.test("it ends after the echo of a stop word, its input still open", LIMIT, async () => {
  await using server = serve({ port: 0 });
  await using client = spawn("udp_client.ts", to(server));
  for (const sentence of ["hello", "do not stop yet", "stop"]) {
    await client.write(`${sentence}\n`);
    assertEquals(await client.nextLine(), sentence);
  }
  const { code, stdout, stderr } = await client.finish();
  assertEquals([code, stdout, stderr], [0, "", ""]);
});

Deno.test({
  ...unless(NO_PTY, "at a terminal: a prompt, a line at a time, safe to see"),
  ...LIMIT,
  fn: async (t) => {
    await using server = new UdpPeer(echo);

    await t.step("a stop word ends it", async () => {
      await using client = spawn("udp_client.ts", to(server), { via: PTY });
      await client.stdout.until("> ");
      await client.write("hello\n");
      assertEquals(await client.stdout.until("> "), "hello\r\nhello\r\n> "); // typed, echoed
      await client.write("stop\n");
      const { code, stdout } = await client.finish();
      assertEquals([code, stdout], [0, "stop\r\nstop\r\n"]);
    });

    await t.step("so does Ctrl-D", async () => {
      await using client = spawn("udp_client.ts", to(server), { via: PTY });
      await client.stdout.until("> ");
      await client.write("\x04");
      const { code, stdout } = await client.finish();
      assertEquals(code, 0);
      assert(["\r\n", "^D\b\b\r\n"].includes(stdout)); // what the terminal shows of it
    });

    await t.step("and Ctrl-C, of which it dies", async () => {
      await using client = spawn("udp_client.ts", to(server), { via: PTY });
      await client.stdout.until("> ");
      await client.write("\x03");
      assertEquals((await client.finish()).code, 256 - 2); // -2, of SIGINT, as Python has it
    });

    await t.step("no echo can steer it", async () => {
      const args = [...to(server), "\x1b[31m\x9b\u202eGrüße\u2028", "\xff\t", "s\u00adt\ufeffop"];
      const { code, stdout } = await runScript("udp_client.ts", args, { via: PTY });
      const lines = ["\\u{1b}[31m\\u{9b}\\u{202e}Grüße\\u{2028}", "ÿ\t", "s\\u{ad}t\\u{feff}op"];
      assertEquals([code, stdout], [0, lines.map((line) => `${line}\r\n`).join("")]);
    });
  },
});

Deno.test(
  "the first signal ends it at once: it dies of it, as a shell must see",
  LIMIT,
  async (t) => {
    for (const expected of ["SIGINT", "SIGTERM"] as const) {
      await t.step({
        ...unless(NO_SIGNALS, expected),
        fn: async () => {
          await using server = new UdpPeer(); // it answers nothing
          await using client = spawn("udp_client.ts", [
            ...to(server),
            "--timeout",
            "3600",
            "hello",
          ]);
          await server.next();
          assertEquals((await client.stop(expected)).signal, expected);
        },
      });
    }
  },
);

Deno.test("a closed stdout ends it quickly and quietly", LIMIT, async () => {
  await using server = new UdpPeer(echo);
  await using client = spawn("udp_client.ts", to(server));
  await client.stdout.close();
  await client.write("hello\n");
  const { signal, stderr } = await client.finish();
  assertEquals([signal, stderr], [null, ""]);
});

Deno.test("names and addresses", LIMIT, async (t) => {
  await t.step("a name that is not found", async () => {
    const error = await assertRejects(() => open({ hostname: "no.such.host.invalid" }), Error);
    assertStringIncludes(error.message, 'cannot find the address of "no.such.host.invalid": ');
  });

  const rows: [string, string, string | false][] = [
    ["localhost", (await lookup("localhost")).address, false],
    ["127.1", "127.0.0.1", false],
    ["::1", "::1", NO_IPV6],
    ["[::1]", "::1", NO_IPV6],
    ["0:0:0:0:0:0:0:1", "::1", NO_IPV6],
  ];
  for (const [host, hostname, missing] of rows) {
    await t.step({
      ...unless(missing, host),
      fn: async () => {
        await using server = new UdpPeer(echo, { hostname });
        const args = [...to(server), "--host", host, "--timeout", "0.1", "--retries", "2", "hello"];
        const { addr: { port } } = server;
        const bare = [host, hostname, "127.0.0.1", "::1", "::", "0.0.0.0"];
        const allowNet = bare.flatMap((name) => {
          const shown = name.includes(":") && !name.startsWith("[") ? `[${name}]` : name;
          return [shown, `${shown}:0`, `${shown}:${port}`];
        }).join();
        const { code, stdout, stderr } = await runScript("udp_client.ts", args, { allowNet });
        assertEquals([code, stdout, stderr], [0, "hello\n", ""]);
      },
    });
  }
});

Deno.test("without its permission it says the flag to add, exit 1", LIMIT, async (t) => {
  await using server = new UdpPeer(echo);
  const { port } = server.addr;
  const needed = `--allow-net=127.0.0.1:0,127.0.0.1:${port}`;
  for (const allowNet of [false, `127.0.0.1:${port}`, "127.0.0.1:0", "localhost"] as const) {
    await t.step(`--allow-net=${allowNet}`.replace(`${port}`, "PORT"), async () => {
      const args = [...to(server), "hello"];
      const { code, stdout, stderr } = await runScript("udp_client.ts", args, { allowNet });
      assertEquals([code, stdout], [1, ""]);
      assertMatch(stderr, /^udp_client: [^\n]+\n$/);
      assertStringIncludes(stderr, needed);
    });
  }
  assertEquals(server.count, 0);
});

Deno.test("--json prints one object a sentence", LIMIT, async () => {
  await using server = new UdpPeer(echo);
  const stdin = new Uint8Array([
    ...encode("Grüße\n\x1b\u202e\n\n"),
    0xff,
    0x0a,
    ...encode("Hello\r\na"),
    0xe2,
    0x82,
  ]);
  const { code, stdout } = await runScript("udp_client.ts", [...to(server), "--json"], { stdin });
  assertEquals(code, 0);
  const time = /"time":"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z"/g;
  assertEquals(stdout.replaceAll(time, '"time":""').trimEnd().split("\n"), [
    '{"time":"","event":"echo","bytes":7,"text":"Grüße"}',
    '{"time":"","event":"echo","bytes":4,"text":"\\u001b\\u202e"}',
    '{"time":"","event":"echo","bytes":0,"text":""}',
    '{"time":"","event":"echo","bytes":1,"text":"\ufffd"}',
    '{"time":"","event":"echo","bytes":5,"text":"Hello"}',
    '{"time":"","event":"echo","bytes":3,"text":"a\ufffd"}',
    '{"time":"","event":"summary","sent":6,"echoed":6,"lost":0}',
  ]);
});

Deno.test("a first try that is not answered is reported once", LIMIT, async (t) => {
  const port = freePort();
  const args = ["--port", `${port}`, "--timeout", "0.05", "--retries", "4"];
  const report = /udp_client: no answer from \S+ yet; trying again\r?\n/g;

  await t.step("through a pipe, of the first of two sentences", async () => {
    const { code, stderr } = await runScript("udp_client.ts", args, { stdin: "one\ntwo\n" });
    assertEquals([code, stderr.match(report)?.length], [1, 1], stderr);
    assertMatch(stderr, /^udp_client: no answer from \S+ yet/);
  });

  for (const typed of [true, false]) {
    await t.step({
      ...unless(NO_PTY, typed ? "typed" : "at a terminal, of an argument"),
      fn: async () => {
        const words = typed ? [] : ["hello"];
        await using client = spawn("udp_client.ts", [...args, ...words], { via: PTY });
        if (typed) {
          await client.stdout.until("> ");
          await client.write("hello\n");
          await client.stdout.until("running there?");
          await client.stdout.until("> "); // the conversation goes on
          await client.write("again\n\x04");
        }
        const { code, stdout } = await client.finish();
        assertEquals(code, 1);
        if (!typed) assertEquals(stdout.match(report)?.length, 1, stdout);
      },
    });
  }
});

/** The events that a run printed, without their times. */
function eventsOf(stdout: string): Record<string, unknown>[] {
  return stdout.trimEnd().split("\n").map((line) => {
    const { time: _, ...event } = JSON.parse(line);
    return event;
  });
}

Deno.test("--json ends with a summary, whatever happened", LIMIT, async (t) => {
  const script: Script = ({ bytes, from }, _, self) => {
    if (decode(bytes) === "lost") return;
    return self.send(decode(bytes) === "wrong" ? "other" : bytes, from);
  };
  const long = "x".repeat(65_508);
  const rows: [string, string[], string[], object][] = [ // what else is printed, then the summary
    ["echoed", ["a", "b"], ["echo", "echo"], { sent: 2, echoed: 2, lost: 0 }],
    ["no sentence", [], [], { sent: 0, echoed: 0, lost: 0 }],
    ["--quiet", ["--quiet", "a"], [], { sent: 1, echoed: 1, lost: 0 }],
    ["a loss", ["a", "lost", "b"], ["echo", "lost", "echo"], { sent: 3, echoed: 2, lost: 1 }],
    ["nobody there", ["lost"], ["lost"], { sent: 1, echoed: 0, lost: 1 }],
    ["a wrong answer", ["a", "wrong"], ["echo", "lost", "warning"], {
      sent: 2,
      echoed: 1,
      lost: 1,
    }],
    ["too long a sentence", ["a", long], ["echo", "error"], { sent: 1, echoed: 1, lost: 0 }],
    ["behind a stop word", ["stop", "a"], ["echo", "error"], { sent: 1, echoed: 1, lost: 0 }],
    ["--no-echo", ["--no-echo", "lost"], [], { sent: 1, echoed: 0, lost: 0 }],
  ];
  for (const [name, words, kinds, summary] of rows) {
    await t.step(name, async () => {
      await using server = new UdpPeer(script);
      const args = [...to(server), "--json", "--retries", "0", "--timeout", "0.2", ...words];
      const { stdout } = await runScript("udp_client.ts", args);
      const events = eventsOf(stdout);
      assertEquals(events.pop(), { event: "summary", ...summary });
      assertEquals(events.map(({ event }) => event), kinds);
    });
  }

  await t.step("a name that is not found, of a probe", async () => {
    const args = ["--host", "no.such.host.invalid", "--json", "--count", "3"];
    const { code, stdout } = await runScript("udp_client.ts", args, {
      allowNet: "no.such.host.invalid",
    });
    const [error, summary] = eventsOf(stdout);
    assertEquals([code, error!.event], [1, "error"]);
    const counts = { sent: 0, echoed: 0, lost: 0, duplicated: 0, reordered: 0, corrupt: 0 };
    assertEquals(summary, { event: "summary", ...counts });
  });
});

Deno.test("two messages that look like an address are sent, with a warning", LIMIT, async () => {
  await using server = new UdpPeer(echo);
  const args = [...to(server), "127.0.0.1", "12001"];
  const { code, stdout, stderr } = await runScript("udp_client.ts", args);
  assertEquals([code, stdout], [0, "127.0.0.1\n12001\n"]);
  assertMatch(stderr, /^udp_client: [^\n]*two messages[^\n]*--host 127\.0\.0\.1 --port 12001\n$/);
});

Deno.test("20,000 lines through a pipe come back in order", LIMIT, async () => {
  await using server = new UdpPeer(echo);
  const stdin = Array.from({ length: 20_000 }, (_, i) => `line ${i}\n`).join("");
  const { code, bytes } = await runScript("udp_client.ts", to(server), { stdin });
  assertEquals(code, 0); // a busy machine may make it try again, and say so
  assertSameBytes(bytes, encode(stdin));
});
