/**
 * The stimuli of `faults_test.ts` and `soak.ts`, at any scale: rude peers, hostile networks, and
 * what Linux tells of a process.
 *
 * @module
 */

import { Buffer } from "node:buffer";
import { assertEquals, assertMatch } from "@std/assert";
import {
  type Bytes,
  decode,
  encode,
  exchange,
  fileUrl,
  freePort,
  hasTool,
  join,
  LIMIT,
  LINUX,
  Program,
  type Random,
  readExactly,
  readToEnd,
  resetClient,
  rudeServer,
  spawn,
  unless,
  writeAll,
} from "./_helpers.ts";

const ROOT = LINUX && Deno.uid() === 0;

/** What a test needs where it is missing, for its name; "" where it is there. */
export const NEEDS = {
  linux: LINUX ? "" : "needs Linux",
  python: LINUX && hasTool("python3", "-V") ? "" : "needs Linux and python3",
  namespace: ROOT && ["ip -V", "nft -v", "unshare -n true", "python3 -V"].every(runs)
    ? ""
    : "needs root on Linux, ip, nft and python3",
  tmpfs: ROOT && runs("unshare -m true") ? "" : "needs root on Linux",
} as const;

/** A test that is ignored, with the reason in its name, where `missing` says what it needs. */
export function test(
  name: string,
  missing: string,
  fn: (t: Deno.TestContext) => Promise<void>,
): void {
  Deno.test({ ...unless(missing, name), ...LIMIT, fn });
}

/** The `--json` lines of some output. */
// deno-lint-ignore no-explicit-any
export function eventsOf(stdout: string): any[] {
  return stdout.trim().split("\n").map((line) => JSON.parse(line));
}

function runs(command: string): boolean {
  const [name, ...args] = command.split(" ");
  return hasTool(name!, ...args);
}

// ---- What Linux tells of a process ----

/** How many descriptors it has open. */
export function descriptors(pid: number): number {
  return [...Deno.readDirSync(`/proc/${pid}/fd`)].length;
}

/** How much memory it takes, in MiB. */
export function residentMiB(pid: number): number {
  const status = Deno.readTextFileSync(`/proc/${pid}/status`);
  return Number(/^VmRSS:\s+(\d+) kB$/m.exec(status)?.[1]) / 1024;
}

/** How long it has computed, in seconds. */
export function cpuSeconds(pid: number): number {
  const [user, system] = Deno.readTextFileSync(`/proc/${pid}/stat`).split(") ")[1]!
    .split(" ").slice(11, 13);
  return (Number(user) + Number(system)) / 100; // USER_HZ
}

/** Whether it runs. */
export function alive(pid: number): boolean {
  try {
    return Deno.statSync(`/proc/${pid}`).isDirectory;
  } catch {
    return false;
  }
}

/**
 * Whether a process and all below it wait in a system call. Python loses a Ctrl-C that comes just
 * before it makes one that blocks: its handler only sets a flag, which it looks at before and after.
 * Where the system does not say (proc(5), Linux), this is taken to be so.
 */
export function isWaiting(pid: number): boolean {
  try {
    const [state] = Deno.readTextFileSync(`/proc/${pid}/stat`).split(") ")[1]!;
    const children = Deno.readTextFileSync(`/proc/${pid}/task/${pid}/children`).trim();
    return state === "S" && (children === "" || children.split(" ").map(Number).every(isWaiting));
  } catch {
    return true;
  }
}

/** Waits for what no event tells of, and looks each 10 ms. @throws Error after `ms` */
export async function eventually(
  what: string,
  check: () => boolean,
  { ms = 10_000 }: { ms?: number } = {},
): Promise<void> {
  for (const start = performance.now(); !check();) {
    if (performance.now() - start > ms) throw new Error(`not within ${ms} ms: ${what}`);
    await new Promise((resolve) => setTimeout(resolve, 10));
  }
}

/** A pause, where time itself is measured. */
export function seconds(count: number): Promise<void> {
  return new Promise((resolve) => setTimeout(resolve, count * 1000));
}

