/**
 * Measures the servers beside the loop everybody would write, and beside their peers: messages a
 * second, latency, CPU time, memory, start-up. What it prints is Markdown.
 *
 * ```sh
 * deno task bench           # four minutes
 * deno task bench --quick   # a first look, in one
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
  console.error(
    `bench: unexpected "${stray}"; there are --quick, and --plain: load by Deno itself`,
  );
  Deno.exit(2);
}
const QUICK = Deno.args.includes("--quick");
const ROUNDS = QUICK ? 7 : 21;
const ROUND_MS = QUICK ? 70 : 100; // of one server's load in a round
const WARM_UP_MS = QUICK ? 300 : 600; // before the first round: the servers' code is compiled
const RAMP_MS = 30; // at the start of each round, not measured
const AT_ONCE = 5; // connects: some backlogs are that short
const START_UPS = QUICK ? 7 : 25;
const IDLE = QUICK ? 2_000 : 10_000; // connections
const BATCH = 100; // are opened at once: fewer than a listener's backlog
const STREAM_BYTES = QUICK ? 2 ** 27 : 2 ** 30; // without a newline
const READY_MS = 10_000; // for a server to start
const STUCK_MS = 500; // without a byte taken: buffers are full
const SPARE_FILES = 200; // that a process may open beside its connections
const MAX_IDLE_MIB = 150;
const MAX_GROWTH_MIB = 16;
const MAX_START_UP = 1.25; // of an empty script

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

function isInstalled({ tool }: Contender): boolean {
  return !tool || hasTool(tool, tool === "socat" ? "-V" : "--version");
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
  command: (
    port,
  ) => ["socat", `TCP-LISTEN:${port},bind=127.0.0.1,fork,nodelay,backlog=511`, "PIPE"],
  tool: "socat",
};
const NCAT: Contender = {
  name: "ncat, `cat` a client",
  command: (port) => ["ncat", "-lkm", "1000", "-e", "/bin/cat", "127.0.0.1", `${port}`],
  tool: "ncat",
};
const QUIET = ours("tcp", "--quiet");
const CROWDED = ours("tcp", "--quiet", "--max-connections", `${2 * IDLE}`);
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

// ---- Servers ----

const running = new Set<Server>();

/** A contender that runs, with what it spawns, in a process group of its own. */
class Server {
  readonly pid: number;
  readonly port: number;
  readonly #ended: Promise<void>;

  /** Starts it, and waits until it echoes. */
  static async start(contender: Contender, transport: Transport, port?: number): Promise<Server> {
    const server = new Server(contender, port ?? freePort());
    const end = performance.now() + READY_MS;
    while (!await server.#answers(transport)) {
      if (performance.now() > end) throw new Error(`${contender.name} does not answer`);
      await sleep(20);
    }
    return server;
  }

  private constructor({ command, toFile }: Contender, port: number) {
    this.port = port;
    const output = toFile ? openSync(`${temp}/${port}.out`, "w") : "ignore";
    const [program, ...args] = command(port);
    const env = { ...Deno.env.toObject(), DENO_NO_UPDATE_CHECK: "1" };
    const stdio = ["ignore", output, "ignore"] as const;
    const child = spawn(program!, args, { detached: true, env, stdio: [...stdio] });
    if (typeof output === "number") closeSync(output);
    this.pid = child.pid!;
    this.#ended = new Promise((resolve) => child.on("exit", () => resolve()));
    running.add(this);
  }

