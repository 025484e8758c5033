/**
 * The handout's instructions 5 and 6 and its tasks 1 to 4, in its order and its words, with real
 * processes.
 *
 * @module
 */

import { assert, assertEquals, assertMatch, assertStringIncludes } from "@std/assert";
import { exchange, freePort, LIMIT, type Program, runScript, spawn, UdpPeer } from "./_helpers.ts";

/** The next sentence that a server prints, `[peer] sentence`; other lines are passed over. */
async function nextSentence(server: Program): Promise<string> {
  while (true) {
    const line = await server.nextLine();
    if (line.startsWith("[")) return line;
  }
}

Deno.test(
  "instruction 5: you MUST run the server first before running the client",
  LIMIT,
  async () => {
    const port = `${freePort()}`;
    const { code, stdout, stderr } = await runScript("tcp_client.ts", ["--port", port, "Hello"]);
    assertEquals([code, stdout], [1, ""]);
    assertEquals(
      stderr,
      `tcp_client: cannot connect to 127.0.0.1:${port}: connection refused. ` +
        `Start the server first: deno run --allow-net=127.0.0.1:${port} tcp_server.ts --port ${port}\n`,
    );
  },
);

Deno.test("instruction 6: please do not use port numbers below 1024", LIMIT, async () => {
  const { code, stdout, stderr } = await runScript("tcp_server.ts", ["--port", "80"]);
  assertEquals([code, stdout], [2, ""]);
  assertStringIncludes(stderr, "--port 80 may be reserved for an existing service");
});

Deno.test(
  "task 1: the client process requires input from the user, and then sends it to the server process; the server process prints the sentence upon receiving it",
  LIMIT,
  async () => {
    await using server = spawn("tcp_server.ts", ["--port", "0", "--no-echo"]);
    const port = `${await server.port()}`;
    await using client = spawn("tcp_client.ts", ["--port", port, "--no-echo"]);
    await client.write("Hello, server!\n");
    assertMatch(await nextSentence(server), /^\[127\.0\.0\.1:\d+\] Hello, server!$/);
    await client.end();
    const { code, stdout, stderr } = await client.finish();
    assertEquals([code, stdout, stderr], [0, "", ""]);
  },
);

Deno.test(
  "task 2: the server echoes back whatever it listens from the client",
  LIMIT,
  async () => {
    await using server = spawn("tcp_server.ts", ["--port", "0"]);
    const port = `${await server.port()}`;
    const stdin = "Hello, server! Grüß Gott, 你好\n";
    const { code, stdout, stderr } = await runScript("tcp_client.ts", ["--port", port], { stdin });
    assertEquals([code, stdout, stderr], [0, stdin, ""]);
    assert((await nextSentence(server)).endsWith(`] ${stdin.trim()}`));
  },
);

Deno.test(
  "task 3: data could be sent more than once from client to server and the server only closes the connection upon receiving a specific command e.g. stop, exit etc.",
  LIMIT,
  async (t) => {
    await using server = spawn("tcp_server.ts", ["--port", "0"]);
    const port = `${await server.port()}`;
    await using other = spawn("tcp_client.ts", ["--port", port]);

    for (const command of ["stop", "exit"]) {
      await t.step(command, async () => {
        await using client = spawn("tcp_client.ts", ["--port", port]);
        for (const sentence of ["How are you?", "", "do not stop yet", command]) {
          await client.write(`${sentence}\n`);
          assertEquals(await client.nextLine(), sentence);
          assertMatch(await nextSentence(server), /^\[127\.0\.0\.1:\d+\] /);
        }
        // Its input is still open: it ends because the server closed the connection.
        const { code, stdout, stderr } = await client.finish();
        assertEquals([code, stdout, stderr], [0, "", ""]);
      });

      await t.step("another client goes on", async () => {
        await other.write("still here\n");
        assertEquals(await other.nextLine(), "still here");
        assert((await nextSentence(server)).endsWith("] still here"));
      });
    }

    await t.step("and the server goes on, until it is stopped itself", async () => {
      assertEquals((await runScript("tcp_client.ts", ["--port", port, "new"])).stdout, "new\n");
      assertEquals((await server.stop()).code, 0);
    });
  },
);