/** What `promise` resolves to, and after how many seconds from now. */
export async function timed<T>(promise: Promise<T>): Promise<[T, number]> {
  const start = performance.now();
  return [await promise, (performance.now() - start) / 1000];
}

// ---- Other programs, other networks ----

/** Runs Python code. */
export function python(
  code: string,
  args: unknown[] = [],
  { via = [], killMs }: { via?: string[]; killMs?: number } = {},
): Program {
  const [command, ...rest] = [...via, "python3", "-c", code, ...args.map(String)];
  const piped = { stdin: "piped", stdout: "piped", stderr: "piped" } as const;
  return new Program(
    "python3",
    new Deno.Command(command!, { args: rest, ...piped }).spawn(),
    killMs,
  );
}

/** A plain TCP echo server, one client after the other; it prints its port. */
export const PLAIN_TCP = `
import socket
server = socket.create_server(("127.0.0.1", 0))
print(server.getsockname()[1], flush=True)
while True:
    conn, _ = server.accept()
    while data := conn.recv(65536): conn.sendall(data)
    conn.close()
`;

/** A plain UDP echo server; it prints its port. */
export const PLAIN_UDP = `
import socket
server = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
server.bind(("127.0.0.1", 0))
print(server.getsockname()[1], flush=True)
while True: server.sendto(*server.recvfrom(65536))
`;

/** Sends `count` datagrams from one socket to `port`, as fast as it can, and reads none. */
export const FLOOD_UDP = `
import socket, sys
port, count = map(int, sys.argv[1:])
sock = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
sock.bind(("127.0.0.1", 0))
for i in range(count):
    sock.sendto(b"flood %d" % i, ("127.0.0.1", port))
    if i == 1000: print("flooding", flush=True)
`;

/** Forges `count` datagrams to `port`, each from a host of its own in 127.0.0.0/8, so that none is lost. */
export const FORGE_UDP = `
import socket, struct, sys
port, count = map(int, sys.argv[1:])
raw = socket.socket(socket.AF_INET, socket.SOCK_RAW, socket.IPPROTO_RAW)
honest = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
honest.bind(("127.0.0.1", 0))
udp = struct.pack("!HHHH", 40000, port, 9, 0) + b"x"
for i in range(count):
    source = bytes([127, 1 + (i >> 16), i >> 8 & 255, i & 255])
    ip = struct.pack("!BBHHHBBH4s4s", 0x45, 0, 29, 0, 0, 64, 17, 0, source, b"\\x7f\\0\\0\\1")
    raw.sendto(ip + udp, ("127.0.0.1", 0))
    if i % 100 == 99: # the server has taken those before
        honest.sendto(b"%d" % i, ("127.0.0.1", port))
        while honest.recv(99) != b"%d" % i: pass
    if i == 99_999: print("warm", flush=True)
`;

/** What a server does with its one client, which is `gone` when it has ended. */
export type Talk = (conn: Deno.TcpConn, gone: Promise<void>) => Promise<void>;

/** Echoes the first `count` bytes, as `change` has them, and takes all that comes. */
export function echoing(
  count: number,
  change = (bytes: Bytes): Bytes => bytes,
): (conn: Deno.TcpConn) => Promise<void> {
  return async (conn) => {
    const bytes = await readExactly(conn, count);
    await Promise.all([readToEnd(conn), writeAll(conn, change(bytes))]);
  };
}

/** A UDP peer that answers each new datagram, and each one sent again, as `answer` says. */
export function udpPeer(
  answer: (sentence: string, to: Deno.NetAddr, socket: Deno.DatagramConn) => Promise<unknown>,
  port = 0,
): { port: number } & AsyncDisposable {
  const socket = Deno.listenDatagram({ transport: "udp", hostname: "127.0.0.1", port });
  async function serve(): Promise<void> {
    for await (const [bytes, from] of socket) {
      await answer(decode(bytes), from as Deno.NetAddr, socket);
    }
  }
  const served = serve();
  return {
    port: (socket.addr as Deno.NetAddr).port,
    async [Symbol.asyncDispose](): Promise<void> {
      socket.close();
      await served;
    },
  };
}

