/**
 * What the tests share: the scripts as processes, peers without manners, seeded randomness.
 *
 * Nothing here sleeps: a test waits on a line, a promise or the end of a stream. What hangs is
 * killed by {@linkcode spawn}, or failed by {@linkcode LIMIT}.
 *
 * @module
 */

import { connect, createServer } from "node:net"; // Deno's own sockets cannot reset

/** For each test: `Deno.test("…", LIMIT, async () => …)` fails rather than hangs. */
export const LIMIT = { timeout: 60_000 }; // ms: several times what any test takes beside other work
const KILL_MS = 50_000; // a process this old is killed, so that its test fails with what it said

/** The four scripts. */
export const SCRIPTS = ["tcp_server.ts", "tcp_client.ts", "udp_server.ts", "udp_client.ts"];

/** Runs the command behind it at a terminal (all three streams); its own pipes are the person. */
export const PTY: string[] = [
  "python3",
  "-c",
  "import os, pty, sys; sys.exit(os.waitstatus_to_exitcode(pty.spawn(sys.argv[1:])))",
];

/** The same for stdout alone: the others are what they are. */
export const PTY_STDOUT: string[] = [
  "python3",
  "-c",
  `
import os, subprocess, sys
master, slave = os.openpty()
child = subprocess.Popen(sys.argv[1:], stdout=slave)
os.close(slave)
try:
    while data := os.read(master, 65536): os.write(1, data)
except OSError: pass # Linux: the other end is closed
sys.exit(child.wait())`,
];

const SHOWN = 1_000; // characters of what was read in vain

const encoder = new TextEncoder();
const decoder = new TextDecoder("utf-8", { ignoreBOM: true });
const latin1 = new TextDecoder("latin1"); // one character a byte: an index in one is one in both

/** Bytes as `Deno` and the streams want them. */
export type Bytes = Uint8Array<ArrayBuffer>;

/** The file URL of a path in the repo. */
export function fileUrl(path: string): URL {
  return new URL(`../${path}`, import.meta.url);
}

/** Text to bytes. */
export function encode(text: string): Bytes {
  return encoder.encode(text);
}

/** Bytes to text. */
export function decode(bytes: Uint8Array): string {
  return decoder.decode(bytes);
}

/** What a script does without options, out of its source. That all agree is in `defaults_test.ts`. */
export const DEFAULTS: { hostname: string; port: number } = readDefaults();

function readDefaults(): { hostname: string; port: number } {
  const source = Deno.readTextFileSync(fileUrl("tcp_server.ts"));
  const value = (name: string): string =>
    new RegExp(`^const ${name} = "?(.*?)"?;`, "m").exec(source)![1]!;
  return { hostname: value("HOSTNAME"), port: Number(value("PORT").replace("_", "")) };
}

export const LINUX = Deno.build.os === "linux";
export const WINDOWS = Deno.build.os === "windows";
/** False where there are signals, or why there are none. */
export const NO_SIGNALS: string | false = WINDOWS && "Windows has no signals";

/** The name of a test; where something is `missing`, the test is ignored, and its name says why. */
export function unless(missing: string | false, name: string): { name: string; ignore: boolean } {
  return { name: missing ? `${name} (ignored: ${missing})` : name, ignore: Boolean(missing) };
}

/** Whether `name args…` can be run here and succeeds: for `ignore:`. */
export function hasTool(name: string, ...args: string[]): boolean {
  try {
    const quiet = { stdin: "null", stdout: "null", stderr: "null" } as const;
    return new Deno.Command(name, { args, ...quiet }).outputSync().success;
  } catch {
    return false;
  }
}

/** Whether this machine has an IPv6 loopback. */
export function hasIpv6(): boolean {
  try {
    Deno.listen({ hostname: "::1", port: 0 }).close();
    return true;
  } catch {
    return false;
  }
}

// ---- Processes ----