  async #answers(transport: Transport): Promise<boolean> {
    try {
      const clients = await load.open(transport, this.port, 1);
      try {
        return await clients.echoOnce(sentence(64)) === 1;
      } finally {
        clients.close();
      }
    } catch {
      return false; // not yet
    }
  }

  /** The CPU time its processes have taken, in µs. */
  cpu(): number {
    return LINUX ? sum(this.#pids().map(cpuOf)) : NaN;
  }

  /** The memory that its processes hold, in bytes. */
  memory(): number {
    return LINUX ? sum(this.#pids().map((pid) => memoryOf(pid))) : NaN;
  }

  /** The most memory that its first process held since {@linkcode Server.resetPeak}. */
  peak(): number {
    return memoryOf(this.pid, "VmHWM");
  }

  resetPeak(): void {
    Deno.writeTextFileSync(`/proc/${this.pid}/clear_refs`, "5"); // proc(5)
  }

  #pids(): number[] {
    const pids = [...Deno.readDirSync("/proc")].map(({ name }) => Number(name)).filter(Boolean);
    return pids.filter((pid) => statOf(pid)[2] === `${this.pid}`);
  }

  /** Ends it and what it spawned. */
  async stop(): Promise<void> {
    this.kill();
    await this.#ended;
    running.delete(this);
  }

  kill(): void {
    try {
      Deno.kill(Deno.build.os === "windows" ? this.pid : -this.pid, "SIGKILL");
    } catch {
      // It has ended.
    }
  }
}

/** The fields of /proc/PID/stat behind the name, which may have blanks: state, ppid, pgrp… */
function statOf(pid: number): string[] {
  const stat = readProc(`${pid}/stat`);
  return stat.slice(stat.lastIndexOf(")") + 2).split(" ");
}

/** The CPU time of a process, in µs: exact, where /proc/PID/stat counts in hundredths of a second. */
function cpuOf(pid: number): number {
  try {
    const threads = [...Deno.readDirSync(`/proc/${pid}/task`)].map(({ name }) => name);
    return sum(threads.map((id) => parseInt(readProc(`${pid}/task/${id}/schedstat`)) / 1000));
  } catch {
    return LINUX ? 0 : NaN; // it has ended
  }
}

/** What a process holds now (VmRSS), or held at most (VmHWM), in bytes. */
function memoryOf(pid: number, field: "VmRSS" | "VmHWM" = "VmRSS"): number {
  const [, kib] = new RegExp(`${field}:\\s+(\\d+)`).exec(readProc(`${pid}/status`)) ?? [];
  return 1024 * Number(kib ?? 0);
}

function readProc(path: string): string {
  try {
    return Deno.readTextFileSync(`/proc/${path}`);
  } catch {
    return "0"; // it has ended
  }
}

// ---- Measuring ----

/** One server in one round. */
type Run = {
  rate: number; // messages a second
  p50: number; // µs
  p99: number;
  cpu: number; // of the server, µs a message
  busy: number; // the server, in % of a core
  loadBusy: number;
  lost: number;
};

/** A server of a scenario, and what was measured. */
type Row = { contender: Contender; runs: Run[]; memory: number; failure?: string };

async function measure(server: Server, clients: Clients, message: Message): Promise<Run> {
  await clients.pingPong(message, RAMP_MS);
  const before = [server.cpu(), cpuOf(Deno.pid)] as const;
  const { messages, seconds, lost, latencies } = await clients.pingPong(message, ROUND_MS);
  const [cpu, own] = [server.cpu() - before[0], cpuOf(Deno.pid) - before[1]];
  return {
    rate: messages / seconds,
    p50: quantile(latencies, 0.5),
    p99: quantile(latencies, 0.99),
    cpu: cpu / messages,
    busy: cpu / seconds / 1e4,
    loadBusy: own / seconds / 1e4,
    lost,
  };
}

async function runScenario(scenario: Scenario): Promise<Row[]> {
  const { title, transport, clients: count, bytes } = scenario;
  const message = sentence(bytes);
  const servers = new Map<Row, Server>();
  const rows = scenario.contenders.filter(isInstalled).map((contender): Row => {
    return { contender, runs: [], memory: NaN };
  });

  async function visit(row: Row, work: (clients: Clients) => Promise<void>): Promise<void> {
    const server = servers.get(row);
    if (!server) return;
    try {
      const clients = await load.open(transport, server.port, count);
      try {
        await work(clients);
      } finally {
        clients.close();
      }
    } catch (error) {
      row.failure = String(error);
      servers.delete(row);
      await server.stop();
    }
  }

  for (const row of rows) {
    progress(`${title}: ${row.contender.name}`);
    servers.set(row, await Server.start(row.contender, transport));
    await visit(row, async (clients) => void await clients.pingPong(message, WARM_UP_MS));
  }
  for (let round = 1; round <= ROUNDS; round++) {
    progress(`${title}: round ${round} of ${ROUNDS}`);
    for (const row of round % 2 === 0 ? rows : rows.toReversed()) {
      await visit(row, async (clients) => {
        const server = servers.get(row)!;
        row.runs.push(await measure(server, clients, message));
        row.memory = server.memory();
      });
    }
  }
  for (const server of servers.values()) await server.stop();
  return rows;
}