/** A network of its own, loopback only: its packet filter and port range touch nobody else's. */
export type Network = Disposable & {
  via: string[]; // what runs a command in it
  run(command: string): void;
};

/** A name that `run.ts` knows as one of its run. */
function networkName(): string {
  const run = Deno.env.get("ECHO_TEST_RUN") ?? "echo-test";
  return `${run}-${crypto.randomUUID().slice(0, 8)}`;
}

/** Makes a network namespace; `using` it removes it. */
export function makeNetwork(name = networkName()): Network {
  const via = ["ip", "netns", "exec", name];
  run(["ip", "netns", "add", name]);
  run([...via, "ip", "link", "set", "lo", "up"]);
  return {
    via,
    run: (command) => run([...via, "sh", "-c", command]),
    [Symbol.dispose]: () => run(["ip", "netns", "delete", name]),
  };
}

/** Two networks of their own, and a cable between them: 10.9.8.1 and .2, fe80::1 and ::2, veth0. */
export function makeLink(): Disposable & { near: Network; far: Network } {
  const name = networkName();
  using stack = new DisposableStack();
  const near = stack.use(makeNetwork(`${name}-1`));
  const far = stack.use(makeNetwork(`${name}-2`));
  run(`ip link add veth0 netns ${name}-1 type veth peer name veth0 netns ${name}-2`.split(" "));
  for (const [network, number] of [[near, 1], [far, 2]] as const) {
    network.run(`
      ip link set veth0 addrgenmode none
      ip addr add 10.9.8.${number}/24 dev veth0
      ip addr add fe80::${number}/64 dev veth0 nodad
      ip link set veth0 up`);
  }
  const all = stack.move();
  return { near, far, [Symbol.dispose]: () => all.dispose() };
}

function run([command, ...args]: string[]): void {
  const { success, stderr } = new Deno.Command(command!, { args }).outputSync();
  if (!success) throw new Error(`${args.join(" ")}: ${new TextDecoder().decode(stderr)}`);
}

/** The `nft` commands that drop what `rule` matches, as it comes in. */
export function dropRule(rule: string): string {
  return `nft 'add table ip echo; add chain ip echo in { type filter hook input priority 0; };
    add rule ip echo in ${rule} drop'`;
}

// ---- Resets ----

/** Clients that are reset before they could be accepted: the server is asleep when they come. */
export async function resetBeforeAccept(
  server: Program,
  port: number,
  count: number,
): Promise<void> {
  for (let left = count; left > 0; left -= 400) { // the backlog takes 511
    server.kill("SIGSTOP");
    await Promise.all(Array.from({ length: Math.min(left, 400) }, () => resetClient(port)));
    server.kill("SIGCONT");
    using conn = await Deno.connect({ port });
    assertEquals(await exchange(conn, "hello\n"), "hello\n");
  }
}

/** Clients that reset at the first echo, when the server reads again. */
export async function resetInRead(_: Program, port: number, count: number): Promise<void> {
  for (let left = count; left > 0; left -= 50) {
    const reset = (): Promise<void> => resetClient(port, encode("hello\n"));
    await Promise.all(Array.from({ length: Math.min(left, 50) }, reset));
  }
}

/** Clients that send and do not read, until the server cannot write to them, and then reset. */
export async function resetInWrite(_: Program, port: number, count: number): Promise<void> {
  await using peer = python(BLOCKED_RESETS, [port, count], { killMs: 100_000 });
  const { code, stderr } = await peer.finish();
  assertEquals([code, stderr], [0, ""]);
}

const BLOCKED_RESETS = `
import select, socket, struct, sys
port, count = map(int, sys.argv[1:])
while count > 0:
    socks = []
    for _ in range(min(count, 50)):
        sock = socket.socket()
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        sock.connect(("127.0.0.1", port))
        sock.setblocking(False)
        socks.append(sock)
    while ready := select.select([], socks, [], 0.1)[1]:
        for sock in ready: sock.send(bytes(65536))
    for sock in socks:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        sock.close()
    count -= len(socks)
`;

// ---- Descriptors ----

