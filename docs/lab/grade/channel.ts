/**
 * The grader's end of what it grades: a TCP connection or a UDP socket, as a client of a server or
 * as the server of a client. All is read as it comes, so that neither side waits for the other.
 *
 * @module
 */

import { once } from "node:events";
import { createServer, type Server, Socket } from "node:net"; // Deno's own cannot reset
import { isAbandoned } from "./ports.ts";
import { concat, isSame } from "./text.ts";

const MAX_READ = 33_554_432; // bytes of one peer: then it is not read on

/** Waits for something to become true, woken by whatever changes. */
export class Waits {
  readonly #wakes = new Set<() => void>();

  /** Something has changed. */
  readonly notify = (): void => {
    for (const wake of this.#wakes) wake();
  };

  /** Waits until `isDone`, for `ms` at most; returns whether it is. */
  async until(isDone: () => boolean, ms: number): Promise<boolean> {
    const deadline = performance.now() + ms;
    while (!isDone()) {
      const left = deadline - performance.now();
      if (left <= 0) {
        // After a suspension timers come before sockets: gives the sockets their turn first.
        await new Promise((resolve) => setTimeout(() => setTimeout(resolve)));
        return isDone();
      }
      const { promise, resolve } = Promise.withResolvers<void>();
      const timer = setTimeout(resolve, left);
      this.#wakes.add(resolve);
      await promise;
      clearTimeout(timer);
      this.#wakes.delete(resolve);
    }
    return true;
  }
}

/** One way to and from a peer. */
export interface Channel extends AsyncDisposable {
  /** How a TCP connection ended. */
  readonly ended: "" | "eof" | "reset";
  /** Bytes that came and were not taken. */
  readonly unread: number;
  send(bytes: Uint8Array<ArrayBuffer>): Promise<void>;
  /** Takes `length` bytes at most: of a stream all there are, of datagrams one. */
  take(length?: number): Uint8Array<ArrayBuffer>;
}

/** A TCP connection. It ends with a reset, so that no port of the program stays in TIME-WAIT. */
export class TcpChannel implements Channel {
  ended: "" | "eof" | "reset" = "";
  unread = 0;
  readonly #socket: Socket;
  readonly #closed: Promise<void>;
  #chunks: Uint8Array[] = [];
  #length = 0;