/** How a script is run. */
export type SpawnOptions = {
  /** The hosts of `--allow-net`, or false for none; by default the least that `args` need. */
  allowNet?: string | false;
  /** A command that runs the command behind it, as {@linkcode PTY} does. */
  via?: string[];
  /** How long it may run, in ms. */
  killMs?: number;
  /** Where it runs. */
  cwd?: string | URL;
};

/** How a process ended. */
export type Result = {
  code: number;
  signal: Deno.Signal | null;
  stdout: string;
  stderr: string;
  bytes: Bytes; // of stdout
};

/** Runs a script as a user would: `deno run --allow-net=… script args…`. */
export function spawn(script: string, args: string[] = [], options: SpawnOptions = {}): Program {
  const { allowNet = leastNet(script, args), via = [], killMs } = options;
  const cwd = options.cwd ?? fileUrl("."); // for deno.json, where the script comes from stdin
  const flags = allowNet === false ? [] : [`--allow-net=${allowNet}`];
  const path = script === "-" ? script : fileUrl(script).href;
  const [command, ...rest] = [...via, Deno.execPath(), "run", ...flags, path, ...args];
  const piped = { stdin: "piped", stdout: "piped", stderr: "piped" } as const;
  const child = new Deno.Command(command!, { args: rest, cwd, ...piped }).spawn();
  return new Program(script, child, killMs);
}

/** Runs a script to its end, with `stdin` on its stdin. */
export async function runScript(
  script: string,
  args: string[] = [],
  { stdin = "", ...options }: SpawnOptions & { stdin?: string | Bytes } = {},
): Promise<Result> {
  await using program = spawn(script, args, options);
  const written = program.write(stdin).then(() => program.end()).catch(() => {}); // it ended first
  const result = await program.finish();
  await written;
  return result;
}

/** The least permission: the address; a UDP server needs its host, a UDP client its own end too. */
function leastNet(script: string, args: string[]): string {
  const value = (name: string): string | undefined =>
    args.find((_, i) => [`--${name}`, `-${name === "host" ? "H" : "p"}`].includes(args[i - 1]!));
  const name = value("host") ?? DEFAULTS.hostname;
  const host = name.includes(":") ? `[${name}]` : name;
  const address = `${host}:${value("port") ?? DEFAULTS.port}`;
  if (script.startsWith("udp_server")) return host;
  return script.startsWith("udp_client") ? `${host}:0,${address}` : address;
}

/** A running script. `await using program = spawn(…)` leaves nothing of it behind. */
export class Program implements AsyncDisposable {
  /** Both are read only when asked: a program that writes more than a pipe holds waits for us. */
  readonly stdout: Output;
  readonly stderr: Output;
  readonly #child: Deno.ChildProcess;
  readonly #stdin: WritableStreamDefaultWriter<Bytes>;
  readonly #killer: ReturnType<typeof setTimeout>;

  constructor(name: string, child: Deno.ChildProcess, killMs: number = KILL_MS) {
    this.#child = child;
    this.#stdin = child.stdin.getWriter();
    this.stdout = new Output(`stdout of ${name}`, child.stdout);
    this.stderr = new Output(`stderr of ${name}`, child.stderr);
    this.#killer = setTimeout(() => this.kill("SIGKILL"), killMs);
  }

  /** The next line of stdout. */
  nextLine(): Promise<string> {
    return this.stdout.nextLine();
  }

  /** Waits for a server's ready line, and returns its port. */
  async port(): Promise<number> {
    const line = await this.nextLine().catch(async (error) => {
      throw new Error(`${error.message}, stderr: ${decode(await this.stderr.rest())}`);
    });
    const port = /^listening on (?:tcp|udp) \S+:(\d+)$/.exec(line)?.[1];
    if (port === undefined) throw new Error(`no ready line: ${line}`);
    return Number(port);
  }

  /** Writes to stdin. */
  async write(data: string | Bytes): Promise<void> {
    await this.#stdin.write(typeof data === "string" ? encode(data) : data);
  }

  /** The end of stdin. */
  async end(): Promise<void> {
    await this.#stdin.close();
  }

