/**
 * What a hostile world does to permissions and output: questions that must not be asked, bytes that
 * would steer a terminal, a stdout that nobody reads, that is closed, or that is full.
 *
 * @module
 */

import {
  assert,
  assertEquals,
  assertGreater,
  assertGreaterOrEqual,
  assertLess,
  assertMatch,
  assertStringIncludes,
} from "@std/assert";
import { serve } from "../tcp_server.ts";
import {
  assertSameBytes,
  type Bytes,
  decode,
  encode,
  exchange,
  fileUrl,
  freePort,
  join,
  PTY,
  readExactly,
  readToEnd,
  type Result,
  rudeServer,
  runScript,
  SCRIPTS,
  spawn,
  type SpawnOptions,
  writeAll,
} from "./_helpers.ts";
import { alive, echoing, eventsOf, eventually, NEEDS, talk, test, udpPeer } from "./_faults.ts";

const SERVERS = ["tcp_server.ts", "udp_server.ts"];

// ---- Permissions ----

/** What a script must be allowed for a port; and another port's, which is not enough. */
function permissionsOf(script: string, port: number): { exact: string; wrong: string } {
  const [here, there] = [`127.0.0.1:${port}`, `127.0.0.1:${port + 1}`];
  if (script === "udp_server.ts") return { exact: "127.0.0.1", wrong: here }; // replies go anywhere
  if (script === "udp_client.ts") {
    return { exact: `127.0.0.1:0,${here}`, wrong: `127.0.0.1:0,${there}` };
  }
  return { exact: here, wrong: there };
}

/** What a script says of a permission it lacks. */
function refusal(script: string, exact: string, given: string | false): string {
  const missing = exact.split(",").find((host) => !given || !given.split(",").includes(host));
  const where = "behind deno run, or at deno install for an installed command,";
  const flag = `add --allow-net=${exact}`;
  return `${script.slice(0, -3)}: no permission to use ${missing}: ${where} ${flag}\n`;
}

/** A plain server for a client that says hello; nothing for a server. */
function plainPeer(script: string, port: number): AsyncDisposable | undefined {
  if (script === "tcp_client.ts") return rudeServer(echoing(6), port);
  if (script !== "udp_client.ts") return;
  return udpPeer((text, to, socket) => socket.send(encode(text), to), port);
}

/** Runs a script, and talks to it with plain sockets. */
async function tryOut(script: string, port: number, options: SpawnOptions): Promise<Result> {
  const words = script.endsWith("client.ts") ? ["hello"] : [];
  await using peer = plainPeer(script, port);
  await using program = spawn(script, ["--port", `${port}`, ...words], options);
  if (!peer) {
    await program.stdout.until("listening on");
    await (script === "tcp_server.ts" ? askTcp(port) : askUdp(port));
    if (options.via) await program.write("\x03"); // Ctrl-C
    else program.kill("SIGTERM");
  }
  return await program.finish();
}

async function askTcp(port: number): Promise<void> {
  using conn = await Deno.connect({ port });
  assertEquals(await exchange(conn, "hello\nstop\n"), "hello\nstop\n");
}

/** Asks from 127.0.0.2 as well, where no permission to reply reaches: that must not even prompt. */
async function askUdp(port: number): Promise<void> {
  await exchangeUdp(port, encode("hello"), { hostname: "127.0.0.2", answered: false });
  assertEquals(await exchangeUdp(port, encode("hello")), encode("hello"));
}

/** Sends a datagram from a new socket, and returns its answer. @throws Error if none comes in 3 s */
async function exchangeUdp(
  port: number,
  bytes: Bytes,
  { hostname = "127.0.0.1", answered = true } = {},
): Promise<Uint8Array> {
  const socket = Deno.listenDatagram({ transport: "udp", hostname, port: 0 });
  const late = Promise.withResolvers<never>();
  const timer = setTimeout(() => late.reject(new Error("no answer within 3 s")), 3_000);
  try {
    await socket.send(bytes, { transport: "udp", hostname: "127.0.0.1", port });
    return answered ? (await Promise.race([socket.receive(), late.promise]))[0] : bytes;
  } finally {
    clearTimeout(timer);
    socket.close();
  }
}

