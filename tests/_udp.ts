/**
 * What the tests of the UDP scripts share: a server in this process with its events, a socket
 * without a network, the client's socket.
 *
 * @module
 */

import { type EchoSocket, open, type OpenOptions } from "../udp_client.ts";
import { type EchoServer, serve, type ServeOptions, type ServerEvent } from "../udp_server.ts";
import { type Bytes, encode, EventLog, type Script } from "./_helpers.ts";

/** A server in this process, and its events. */
export type Server = EchoServer & { port: number; log: EventLog<ServerEvent> };

/** A server in this process, and its events. */
export function start(options: ServeOptions = {}, serveWith: typeof serve = serve): Server {
  const log = new EventLog<ServerEvent>();
  const server = serveWith({ port: 0, ...options, onEvent: log.add });
  return { ...server, port: server.addr.port, log };
}

/** `127.0.0.1:12000` */
export function shown({ hostname, port }: Deno.NetAddr): string {
  return `${hostname}:${port}`;
}

/** An address of a peer that is not there. */
export function address(hostname: string, port: number): Deno.NetAddr {
  return { transport: "udp", hostname, port };
}

const COMPACT_AFTER = 16_384; // datagrams taken from a queue that is never empty

/** A socket without a network: datagrams from any address, at the speed of memory. */
export class FakeSocket {
  readonly addr = address("127.0.0.1", 12_000);
  /** What is sent goes here. */
  onSend: (bytes: Uint8Array, to: Deno.NetAddr) => void | Promise<void> = () => {};
  /** Called with each datagram that the server takes. */
  onReceive: (from: Deno.NetAddr) => void = () => {};
  closed = false;
  #waiting: [Uint8Array, Deno.NetAddr][] = [];
  #taken = 0; // of those; a shift of each would take its time
  #failure: Error | undefined;
  #wake = (): void => {};
  #idle = Promise.withResolvers<void>();

  /** A datagram that comes in. */
  deliver(data: string | Uint8Array, from: Deno.NetAddr): void {
    this.#waiting.push([typeof data === "string" ? encode(data) : data.slice(), from]);
    this.#wake();
  }

  /** The next receive fails. */
  fail(error: Error): void {
    this.#failure = error;
    this.#wake();
  }

  /** Waits until the server has taken all that came, and waits for more. */
  async idle(): Promise<void> {
    if (this.#taken < this.#waiting.length) this.#idle = Promise.withResolvers();
    await this.#idle.promise;
  }

  /** As of `Deno.DatagramConn`. */
  async receive(buffer: Uint8Array): Promise<[Uint8Array, Deno.Addr]> {
    while (this.#taken === this.#waiting.length && !this.#failure) {
      [this.#waiting, this.#taken] = [[], 0];
      this.#idle.resolve();
      if (this.closed) throw new Deno.errors.BadResource("Bad resource ID");
      await new Promise<void>((resolve) => this.#wake = resolve);
    }
    if (this.#failure) {
      const error = this.#failure;
      this.#failure = undefined;
      throw error;
    }
    const [bytes, from] = this.#waiting[this.#taken++]!;
    if (this.#taken === COMPACT_AFTER) {
      this.#waiting.splice(0, this.#taken);
      this.#taken = 0;
    }
    buffer.set(bytes);
    this.onReceive(from);
    return [buffer.subarray(0, bytes.length), from];
  }

  /** As of `Deno.DatagramConn`. */
  async send(bytes: Uint8Array, to: Deno.Addr): Promise<number> {
    if (this.closed) throw new Deno.errors.BadResource("Bad resource ID");
    await this.onSend(bytes, to as Deno.NetAddr);
    return bytes.length;
  }

  /** As of `Deno.DatagramConn`: it interrupts a receive that waits, but no send. */
  close(): void {
    if (this.closed) throw new Deno.errors.BadResource("Bad resource ID");
    this.closed = true;
    this.#wake();
  }
}

/** Time that the test sets: `performance.now`, and the intervals that look at it. */
export type Clock = {
  /** Sets the time, in ms. */
  set(ms: number): void;
  /** Lets each interval pass once. */
  tick(): void;
};

/** Replaces the clock and the intervals of this process while `use` runs. */
export async function withClock(use: (clock: Clock) => Promise<void>): Promise<void> {
  let now = 0;
  const ticks = new Map<number, () => void>();
  const { setInterval, clearInterval } = globalThis;
  Object.defineProperty(performance, "now", { value: () => now, configurable: true });
  Object.assign(globalThis, {
    setInterval: (tick: () => void) => ticks.set(ticks.size + 1, tick).size,
    clearInterval: (id: number) => ticks.delete(id),
  });
  try {
    await use({ set: (ms) => now = ms, tick: () => ticks.forEach((tick) => tick()) });
  } finally {
    delete (performance as { now?: unknown }).now;
    Object.assign(globalThis, { setInterval, clearInterval });
  }
}

/** A server on a fake socket. */
export function startFake(
  options: ServeOptions = {},
  serveWith: typeof serve = serve,
): Server & { socket: FakeSocket } {
  const real = Deno.listenDatagram;
  const socket = new FakeSocket();
  const deno = Deno as { listenDatagram: unknown };
  deno.listenDatagram = () => socket;
  try {
    return { ...start(options, serveWith), socket };
  } finally {
    deno.listenDatagram = real;
  }
}

// ---- The client ----

/** What makes a peer an echo server. */
export const echo: Script = ({ bytes, from }, _, self) => self.send(bytes, from);

/** The client's socket, for `await using`. */
export async function openTo(
  { addr }: { addr: Deno.NetAddr },
  options: OpenOptions = {},
): Promise<EchoSocket & Disposable> {
  const socket = await open({ hostname: addr.hostname, port: addr.port, ...options });
  return Object.assign(socket, { [Symbol.dispose]: () => socket.close() });
}

/** Where the client finds a server. */
export function to({ addr }: { addr: Deno.NetAddr }): string[] {
  return ["--port", `${addr.port}`];
}

/** A stream of some chunks. */
export function streamOf(...chunks: (string | Bytes)[]): ReadableStream<Uint8Array> {
  return ReadableStream.from(
    chunks.map((chunk) => typeof chunk === "string" ? encode(chunk) : chunk),
  );
}
