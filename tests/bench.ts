/**
 * Measures the servers beside the loop everybody would write, beside their peers, and beside the
 * edition before, which it takes from git: messages a second, latency, CPU time, memory, start-up.
 * What it prints is Markdown.
 *
 * ```sh
 * deno task bench           # twelve minutes
 * deno task bench --quick   # a first look, in three
 * deno task bench --help    # what must be reached
 * deno task bench > bench.md
 * ```
 *
 * Every server is a process of its own, and all of a load's servers stay up while the rounds go from
 * one to the next, so that whatever else the machine does falls on all of them; a third and two
 * thirds on, all are started anew. A ratio compares servers in the same round: to the mean of two
 * bare loops, as one and the same loop is 0.91 to 1.09 of itself; or to the edition before. Figures
 * are medians of the rounds, with the smallest and the largest. A server that prints, prints to a
 * file or a pipe, and its lines are counted. All traffic is on loopback. CPU time, memory and what is
 * printed are looked at on Linux only.
 *
 * @module
 */

import { spawn } from "node:child_process"; // unlike Deno.Command, it can give a child a file
import { closeSync, openSync } from "node:fs";
import { cpus } from "node:os";
import { fileURLToPath } from "node:url";
import {
  BARE,
  BARE_16,
  BARE_AGAIN,
  BARE_PRINTING,
  BARE_UDP_AGAIN,
  BARE_UDP_LOOP,
  both,
  BUN,
  BUN_UDP,
  type Contender,
  CROWDED,
  EDITION_BEFORE,
  epoll,
  GO,
  GO_UDP,
  isInstalled,
  NCAT,
  NODE,
  NODE_UDP,
  ours,
  PIPE,
  PRINTING,
  QUIET,
  SOCAT,
  temp,
  type Transport,
  VERSION_OF,
  written,
} from "./_contenders.ts";
import { fileUrl, freePort, LINUX, WINDOWS } from "./_helpers.ts";
import { type Clients, newLoad, sendFrom } from "./_load.ts";

const HELP = `deno task bench [--quick] [--plain] [--help]

  --quick   a first look, in three minutes in place of twelve
  --plain   load by Deno itself, and not by sockets of libc

What must be reached. Throughput, to the mean of two bare Deno loops in the same rounds:
  TCP, 50 clients, 64 B            0.90 with --quiet, 0.70 printing, every line written
  TCP, 50 clients, 1 KiB lines     0.35 printing to a file, and to a pipe, every line written
  TCP, 4 clients, 64 KiB           0.55
  UDP, 50 clients, 64 B            0.82 with --quiet, 0.70 printing
  all of them, to the edition before in the same rounds     0.95
  TCP, printing                    ahead of Node's silent net
  16 MiB beside 100 silent clients 0.80 of alone
Memory:
  10,000 idle connections          150 MiB; 300 MiB where each once sent 4,096 bytes
  1 GiB without a newline, or never read       grows by less than 16 MiB
  2,000,000 UDP sources            grows by less than 64 MiB
Start-up, --help                   1.30 of an empty script
`;
const OPTIONS = ["--quick", "--plain", "--help"];
const stray = Deno.args.find((arg) => !OPTIONS.includes(arg));
if (stray || Deno.args.includes("--help")) {
  console.log(stray ? `bench: unexpected "${stray}"; see --help` : HELP.trimEnd());
  Deno.removeSync(temp, { recursive: true });
  Deno.exit(stray ? 2 : 0);
}
const QUICK = Deno.args.includes("--quick");
const ROUNDS = QUICK ? 7 : 21;
const STARTS = QUICK ? 1 : 3; // of the servers: one process may be a tenth slower than the next
const ROUND_MS = QUICK ? 70 : 100; // of one server's load in a round
const WARM_UP_MS = QUICK ? 300 : 600; // before the first round: the servers' code is compiled
const RAMP_MS = 30; // at the start of each round, not measured
const AT_ONCE = 5; // connects: some backlogs are that short
const START_UPS = 61;
const IDLE = QUICK ? 2_000 : 10_000; // connections
const IDLE_MS = 3_000; // for a server to give back what it held for them
const BATCH = 100; // are opened at once: fewer than a listener's backlog
const STREAM_BYTES = QUICK ? 2 ** 27 : 2 ** 30; // without a newline
const TRANSFER_BYTES = 2 ** 24; // through one client
const SILENT = 100; // clients beside it, which said something before
const SAID_BYTES = 10_000;
const SOURCES = QUICK ? 200_000 : 2_000_000; // of UDP datagrams
const READY_MS = 10_000; // for a server to start
const STUCK_MS = 500; // without a byte taken: buffers are full
const SPARE_FILES = 200; // that a process may open beside its connections
const MIN_BESIDE_SILENT = 0.8; // of the speed without them
const MIN_OF_BEFORE = 0.95; // of the edition before
const SAID_ONCE = 4_096; // bytes: they fill a small buffer
const MAX_IDLE_MIB = 150;
const MAX_IDLE_SAID_MIB = 300; // where each once sent SAID_ONCE
const MAX_GROWTH_MIB = 16;
const MAX_SOURCES_MIB = 64;
const MAX_START_UP = 1.3; // of an empty script