test("permissions: the exact ones do; without them one line, exit 1", "", async () => {
  async function check(script: string): Promise<void> {
    const port = freePort();
    const { exact, wrong } = permissionsOf(script, port);
    for (const allowNet of [false, wrong] as const) {
      const result = await runScript(script, ["--port", `${port}`], { allowNet });
      assertEquals([result.code, result.stdout], [1, ""]);
      assertEquals(result.stderr, refusal(script, exact, allowNet));
    }
    assertEquals((await tryOut(script, port, { allowNet: exact })).code, 0, script);
  }
  await Promise.all(SCRIPTS.map(check));
});

test("permissions on a terminal: asked for at the start, or never", NEEDS.python, async () => {
  async function check(script: string): Promise<void> {
    const port = freePort();
    const { exact, wrong } = permissionsOf(script, port);
    await using asked = spawn(script, ["--port", `${port}`], { allowNet: wrong, via: PTY });
    await asked.stdout.until("Allow?");
    const typing = setInterval(() => asked.write("n\n").catch(() => {}), 300); // it drops the first
    const { code, stdout } = await asked.finish().finally(() => clearInterval(typing));
    assertEquals(code, 1);
    assertStringIncludes(stdout.replaceAll("\r", ""), refusal(script, exact, wrong));

    const allowed = await tryOut(script, port, { allowNet: exact, via: PTY });
    assertEquals(allowed.code, 0, script);
    assert(!/Allow\?|requests net access/.test(allowed.stdout), allowed.stdout);
  }
  await Promise.all(SCRIPTS.map(check));
});

test("permissions: the TCP server, once it listens, cannot connect", "", async () => {
  const port = freePort();
  await using program = spawn("-", [`${port}`], { allowNet: `127.0.0.1:${port}` });
  await program.write(`
    import { main } from "${fileUrl("tcp_server.ts")}";
    main(["--port", Deno.args[0]]).then(Deno.exit);
    await Deno.connect({ hostname: "127.0.0.1", port: Number(Deno.args[0]) })
      .catch((error) => console.error(error.name));
  `);
  await program.end();
  assertEquals(await program.stderr.nextLine(), "NotCapable");
  assertEquals(await program.port(), port);
  await askTcp(port); // but it goes on accepting
  assertEquals((await program.stop()).code, 0);
});

// ---- Output ----

/** OSC 52 (the clipboard), CSI, bare and encoded C1, bidi, CR, BS, NUL, DEL, separators, no UTF-8. */
const HOSTILE = join([
  encode("\x1b]52;c;ZXZpbA==\x07\x1b[2J\x1b[31m\r\b\0\x7f\u009b2J\u202eevil\u2066\u2028\u061c"),
  new Uint8Array([0x9b, 0x32, 0x4a, 0xff, 0xfe, 0xc3, 0x0a]),
]);

/** Asserts that `bytes` are lines of text that steer no terminal. */
function assertHarmless(bytes: Bytes): void {
  const text = new TextDecoder("utf-8", { fatal: true }).decode(bytes);
  // deno-lint-ignore no-control-regex
  const unsafe = /[\0-\x09\x0b-\x1f\x7f-\x9f\u061c\u200e\u200f\u2028-\u202e\u2066-\u2069]/;
  assert(!unsafe.test(text), JSON.stringify(text));
}

/** Runs the command behind it with a terminal for stdout and stderr; its stdin is ours. */
const PTY_OUT = [
  "python3",
  "-c",
  `
import os, pty, subprocess, sys, termios
master, slave = pty.openpty()
attributes = termios.tcgetattr(slave)
attributes[1] &= ~termios.OPOST # a newline stays a newline
termios.tcsetattr(slave, termios.TCSANOW, attributes)
child = subprocess.Popen(sys.argv[1:], stdout=slave, stderr=slave)
os.close(slave)
try:
    while data := os.read(master, 65536): os.write(1, data)
except OSError: pass # the terminal's last user left
sys.exit(child.wait())`,
];