// ---- What else is measured ----

/** Clients that connect, send 64 B, read the echo and close: how many a second. */
async function measureConnects(): Promise<string[][]> {
  const rates = new Map<string, number[]>();
  const servers = new Map<string, Server>();
  for (const contender of [BARE, QUIET, PIPE, NODE, SOCAT, NCAT].filter(isInstalled)) {
    servers.set(contender.name, await Server.start(contender, "tcp"));
    rates.set(contender.name, []);
  }
  for (let round = 1; round <= ROUNDS; round++) {
    progress(`connects: round ${round} of ${ROUNDS}`);
    for (const [name, { port }] of servers) {
      const started = performance.now();
      let connects = 0;
      while (performance.now() - started < ROUND_MS) {
        const clients = await load.open("tcp", port, AT_ONCE);
        connects += await clients.echoOnce(sentence(64));
        clients.close();
      }
      rates.get(name)!.push(connects / (performance.now() - started) * 1000);
    }
  }
  for (const server of servers.values()) await server.stop();
  const base = rates.get(BARE.name)!;
  return [...rates].map(([name, all]) => [name, spread(all), spread(ratios(all, base), 2)]);
}

/** Connections that do nothing: the server's memory, in MiB, and how many of them still echo. */
async function measureIdle(contender: Contender): Promise<{ mib: number; row: string[] }> {
  const count = Math.min(IDLE, maxFiles() - SPARE_FILES);
  const server = await Server.start(contender, "tcp");
  const batches: Clients[] = [];
  for (let opened = 0; opened < count; opened += BATCH) {
    if (opened % 1_000 === 0) progress(`${opened} idle connections to ${contender.name}`);
    const clients = await load.open("tcp", server.port, Math.min(BATCH, count - opened));
    await clients.echoOnce(sentence(64)); // they are accepted now
    batches.push(clients);
  }
  const memory = server.memory();
  let echoed = 0;
  for (const clients of batches) echoed += await clients.echoOnce(sentence(64));
  for (const clients of batches) clients.close();
  await server.stop();
  const mib = memory / 2 ** 20;
  const cells = [round(count), round(mib), round(memory / count / 1024, 1), round(echoed)];
  return { mib: echoed === count ? mib : NaN, row: [contender.name, ...cells] };
}

/** How many MiB a server grows by, while `talk` goes on. */
async function measureGrowth(talk: (conn: Deno.TcpConn) => Promise<void>): Promise<number> {
  const server = await Server.start(PRINTING, "tcp");
  for (let i = 0; i < 3; i++) {
    const clients = await load.open("tcp", server.port, 50); // or it would grow by compiled code
    await clients.pingPong(sentence(64), RAMP_MS);
    clients.close();
  }
  const before = server.memory();
  server.resetPeak();
  using conn = await Deno.connect({ hostname: "127.0.0.1", port: server.port });
  await talk(conn);
  const growth = (server.peak() - before) / 2 ** 20;
  await server.stop();
  return growth;
}

/** A client that sends STREAM_BYTES without a newline, and reads its echoes. */
async function sendEndlessLine(conn: Deno.TcpConn): Promise<void> {
  progress("a line without an end");
  const chunk = encoder.encode("a".repeat(65_536));
  async function send(): Promise<void> {
    for (let sent = 0; sent < STREAM_BYTES; sent += await conn.write(chunk));
    await conn.closeWrite();
  }
  const sending = send();
  const buffer = new Uint8Array(chunk.length);
  while (await conn.read(buffer) !== null);
  await sending;
}