  /** Its process number, for what the system tells of it. */
  get pid(): number {
    return this.#child.pid;
  }

  /** How it ends; its output stays unread. */
  get status(): Promise<Deno.CommandStatus> {
    return this.#child.status;
  }

  /** Sends a signal, if it still runs. */
  kill(signal: Deno.Signal): void {
    try {
      this.#child.kill(signal);
    } catch (error) {
      if (!(error instanceof TypeError)) throw error; // it has terminated
    }
  }

  /** Waits for the end, and gathers what was not read before. */
  async finish(): Promise<Result> {
    const { stdout, stderr } = this;
    const ended = [stdout.rest(), stderr.rest(), this.#child.status] as const;
    const [bytes, errors, { code, signal }] = await Promise.all(ended);
    clearTimeout(this.#killer);
    return { code, signal, stdout: decode(bytes), stderr: decode(errors), bytes };
  }

  /** Ends it with a signal, orderly by default. */
  stop(signal: Deno.Signal = "SIGTERM"): Promise<Result> {
    this.kill(signal);
    return this.finish();
  }

  /** Kills what still runs and closes the pipes. */
  async [Symbol.asyncDispose](): Promise<void> {
    clearTimeout(this.#killer);
    this.kill("SIGKILL");
    await Promise.all([this.stdout.close(), this.stderr.close(), this.#child.status]);
    await this.#stdin.close().catch(() => {}); // as `end` did, or as it broke
  }
}

/** A stream of a program, read piece by piece. */
export class Output {
  readonly #name: string;
  readonly #reader: ReadableStreamDefaultReader<Bytes>;
  #held: Bytes = new Uint8Array();

  constructor(name: string, stream: ReadableStream<Bytes>) {
    this.#name = name;
    this.#reader = stream.getReader();
  }

  /** What comes up to and with `mark`. */
  async until(mark: string): Promise<string> {
    const wanted = latin1.decode(encode(mark));
    const find = (): number => latin1.decode(this.#held).indexOf(wanted);
    while (find() < 0) {
      const { value } = await this.#reader.read();
      if (!value) {
        const [held, wanted] = [decode(this.#held), mark]
          .map((text) => JSON.stringify(text.slice(-SHOWN)));
        throw new Error(`${this.#name} ended with ${held}, before ${wanted}`);
      }
      this.#held = join([this.#held, value]);
    }
    const end = find() + wanted.length;
    const text = decode(this.#held.subarray(0, end));
    this.#held = this.#held.subarray(end);
    return text;
  }

  /** The next line, without its end. */
  async nextLine(): Promise<string> {
    return (await this.until("\n")).slice(0, -1);
  }

  /** The next `length` bytes. */
  async exactly(length: number): Promise<Bytes> {
    while (this.#held.length < length) {
      const { value } = await this.#reader.read();
      if (!value) throw new Error(`${this.#name} ended ${length - this.#held.length} bytes early`);
      this.#held = join([this.#held, value]);
    }
    const bytes = this.#held.subarray(0, length);
    this.#held = this.#held.subarray(length);
    return bytes;
  }

  /** All that is not read yet, to the end. */
  async rest(): Promise<Bytes> {
    const chunks = [this.#held];
    for (let value; (value = (await this.#reader.read()).value);) chunks.push(value);
    this.#held = new Uint8Array();
    return join(chunks);
  }

  /** Stops reading, as `| head` does. */
  async close(): Promise<void> {
    await this.#reader.cancel();
  }
}

// ---- Peers ----

/**
 * A test file has 100 ports of its own, whatever runs beside it: the system gives them to nobody, as
 * they lie below the ephemeral range, and no other test file takes them, as this one listens on the
 * first of them for as long as it runs.
 */
const OWN_PORTS = { from: 20_000, blocks: 120, each: 100 };
const ownPorts = claimPorts();
let portsGiven = 0;

function claimPorts(): Deno.TcpListener {
  const { from, blocks, each } = OWN_PORTS;
  const first = Math.floor(Math.random() * blocks); // not those of a run just before
  for (let i = 0; i < blocks; i++) {
    try {
      return Deno.listen({ hostname: "127.0.0.1", port: from + (first + i) % blocks * each });
    } catch {
      // They are another file's.
    }
  }
  throw new Error("all blocks of ports are taken");
}

/** A port that nobody has, over TCP and UDP, and that nobody but the caller will have. */
export function freePort(): number {
  for (let tries = 1; tries < OWN_PORTS.each; tries++) {
    const port = ownPorts.addr.port + 1 + portsGiven++ % (OWN_PORTS.each - 1);
    if (isFree(port)) return port;
  }
  throw new Error("none of this file's ports is free");
}

function isFree(port: number): boolean {
  if (LINUX) { // where it may be in TIME-WAIT, which keeps a program off that does not set SO_REUSEADDR
    const local = new RegExp(`^ *\\d+: \\w+:${port.toString(16).padStart(4, "0")} `, "im");
    return ["tcp", "tcp6", "udp", "udp6"].every((name) =>
      !local.test(readText(`/proc/net/${name}`))
    );
  }
  try {
    Deno.listen({ hostname: "0.0.0.0", port }).close();
    Deno.listenDatagram({ transport: "udp", hostname: "0.0.0.0", port }).close();
    return true;
  } catch {
    return false;
  }
}

function readText(path: string): string {
  try {
    return Deno.readTextFileSync(path);
  } catch {
    return ""; // a system without IPv6
  }
}

/** A TCP server that treats its first client as `talk` says, and then closes. */
export function rudeServer(
  talk: (conn: Deno.TcpConn) => Promise<void>,
  port = 0,
): { port: number } & AsyncDisposable {
  const listener = Deno.listen({ hostname: "127.0.0.1", port });
  async function serveOne(): Promise<void> {
    using conn = await listener.accept();
    await talk(conn);
  }
  const failure = serveOne().catch((error) => error);
  return {
    port: listener.addr.port,
    async [Symbol.asyncDispose](): Promise<void> {
      listener.close();
      const error = await failure;
      // It is for the client to say what became of the socket.
      if (error && !("code" in error) && !(error instanceof Deno.errors.BadResource)) throw error;
    },
  };
}

/** A TCP server that resets its client when it has read `length` bytes and echoed `echoed` of them. */
export async function resetServer(
  length: number,
  echoed: number,
): Promise<{ port: number } & AsyncDisposable> {
  const server = createServer((socket) => {
    const chunks: Uint8Array[] = [];
    socket.on("error", () => {});
    socket.on("data", (chunk: Uint8Array) => {
      chunks.push(chunk);
      const bytes = join(chunks);
      if (bytes.length < length) return;
      socket.write(bytes.subarray(0, echoed), () => socket.resetAndDestroy());
    });
  });
  await new Promise<void>((resolve) => server.listen(0, "127.0.0.1", resolve));
  return {
    port: (server.address() as { port: number }).port,
    [Symbol.asyncDispose]: () => new Promise((resolve) => server.close(() => resolve())),
  };
}

/** Writes all of `data`, however the system takes it. */
export async function writeAll(conn: Deno.Conn, data: string | Bytes): Promise<void> {
  let rest = typeof data === "string" ? encode(data) : data;
  while (rest.length > 0) rest = rest.subarray(await conn.write(rest));
}

/** Reads just `length` bytes, or fewer at the end of the stream. */
export async function readExactly(conn: Deno.Conn, length: number): Promise<Bytes> {
  const bytes = new Uint8Array(length);
  let at = 0;
  for (let size; at < length && (size = await conn.read(bytes.subarray(at))) !== null;) at += size;
  return bytes.subarray(0, at);
}

/** Reads to the end of the stream. @throws ConnectionReset where it ends with one */
export async function readToEnd(conn: Deno.Conn): Promise<Bytes> {
  const chunks: Bytes[] = [];
  const buffer = new Uint8Array(65_536);
  for (let size; (size = await conn.read(buffer)) !== null;) chunks.push(buffer.slice(0, size));
  return join(chunks);
}

/** Sends `text` and returns as many bytes of the answer. */
export async function exchange(conn: Deno.Conn, text: string): Promise<string> {
  await writeAll(conn, text);
  return decode(await readExactly(conn, encode(text).length));
}

/** A client that sends `data` and resets the connection: at once, or at the first byte it gets. */
export function resetClient(port: number, data?: Bytes): Promise<void> {
  return new Promise((resolve) => {
    const socket = connect(port, "127.0.0.1");
    socket.on("error", () => {});
    socket.on("close", () => resolve());
    if (!data) return socket.on("connect", () => socket.resetAndDestroy());
    socket.on("connect", () => socket.write(data));
    socket.on("data", () => socket.resetAndDestroy());
  });
}

/** A datagram, and the address it came from. */
export type Datagram = { bytes: Bytes; from: Deno.NetAddr };

/** What a scripted UDP server does with its datagram number `count`, from 1. */
export type Script = (datagram: Datagram, count: number, self: UdpPeer) => void | Promise<void>;

/** A UDP socket on loopback that loses nothing it gets; with a script it is a server of its own. */
export class UdpPeer implements AsyncDisposable {
  readonly addr: Deno.NetAddr;
  /** How many datagrams have come. */
  count = 0;
  readonly #socket: Deno.DatagramConn;
  readonly #ended: Promise<void>;
  readonly #held: Datagram[] = [];
  #onDatagram = (): void => {};
  #closed = false;

  constructor(script: Script = () => {}, { hostname = "127.0.0.1", port = 0 } = {}) {
    this.#socket = Deno.listenDatagram({ transport: "udp", hostname, port });
    this.addr = this.#socket.addr as Deno.NetAddr;
    this.#ended = this.#receive(script);
    this.#ended.catch(() => {}); // it is thrown when the test is over
  }

  /** One loop for good. */
  async #receive(script: Script): Promise<void> {
    const buffer = new Uint8Array(65_535);
    while (true) {
      try {
        const [bytes, from] = await this.#socket.receive(buffer);
        const datagram = { bytes: bytes.slice(), from: from as Deno.NetAddr };
        this.#held.push(datagram);
        this.#onDatagram();
        if (datagram.from.port !== this.addr.port) await script(datagram, ++this.count, this);
      } catch (error) {
        if (this.#closed) return;
        throw error;
      }
    }
  }

  /** Sends one datagram to a port of 127.0.0.1, or to an address. */
  async send(data: string | Uint8Array, to: number | Deno.NetAddr): Promise<void> {
    const addr = { transport: "udp", hostname: "127.0.0.1", port: to as number } as const;
    const bytes = typeof data === "string" ? encode(data) : data;
    await this.#socket.send(bytes, typeof to === "number" ? addr : to);
  }

  /** The next datagram, whenever it comes. */
  async next(): Promise<Datagram> {
    while (this.#held.length === 0) {
      await new Promise<void>((resolve) => this.#onDatagram = resolve);
    }
    return this.#held.shift()!;
  }

  /** Sends one datagram and returns the next that comes. */
  async ask(data: string | Uint8Array, to: number | Deno.NetAddr): Promise<Bytes> {
    await this.send(data, to);
    return (await this.next()).bytes;
  }

  /** All that was sent here before now: loopback delivers in order, and to oneself as well. */
  async arrived(): Promise<Datagram[]> {
    const mark = crypto.randomUUID();
    await this.send(mark, this.addr);
    const datagrams: Datagram[] = [];
    for (let datagram; decode((datagram = await this.next()).bytes) !== mark;) {
      datagrams.push(datagram);
    }
    return datagrams;
  }

  /** Closes it. @throws what its script threw */
  async [Symbol.asyncDispose](): Promise<void> {
    this.#closed = true;
    this.#socket.close();
    await this.#ended;
  }
}

// ---- What a program prints ----

/** What a server's process prints of the next sentence, without the peer; other lines are passed. */
export async function nextSentence(server: Program): Promise<string> {
  while (true) {
    const [, sentence] = /^\[127\.0\.0\.1:\d+\] (.*)$/s.exec(await server.nextLine()) ?? [];
    if (sentence !== undefined) return sentence;
  }
}

/** The last line of what a process printed. */
export function lastLine(text: string): string {
  return text.trimEnd().split("\n").at(-1)!;
}

// ---- Data ----

/** One array of many. */
export function join(chunks: Uint8Array[]): Bytes {
  const bytes = new Uint8Array(chunks.reduce((sum, { length }) => sum + length, 0));
  let at = 0;
  for (const chunk of chunks) {
    bytes.set(chunk, at);
    at += chunk.length;
  }
  return bytes;
}

/** As `assertEquals`, for megabytes: it says where they differ, and shows no more. */
export function assertSameBytes(actual: Uint8Array, expected: Uint8Array): void {
  const length = Math.max(actual.length, expected.length);
  for (let i = 0; i < length; i++) {
    if (actual[i] === expected[i]) continue;
    const sizes = `${actual.length} bytes, not the ${expected.length} expected`;
    throw new Error(`byte ${i} is ${actual[i]}, not ${expected[i]} (${sizes})`);
  }
}

/** A stream to write to, and what was written. */
export function collector(): { output: WritableStream<Uint8Array>; bytes(): Bytes } {
  const chunks: Uint8Array[] = [];
  const write = (chunk: Uint8Array): void => void chunks.push(chunk.slice()); // it may be a view
  return { output: new WritableStream({ write }), bytes: () => join(chunks) };
}

/** Events as they come: `serve({ onEvent: log.add })`. */
export class EventLog<E extends { event: string }> {
  readonly events: E[] = [];
  #onEvent = (): void => {};

  readonly add = (event: E): void => {
    this.events.push(event);
    this.#onEvent();
  };

  /** The events of one kind. */
  of<K extends E["event"]>(kind: K): Extract<E, { event: K }>[] {
    return this.events.filter((event) => event.event === kind) as Extract<E, { event: K }>[];
  }

  /** Waits until there are `count` of a kind, and returns the last of them. */
  async wait<K extends E["event"]>(kind: K, count = 1): Promise<Extract<E, { event: K }>> {
    while (this.of(kind).length < count) {
      await new Promise<void>((resolve) => this.#onEvent = resolve);
    }
    return this.of(kind)[count - 1]!;
  }
}

/** Numbers and bytes that a seed repeats. */
export type Random = { int(below: number): number; bytes(length: number): Bytes };

/** Randomness (mulberry32): `SEED=7 deno task test` repeats a run. A failure of `run.ts` names its seed. */
export function seededRandom(
  seed: number = Number(Deno.env.get("SEED") ?? crypto.getRandomValues(new Uint32Array(1))[0]),
): Random {
  if (!Deno.env.has("SEED")) console.log(`seed ${seed}`);
  let state = seed;
  function next(): number {
    state = (state + 0x6d2b79f5) | 0;
    let mixed = Math.imul(state ^ (state >>> 15), state | 1);
    mixed ^= mixed + Math.imul(mixed ^ (mixed >>> 7), mixed | 61);
    return (mixed ^ (mixed >>> 14)) >>> 0;
  }
  return {
    int: (below) => next() % below,
    bytes: (length) => {
      const words = new Uint32Array(Math.ceil(length / 4));
      for (let i = 0; i < words.length; i++) words[i] = next();
      return new Uint8Array(words.buffer, 0, length);
    },
  };
}

/** Cuts `bytes` into pieces of 1 to `most` bytes. */
export function* pieces(bytes: Bytes, random: Random, most: number): Generator<Bytes> {
  for (let at = 0; at < bytes.length;) {
    const end = at + 1 + random.int(most);
    yield bytes.subarray(at, end);
    at = end;
  }
}