test("hostile bytes: what a server prints steers no terminal", "", async (t) => {
  for (const script of SERVERS) {
    for (const flag of ["--trace", "--json"]) {
      await t.step(`${script} ${flag}`, async () => {
        const port = freePort();
        await using server = spawn(script, ["--port", `${port}`, flag]);
        await server.stdout.until("listening");
        if (script === "tcp_server.ts") {
          using conn = await Deno.connect({ port });
          await writeAll(conn, HOSTILE);
          assertEquals(await readExactly(conn, HOSTILE.length), HOSTILE);
        } else assertEquals(await exchangeUdp(port, HOSTILE), HOSTILE);
        const { bytes, stdout, stderr, code } = await server.stop();
        assertEquals(code, 0);
        assertStringIncludes(stdout, "ZXZpbA=="); // it is there
        assertHarmless(bytes);
        assertHarmless(encode(stderr));
      });
    }
  }
});

test("hostile bytes: through a client to a pipe they stay as they are", "", async (t) => {
  await t.step("tcp_client.ts", async () => {
    await using server = rudeServer(echoing(HOSTILE.length));
    const { code, bytes } = await runScript("tcp_client.ts", ["--port", `${server.port}`], {
      stdin: HOSTILE,
    });
    assertEquals([code, bytes], [0, HOSTILE]);
  });
  await t.step("udp_client.ts", async () => {
    await using server = udpPeer((_, to, socket) => socket.send(HOSTILE.subarray(0, -1), to));
    const { code, bytes } = await runScript("udp_client.ts", ["--port", `${server.port}`], {
      stdin: HOSTILE,
    });
    assertEquals([code, bytes], [0, HOSTILE]);
  });
});

test("hostile bytes: through a client to a terminal they are escaped", NEEDS.python, async (t) => {
  for (const flag of ["--trace", "--json"]) {
    const options = { stdin: HOSTILE, via: PTY_OUT };
    await t.step(`tcp_client.ts ${flag}`, async () => {
      await using server = rudeServer(echoing(HOSTILE.length));
      const args = ["--port", `${server.port}`, flag];
      const { code, stdout, bytes } = await runScript("tcp_client.ts", args, options);
      assertEquals(code, 0);
      assertStringIncludes(stdout, "ZXZpbA==");
      assertHarmless(bytes);
    });
    await t.step(`udp_client.ts ${flag}`, async () => {
      await using server = udpPeer((_, to, socket) => socket.send(HOSTILE.subarray(0, -1), to));
      const args = ["--port", `${server.port}`, flag];
      const { code, stdout, bytes } = await runScript("udp_client.ts", args, options);
      assertEquals(code, 0);
      assertStringIncludes(stdout, "ZXZpbA==");
      assertHarmless(bytes);
    });
  }

  await t.step("tcp_client.ts, of a server that makes them up, byte by byte", async () => {
    await using server = rudeServer(async (conn) => {
      await readExactly(conn, 1);
      for (const byte of HOSTILE) await conn.write(new Uint8Array([byte]));
      await readToEnd(conn);
    });
    const result = await runScript("tcp_client.ts", ["--port", `${server.port}`], {
      stdin: "x".repeat(100),
      via: PTY_OUT,
    });
    assertEquals(result.code, 1);
    assertHarmless(result.bytes);
  });

  await t.step("tcp_client.ts --count", async () => {
    await using server = rudeServer(async (conn) => await writeAll(conn, join([HOSTILE, HOSTILE])));
    const args = ["--port", `${server.port}`, "--count", "1", "--timeout", "0.2"];
    const { code, bytes } = await runScript("tcp_client.ts", args, { via: PTY_OUT });
    assertEquals(code, 1);
    assertHarmless(encode(decode(bytes).replaceAll("\r\x1b[K", ""))); // its own status line
  });
});

