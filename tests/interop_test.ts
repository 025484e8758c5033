/**
 * Our clients against the echo servers of others, and our servers against their clients. What is run
 * is what the tables under "Works with" in docs/measured.md say: names, commands, sizes.
 *
 * @module
 */

import { assertEquals, assertMatch } from "@std/assert";
import { codeIn, rowsOf, sectionOf } from "./_docs.ts";
import {
  assertSameBytes,
  encode,
  freePort,
  hasTool,
  LIMIT,
  Program,
  type Result,
  runScript,
  seededRandom,
  spawn,
} from "./_helpers.ts";

const MIB = 1_048_576;
const DATA = seededRandom().bytes(MIB);
const PIECE_BYTES = 65_536;
const MAX_DATAGRAM_BYTES = 65_507;
const ALL_ECHOED = /^(\d) sent, \1 echoed(, 0 lost \(0 %\)(, \d reordered)?)?$/m; // inetd forks
const MERGE = ["ncat", "socat"]; // they pass datagrams on as a stream, and may join two of them
const TIMEOUT = ["--timeout", "0.3"]; // s, for an answer that does not come

/** Why a peer cannot be tried here, or nothing. */
const NEEDS: Record<string, string | false> = {
  ncat: !hasTool("ncat", "--version") && "needs ncat",
  socat: !hasTool("socat", "-V") && "needs socat",
  inetd: !(hasTool("inetutils-inetd", "--version") && hasTool("unshare", "-n", "ip", "link")) &&
    "needs inetutils-inetd, ip, and root for a namespace of its own",
  nc: !hasTool("nc.openbsd", "-h") && "needs nc.openbsd",
  Python: !hasTool("python3", "--version") && "needs python3",
};
const GROUPS = !hasTool("setsid", "--version") && "needs setsid";

/** A test of a script and the peer in the first cell of a row. */
function testWith(script: string, cell: string, body: () => Promise<void>): void {
  const missing = NEEDS[nameIn(cell)] || GROUPS;
  const reason = missing ? ` (ignored: ${missing})` : "";
  const name = `${script} with ${cell.replaceAll("`", "")}${reason}`;
  Deno.test({ name, ignore: Boolean(missing), ...LIMIT, fn: body });
}

/** The first name in a cell, such as `nc` in "`nc`, of OpenBSD". */
function nameIn(cell: string): string {
  return /[\w]+/.exec(cell)![0];
}

/** The first number in a cell, such as 8192 in "8,192 bytes". */
function numberIn(cell: string): number {
  return Number(/[\d,]+/.exec(cell)![0].replaceAll(",", ""));
}

const [SERVERS, CLIENTS] = ["Their servers", "Their clients"].map((title) =>
  rowsOf(sectionOf("docs/measured.md", title))
) as [string[][], string[][]];

// ---- Their servers ----

/** A server of others, ready. */
type Peer = { port: number; via: string[] } & AsyncDisposable;

/** Starts a command in a process group of its own, which is killed as a whole: peers fork. */
async function startPeer(command: string[], ready: string, port: number): Promise<Peer> {
  const piped = { stdin: "piped", stdout: "piped", stderr: "piped" } as const;
  const child = new Deno.Command("setsid", { args: command, ...piped }).spawn();
  const program = new Program(command.join(" "), child);
  async function stop(): Promise<void> {
    Deno.kill(-child.pid, "SIGKILL");
    await program[Symbol.asyncDispose]();
  }
  await program.stderr.until(ready).catch(async (error) => {
    await program[Symbol.asyncDispose]();
    throw error;
  });
  const via = command[0] === "unshare" ? ["nsenter", "-t", `${child.pid}`, "-n"] : [];
  return { port, via, [Symbol.asyncDispose]: stop };
}

const PYTHON_SERVER = `
import socketserver, sys
class Stream(socketserver.BaseRequestHandler):
    def handle(self):
        while data := self.request.recv(65536):
            self.request.sendall(data)
class Datagram(socketserver.BaseRequestHandler):
    def handle(self):
        data, socket = self.request
        socket.sendto(data, self.client_address)
name, port, size = sys.argv[1:]
kind = getattr(socketserver, name)
if size: kind.max_packet_size = int(size)
with kind(("127.0.0.1", int(port)), Datagram if name == "UDPServer" else Stream) as server:
    print("ready", file=sys.stderr, flush=True)
    server.serve_forever()
`;

/** Starts what a cell says. */
async function start(peer: string, cell: string): Promise<Peer> {
  const port = freePort();
  const [code = "", size = ""] = codeIn(cell);
  if (peer === "inetd") {
    const config = await Deno.makeTempFile();
    await Deno.writeTextFile(config, `${code}\n`);
    // Its echo service has port 7, and it must be told to go on past 40 clients a minute.
    const script = `ip link set lo up && exec inetutils-inetd -d -R 1000 --pidfile ${config}`;
    const started = await startPeer(["unshare", "-n", "bash", "-c", script], "registered", 7);
    await Deno.remove(config);
    return started;
  }
  if (peer === "Python") {
    const bytes = /\d+/.exec(size)?.[0] ?? "";
    return await startPeer(["python3", "-c", PYTHON_SERVER, code, `${port}`, bytes], "ready", port);
  }
  const [name, ...args] = code.replace("12000", `${port}`).split(" ");
  const verbose = peer === "ncat" ? ["-v"] : ["-d", "-d"]; // so that it says when it is ready
  return await startPeer([name!, ...verbose, ...args], "istening on", port);
}