Deno.test(
  "tasks 1 to 3 with the textbook's client, which sends sentences without line ends",
  LIMIT,
  async () => {
    await using server = spawn("tcp_server.ts", ["--port", "0"]);
    using conn = await Deno.connect({ port: await server.port() });
    for (const sentence of ["Hello", "how are you", "stop"]) {
      assertEquals(await exchange(conn, sentence), sentence);
      assert((await nextSentence(server)).endsWith(`] ${sentence}`));
    }
    assertEquals(await conn.read(new Uint8Array(1)), null);
    conn.close();
    assertMatch(await server.nextLine(), / closed \(stop\): 3 messages, 20 bytes, /);
  },
);

Deno.test(
  "task 4: the client and the server code makes use of UDP sockets instead of TCP sockets; no connection is required for UDP transfers",
  LIMIT,
  async (t) => {
    await t.step("task 1 over UDP: the server prints the sentence upon receiving it", async () => {
      await using server = spawn("udp_server.ts", ["--port", "0", "--no-echo"]);
      const port = `${await server.port()}`;
      const stdin = "Hello, server!\n";
      const { code, stdout, stderr } = await runScript(
        "udp_client.ts",
        ["--port", port, "--no-echo"],
        { stdin },
      );
      assertEquals([code, stdout, stderr], [0, "", ""]);
      assertMatch(await nextSentence(server), /^\[127\.0\.0\.1:\d+\] Hello, server!$/);
    });

    await t.step("task 2 over UDP: it echoes back whatever it listens", async () => {
      await using server = spawn("udp_server.ts", ["--port", "0"]);
      const port = `${await server.port()}`;
      const stdin = "Hello, server! Grüß Gott, 你好\n";
      const result = await runScript("udp_client.ts", ["--port", port], { stdin });
      assertEquals([result.code, result.stdout, result.stderr], [0, stdin, ""]);
      assert((await nextSentence(server)).endsWith(`] ${stdin.trim()}`));
    });

    await t.step("task 3 over UDP: more than once, until a specific command", async () => {
      await using server = spawn("udp_server.ts", ["--port", "0"]);
      const port = `${await server.port()}`;
      await using other = spawn("udp_client.ts", ["--port", port]);
      for (const command of ["stop", "exit"]) {
        await using client = spawn("udp_client.ts", ["--port", port]);
        for (const sentence of ["How are you?", "", "do not stop yet", command]) {
          await client.write(`${sentence}\n`);
          assertEquals(await client.nextLine(), sentence);
          assert((await nextSentence(server)).endsWith(`] ${sentence}`));
        }
        const { code, stdout, stderr } = await client.finish();
        assertEquals([code, stdout, stderr], [0, "", ""]);
        assertMatch(await server.nextLine(), / closed \(stop\): 4 messages, 31 bytes, /);
        // The other client's session, and the server, go on.
        await other.write("still here\n");
        assertEquals(await other.nextLine(), "still here");
        assert((await nextSentence(server)).endsWith("] still here"));
      }
    });

    await t.step("no connection is required: a server that comes later is found", async () => {
      let later: number; // a port where nobody receives
      {
        await using peer = new UdpPeer();
        later = peer.addr.port;
      }
      const port = ["--port", `${later}`];
      const patience = ["--timeout", "0.1", "--retries", "9"];
      await using client = spawn("udp_client.ts", [...port, ...patience, "--trace", "Hello?"]);
      await client.stderr.until("send("); // into the void
      await using server = spawn("udp_server.ts", port);
      const { code, stdout } = await client.finish();
      assertEquals([code, stdout], [0, "Hello?\n"]);
      assertEquals(await server.port(), later);
    });
  },
);