test("stdout never read while 50 clients talk: no echo, no end stalls", "", async (t) => {
  await t.step("tcp_server.ts: what was dropped is counted", async () => {
    await using server = spawn("tcp_server.ts", ["--port", "0"]);
    await talk(await server.port());
    const { code, stdout, stderr } = await server.stop(); // this reads what is left
    const dropped = [...stderr.matchAll(/: (\d+) lines dropped$/gm)]
      .reduce((sum, [, count]) => sum + Number(count), 0);
    assertGreater(dropped, 0);
    const lines = 50 * 60 + 50 + 50 + 1; // sentences, opened, closed, stopped
    assertEquals([code, stdout.split("\n").length - 1 + dropped], [0, lines]);
  });

  await t.step("not even at the end, and stderr neither", async () => {
    async function check(script: string, redirect: string): Promise<void> {
      const via = ["sh", "-c", `exec "$@" ${redirect}`, "sh"];
      await using server = spawn(script, ["--port", "0"], { via });
      const port = await server.port();
      await (script === "tcp_server.ts" ? talk(port) : talkUdp(port));
      server.kill("SIGTERM");
      await eventually(`${script} ends`, () => !alive(server.pid), { ms: 12_000 });
      assertEquals((await server.finish()).code, 0);
    }
    const checks = [check("tcp_server.ts", ""), ...SERVERS.map((script) => check(script, "2>&1"))];
    const failed = (await Promise.allSettled(checks)).filter(({ status }) => status === "rejected");
    assertEquals(failed, []);
  });
});

/** 3 MB of sentences over UDP, and one whose sender is warned of. */
async function talkUdp(port: number): Promise<void> {
  const sentence = encode("x".repeat(1_000));
  for (let i = 0; i < 3_000; i++) assertEquals(await exchangeUdp(port, sentence), sentence);
  await askUdp(port);
}

test("--trace, and nobody reads stderr: no echo, no end stalls", "", async (t) => {
  for (const script of SERVERS) {
    await t.step(script, async () => {
      await using server = spawn(script, ["--port", "0", "--quiet", "--trace"]);
      const port = await server.port();
      if (script === "tcp_server.ts") {
        await talk(port, { clients: 5, exchanges: 500, line: "hello\n" });
      } else for (let i = 0; i < 1_000; i++) await exchangeUdp(port, encode("hello"));
      server.kill("SIGTERM");
      await server.stdout.until("stopped: ");
      assertEquals((await server.finish()).code, 0);
    });
  }
});

test("stdout closed while 50 clients talk: a quick and quiet end", "", async () => {
  await using server = spawn("tcp_server.ts", ["--port", "0"]);
  const talking = talk(await server.port(), { exchanges: Infinity }).catch(() => {}); // cut off
  await server.stdout.until("] xxx");
  await server.stdout.close();
  const { signal, stderr } = await server.finish();
  assertEquals([signal, stderr], [null, ""]); // by itself, and not killed as too old
  await talking;
});

test("stdout full while 50 clients talk: said once, all is echoed", NEEDS.tmpfs, async () => {
  const script = 'mount -t tmpfs -o size=64k none /mnt && exec "$@" > /mnt/out';
  const via = ["unshare", "-m", "sh", "-c", script, "sh"];
  const port = freePort();
  await using server = spawn("tcp_server.ts", ["--port", `${port}`], { via });
  const out = `/proc/${server.pid}/root/mnt/out`;
  await eventually("it listens", () => readText(out).includes("listening"));
  await talk(port);
  const { code, stderr } = await server.stop();
  assertMatch(stderr, /^tcp_server: cannot write to stdout: no space left on device\n$/i);
  assertEquals(code, 0);
});

function readText(path: string): string {
  try {
    return Deno.readTextFileSync(path);
  } catch {
    return ""; // not there yet
  }
}

