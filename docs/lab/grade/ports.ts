/**
 * Ports: free ones, who holds one, and what waits in TIME-WAIT.
 *
 * @module
 */

import { capture } from "./process.ts";
import { UsageError } from "./verdict.ts";

const HOSTNAME = "127.0.0.1";
const TIME_WAIT = "06"; // as /proc/net/tcp has it
const LISTEN = "0A";
const TIME_WAIT_MS = 60_000; // as long as Linux keeps a port so
const TIME_WAIT_LOOK_MS = 500;

/**
 * By default, systems pick only higher ports by themselves. Round numbers, which people choose, come
 * last in a block.
 */
const BLOCKS = { from: 13_001, many: 69, each: 100 };

/**
 * Ports for one program, which binds them later: a block, of which the grader keeps the first itself
 * once it takes one, so that no other grader has the rest.
 */
export class Ports implements Disposable {
  #first: Deno.TcpListener | undefined;
  #earlier: Promise<Entry[]> | undefined; // those of a program before, which may be in TIME-WAIT
  #given = 0;

  /**
   * The next port that is free, also of TIME-WAIT.
   * @throws UsageError if there is none
   */
  async take(isTcp: boolean): Promise<number> {
    const earlier = isTcp ? await (this.#earlier ??= entries("tcp")) : [];
    const first = this.#first ??= claimBlock();
    for (let tries = 1; tries < BLOCKS.each; tries++) {
      const next = first.addr.port + 1 + this.#given++ % (BLOCKS.each - 1);
      if (!earlier.some(({ port }) => port === next) && !isTaken(next, isTcp)) return next;
    }
    throw new UsageError("no port is free");
  }

  [Symbol.dispose](): void {
    this.#first?.close();
  }
}

/** @throws UsageError if there is none */
function claimBlock(): Deno.TcpListener {
  const start = Math.floor(Math.random() * BLOCKS.many); // not that of a moment ago
  for (let i = 0; i < BLOCKS.many; i++) {
    const port = BLOCKS.from + (start + i) % BLOCKS.many * BLOCKS.each;
    try {
      return Deno.listen({ hostname: HOSTNAME, port });
    } catch (error) {
      if (error instanceof Deno.errors.NotCapable) throw error;
    }
  }
  throw new UsageError(`no port from ${BLOCKS.from} on can be bound on ${HOSTNAME}`);
}

/** Whether somebody is bound to the port; tried by binding to it. */
export function isTaken(port: number, isTcp: boolean): boolean {
  try {
    if (isTcp) Deno.listen({ hostname: HOSTNAME, port }).close();
    else Deno.listenDatagram({ transport: "udp", hostname: HOSTNAME, port }).close();
    return false;
  } catch (error) {
    if (error instanceof Deno.errors.NotCapable) throw error;
    return true;
  }
}

/**
 * Waits until a port can be bound with SO_REUSEADDR; `isWithout`: or without it, which a connection
 * in TIME-WAIT prevents.
 * @throws UsageError that names who holds it
 */
export async function waitForPort(
  port: number,
  { isTcp, isWithout = false, onNote }: {
    isTcp: boolean;
    isWithout?: boolean;
    onNote?: ((note: string) => void) | undefined;
  },
): Promise<void> {
  const deadline = performance.now() + TIME_WAIT_MS;
  for (let isNoted = false;; isNoted = true) {
    const states = isTcp ? await statesOf(port) : [];
    const isWaiting = states.length > 0 && !states.includes(LISTEN);
    const isBound = isTaken(port, isTcp);
    if (isBound && !(isWaiting && performance.now() < deadline)) {
      const holder = await holderOf(port, isTcp);
      throw new UsageError(`port ${port} is taken${holder && ` by ${holder}`}: end that first`);
    }
    const mustWait = isBound || (isWithout && states.includes(TIME_WAIT));
    if (!mustWait || performance.now() > deadline) return;
    if (!isNoted) {
      onNote?.(
        `port ${port} is in TIME-WAIT: waiting, at most ${TIME_WAIT_MS / 1000} s ` +
          "(for a program that sets SO_REUSEADDR nobody has to wait)",
      );
    }
    await new Promise((resolve) => setTimeout(resolve, TIME_WAIT_LOOK_MS));
  }
}

/** Whether a connection that has ended keeps a TCP port. */
export async function isInTimeWait(port: number): Promise<boolean> {
  return (await statesOf(port)).includes(TIME_WAIT);
}

async function statesOf(port: number): Promise<string[]> {
  return (await entries("tcp")).filter((entry) => entry.port === port).map(({ state }) => state);
}

/**
 * Whether no process has the other end of a connection of this machine any more: then a reset wrongs
 * nobody, and leaves no TIME-WAIT.
 */
export async function isAbandoned({ port, remotePort }: {
  port: number;
  remotePort: number;
}): Promise<boolean> {
  if (Deno.build.os !== "linux") return true;
  const end = (await entries("tcp"))
    .find((entry) => entry.port === remotePort && entry.remotePort === port);
  return end === undefined || end.inode === 0;
}

/** The program that holds a port, as far as the system shows it. */
export async function holderOf(port: number, isTcp: boolean): Promise<string> {
  const sockets = await capture("ss", [isTcp ? "-Htlnp" : "-Hulnp", `sport = :${port}`]);
  const [, name, pid] = /\("([^"]+)",pid=(\d+)/.exec(sockets) ?? [];
  return name === undefined ? "" : `${name} (process ${pid})`;
}