/** A client that sends for as long as anything is taken, and never reads. */
async function neverRead(conn: Deno.TcpConn): Promise<void> {
  progress("a client that never reads");
  const chunk = encoder.encode("a".repeat(65_536));
  for (let sent = 0; sent < STREAM_BYTES;) {
    const writing = conn.write(chunk).catch(() => 0); // it is cut off by the close
    const size = await Promise.race([writing, sleep(STUCK_MS)]);
    if (!size) return;
    sent += size;
  }
}

/** How long each script takes for `--help`, beside an empty one. */
function measureStartUps(): { worst: number; rows: string[][] } {
  const empty = written("", "ts");
  const scripts = ["tcp_server", "tcp_client", "udp_server", "udp_client"].map((name) =>
    `${name}.ts`
  );
  const times = new Map<string, number[]>();
  for (let i = -1; i < START_UPS; i++) {
    progress(`start-up ${i + 1} of ${START_UPS}`);
    for (const name of ["an empty script", ...scripts]) {
      const script = name.endsWith(".ts") ? new URL(`../${name}`, import.meta.url).href : empty;
      const args = ["run", script, "--help"];
      const env = { DENO_NO_UPDATE_CHECK: "1" };
      const command = new Deno.Command(Deno.execPath(), { args, env });
      const started = performance.now();
      if (!command.outputSync().success) throw new Error(`${name} --help fails`);
      if (i < 0) times.set(name, []); // the first run fills the caches
      else times.get(name)!.push(performance.now() - started);
    }
  }
  const base = times.get("an empty script")!;
  const rows = [...times].map(([name, all]) => [name, spread(all), spread(ratios(all, base), 2)]);
  return { worst: Math.max(...[...times.values()].map((all) => median(ratios(all, base)))), rows };
}

/** Two servers on one port: how the kernel spreads clients, and what both do together. */
async function measureSharedPort(): Promise<string> {
  progress("--reuse-port");
  const shared = ours("tcp", "--quiet", "--reuse-port");
  const first = await Server.start(shared, "tcp");
  const alone = await load.open("tcp", first.port, 50);
  await alone.pingPong(sentence(64), WARM_UP_MS);
  const one = await measure(first, alone, sentence(64));
  alone.close();
  const second = await Server.start(shared, "tcp", first.port);
  while (listeners(first.port) < 2) await sleep(20); // the first has answered for it
  await sleep(100); // for both to close what was asked with
  const files = [openFiles(first.pid), openFiles(second.pid)];
  const clients: Clients[] = [];
  for (let i = 0; i < 1_000 / BATCH; i++) {
    clients.push(await load.open("tcp", first.port, BATCH));
    await clients[i]!.echoOnce(sentence(64));
  }
  const split = [first, second].map(({ pid }, i) => openFiles(pid) - files[i]!);
  for (const each of clients) each.close();
  const both = await load.open("tcp", first.port, 50);
  await both.pingPong(sentence(64), WARM_UP_MS);
  const two = await measure(first, both, sentence(64));
  both.close();
  await first.stop();
  await second.stop();
  return `Two \`tcp_server.ts --quiet --reuse-port\` on one port: of 1,000 clients the kernel gave ` +
    `${split.join(" to one and ")} to the other. 50 clients, 64 B: ${round(two.rate)} messages a ` +
    `second, ${
      round(two.rate / one.rate, 2)
    } of one process alone (with the load there are three ` +
    `processes on ${cpus().length} cores).`;
}

function listeners(port: number): number {
  const hex = port.toString(16).toUpperCase().padStart(4, "0");
  return [...readProc("net/tcp").matchAll(new RegExp(`:${hex} 0{8}:0000 0A`, "g"))].length;
}

function openFiles(pid: number): number {
  return [...Deno.readDirSync(`/proc/${pid}/fd`)].length;
}