test("stdout full from the start: a client fails, a server goes on", NEEDS.linux, async (t) => {
  const full = ["sh", "-c", 'exec "$@" > /dev/full', "sh"];
  const noSpace = /^\w+: cannot write to stdout: no space left on device\n$/i;
  for (const script of SCRIPTS) {
    await t.step(script, async () => {
      const port = freePort();
      await using _ = plainPeer(script, port);
      const isClient = script.endsWith("client.ts");
      const args = ["--port", `${port}`, ...(isClient ? ["hello"] : [])];
      await using program = spawn(script, args, { via: full });
      const said = isClient ? "" : await program.stderr.until("\n");
      if (script === "tcp_server.ts") await askTcp(port);
      if (script === "udp_server.ts") await exchangeUdp(port, encode("hello"));
      if (!isClient) program.kill("SIGTERM");
      const { code, stderr } = await program.finish();
      assertMatch(said + stderr, noSpace);
      assertEquals(code, isClient ? 1 : 0);
    });
  }
});

// ---- While anybody takes what is printed, no line is lost ----

/** The lines of one client, 55 bytes each with their ends. */
function linesOf(name: string, count: number): string {
  return Array.from({ length: count }, (_, i) => `${name} ${i + 1} `.padEnd(54, ".") + "\n").join(
    "",
  );
}

/** Sends the lines of each name through a connection of its own; all are echoed. */
async function pour(port: number, names: string[], count: number): Promise<void> {
  await Promise.all(names.map(async (name) => {
    const bytes = encode(linesOf(name, count));
    using conn = await Deno.connect({ port });
    const sending = writeAll(conn, bytes).then(() => conn.closeWrite());
    const [echo] = await Promise.all([readToEnd(conn), sending]);
    assertEquals(echo.length, bytes.length);
  }));
}

/** Asserts that a server printed each of these lines once, in the order of their connection. */
function assertPoured(stdout: string, names: string[], count: number): void {
  const texts = new Map(names.map((name): [string, string[]] => [name, []]));
  for (const line of stdout.split("\n")) {
    const text = line.slice(line.indexOf("] ") + 2);
    if (line.startsWith("[")) texts.get(text.slice(0, text.indexOf(" ")))?.push(`${text}\n`);
  }
  for (const [name, lines] of texts) {
    const printed = lines.join("");
    assert(printed === linesOf(name, count), `${printed.length / 55} lines of ${name} are printed`);
  }
}

test("200,000 lines as fast as they come: every one is printed, in order", "", async (t) => {
  await t.step("into a file, from one client", async () => {
    const directory = await Deno.makeTempDir();
    try {
      const via = ["sh", "-c", `exec "$@" > ${directory}/out`, "sh"];
      const port = freePort();
      await using server = spawn("tcp_server.ts", ["--port", `${port}`], { via });
      await eventually("it listens", () => readText(`${directory}/out`).includes("listening"));
      await pour(port, ["one"], 200_000);
      const { code, stderr } = await server.stop();
      assertEquals([code, stderr], [0, ""]);
      assertPoured(readText(`${directory}/out`), ["one"], 200_000);
    } finally {
      await Deno.remove(directory, { recursive: true });
    }
  });

  await t.step("into a pipe, from four", async () => {
    await using server = spawn("tcp_server.ts", ["--port", "0"]);
    const port = await server.port();
    const ended = server.finish(); // it reads
    const names = ["one", "two", "three", "four"];
    await pour(port, names, 50_000);
    server.kill("SIGTERM");
    const { code, stdout, stderr } = await ended;
    assertEquals([code, stderr], [0, ""]);
    assertPoured(stdout, names, 50_000);
  });
});

