/**
 * `tcp_client.ts` at a terminal: the prompt, the keys, and what may be shown.
 *
 * @module
 */

import { assertEquals, assertMatch } from "@std/assert";
import {
  LIMIT,
  PTY,
  PTY_STDOUT,
  readToEnd,
  rudeServer,
  runScript,
  spawn,
  unless,
  writeAll,
} from "./_helpers.ts";
import { aWhile, start } from "./_tcp.ts";
import { NO_PTY } from "./_needs.ts";

Deno.test({
  ...unless(NO_PTY, "at a terminal"),
  ...LIMIT,
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

    await t.step("Ctrl-C ends it, as it does any program", async () => {
      await using server = start();
      await using client = spawn("tcp_client.ts", server.to, { via });
      await client.stdout.until("> ");
      await client.write("\x03");
      assertEquals((await client.finish()).code, -2 & 0xff); // to Python, minus the signal's number
    });

    // Through a pipe: Deno strips a CR from the end of an argument, a terminal makes it LF.
    for (const end of ["\n", "\r\n"]) {
      await t.step(
        `a line end is ${end === "\n" ? "LF" : "CRLF"}, another CR can be seen`,
        async () => {
          await using server = start();
          const options = { via: PTY_STDOUT, stdin: `hello${end}a\rb${end}c\r` };
          const { code, stdout } = await runScript("tcp_client.ts", server.to, options);
          assertEquals([code, stdout], [0, "hello\r\na\\u{d}b\r\nc\\u{d}"]);
        },
      );
    }

    await t.step("a CRLF in two pieces is one line end", async () => {
      await using server = rudeServer(async (conn) => {
        const bytes = await readToEnd(conn);
        await writeAll(conn, bytes.subarray(0, 6)); // with the CR
        await aWhile(); // so that it comes in two reads
        await writeAll(conn, bytes.subarray(6));
      });
      const options = { via: PTY_STDOUT, stdin: "hello\r\nworld\r\n" };
      const { code, stdout } = await runScript(
        "tcp_client.ts",
        ["--port", `${server.port}`],
        options,
      );
      assertEquals([code, stdout], [0, "hello\r\nworld\r\n"]);
    });

    await t.step("a tab, and a joiner behind what it joins, are shown as they are", async () => {
      await using server = start();
      const text = "a\tb می\u200cخواهم 👨\u200d👩\u200d👧\n";
      const options = { via: PTY_STDOUT, stdin: `${text}\u200d\n` };
      const { code, stdout } = await runScript("tcp_client.ts", server.to, options);
      assertEquals([code, stdout], [0, `${text.trimEnd()}\r\n\\u{200d}\r\n`]);
    });

    await t.step("what cannot be seen is shown", async () => {
      await using server = start();
      const words = ["st\u00adop", "\ufeffstop", "s\u200btop\u2060"];
      const { code, stdout } = await runScript("tcp_client.ts", [...server.to, ...words], { via });
      assertEquals(code, 0);
      assertEquals(stdout, "st\\u{ad}op\r\n\\u{feff}stop\r\ns\\u{200b}top\\u{2060}\r\n");
    });

    await t.step("a server that knows no stop word: a word on it, once", async () => {
      await using server = start({ stopWords: [] });
      await using client = spawn("tcp_client.ts", server.to, { via });
      await client.stdout.until("> ");
      await client.write("stop\n");
      const shown = await client.stdout.until("\n> ");
      assertMatch(
        shown,
        /^stop\r\nstop\r\ntcp_client: 127\.0\.0\.1:\d+ does not close at a stop word; .*\r\n> $/,
      );
      await client.write("hello\n");
      assertEquals(await client.stdout.until("> "), "hello\r\nhello\r\n> ");
      await client.write("\x04");
      const { code, stdout } = await client.finish();
      assertEquals([code, stdout], [0, "\r\n"]);
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

    await t.step("a character in two pieces is one", async () => {
      await using server = rudeServer(async (conn) => {
        const bytes = await readToEnd(conn);
        await writeAll(conn, bytes.subarray(0, 2)); // within the first character
        await aWhile(); // so that it comes in two reads
        await conn.write(bytes.subarray(2));
      });
      const args = ["--port", `${server.port}`, "你好"];
      const { code, stdout } = await runScript("tcp_client.ts", args, { via });
      assertEquals([code, stdout], [0, "你好\r\n"]);
    });

    await t.step("a broken one is U+FFFD, at the very end, too", async () => {
      await using server = start();
      const script = 'printf "a\\342b\\nc\\342\\202" | "$@"'; // it is the input that is broken
      const broken = [...via, "sh", "-c", script, "sh"];
      const { code, stdout } = await runScript("tcp_client.ts", server.to, { via: broken });
      assertEquals([code, stdout], [0, "a\ufffdb\r\nc\ufffd"]);
    });
  },
});
