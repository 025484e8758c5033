/**
 * Measures the servers beside the loop everybody would write, and beside their peers: messages a
 * second, latency, CPU time, memory, start-up. What it prints is Markdown.
 *
 * ```sh
 * deno task bench           # under four minutes
 * deno task bench --quick   # a first look, in half a minute
 * deno task bench > bench.md
 * ```
 *
 * Every server is a process of its own, and all of a load's servers stay up while the rounds go from
 * one to the next, so that whatever else the machine does falls on all of them. A ratio compares two
 * servers in the same round. Figures are medians of the rounds, with the smallest and the largest.
 * All traffic is on loopback. CPU time and memory are read from /proc, so they are for Linux only.
 *
 * @module
 */

import { spawn } from "node:child_process"; // unlike Deno.Command, it can give a child a file
import { closeSync, openSync } from "node:fs";
import { cpus } from "node:os";
import { freePort, hasTool } from "./_helpers.ts";
import { type Clients, newLoad } from "./_load.ts";

const LINUX = Deno.build.os === "linux";
const OPTIONS = ["--quick", "--plain"];
const stray = Deno.args.find((arg) => !OPTIONS.includes(arg));
if (stray) {
  console.error(`bench: unexpected "${stray}"; there are --quick, and --plain: load by Deno itself`);
  Deno.exit(2);
}
const QUICK = Deno.args.includes("--quick");
const ROUNDS = QUICK ? 3 : 7;
const ROUND_MS = QUICK ? 150 : 400; // of one server's load in a round
const WARM_UP_MS = QUICK ? 300 : 800; // before the first round: the servers' code is compiled
const RAMP_MS = 30; // at the start of each round, not measured
const CONNECTS = QUICK ? 500 : 2_000; // in a round
const START_UPS = QUICK ? 5 : 15;
const IDLE = QUICK ? 2_000 : 10_000; // connections
const BATCH = 100; // are opened at once: fewer than a listener's backlog
const STREAM_BYTES = QUICK ? 2 ** 27 : 2 ** 30; // without a newline
const READY_MS = 10_000; // for a server to start
const SPARE_FILES = 200; // that a process may open beside its connections

const load = newLoad(Deno.args.includes("--plain"));
const temp = Deno.makeTempDirSync({ prefix: "echo-bench-" });
const encoder = new TextEncoder();

// ---- The contenders ----

type Transport = "tcp" | "udp";

/** A server to measure. */
type Contender = {
  name: string;
  command: (port: number) => string[];
  tool?: string; // what must be installed
  toFile?: boolean; // its stdout; otherwise it is discarded
  floor?: number; // the least ratio to the bare loop, of design part 9
};

/** The loop everybody would write; with TCP_NODELAY, as ours. Arguments: port, buffer size. */
const BARE_TCP = `
const [port, size] = Deno.args.map(Number);
for await (const conn of Deno.listen({ hostname: "127.0.0.1", port })) echo(conn);

async function echo(conn) {
  conn.setNoDelay();
  const buffer = new Uint8Array(size);
  for (let n; (n = await conn.read(buffer)) !== null;) await conn.write(buffer.subarray(0, n));
  conn.close();
}`;

const BARE_UDP = `
const [port] = Deno.args.map(Number);
const socket = Deno.listenDatagram({ transport: "udp", hostname: "127.0.0.1", port });
const buffer = new Uint8Array(65_535);
while (true) {
  const [datagram, peer] = await socket.receive(buffer);
  await socket.send(datagram, peer);
}`;

/** The example of Deno's documentation. */
const PIPE_TCP = `
const [port] = Deno.args.map(Number);
for await (const conn of Deno.listen({ hostname: "127.0.0.1", port })) {
  conn.setNoDelay();
  conn.readable.pipeTo(conn.writable);
}`;

const NODE_TCP = `
require("node:net")
  .createServer({ noDelay: true }, (socket) => socket.on("data", (data) => socket.write(data)))
  .listen(Number(process.argv[2]), "127.0.0.1");`;

const NODE_UDP = `
const socket = require("node:dgram").createSocket("udp4");
socket.on("message", (datagram, peer) => socket.send(datagram, peer.port, peer.address));
socket.bind(Number(process.argv[2]), "127.0.0.1");`;

function ours(name: string, ...flags: string[]): Contender {
  const script = new URL(`../${name}_server.ts`, import.meta.url).href;
  const allowed = (port: number): string => name === "udp" ? "127.0.0.1" : `127.0.0.1:${port}`;
  return {
    name: [`${name}_server.ts`, ...flags].join(" "),
    command: (port) => deno(script, allowed(port), "--port", `${port}`, ...flags),
  };
}