test("200 clients whose lines wait: no more of them than may", "", async () => {
  await using server = spawn("tcp_server.ts", ["--port", "0"]);
  const port = await server.port();
  let [echoes, ends] = [0, false];
  const manyEchoes = Promise.withResolvers<void>();
  async function client(): Promise<void> {
    using conn = await Deno.connect({ port });
    const line = `${"x".repeat(999)}\n`;
    while (!ends) {
      assertEquals(await exchange(conn, line), line);
      if (++echoes === 1_000) manyEchoes.resolve();
    }
  }
  const clients = Promise.all(Array.from({ length: 200 }, client));
  await Promise.race([manyEchoes.promise, clients]); // 1 MiB waits, which is all that may
  await server.stdout.exactly(131_072); // so that there is room again, and most of it is in writing
  await server.stderr.until("stdout is not read: "); // now no client waits
  ends = true;
  await clients;
  const { bytes } = await server.stop();
  // In the pipe and in pieces that we took, in the server, then a line that waits and a last one each.
  const most = 3 * 65_536 + 1_048_576 + 2 * 200 * 1_100;
  assertLess(bytes.length, most);
});

/**
 * Runs the command behind it, and reads its stdout at 12 kB/s, piece by piece as a shell's `read`
 * does: what comes first at once, then 64 KiB slowly, which takes longer than nobody is waited for,
 * then the rest. A SIGTERM is passed on.
 */
const SLOW = `
import os, signal, subprocess, sys, time
child = subprocess.Popen(sys.argv[1:], stdout=subprocess.PIPE)
signal.signal(signal.SIGTERM, lambda *_: child.terminate())
out = child.stdout.fileno()
os.write(1, os.read(out, 512))
for _ in range(128):
    time.sleep(0.04)
    os.write(1, os.read(out, 512))
while data := os.read(out, 65536):
    while data: data = data[os.write(1, data):]
sys.exit(child.wait())
`;

/** The same for a stdout that does not block, as whoever shares it may set: it is read steadily. */
const NONBLOCKING = `
import os, signal, subprocess, sys, time
out, to = os.pipe()
os.set_blocking(to, False)
child = subprocess.Popen(sys.argv[1:], stdout=to)
signal.signal(signal.SIGTERM, lambda *_: child.terminate())
os.close(to)
while data := os.read(out, 3000):
    time.sleep(0.0005)
    while data: data = data[os.write(1, data):]
sys.exit(child.wait())
`;

test("a slow reader is waited for, at the end, too", NEEDS.python, async () => {
  const via = ["python3", "-c", SLOW];
  async function ofServer(): Promise<void> {
    await using server = spawn("tcp_server.ts", ["--port", "0"], { via });
    const port = await server.port();
    await pour(port, ["one"], 2_000); // 150 kB are printed, of which a pipe holds 64
    const { code, stdout, stderr } = await server.stop();
    // On a busy machine the connection may end later than half a second behind the signal.
    assertEquals([code, stderr.replace(/^tcp_server: waiting for .*\n/, "")], [0, ""]);
    assertPoured(stdout, ["one"], 2_000);
    assertMatch(stdout, /\nstopped: 1 connection, 2000 messages, [^\n]*\n$/);
  }
  async function ofProbe(): Promise<void> {
    await using server = serve({ port: 0, quiet: true });
    const args = ["--port", `${server.addr.port}`, "-c", "2500", "-i", "0"];
    const { code, stdout, stderr } = await runScript("tcp_client.ts", args, { via });
    assertEquals([code, stderr], [0, ""]);
    const numbers = [...stdout.matchAll(/ seq=(\d+) /g)].map(([, number]) => Number(number));
    assertEquals(numbers, Array.from({ length: 2_500 }, (_, i) => i + 1));
    assertMatch(stdout, /^2500 sent, 2500 echoed$/m);
  }
  await Promise.all([ofServer(), ofProbe()]); // each is mostly a wait
});