/** The ports that a process is bound to. */
export async function portsOf(pid: number, isTcp: boolean): Promise<number[]> {
  const sockets = await capture("ss", [isTcp ? "-Htlnp" : "-Hulnp"]);
  const lines = sockets.split("\n").filter((line) => line.includes(`pid=${pid},`));
  return lines.map((line) => Number(/:(\d+)\s/.exec(line)?.[1])).filter(Boolean);
}

/** Whether a UDP port is bound; looked up, as to try it could be in the program's way. */
export async function isUdpBound(port: number): Promise<boolean> {
  if (Deno.build.os !== "linux") return isTaken(port, false);
  return (await entries("udp")).some((entry) => entry.port === port);
}

/** A socket as Linux lists it; no process has one whose `inode` is 0. */
type Entry = { port: number; remotePort: number; state: string; inode: number };

/** The sockets of this machine. */
async function entries(protocol: "tcp" | "udp"): Promise<Entry[]> {
  const table = await capture("cat", [`/proc/net/${protocol}`, `/proc/net/${protocol}6`]);
  const portOf = (address: string): number => parseInt(address.split(":")[1]!, 16);
  const lines = table.split("\n").map((line) => line.trim().split(/\s+/));
  return lines.filter(([, local]) => local?.includes(":")).map((fields) => ({
    port: portOf(fields[1]!),
    remotePort: portOf(fields[2]!),
    state: fields[3]!,
    inode: Number(fields[9]),
  }));
}

/** A port that stays without a listener: it is taken, by a connection. */
export async function holdDeadPort(): Promise<{ port: number } & AsyncDisposable> {
  const listener = Deno.listen({ hostname: HOSTNAME, port: 0 });
  const conn = await Deno.connect({ hostname: HOSTNAME, port: listener.addr.port });
  return {
    port: conn.localAddr.port,
    [Symbol.asyncDispose]: async () => {
      conn.close();
      await listener.accept().then((conn) => conn.close());
      listener.close();
    },
  };
}

/** Where to send from to `hostname`. */
export function ownAddressFor(hostname: string): { hostname: string; port: number } {
  if (hostname.includes(":")) return { hostname: isLoopback(hostname) ? "::1" : "::", port: 0 };
  return { hostname: isLoopback(hostname) ? HOSTNAME : "0.0.0.0", port: 0 };
}

export function isLoopback(hostname: string): boolean {
  return hostname === "localhost" || hostname === "::1" || /^127(\.\d{1,3}){3}$/.test(hostname);
}