/** Runs the command behind it with 48 descriptors at most. */
export const FEW_DESCRIPTORS: string[] = ["sh", "-c", 'ulimit -n 48; exec "$@"', "sh"];

/**
 * 80 clients for a server with {@linkcode FEW_DESCRIPTORS}: how many are served, what part of a core
 * it takes while the others wait, and how long one of them waits once one is `freed`, in seconds.
 */
export async function starve(
  server: Program,
  { idleSeconds, freed }: { idleSeconds: number; freed: number },
): Promise<{ served: number; cpu: number; waits: number[] }> {
  const port = await server.port();
  const served: Deno.TcpConn[] = [];
  let onServed = (): void => {};
  async function client(): Promise<Deno.TcpConn> {
    const conn = await Deno.connect({ port });
    exchange(conn, "hello\n").then((echo) => {
      if (echo === "hello\n") served.push(conn);
      onServed();
    }).catch(() => {}); // closed below
    return conn;
  }
  const conns = await Promise.all(Array.from({ length: 80 }, client));
  try {
    await server.stderr.until("tcp_server: cannot accept: ");
    assertMatch(await server.stderr.nextLine(), /^too many open files/i);
    await eventually("it serves", () => served.length > 0);
    const before = cpuSeconds(server.pid);
    await seconds(idleSeconds);
    const cpu = (cpuSeconds(server.pid) - before) / idleSeconds;
    const count = served.length;
    const waits: number[] = [];
    for (let i = 0; i < freed; i++) {
      const next = new Promise<void>((resolve) => onServed = resolve);
      served.shift()!.close();
      waits.push((await timed(next))[1]);
    }
    for (const conn of served) assertEquals(await exchange(conn, "bye\n"), "bye\n");
    return { served: count, cpu, waits };
  } finally {
    for (const conn of conns) {
      try {
        conn.close();
      } catch {
        // It was closed to make room.
      }
    }
  }
}

// ---- Volume ----

const PERIOD_BYTES = 1_048_573; // a prime: the bytes repeat at no power of two
const MAX_CHUNK_BYTES = 70_000;

/** Random bytes without an end, cut into chunks of 1 to 70,000 bytes. */
export class RandomStream {
  readonly #bytes: Bytes;

  /** One for each seed. */
  constructor(readonly random: Random) {
    const period = random.bytes(PERIOD_BYTES);
    this.#bytes = join([period, period.subarray(0, MAX_CHUNK_BYTES)]);
  }

  /** A chunk of the first `total` bytes, that starts at `at`. */
  chunk(at: number, total: number): Bytes {
    const size = Math.min(1 + this.random.int(MAX_CHUNK_BYTES), total - at);
    return this.#bytes.subarray(at % PERIOD_BYTES, at % PERIOD_BYTES + size);
  }

  /** @throws Error unless `bytes` are those that start at `at` */
  check(bytes: Uint8Array, at: number): void {
    const start = at % PERIOD_BYTES;
    const wanted = this.#bytes.subarray(start, start + bytes.length);
    const actual = Buffer.from(bytes.buffer, bytes.byteOffset, bytes.length);
    if (!actual.equals(wanted)) throw new Error(`other bytes came back, ${at} bytes on`);
  }

  /** A pause that lets the other side fill what the system holds, so that its writes are partial. */
  async pauseLong(): Promise<void> {
    await new Promise((resolve) => setTimeout(resolve, 100 + this.random.int(100)));
  }

  /** Now and then a pause of up to 3 ms: random timing. */
  async pause(): Promise<void> {
    if (this.random.int(64) > 0) return;
    await new Promise((resolve) => setTimeout(resolve, this.random.int(4)));
  }
}

