/**
 * The whole programs of the lab, docs/lab/whole_*: they are correct, in TypeScript and in Python, and
 * the grader finds nothing to say against them, however strict.
 *
 * @module
 */

import { assert, assertEquals, assertMatch } from "@std/assert";
import {
  assertSameBytes,
  type Bytes,
  decode,
  encode,
  exchange,
  fileUrl,
  freePort,
  LIMIT,
  nextSentence,
  type Program,
  readExactly,
  readToEnd,
  resetClient,
  resetServer,
  rudeServer,
  seededRandom,
  UdpPeer,
  unless,
  writeAll,
} from "./_helpers.ts";
import {
  commandOf,
  connectTo,
  HAS_PYTHON,
  LANGUAGES,
  linesOf,
  run,
  startClient,
  startServer,
} from "./_lab.ts";
import { serve as serveTcp } from "../tcp_server.ts";

const KINDS = ["tcp_server", "tcp_client", "udp_server", "udp_client"];
const GRADER_MS = 120_000; // beside two busy loops

/** Starts a whole client, and waits until it has said what is to be typed. */
async function startTyping(name: string, port: number): Promise<Program> {
  const client = startClient(`whole_${name}`, port);
  assertEquals(await client.stderr.until("\n"), "Type sentences, and stop at the end:\n");
  return client;
}

/** Sends what is not read at once, half-closes, and returns all that comes. */
async function pump(conn: Deno.TcpConn, data: Bytes): Promise<Bytes> {
  const write = async (): Promise<void> => {
    await writeAll(conn, data);
    await conn.closeWrite();
  };
  const [echo] = await Promise.all([readToEnd(conn), write()]);
  return echo;
}

Deno.test("docs/lab: each whole program has 80 lines of 80 columns at most", () => {
  for (const name of KINDS.flatMap((kind) => LANGUAGES.map((language) => `${kind}.${language}`))) {
    const lines = linesOf(`whole_${name}`);
    assert(lines.length <= 80, `${name}: ${lines.length} lines`);
    for (const line of lines) assert(line.length <= 80, `${name}: ${line}`);
  }
});