test("nobody reads: what is lost at the end is counted to the line", "", async () => {
  await using server = serve({ port: 0, quiet: true });
  const args = ["--port", `${server.addr.port}`, "-c", "2500", "-i", "0", "--json"];
  await using client = spawn("tcp_client.ts", args);
  const [, lost] = /^tcp_client: stdout is not read: (\d+) lines lost\n$/
    .exec(decode(await client.stderr.rest())) ?? [];
  assertEquals((await client.status).code, 0);
  const printed = decode(await client.stdout.rest()).split("\n").length - 1; // what the pipe holds
  assertGreater(printed, 0);
  assertEquals(printed + Number(lost), 2_500 + 1); // and the summary
});

test("nobody reads for a while: a client's summary is its last line", "", async () => {
  await using server = serve({ port: 0 });
  await using client = spawn("tcp_client.ts", ["--port", `${server.addr.port}`, "--json"]);
  await client.write(encode("one\n".repeat(30_000))); // 2.5 MB of lines, of which 1 MiB may wait
  await client.end();
  const warnings = await client.stderr.until("dropped\n");
  const { code, stdout, stderr } = await client.finish(); // which reads
  const events = eventsOf(stdout);
  const dropped = [...(warnings + stderr).matchAll(/: (\d+) lines? dropped$/gm)]
    .reduce((sum, [, count]) => sum + Number(count), 0);
  assertGreater(dropped, 0);
  const printed = events.filter(({ event }) => event === "echo").length;
  assertEquals([code, printed + dropped, events.at(-1)!.event], [0, 30_000, "summary"]);
});

test("a stdout that does not block: each byte is written once", NEEDS.python, async (t) => {
  const via = ["python3", "-c", NONBLOCKING];
  await t.step("what a client echoes", async () => {
    await using server = serve({ port: 0, quiet: true, stopWords: [] });
    const stdin = crypto.getRandomValues(new Uint8Array(65_536));
    const all = join(Array(8).fill(stdin));
    const args = ["--port", `${server.addr.port}`];
    const options = { via, stdin: all };
    const { code, bytes, stderr } = await runScript("tcp_client.ts", args, options);
    assertEquals([code, stderr], [0, ""]);
    assertSameBytes(bytes, all);
  });

  await t.step("what a server prints", async () => {
    await using server = spawn("tcp_server.ts", ["--port", "0"], { via });
    const port = await server.port();
    const ended = server.finish();
    await pour(port, ["one", "two"], 5_000);
    server.kill("SIGTERM");
    const { code, stdout, stderr } = await ended;
    assertEquals(code, 0);
    // A large piece that did not fit counts as lost, as nobody knows how much of it was taken.
    const lost = [...stderr.matchAll(/ (\d+) lines? dropped\n/g)]
      .reduce((sum, [, count]) => sum + Number(count), 0);
    if (lost === 0) return assertPoured(stdout, ["one", "two"], 5_000);
    const printed = stdout.match(/^\[.*\] \w+ \d+ .*$/gm)!;
    assertEquals(new Set(printed).size, printed.length, "none is written twice");
    assertGreaterOrEqual(printed.length + lost, 10_000);
  });
});

test("--json, and nobody reads for a while: word of a loss is not lost", "", async () => {
  await using server = spawn("tcp_server.ts", ["--port", "0", "--json"]);
  const { port } = JSON.parse(await server.nextLine());
  const count = 15_000; // 2.6 MB of lines, of which 1 MiB may wait
  await pour(port, ["one"], count);
  const { code, stdout, stderr } = await server.stop(); // which reads
  const events = eventsOf(stdout);
  const warnings = events.filter(({ event }) => event === "warning").map(({ text }) => text);
  assertEquals(stderr, warnings.map((text) => `tcp_server: ${text}\n`).join(""));
  const dropped = warnings
    .map((text) => Number(/^stdout is not read: (\d+) lines? dropped$/.exec(text)?.[1]))
    .reduce((a, b) => a + b);
  assertGreater(dropped, 0);
  const printed = events.length - warnings.length;
  assertEquals([code, printed + dropped], [0, count + 3]); // opened, closed, shut down
});