/** Sends `total` random bytes, in random chunks and times, and checks their echo, as it comes. */
export async function transfer(
  port: number,
  total: number,
  { random }: { random: Random },
): Promise<void> {
  const stream = new RandomStream(random);
  using conn = await Deno.connect({ port });
  async function send(): Promise<void> {
    for (let at = 0; at < total;) {
      const chunk = stream.chunk(at, total);
      await writeAll(conn, chunk);
      at += chunk.length;
      await stream.pause();
    }
    await conn.closeWrite();
  }
  async function receive(): Promise<number> {
    const buffer = new Uint8Array(65_536);
    let at = 0;
    await stream.pauseLong();
    for (let size; (size = await conn.read(buffer)) !== null; at += size) {
      stream.check(buffer.subarray(0, size), at);
    }
    return at;
  }
  const [received] = await Promise.all([receive(), send()]);
  assertEquals(received, total);
}

/** The same through the client's stdin and stdout, against a plain server that dawdles as well. */
export async function transferThroughClient(
  total: number,
  { random, echo }: { random: Random; echo: boolean },
): Promise<void> {
  const stream = new RandomStream(random);
  let received = 0;
  await using server = rudeServer(async (conn) => {
    const buffer = new Uint8Array(MAX_CHUNK_BYTES);
    const some = (): Bytes => buffer.subarray(0, 1 + random.int(MAX_CHUNK_BYTES));
    await stream.pauseLong();
    for (let size; (size = await conn.read(some())) !== null; received += size) {
      if (echo) await writeAll(conn, buffer.subarray(0, size));
      else stream.check(buffer.subarray(0, size), received);
      await stream.pause();
    }
  });
  const args = ["--port", `${server.port}`, echo ? "--no-stop" : "--no-echo"];
  await using client = spawn("tcp_client.ts", args, { killMs: 100_000 });
  async function send(): Promise<void> {
    for (let at = 0; at < total;) {
      const chunk = stream.chunk(at, total);
      await client.write(chunk);
      at += chunk.length;
      await stream.pause();
    }
    await client.end();
  }
  const [{ code, stderr, bytes }] = await Promise.all([client.finish(), send()]);
  assertEquals([code, stderr, received, bytes.length], [0, "", total, echo ? total : 0]);
  for (let at = 0; at < bytes.length; at += MAX_CHUNK_BYTES) {
    stream.check(bytes.subarray(at, at + MAX_CHUNK_BYTES), at);
  }
}

/** Sends `total` bytes without a newline, and reads their echo. */
export async function sendEndlessLine(port: number, total: number): Promise<void> {
  using conn = await Deno.connect({ port });
  async function send(): Promise<void> {
    const bytes = new Uint8Array(65_536).fill(0x78);
    for (let left = total; left > 0; left -= bytes.length) await writeAll(conn, bytes);
    await conn.closeWrite();
  }
  async function receive(): Promise<number> {
    const buffer = new Uint8Array(65_536);
    let received = 0;
    for (let size; (size = await conn.read(buffer)) !== null;) received += size;
    return received;
  }
  const [received] = await Promise.all([receive(), send()]);
  assertEquals(received, total);
}

/** Sends up to `total` bytes, or what is taken of them, and reads none. */
export async function sendOnly(conn: Deno.TcpConn, total: number): Promise<void> {
  const bytes = new Uint8Array(65_536).fill(0x78);
  for (let left = total; left > 0;) left -= await conn.write(bytes);
}

/** As `load` runs, two clients beside it send what the server takes, and read nothing. */
export async function besideDeaf(port: number, load: () => Promise<void>): Promise<void> {
  const conns = [await Deno.connect({ port }), await Deno.connect({ port })];
  const stuck = conns.map((conn) => sendOnly(conn, 1e9).catch(() => {})); // closed below
  try {
    await load();
  } finally {
    for (const conn of conns) conn.close();
    await Promise.all(stuck);
  }
}

/**
 * How many MiB a server grows by under `load`, which is repeated until an honest client beside it has
 * had its `exchanges`, and how many it had. @throws Error if it is not served meanwhile
 */