for (const language of LANGUAGES) {
  const missing = language === "py" && !HAS_PYTHON && "needs python3";
  const test = (name: string, fn: (t: Deno.TestContext) => Promise<void>): void =>
    Deno.test({ ...unless(missing, `docs/lab/whole_${name}`), ...LIMIT, fn });

  for (const kind of KINDS) {
    Deno.test({
      ...unless(missing, `docs/lab/whole_${kind}.${language}: graded, strictly`),
      timeout: GRADER_MS,
      async fn(): Promise<void> {
        const grader = [
          Deno.execPath(),
          "run",
          "--allow-all",
          fileUrl("docs/lab/grade.ts").pathname,
        ];
        const args = ["--strict", kind.replace("_", "-"), "--"];
        const command = commandOf(`whole_${kind}.${language}`, "{port}");
        await using grading = run([...grader, ...args, ...command], GRADER_MS);
        const { code, stdout, stderr } = await grading.finish();
        assertEquals(code, 0, stdout + stderr);
      },
    });
  }

  test(`tcp_server.${language}: whole sentences, several clients`, async (t) => {
    await using server = await startServer(`whole_tcp_server.${language}`);
    const { port, program } = server;

    await t.step("a client that sends no line ends is heard, and may stop", async () => {
      using conn = await connectTo(port);
      for (const sentence of ["Hello", "how are you"]) {
        assertEquals(await exchange(conn, sentence), sentence);
        assertEquals(await nextSentence(program), sentence); // after a silence
      }
      assertEquals(await exchange(conn, "\nnext\n"), "\nnext\n"); // the first ends what is over
      assertEquals(await nextSentence(program), "next");
      await writeAll(conn, "stop");
      assertEquals(decode(await readToEnd(conn)), "stop");
      assertEquals(await nextSentence(program), "stop");
    });

    await t.step("in pieces, or several in one", async () => {
      using conn = await connectTo(port);
      for (const piece of ["one\r\nt", "wo\n\n  exit", " \r\n"]) {
        assertEquals(await exchange(conn, piece), piece);
      }
      assertEquals(await conn.read(new Uint8Array(1)), null);
      for (const sentence of ["one", "two", "", "  exit "]) {
        assertEquals(await nextSentence(program), sentence);
      }
    });

    await t.step("words that are no stop word, of any length, beside a silent client", async () => {
      using _silent = await connectTo(port);
      using conn = await connectTo(port);
      const long = "stop" + " ".repeat(2_000);
      for (const sentence of ["do not stop", "STOP", long, "x".repeat(1_000)]) {
        assertEquals(await exchange(conn, `${sentence}\n`), `${sentence}\n`);
        assertEquals(await nextSentence(program), sentence.slice(0, 1_000));
      }
    });

    await t.step("the end of the input: what is unfinished is a sentence", async () => {
      using conn = await connectTo(port);
      assertEquals(decode(await pump(conn, encode("the end"))), "the end");
      assertEquals(await nextSentence(program), "the end");
    });

    await t.step("what comes behind a stop word is not echoed, and resets nothing", async () => {
      using conn = await connectTo(port);
      await writeAll(conn, `exit\n${"x".repeat(100_000)}\n`);
      assertEquals(decode(await readToEnd(conn)), "exit\n");
      assertEquals(await nextSentence(program), "exit");
    });

    await t.step("resets, at once and in the middle of a sentence", async () => {
      for (let i = 0; i < 10; i++) {
        await resetClient(port);
        await resetClient(port, encode("half a sen"));
      }
      using conn = await connectTo(port);
      assertEquals(await exchange(conn, "still here\n"), "still here\n");
    });
  });

  test(`tcp_server.${language}: 4 MiB, which no write takes at once`, async () => {
    await using server = await startServer(`whole_tcp_server.${language}`);
    const { port, program } = server;
    const data = seededRandom().bytes(4 * 1024 * 1024);
    using conn = await connectTo(port);
    const printed = program.stdout.rest(); // or it would wait for us
    assertSameBytes(await pump(conn, data), data);
    program.kill("SIGKILL");
    await printed;
  });

  test(`tcp_client.${language}: what it sends comes back, or it says what is wrong`, async (t) => {
    const name = `tcp_client.${language}`;

    await t.step("8 MiB through a pipe, and the last line has no line end", async () => {
      await using server = serveTcp({ port: 0, stopWords: [] });
      const client = await startTyping(name, server.addr.port);
      await using _ended = client;
      const data = seededRandom().bytes(8 * 1024 * 1024);
      const written = client.write(data).then(() => client.end());
      const { code, bytes, stderr } = await client.finish();
      await written;
      assertEquals([code, stderr], [0, ""]);
      assertSameBytes(bytes, data);
    });

    await t.step("a stop word: it ends while its input is open", async () => {
      await using server = serveTcp({ port: 0 });
      await using client = await startTyping(name, server.addr.port);
      await client.write("Grüß Gott\n");
      assertEquals(await client.nextLine(), "Grüß Gott");
      await client.write(" stop \n");
      const { code, stdout, stderr } = await client.finish();
      assertEquals([code, stdout, stderr], [0, " stop \n", ""]);
    });

    const wrong: [string, (conn: Deno.TcpConn) => Promise<void>, RegExp][] = [
      ["an echo that lacks bytes", async (conn) => {
        await writeAll(conn, await readExactly(conn, 3));
        await readExactly(conn, 3);
      }, /^the server closed: 3 bytes are not echoed\n$/],
      ["an echo that differs", async (conn) => {
        await readExactly(conn, 6);
        await writeAll(conn, "hallo\n");
      }, /^the echo differs from what was sent\n$/],
      ["an early end", async (conn) => {
        await writeAll(conn, await readExactly(conn, 6));
      }, /^the server closed before the end of the input\n$/],
    ];
    for (const [what, talk, message] of wrong) {
      await t.step(what, async () => {
        await using server = rudeServer(talk);
        await using client = await startTyping(name, server.port);
        await client.write("hello\n");
        const { code, stderr } = await client.finish();
        assertEquals(code, 1);
        assertMatch(stderr, message);
      });
    }

    await t.step("a reset, and nobody there", async () => {
      await using server = await resetServer(6, 3);
      await using client = await startTyping(name, server.port);
      await client.write("hello\n");
      const reset = await client.finish();
      assertEquals(reset.code, 1);
      assertMatch(reset.stderr, /^127\.0\.0\.1:\d+: .*reset by peer/);
      await using alone = startClient(`whole_${name}`, freePort());
      const refused = await alone.finish();
      assertEquals([refused.code, refused.stdout], [1, ""]);
      assertMatch(refused.stderr, /^127\.0\.0\.1:\d+: .*refused/);
    });
  });

  test(`udp_server.${language}: any datagram`, async () => {
    await using server = await startServer(`whole_udp_server.${language}`);
    const { port, program } = server;
    const printed = program.finish(); // read all the time, or it would wait for us
    await using peer = new UdpPeer();
    await using other = new UdpPeer();
    const text = ["Hello", "Hello\r\n", "", "stop", "exit\n", "again"];
    for (const data of [...text.map(encode), new Uint8Array([0xff]), new Uint8Array(65_507)]) {
      assertEquals(await peer.ask(data, port), data);
      assertEquals(await other.ask(data, port), data);
    }
    await using self = new UdpPeer(() => {}, { hostname: "127.0.0.2", port });
    await self.send("I am an echo server, too", port);
    assertEquals(decode(await peer.ask("last", port)), "last");
    assertEquals(await self.arrived(), []);
    program.kill("SIGKILL");
    const { stdout } = await printed;
    assertEquals(stdout.match(/\] stop\n\[127\.0\.0\.1:\d+\] has stopped\n/g)?.length, 2);
    assertEquals(stdout.match(/\] Hello\n/g)?.length, 4);
  });

  test(`udp_client.${language}: only the server's echo counts, and it tries again`, async () => {
    await using stranger = new UdpPeer();
    await using server = new UdpPeer(async ({ bytes, from }, count, self) => {
      const sentence = decode(bytes);
      if (sentence === "lost") return;
      if (count === 1) return await stranger.send(bytes, from); // no echo; then it tries again
      if (sentence === "two") await self.send("one", from); // late
      await self.send(bytes, from);
    });
    await using client = await startTyping(`udp_client.${language}`, server.addr.port);
    await client.write("one\ntwo\r\n\nlost\nGrüß Gott\n exit\nnot sent\n");
    const { code, stdout, stderr } = await client.finish();
    assertEquals([code, stdout], [1, "one\ntwo\n\nGrüß Gott\n exit\n"]);
    assertEquals(stderr, "no echo of a sentence after 4 tries\n");
    const sent = (await server.arrived()).map(({ bytes }) => decode(bytes));
    const expected = ["one", "one", "two", "", ...Array(4).fill("lost"), "Grüß Gott", " exit"];
    assertEquals(sent, expected);
  });
}