/** How many files this process, and so a child of it, may have open. */
function maxFiles(): number {
  return Number(/Max open files\s+(\d+)/.exec(readProc("self/limits"))?.[1] ?? 1_000);
}

/** What design part 9 asks for, and what was measured. */
function floorsOf(results: Map<Scenario, Row[]>): string[][] {
  const floors: string[][] = [];
  for (const [{ title }, rows] of results) {
    for (const { contender: { name, floor }, runs } of rows) {
      if (!floor) continue;
      const all = ratios(rates(runs), rates(rows[0]!.runs));
      const met = median(all) >= floor;
      floors.push([`${title}: ${name}`, `${floor} of the bare loop`, spread(all, 2), yes(met)]);
    }
    const printing = rows.find(({ contender }) => contender.name === PRINTING.name);
    const node = rows.find(({ contender }) => contender === NODE);
    if (!node || !printing) continue;
    const all = ratios(rates(printing.runs), rates(node.runs));
    const names = `${title}: ${PRINTING.name}, which prints`;
    floors.push([names, "1 of Node, which does not", spread(all, 2), yes(median(all) >= 1)]);
  }
  return floors;
}

function yes(met: boolean): string {
  return met ? "yes" : "**no**";
}

function rates(runs: Run[]): number[] {
  return runs.map(({ rate }) => rate);
}

// ---- Reporting ----

type Message = Uint8Array<ArrayBuffer>;

function scenarioTable({ title, bytes }: Scenario, rows: Row[]): string {
  const head = [title, "messages/s", "MB/s", "p50 µs", "p99 µs", "CPU µs", "RSS MiB"];
  const cells = rows.map(({ contender: { name }, runs, memory, failure }) => {
    const of = (key: keyof Run): number => median(runs.map((run) => run[key]));
    if (failure) return [`${name}: ${failure}`, ...Array(8).fill("-")];
    return [
      name,
      spread(rates(runs)),
      round(of("rate") * bytes / 1e6, bytes < 1_000 ? 1 : 0),
      round(of("p50")),
      round(of("p99")),
      round(of("cpu"), 1),
      round(memory / 2 ** 20),
      `${round(of("busy"))} / ${round(of("loadBusy"))}`,
      spread(ratios(rates(runs), rates(rows[0]!.runs)), 2),
    ];
  });
  return table([...head, "busy %: server / load", "of the bare loop"], cells);
}

/** A line of `length` bytes, its newline included. */
function sentence(length: number): Message {
  return encoder.encode("a".repeat(length - 1) + "\n");
}

function sum(numbers: number[]): number {
  return numbers.reduce((total, number) => total + number, 0);
}

function sorted(numbers: Iterable<number>): Float64Array {
  return Float64Array.from(numbers).sort();
}

function quantile(sorted: Float64Array, part: number): number {
  return sorted[Math.min(Math.floor(sorted.length * part), sorted.length - 1)] ?? NaN;
}

function median(numbers: number[]): number {
  return quantile(sorted(numbers), 0.5);
}

/** Each round's figure beside that of the base in the same round. */
function ratios(numbers: number[], base: number[]): number[] {
  return numbers.map((number, i) => number / base[i]!);
}

function round(number: number, digits = 0): string {
  if (!Number.isFinite(number)) return "-";
  return number.toLocaleString("en", {
    minimumFractionDigits: digits,
    maximumFractionDigits: digits,
  });
}

/** `median (smallest-largest)`. */
function spread(numbers: number[], digits = 0): string {
  const all = sorted(numbers);
  const [low, middle, high] = [0, 0.5, 1].map((part) => round(quantile(all, part), digits));
  return all.length === 0 ? "-" : `${middle} (${low}-${high})`;
}

/** A table in Markdown, padded to be read as it is. */
function table(head: string[], rows: string[][]): string {
  const widths = head.map((_, i) => Math.max(3, ...[head, ...rows].map((row) => row[i]!.length)));
  const line = (row: string[]): string =>
    `| ${
      row.map((cell, i) => i === 0 ? cell.padEnd(widths[i]!) : cell.padStart(widths[i]!)).join(
        " | ",
      )
    } |`;
  const rule = widths.map((width, i) => i === 0 ? "-".repeat(width) : `${"-".repeat(width - 1)}:`);
  return [line(head), line(rule), ...rows.map(line)].join("\n");
}