for (
  const [cell, tcp, udp, largest, empty] of SERVERS as [string, string, string, string, string][]
) {
  const peer = nameIn(cell);

  if (tcp) {
    testWith("tcp_client.ts", cell, async () => {
      await using server = await start(peer, tcp);
      const { via } = server;
      const port = ["--port", `${server.port}`];
      if (peer === "ncat") {
        // `ncat -e` stands still where both it and its `cat` wait to write, and may drop what is
        // under way when its client half-closes: there is never more than a pipe holds.
        await using client = spawn("tcp_client.ts", port, { via });
        for (let at = 0; at < DATA.length; at += PIECE_BYTES) {
          const piece = DATA.subarray(at, at + PIECE_BYTES);
          await client.write(piece);
          assertSameBytes(await client.stdout.exactly(piece.length), piece);
        }
        await client.end();
        const { code, stderr } = await client.finish();
        assertEquals([code, stderr], [0, ""]);
      } else {
        const stdin = DATA;
        const { code, stderr, bytes } = await runScript("tcp_client.ts", port, { via, stdin });
        assertEquals([code, stderr], [0, ""]);
        assertSameBytes(bytes, stdin);
      }

      const { stdout } = await runScript("tcp_client.ts", [
        ...port,
        "--count",
        "3",
        "--interval",
        "0",
      ], { via });
      assertMatch(stdout, ALL_ECHOED);
    });
  }

  testWith("udp_client.ts", cell, async () => {
    await using server = await start(peer, udp);
    const { port, via } = server;
    const most = numberIn(largest);
    const ask = (stdin: string, ...args: string[]): Promise<Result> =>
      runScript("udp_client.ts", ["--port", `${port}`, ...TIMEOUT, ...args], { via, stdin });

    const sentences = [1, 1_472, most].map((length) => `${"x".repeat(length)}\n`).join("");
    const { code, stdout, stderr } = await ask(sentences);
    assertEquals([code, stderr], [0, ""]);
    assertEquals(stdout, sentences);

    const count = MERGE.includes(peer) ? "1" : "3";
    const probe = await ask("", "--count", count, "--interval", "0");
    assertMatch(probe.stdout, ALL_ECHOED);

    if (most < MAX_DATAGRAM_BYTES) {
      const cut = await ask("x".repeat(most + 1), "--retries", "0");
      assertEquals([cut.code, cut.stdout], [1, ""]);
      assertMatch(cut.stderr, /: no echo from .*: 1 answer had other bytes\n$/);
    }
    const nothing = await ask("\n", "--retries", "0");
    if (empty === "echoed") assertEquals([nothing.code, nothing.stdout], [0, "\n"]);
    else {
      assertEquals([empty, nothing.code], ["no answer", 1]);
      assertMatch(nothing.stderr, /: no answer from /);
    }
  });
}

// ---- Their clients ----

const PYTHON_STREAM = `
import socket, sys, threading
conn = socket.create_connection(("127.0.0.1", int(sys.argv[1])))
def send():
    conn.sendall(sys.stdin.buffer.read())
    conn.shutdown(socket.SHUT_WR)
threading.Thread(target=send).start()
while data := conn.recv(65536):
    sys.stdout.buffer.write(data)
`;
const PYTHON_DATAGRAM = `
import os, socket, sys
sock = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
sock.sendto(os.read(0, 65536), ("127.0.0.1", int(sys.argv[1])))
os.write(1, sock.recvfrom(65536)[0])
`;

function startClient(peer: string, cell: string, port: string): Program {
  const python = cell.includes("sendto") ? PYTHON_DATAGRAM : PYTHON_STREAM;
  const [name, ...args] = peer === "Python"
    ? ["python3", "-c", python, port]
    : codeIn(cell)[0]!.replace(/^nc /, "nc.openbsd ").replace("12000", port).split(" ");
  const piped = { stdin: "piped", stdout: "piped", stderr: "piped" } as const;
  return new Program(peer, new Deno.Command(name!, { args, ...piped }).spawn());
}

for (const [cell, tcp, udp, largest] of CLIENTS as [string, string, string, string][]) {
  const peer = nameIn(cell);

  if (tcp) {
    testWith("tcp_server.ts", cell, async () => {
      await using server = spawn("tcp_server.ts", [
        "--port",
        "0",
        "--no-stop",
        "--quiet",
        "--json",
      ]);
      const { port } = JSON.parse(await server.nextLine());
      await using client = startClient(peer, tcp, `${port}`);
      const written = client.write(DATA).then(() => client.end());
      const { code, bytes } = await client.finish();
      await written;
      assertEquals(code, 0);
      assertSameBytes(bytes, DATA);
      const [totals] = (await server.stop()).stdout.split("\n");
      assertEquals(JSON.parse(totals!).bytes, MIB);
    });
  }

  testWith("udp_server.ts", cell, async () => {
    await using server = spawn("udp_server.ts", ["--port", "0", "--no-stop", "--json"]);
    const { port } = JSON.parse(await server.nextLine());
    await using client = startClient(peer, udp, `${port}`);
    const most = numberIn(largest);
    const sizes = most < MAX_DATAGRAM_BYTES ? [most, 1] : [most];
    const data = encode("x".repeat(most + sizes.length - 1));
    await client.write(data);
    for (const size of sizes) assertEquals(JSON.parse(await server.nextLine()).bytes, size);
    assertEquals((await client.stdout.until(new TextDecoder().decode(data))).length, data.length);
  });
}