export async function loaded(
  server: Program,
  port: number,
  load: () => Promise<void>,
  { exchanges, most = 20 }: { exchanges: number; most?: number },
): Promise<{ growth: number; served: number }> {
  using honest = await Deno.connect({ port });
  for (let i = 0; i < 1_000; i++) assertEquals(await exchange(honest, "hello\n"), "hello\n");
  const baseline = residentMiB(server.pid);
  let growth = 0;
  let served = 0;
  for (let times = 0; served < exchanges; times++) {
    if (times === most) throw new Error(`${served} exchanges while the load ran ${times} times`);
    let lasts = true;
    const loading = load().finally(() => lasts = false);
    loading.catch(() => {}); // thrown below
    while (lasts) {
      assertEquals(await exchange(honest, "hello\n"), "hello\n");
      growth = Math.max(growth, residentMiB(server.pid) - baseline);
      if (lasts) served++;
    }
    await loading;
  }
  return { growth, served };
}

/** A plain UDP client that asks `count` times, and resends each 5 ms until it is answered. */
export async function askInFlood(port: number, count: number): Promise<void> {
  const socket = Deno.listenDatagram({ transport: "udp", hostname: "127.0.0.1", port: 0 });
  const to = { transport: "udp", hostname: "127.0.0.1", port } as const;
  let asked = 0;
  const resend = setInterval(() => socket.send(encode(`honest ${asked}`), to), 5);
  try {
    for (; asked < count; asked++) {
      for (let reply = ""; reply !== `honest ${asked}`;) {
        reply = decode((await socket.receive())[0]);
      }
    }
  } finally {
    clearInterval(resend);
    socket.close();
  }
}

// ---- Starts ----

/**
 * Starts a server on one port again and again, and kills it while it serves one client and another
 * one, whose connection it closed first, keeps the port in TIME_WAIT.
 */
export async function restart(script: string, times: number): Promise<void> {
  const port = freePort();
  for (let i = 0; i < times; i++) {
    await using server = spawn(script, ["--port", `${port}`]);
    assertEquals(await server.port(), port);
    if (script === "tcp_server.ts") {
      using stopped = await Deno.connect({ port });
      using open = await Deno.connect({ port });
      assertEquals(await exchange(open, "hello\n"), "hello\n");
      assertEquals(await exchange(stopped, "stop\n"), "stop\n");
      assertEquals((await readToEnd(stopped)).length, 0);
      await server.stop("SIGKILL");
    } else await server.stop("SIGKILL");
  }
}

/** What became of tries to connect to ports where nobody listens. */
export type SelfConnects = { plain: number; ours: number; odd: string[] };

/**
 * Tries dead ports of the ephemeral range, each with a plain `Deno.connect`, which sometimes meets
 * itself, and with the client's.
 */
export async function selfConnects(network: Network, tries: number): Promise<SelfConnects> {
  network.run("echo 40000 40099 > /proc/sys/net/ipv4/ip_local_port_range");
  const options = { allowNet: "127.0.0.1", via: network.via, killMs: 100_000 };
  await using program = spawn("-", [`${tries}`], options);
  await program.write(SELF_CONNECTS);
  await program.end();
  const { stdout, stderr } = await program.finish();
  assertEquals(stderr, "");
  return JSON.parse(stdout);
}

const SELF_CONNECTS = `
import { connect } from "${fileUrl("tcp_client.ts")}";
const [tries] = Deno.args;
const counts = { plain: 0, ours: 0, odd: [] };
for (let i = 0; i < Number(tries); i++) {
  const port = 40000 + i % 100;
  await Deno.connect({ port }).then((conn) => (counts.plain++, conn.close()), () => {});
  await connect({ port }).then((conn) => (counts.ours++, conn.close()), ({ message }) => {
    if (!message.includes("connection refused. Start the server first")) counts.odd.push(message);
  });
}
console.log(JSON.stringify(counts));
`;

// ---- Many ----

/** As many clients at once, each with `exchanges` lines that come back. */
export async function talk(
  port: number,
  { clients = 50, exchanges = 60, line = `${"x".repeat(999)}\n` }: {
    clients?: number;
    exchanges?: number;
    line?: string;
  } = {},
): Promise<void> {
  async function client(): Promise<void> {
    using conn = await Deno.connect({ port });
    for (let i = 0; i < exchanges; i++) {
      await writeAll(conn, line);
      assertEquals((await readExactly(conn, line.length)).length, line.length);
    }
  }
  await Promise.all(Array.from({ length: clients }, client));
}