  constructor(socket: Socket, waits: Waits) {
    this.#socket = socket;
    socket.setNoDelay(true);
    socket.on("data", (data: Uint8Array) => {
      this.#chunks.push(data);
      this.unread += data.length;
      this.#length += data.length;
      if (this.#length > MAX_READ) socket.pause(); // TCP's flow control stops it
      waits.notify();
    });
    socket.on("end", () => this.#end("eof", waits));
    socket.on("error", () => this.#end("reset", waits));
    this.#closed = new Promise((resolve) =>
      socket.on("close", () => {
        this.#end("reset", waits);
        resolve();
      })
    );
  }

  #end(how: "eof" | "reset", waits: Waits): void {
    this.ended ||= how;
    waits.notify();
  }

  get ports(): { port: number; remotePort: number } {
    const { localPort = 0, remotePort = 0 } = this.#socket;
    return { port: localPort, remotePort };
  }

  async send(bytes: Uint8Array<ArrayBuffer>): Promise<void> {
    if (this.#socket.destroyed || bytes.length === 0) return;
    const written = new Promise<void>((resolve) => {
      this.#socket.write(bytes, () => resolve()); // that the other end is gone shows at reading
    });
    await Promise.race([written, this.#closed]);
  }

  halfClose(): void {
    this.#socket.end();
  }

  /** Reads no more, until `resume`. */
  pause(): void {
    this.#socket.pause();
  }

  resume(): void {
    this.#socket.resume();
  }

  take(length: number = this.unread): Uint8Array<ArrayBuffer> {
    const all = this.peek();
    const bytes = all.slice(0, length);
    this.#chunks = [all.subarray(bytes.length)];
    this.unread -= bytes.length;
    return bytes;
  }

  /** What was not taken, which stays. */
  peek(): Uint8Array<ArrayBuffer> {
    const all = concat(this.#chunks);
    this.#chunks = [all];
    return all;
  }

  /**
   * Closes as a program does that ends: with a FIN. Where the other program has closed first, with a
   * reset, so that it leaves no port in TIME-WAIT.
   */
  async leave(): Promise<void> {
    if (this.ended !== "" && await isAbandoned(this.ports)) {
      return await this[Symbol.asyncDispose]();
    }
    this.#socket.destroy();
    await this.#closed;
  }

  async [Symbol.asyncDispose](): Promise<void> {
    if (!this.#socket.destroyed) this.#socket.resetAndDestroy();
    await this.#closed;
  }
}

/** Connects to a server, or returns why not. */
export async function connectTcp(
  address: { hostname: string; port: number },
  { waits, ms }: { waits: Waits; ms: number },
): Promise<TcpChannel | string> {
  const socket = new Socket({ allowHalfOpen: true });
  socket.connect({ host: address.hostname, port: address.port });
  try {
    await once(socket, "connect", { signal: AbortSignal.timeout(ms) });
  } catch (error) {
    socket.destroy();
    const { name, code } = error as NodeJS.ErrnoException;
    return code === "ECONNREFUSED" ? "refused" : name === "AbortError" ? "no answer" : `${code}`;
  }
  if (socket.localPort !== socket.remotePort) return new TcpChannel(socket, waits);
  socket.destroy(); // a dead port can connect to itself
  return "refused";
}

/** A TCP server that the grader plays. */
export class TcpListener implements AsyncDisposable {
  readonly channels: TcpChannel[] = [];
  readonly #server: Server;
  port = 0;

  constructor(waits: Waits) {
    this.#server = createServer({ allowHalfOpen: true }, (socket) => {
      this.channels.push(new TcpChannel(socket, waits));
      waits.notify();
    });
  }

  /** @throws Error with the system's code */
  async listen(port: number): Promise<void> {
    await once(this.#server.listen({ port, host: "127.0.0.1" }), "listening");
    this.port = (this.#server.address() as { port: number }).port;
  }

  /** Takes no more clients. */
  close(): void {
    if (this.#server.listening) this.#server.close();
  }

  async [Symbol.asyncDispose](): Promise<void> {
    const closed = this.#server.listening &&
      new Promise((resolve) => this.#server.once("close", resolve));
    this.close();
    for (const channel of this.channels) await channel[Symbol.asyncDispose]();
    await closed;
  }
}

/** A datagram, and where it came from. */
export type Datagram = { bytes: Uint8Array<ArrayBuffer>; from: Deno.NetAddr };

/** A UDP socket. */
export class UdpSocket implements AsyncDisposable {
  readonly port: number;
  /** Datagrams that were not taken. */
  readonly inbox: Datagram[] = [];
  readonly #socket: Deno.DatagramConn;
  readonly #waits: Waits;
  readonly #pumping: Promise<void>;
  #length = 0;
  #isClosed = false;

  constructor(address: { hostname: string; port: number }, waits: Waits) {
    this.#socket = Deno.listenDatagram({ transport: "udp", ...address });
    this.port = (this.#socket.addr as Deno.NetAddr).port;
    this.#waits = waits;
    this.#pumping = this.#pump();
  }

  async #pump(): Promise<void> {
    const buffer = new Uint8Array(65_535);
    while (!this.#isClosed && this.#length < MAX_READ) {
      try {
        const [bytes, from] = await this.#socket.receive(buffer);
        this.#length += bytes.length;
        this.inbox.push({ bytes: bytes.slice(), from: from as Deno.NetAddr });
      } catch {
        // It is closed, or (on Windows) an earlier datagram was refused.
      }
      this.#waits.notify();
    }
  }

  /** Returns whether this system sends a datagram of that size. */
  async send(bytes: Uint8Array, to: { hostname: string; port: number }): Promise<boolean> {
    try {
      await this.#socket.send(bytes, { transport: "udp", ...to });
    } catch (error) {
      if ((error as { code?: string }).code === "EMSGSIZE") return false;
    }
    return true;
  }

  async [Symbol.asyncDispose](): Promise<void> {
    if (!this.#isClosed) {
      this.#isClosed = true;
      this.#socket.close();
    }
    await this.#pumping;
  }
}

/** A UDP socket that talks to one server. */
export class UdpChannel implements Channel {
  readonly ended = "";
  readonly #socket: UdpSocket;
  readonly #to: { hostname: string; port: number };
  /** This system does not send datagrams of that size. */
  isTooLong = false;

  constructor(socket: UdpSocket, to: { hostname: string; port: number }) {
    this.#socket = socket;
    this.#to = to;
  }

  get #replies(): Datagram[] {
    return this.#socket.inbox.filter(({ from }) => from.port === this.#to.port);
  }

  /** How many replies were not taken: an empty one counts. */
  get unread(): number {
    return this.#replies.length;
  }

  /** Something came, but from another port than the server's. */
  get hasStray(): boolean {
    return this.#socket.inbox.length > this.unread;
  }

  /** Whether such a reply waits to be taken. */
  holds(reply: Uint8Array): boolean {
    return this.#replies.some(({ bytes }) => isSame(bytes, reply));
  }

  async send(bytes: Uint8Array<ArrayBuffer>): Promise<void> {
    if (!await this.#socket.send(bytes, this.#to)) this.isTooLong = true;
  }

  take(): Uint8Array<ArrayBuffer> {
    const reply = this.#replies[0];
    if (!reply) return new Uint8Array();
    this.#socket.inbox.splice(this.#socket.inbox.indexOf(reply), 1);
    return reply.bytes;
  }

  async [Symbol.asyncDispose](): Promise<void> {
    await this.#socket[Symbol.asyncDispose]();
  }
}