function progress(text: string): void {
  if (Deno.stderr.isTerminal()) Deno.stderr.writeSync(encoder.encode(`\r\x1b[K${text}`));
}

function sleep(ms: number): Promise<void> {
  return new Promise((resolve) => setTimeout(resolve, ms));
}

// ---- All of it ----

async function main(): Promise<void> {
  const started = performance.now();
  const [cpu] = cpus();
  const node = hasTool("node", "--version")
    ? new Deno.Command("node", { args: ["--version"] }).outputSync()
    : 0;
  const nodeVersion = node ? `, Node ${new TextDecoder().decode(node.stdout).trim()}` : "";
  console.log(`Deno ${Deno.version.deno}${nodeVersion}, ${Deno.build.target}, ${Deno.osRelease()},
${cpus().length} × ${cpu?.model.trim()}, load average ${Deno.loadavg()[0]!.toFixed(1)} before.
Medians (smallest-largest) of ${ROUNDS} rounds of ${ROUND_MS} ms a server; load: ${load.about}.
MB/s count each byte once. CPU is the server's, for a message. Where the load is less busy than the
server, it is the server that bounds the rate; the last row of a table is what the load can drive.
`);
  const results = new Map<Scenario, Row[]>();
  for (const scenario of SCENARIOS) {
    const rows = await runScenario(scenario);
    results.set(scenario, rows);
    progress("");
    console.log(`${scenarioTable(scenario, rows)}\n`);
  }
  const connects = await measureConnects();
  progress("");
  console.log(`${table(["connect, 64 B, close", "a second", "of the bare loop"], connects)}\n`);

  const floors = floorsOf(results);
  if (LINUX) {
    const idle = [];
    for (const contender of [CROWDED, BARE, NODE].filter(isInstalled)) {
      idle.push(await measureIdle(contender));
    }
    progress("");
    const head = ["idle connections", "number", "RSS MiB", "KiB each", "still echo"];
    console.log(`${table(head, idle.map(({ row }) => row))}\n`);
    const { mib } = idle[0]!;
    const what = `${idle[0]!.row[1]} idle connections, each still echoes`;
    floors.push([what, `${MAX_IDLE_MIB} MiB`, `${round(mib)} MiB`, yes(mib <= MAX_IDLE_MIB)]);
    for (const talk of [sendEndlessLine, neverRead]) {
      const growth = await measureGrowth(talk);
      const what = talk === neverRead
        ? "a client that never reads"
        : `${STREAM_BYTES / 2 ** 20} MiB without a newline`;
      floors.push([
        `${what}: the server grows by`,
        `${MAX_GROWTH_MIB} MiB`,
        `${round(growth, 1)} MiB`,
        yes(growth < MAX_GROWTH_MIB),
      ]);
    }
    const shared = await measureSharedPort();
    progress("");
    console.log(`${shared}\n`);
  }
  const { worst, rows } = measureStartUps();
  progress("");
  console.log(`${table(["start-up, \`--help\`", "ms", "of an empty script"], rows)}\n`);
  const times = `${MAX_START_UP} of an empty script`;
  floors.push(["start-up, the slowest script", times, round(worst, 2), yes(worst <= MAX_START_UP)]);

  console.log(table(["must reach", "at least, or at most", "measured", "met"], floors));
  const minutes = (performance.now() - started) / 60_000;
  console.log(
    `\nTook ${minutes.toFixed(1)} minutes; load average ${Deno.loadavg()[0]!.toFixed(1)} after.`,
  );
}

function cleanUp(): void {
  for (const server of running) server.kill();
  Deno.removeSync(temp, { recursive: true });
}

Deno.addSignalListener("SIGINT", () => {
  cleanUp();
  Deno.exit(130);
});
try {
  await main();
} finally {
  cleanUp();
}