function deno(script: string, allowNet: string, ...args: string[]): string[] {
  return [Deno.execPath(), "run", "--unstable-net", `--allow-net=${allowNet}`, script, ...args];
}

function inDeno(name: string, source: string, ...args: string[]): Contender {
  const script = written(source, "js");
  return { name, command: (port) => deno(script, "127.0.0.1", `${port}`, ...args) };
}

function inNode(name: string, source: string): Contender {
  const script = written(source, "cjs");
  return { name, command: (port) => ["node", script, `${port}`], tool: "node" };
}

/** A new file in the temporary directory. */
function written(source: string, extension: string): string {
  const path = Deno.makeTempFileSync({ dir: temp, suffix: `.${extension}` });
  Deno.writeTextFileSync(path, source);
  return path;
}

/** What this machine, this load and no JavaScript between can do. */
function epoll(transport: Transport): Contender {
  const script = new URL("_load.ts", import.meta.url).href;
  const command = [Deno.execPath(), "run", "--allow-ffi", script, transport];
  return { name: "epoll loop, by the load", command: (port) => [...command, `${port}`] };
}

const BARE = inDeno("bare Deno loop", BARE_TCP, "65536");
const BARE_16 = inDeno("bare Deno loop, 16 KiB buffer", BARE_TCP, "16384");
const PIPE = inDeno("Deno `readable.pipeTo(writable)`", PIPE_TCP);
const NODE = inNode("Node `net`", NODE_TCP);
const SOCAT: Contender = {
  name: "socat, a process a client",
  command: (port) => ["socat", `TCP-LISTEN:${port},bind=127.0.0.1,fork,nodelay`, "PIPE"],
  tool: "socat",
};
const NCAT: Contender = {
  name: "ncat, `cat` a client",
  command: (port) => ["ncat", "-lkm", "1000", "-e", "/bin/cat", "127.0.0.1", `${port}`],
  tool: "ncat",
};
const QUIET = ours("tcp", "--quiet");
const PRINTING = { ...ours("tcp"), toFile: true };
const BARE_UDP_LOOP = inDeno("bare Deno loop", BARE_UDP);

/** What clients do, and the servers they do it to. The first is what the others are compared to. */
type Scenario = {
  title: string;
  transport: Transport;
  clients: number;
  bytes: number;
  contenders: Contender[];
};

const SCENARIOS: Scenario[] = [
  {
    title: "TCP, 50 clients, 64 B",
    transport: "tcp",
    clients: 50,
    bytes: 64,
    contenders: [
      BARE,
      { ...QUIET, floor: 0.95 },
      { ...PRINTING, floor: 0.75 },
      { ...ours("tcp", "--json"), toFile: true },
      PIPE,
      NODE,
      SOCAT,
      NCAT,
      epoll("tcp"),
    ],
  },
  {
    title: "TCP, 4 clients, 64 KiB",
    transport: "tcp",
    clients: 4,
    bytes: 65_536,
    contenders: [
      BARE,
      BARE_16,
      QUIET,
      { ...ours("tcp", "--quiet", "--no-stop"), floor: 0.9 },
      PIPE,
      NODE,
      SOCAT,
      NCAT,
      epoll("tcp"),
    ],
  },
  {
    title: "UDP, 50 clients, 64 B",
    transport: "udp",
    clients: 50,
    bytes: 64,
    contenders: [
      BARE_UDP_LOOP,
      { ...ours("udp", "--quiet"), floor: 0.95 },
      { ...ours("udp"), toFile: true, floor: 0.7 },
      { ...ours("udp", "--json"), toFile: true },
      inNode("Node `dgram`", NODE_UDP),
      {
        name: "socat, a process a client",
        command: (port) => ["socat", `UDP-LISTEN:${port},bind=127.0.0.1,fork`, "PIPE"],
        tool: "socat",
      },
      epoll("udp"),
    ],
  },
  {
    title: "TCP, 1 client, 64 B: the round trip",
    transport: "tcp",
    clients: 1,
    bytes: 64,
    contenders: [BARE, QUIET, PIPE, NODE, SOCAT, NCAT, epoll("tcp")],
  },
  {
    title: "UDP, 1 client, 64 B: the round trip",
    transport: "udp",
    clients: 1,
    bytes: 64,
    contenders: [BARE_UDP_LOOP, ours("udp", "--quiet"), inNode("Node `dgram`", NODE_UDP)],
  },
];