const load = newLoad(Deno.args.includes("--plain"));
const encoder = new TextEncoder();

// ---- What is measured ----

/** What clients do, and the servers they do it to. The first two are what others are compared to. */
type Scenario = {
  title: string;
  transport: Transport;
  clients: number;
  bytes: number;
  contenders: Contender[];
  aheadOf?: Contender; // what ours must be ahead of, though it prints
};

const TCP_PEERS = [PIPE, NODE, BUN, GO, SOCAT, NCAT, epoll("tcp")];

const SCENARIOS: Scenario[] = [
  {
    title: "TCP, 50 clients, 64 B",
    transport: "tcp",
    clients: 50,
    bytes: 64,
    aheadOf: NODE,
    contenders: [
      BARE,
      BARE_AGAIN,
      ...both("tcp", ["--quiet"], { floor: 0.9 }),
      ...both("tcp", [], { floor: 0.7, output: "file" }),
      ours("tcp", ["--json"], { output: "file" }),
      BARE_PRINTING,
      ...TCP_PEERS,
    ],
  },
  {
    title: "TCP, 50 clients, 1 KiB",
    transport: "tcp",
    clients: 50,
    bytes: 1_024,
    contenders: [
      BARE,
      BARE_AGAIN,
      QUIET,
      ...both("tcp", [], { floor: 0.35, output: "file" }),
      ...both("tcp", [], { floor: 0.35, output: "pipe" }),
      NODE,
      BUN,
      GO,
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
      BARE_AGAIN,
      BARE_16,
      ...both("tcp", ["--quiet"], { floor: 0.55 }),
      ours("tcp", ["--quiet", "--no-stop"]),
      ...TCP_PEERS,
    ],
  },
  {
    title: "UDP, 50 clients, 64 B",
    transport: "udp",
    clients: 50,
    bytes: 64,
    contenders: [
      BARE_UDP_LOOP,
      BARE_UDP_AGAIN,
      ...both("udp", ["--quiet"], { floor: 0.82 }),
      ...both("udp", [], { floor: 0.7, output: "file" }),
      ours("udp", ["--json"], { output: "file" }),
      NODE_UDP,
      BUN_UDP,
      GO_UDP,
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
    contenders: [BARE, BARE_AGAIN, QUIET, PIPE, NODE, SOCAT, NCAT, epoll("tcp")],
  },
  {
    title: "UDP, 1 client, 64 B: the round trip",
    transport: "udp",
    clients: 1,
    bytes: 64,
    contenders: [BARE_UDP_LOOP, BARE_UDP_AGAIN, ours("udp", ["--quiet"]), NODE_UDP],
  },
];

// ---- Servers ----

const running = new Set<Server>();

/** Counts sentences: a line, or an object of one. */
const COUNT = ["grep", "-cE", '^(\\[|.*"event":"message")'];
/** Runs the command behind it, and counts what it prints; SIGTERM is for that command alone. */
const COUNTED = ["sh", "-c", `trap "" TERM; "$@" | LC_ALL=C ${COUNT[0]} -c '^\\['`, "sh"];

/** A contender that runs, with what it spawns, in a process group of its own. */
class Server {
  readonly pid: number;
  readonly port: number;
  said = 0; // sentences that came back
  readonly #contender: Contender;
  readonly #ended: Promise<void>;

  /** Starts it, and waits until it echoes. */
  static async start(contender: Contender, transport: Transport, port?: number): Promise<Server> {
    const server = new Server(contender, port ?? freePort());
    const end = performance.now() + READY_MS;
    while (!await server.#answers(transport)) {
      if (performance.now() > end) throw new Error(`${contender.name} does not answer`);
      await sleep(20);
    }
    server.said = 1;
    return server;
  }

  private constructor(contender: Contender, port: number) {
    this.#contender = contender;
    this.port = port;
    const { command, output: to } = contender;
    const output = to ? openSync(this.#file, "w") : "ignore";
    const [program, ...args] = to === "pipe" ? [...COUNTED, ...command(port)] : command(port);
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

  get #file(): string {
    return `${temp}/${this.port}.out`;
  }

  /** Ends it and what it spawned. Returns how many sentences it printed, if it is one that prints. */
  async stop(): Promise<number> {
    const { output } = this.#contender;
    this.kill(output ? "SIGTERM" : "SIGKILL"); // it has lines to write
    await this.#ended;
    running.delete(this);
    if (!output || !LINUX) return NaN;
    const args = output === "pipe" ? ["cat", this.#file] : [...COUNT, this.#file];
    const { stdout } = new Deno.Command(args[0]!, { args: args.slice(1) }).outputSync();
    Deno.removeSync(this.#file);
    return Number(new TextDecoder().decode(stdout));
  }

  kill(signal: Deno.Signal = "SIGKILL"): void {
    try {
      Deno.kill(WINDOWS ? this.pid : -this.pid, signal);
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
type Row = {
  contender: Contender;
  runs: Run[];
  memory: number;
  said: number; // sentences that came back
  printed: number; // of those; NaN where it does not print
  failure?: string;
};

async function measure(server: Server, clients: Clients, message: Message): Promise<Run> {
  server.said += (await clients.pingPong(message, RAMP_MS)).messages;
  const before = [server.cpu(), cpuOf(Deno.pid)] as const;
  const { messages, seconds, lost, latencies } = await clients.pingPong(message, ROUND_MS);
  const [cpu, own] = [server.cpu() - before[0], cpuOf(Deno.pid) - before[1]];
  server.said += messages;
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
    return { contender, runs: [], memory: NaN, said: 0, printed: 0 };
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

  async function stopAll(): Promise<void> {
    for (const [row, server] of servers) {
      row.said += server.said;
      row.printed += await server.stop();
    }
    servers.clear();
  }

  async function startAll(): Promise<void> {
    await stopAll();
    for (const row of rows.filter(({ failure }) => !failure)) {
      progress(`${title}: ${row.contender.name}`);
      servers.set(row, await Server.start(row.contender, transport));
      await visit(row, async (clients) => {
        servers.get(row)!.said += (await clients.pingPong(message, WARM_UP_MS)).messages;
      });
    }
  }

  for (let round = 0; round < ROUNDS; round++) {
    if (round % (ROUNDS / STARTS) === 0) await startAll();
    progress(`${title}: round ${round + 1} of ${ROUNDS}`);
    for (const row of round % 2 === 0 ? rows : rows.toReversed()) {
      await visit(row, async (clients) => {
        const server = servers.get(row)!;
        row.runs.push(await measure(server, clients, message));
        row.memory = server.memory();
      });
    }
  }
  await stopAll();
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

/**
 * Connections that do nothing, once each has sent so many bytes: the server's memory, in MiB, and how
 * many of them still echo.
 */
async function measureIdle(
  contender: Contender,
  bytes = 64,
): Promise<{ mib: number; row: string[] }> {
  const count = Math.min(IDLE, maxFiles() - SPARE_FILES);
  const server = await Server.start(contender, "tcp");
  const batches: Clients[] = [];
  for (let opened = 0; opened < count; opened += BATCH) {
    if (opened % 1_000 === 0) progress(`${opened} idle connections to ${contender.name}`);
    const clients = await load.open("tcp", server.port, Math.min(BATCH, count - opened));
    await clients.echoOnce(sentence(bytes)); // they are accepted now
    batches.push(clients);
  }
  await sleep(IDLE_MS);
  const memory = server.memory();
  let echoed = 0;
  for (const clients of batches) echoed += await clients.echoOnce(sentence(64));
  for (const clients of batches) clients.close();
  await server.stop();
  const mib = memory / 2 ** 20;
  const cells = [round(count), round(mib), round(memory / count / 1024, 1), round(echoed)];
  const name = bytes === 64 ? contender.name : `${contender.name}, each once sent ${bytes} B`;
  return { mib: echoed === count ? mib : NaN, row: [name, ...cells] };
}

/** MB a second through a client of its own, behind one transfer to warm up. */
async function transfer({ port }: Server): Promise<number> {
  const client = await load.open("tcp", port, 1);
  const big = sentence(TRANSFER_BYTES);
  await client.pingPong(big, 0);
  const { seconds } = await client.pingPong(big, 0);
  client.close();
  return TRANSFER_BYTES / seconds / 1e6;
}

/** How much of the speed of one client's transfer is left beside SILENT others: row by row. */
async function measureBesideSilent(): Promise<{ ratio: number[]; rows: string[][] }> {
  const said = sentence(SAID_BYTES);
  const rows: string[][] = [];
  let ratio: number[] = [];
  // The bare loop has no row: what a write does not take, it loses.
  for (const contender of [QUIET, NODE, GO].filter(isInstalled)) {
    const server = await Server.start(contender, "tcp");
    const [alone, beside]: [number[], number[]] = [[], []];
    for (let round = 1; round <= ROUNDS; round++) {
      progress(`beside silent ones, ${contender.name}: round ${round} of ${ROUNDS}`);
      alone.push(await transfer(server));
      const silent = await load.open("tcp", server.port, SILENT);
      if (await silent.echoOnce(said) < SILENT) throw new Error("not all were echoed");
      beside.push(await transfer(server));
      silent.close();
    }
    await server.stop();
    const all = ratios(beside, alone);
    if (contender === QUIET) ratio = all;
    rows.push([contender.name, spread(alone), spread(beside), spread(all, 2)]);
  }
  return { ratio, rows };
}

/** How many MiB a server grows by, while `talk` goes on. */
async function measureGrowth(
  contender: Contender,
  transport: Transport,
  talk: (port: number) => Promise<void>,
): Promise<number> {
  const server = await Server.start(contender, transport);
  for (let i = 0; i < 3; i++) {
    const clients = await load.open(transport, server.port, 50); // or it would grow by compiled code
    await clients.pingPong(sentence(64), RAMP_MS);
    clients.close();
  }
  const before = server.memory();
  server.resetPeak();
  await talk(server.port);
  const growth = (server.peak() - before) / 2 ** 20;
  await server.stop();
  return growth;
}

/** Datagrams from SOURCES addresses, each another; they are in when the client's own are echoed. */
async function sendFromMany(port: number): Promise<void> {
  const client = await load.open("udp", port, 1);
  for (let sent = 0; sent < SOURCES; sent += BATCH) {
    if (sent % 100_000 === 0) progress(`${sent} UDP sources`);
    sendFrom(port, { first: sent, count: BATCH });
    while (await client.echoOnce(sentence(64)) < 1); // it may be lost
  }
  client.close();
}

/** A client that sends STREAM_BYTES without a newline, and reads its echoes. */
async function sendEndlessLine(port: number): Promise<void> {
  progress("a line without an end");
  using conn = await Deno.connect({ hostname: "127.0.0.1", port });
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
async function neverRead(port: number): Promise<void> {
  progress("a client that never reads");
  using conn = await Deno.connect({ hostname: "127.0.0.1", port });
  const chunk = encoder.encode("a".repeat(65_536));
  for (let sent = 0; sent < STREAM_BYTES;) {
    const writing = conn.write(chunk).catch(() => 0); // it is cut off by the close
    const size = await Promise.race([writing, sleep(STUCK_MS)]);
    if (!size) return;
    sent += size;
  }
}

const WIDE = ["--allow-net=127.0.0.0/8"]; // it may answer all of loopback, and asks Deno about hosts

/** What must not make a server grow by more than so many MiB. */
const GROWTHS: [what: string, most: number, ...Parameters<typeof measureGrowth>][] = [
  [
    `${STREAM_BYTES / 2 ** 20} MiB without a newline`,
    MAX_GROWTH_MIB,
    PRINTING,
    "tcp",
    sendEndlessLine,
  ],
  ["a client that never reads", MAX_GROWTH_MIB, PRINTING, "tcp", neverRead],
  ...[
    ours("udp"),
    ours("udp", ["--delay", "1"], { net: WIDE }),
    ours("udp", ["--rate", "100", "--json"], { net: WIDE }),
    ours("udp", ["--quiet"], { net: [...WIDE, "--deny-net=127.250.0.0/16"] }),
  ].map((contender): [string, number, Contender, Transport, typeof sendFromMany] => {
    const flags = contender.command(0).filter((arg) =>
      arg.startsWith("--allow-net=") || arg.startsWith("--deny")
    );
    const what = `${round(SOURCES)} UDP sources, ${[contender.name, ...flags].join(" ")}`;
    return [what, MAX_SOURCES_MIB, contender, "udp", sendFromMany];
  }),
];

/** How long each script takes for `--help`, beside an empty one with the same deno.json. */
function measureStartUps(): { worst: number; rows: string[][] } {
  const empty = written("", "ts");
  const scripts = ["tcp_server", "tcp_client", "udp_server", "udp_client"].map((name) =>
    `${name}.ts`
  );
  const config = fileURLToPath(fileUrl("deno.json"));
  const times = new Map<string, number[]>();
  for (let i = -1; i < START_UPS; i++) {
    progress(`start-up ${i + 1} of ${START_UPS}`);
    for (const name of ["an empty script", ...scripts]) {
      const script = name.endsWith(".ts") ? new URL(`../${name}`, import.meta.url).href : empty;
      const args = ["run", "--config", config, script, "--help"];
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
  const shared = ours("tcp", ["--quiet", "--reuse-port"]);
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

/** What a scenario must reach, and what was measured. */
function floorsOf(results: Map<Scenario, Row[]>): string[][] {
  const floors: string[][] = [];
  for (const [{ title, aheadOf }, rows] of results) {
    for (const { contender: { name, floor }, runs } of rows) {
      if (!floor) continue;
      const all = ratios(rates(runs), bareRates(rows));
      const met = median(all) >= floor;
      floors.push([`${title}: ${name}`, `${floor} of the bare loops`, spread(all, 2), yes(met)]);
    }
    for (const { contender, said, printed } of rows) {
      if (!contender.output || contender.isBefore || !LINUX) continue;
      // Over UDP an echo may be lost whose sentence was printed.
      const met = title.startsWith("UDP") ? printed >= said : printed === said;
      const what = `${title}: ${contender.name}, lines written`;
      floors.push([what, `all ${round(said)}`, round(printed), yes(met)]);
    }
    const printing = rows.find(({ contender }) => contender.name === PRINTING.name);
    const other = rows.find(({ contender }) => contender === aheadOf);
    if (!other || !printing) continue;
    const all = ratios(rates(printing.runs), rates(other.runs));
    const names = `${title}: ${PRINTING.name}, which prints`;
    floors.push([
      names,
      `1 of ${other.contender.name}, which does not`,
      spread(all, 2),
      yes(median(all) >= 1),
    ]);
  }
  return floors;
}

/** The rates of the bare loops: the mean of both, round by round. */
function bareRates([one, other]: Row[]): number[] {
  return rates(one!.runs).map((rate, i) => (rate + other!.runs[i]!.rate) / 2);
}

/** Ours beside the edition before, where that one lost no line: what it is, its ratio, and whether it is met. */
function toBefore(results: Map<Scenario, Row[]>): string[][] {
  const all: string[][] = [];
  for (const [{ title }, rows] of results) {
    for (const [i, { contender, runs, said, printed }] of rows.entries()) {
      if (!contender.isBefore) continue;
      const now = rows[i - 1]!;
      const ratio = ratios(rates(now.runs), rates(runs));
      const lost = contender.output ? said - printed : 0;
      const met = lost > 0 ? `it lost ${round(lost)} lines` : yes(median(ratio) >= MIN_OF_BEFORE);
      all.push([`${title}: ${now.contender.name}`, `${MIN_OF_BEFORE}`, spread(ratio, 2), met]);
    }
  }
  return all;
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
      spread(ratios(rates(runs), bareRates(rows)), 2),
    ];
  });
  return table([...head, "busy %: server / load", "of the bare loops"], cells);
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

/** `, node v20.20.2`, or nothing where it is not installed. */
function versionOf(tool: string): string {
  if (!isInstalled({ tool } as Contender)) return "";
  const { stdout } = new Deno.Command(tool, { args: [VERSION_OF[tool] ?? "--version"] })
    .outputSync();
  return `, ${tool} ${/v?\d+\.[\d.]+/.exec(new TextDecoder().decode(stdout))}`;
}

// ---- All of it ----

async function main(): Promise<void> {
  const started = performance.now();
  const [cpu] = cpus();
  const others = ["node", "bun", "go"].map(versionOf).join("");
  console.log(`Deno ${Deno.version.deno}${others}, ${Deno.build.target}, ${Deno.osRelease()},
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
  const { ratio, rows: besides } = await measureBesideSilent();
  progress("");
  const silent = `beside ${SILENT} silent ones that sent ${SAID_BYTES} B`;
  const transfer = `TCP, ${TRANSFER_BYTES / 2 ** 20} MiB, one client`;
  console.log(`${table([transfer, "MB/s alone", `MB/s ${silent}`, "of alone"], besides)}\n`);

  const floors = floorsOf(results);
  const least = `${MIN_BESIDE_SILENT} of alone`;
  const met = yes(median(ratio) >= MIN_BESIDE_SILENT);
  floors.push([`${transfer}: ${QUIET.name}, ${silent}`, least, spread(ratio, 2), met]);
  if (LINUX) {
    const idle = [];
    for (const contender of [CROWDED, BARE, NODE].filter(isInstalled)) {
      idle.push(await measureIdle(contender));
    }
    progress("");
    const head = ["idle connections", "number", "RSS MiB", "KiB each", "still echo"];
    console.log(`${table(head, idle.map(({ row }) => row))}\n`);
    idle.push(await measureIdle(CROWDED, SAID_ONCE));
    const what = `${idle[0]!.row[1]} idle connections, each still echoes`;
    const limits: [string, number, number][] = [
      [what, idle[0]!.mib, MAX_IDLE_MIB],
      [`${what}, each once sent ${SAID_ONCE} B`, idle.at(-1)!.mib, MAX_IDLE_SAID_MIB],
    ];
    for (const [what, mib, most] of limits) {
      floors.push([what, `${most} MiB`, `${round(mib)} MiB`, yes(mib <= most)]);
    }
    for (const [what, most, ...measured] of GROWTHS) {
      const growth = await measureGrowth(...measured);
      floors.push([
        `${what}: the server grows by`,
        `${most} MiB`,
        `${round(growth, 1)} MiB`,
        yes(growth < most),
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
    `\nTook ${minutes.toFixed(1)} minutes; load average ${Deno.loadavg()[0]!.toFixed(1)} after.\n`,
  );
  const before = toBefore(results);
  const title = `to the edition before (${EDITION_BEFORE}), in the same rounds`;
  if (before.length > 0) console.log(table([title, "at least", "measured", "met"], before));
  else console.log(`git does not have the edition before (${EDITION_BEFORE}): it was not measured`);
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
