/**
 * A server that is graded: by its address, or as a command that is started anew wherever an earlier
 * check left it in doubt.
 *
 * @module
 */

import {
  type Channel,
  connectTcp,
  TcpChannel,
  UdpChannel,
  UdpSocket,
  type Waits,
} from "./channel.ts";
import {
  holderOf,
  isInTimeWait,
  isTaken,
  isUdpBound,
  ownAddressFor,
  type Ports,
  portsOf,
  waitForPort,
} from "./ports.ts";
import type { Pace } from "./outcome.ts";
import { type Looks, Program, START_LOOK_MS, type Terminal } from "./program.ts";
import type { Evidence } from "./diagnosis.ts";
import { errorLine } from "./text.ts";
import type { GradeOptions } from "./verdict.ts";

const START_MS = 15_000; // for a program to listen: some start slowly, others are compiled first
const CONNECT_MS = 4_000; // for one connection
const RETRY_MS = 20; // between two looks whether a program listens
const LAST_WORDS_MS = 300; // from a connection's end to that of its program
const FREE_MS = 500; // for the port of a program that was ended

/** What one grading has for all its programs. */
export type Resources = {
  terminal: Terminal;
  waits: Waits;
  session: string;
  pace: Pace;
  ports: Ports;
};

/** Nobody could be reached: what is known of it. */
export class Unreachable extends Error {
  /** It served a client before. */
  readonly wasThere: boolean;

  constructor(message: string, wasThere: boolean) {
    super(message);
    this.wasThere = wasThere;
  }
}

/** A server, its process if it is a command, and the grader's connections to it. */
export class GradedServer implements AsyncDisposable {
  readonly isTcp: boolean;
  readonly stopWords: string[];
  /** The stop word that it was seen to obey, and with its line end. */
  obeyed = { stop: "", line: "" };
  /** It was seen to serve a client after another: the same process may serve the next check. */
  isSound = false;
  /** Nothing speaks against that yet. */
  mayBeSound = true;
  /** At an address: a connection of an earlier check was closed by the server. */
  hasClosedEarlier = false;
  /** What a program left behind. */
  readonly leftBehind: string[] = [];
  #address: { hostname: string; port: number };
  readonly #options: GradeOptions;
  readonly #own: Resources;
  readonly #waits: Waits;
  #program: Program | undefined;
  #isDaemon = false;
  #mayStart = false; // it has been started, and may still begin to listen
  #wasServed = false;
  /** UDP sockets of earlier checks: a reply may go to one of them. */
  readonly #sockets: UdpChannel[] = [];

  constructor(options: GradeOptions, own: Resources) {
    this.#options = options;
    this.#own = own;
    this.#waits = own.waits;
    this.isTcp = options.kind === "tcp-server";
    this.#address = options.address ?? { hostname: "127.0.0.1", port: 0 };
    this.stopWords = options.stop ?? ["stop", "exit"];
  }

  /** The same for one check, with a process of its own. */
  another(own: Resources): GradedServer {
    const server = new GradedServer(this.#options, own);
    server.obeyed = this.obeyed;
    server.mayBeSound = false;
    return server;
  }

  /** A port that stays in TIME-WAIT is in the way of the next start. */
  get hasFixedPort(): boolean {
    return this.#options.port !== undefined;
  }

  get isByAddress(): boolean {
    return this.#options.command === undefined;
  }

  /** Why what the program prints cannot be seen. */
  get unseen(): string {
    if (this.#isDaemon) return "it went to the background: what it prints cannot be seen";
    if (this.#own.terminal !== "pipe") return "";
    return "what it prints could not be seen: neither script nor stdbuf is on this machine";
  }

  /** A command that does not run any more. */
  get hasDied(): boolean {
    return !this.#isDaemon && (this.#program?.hasEnded ?? false);
  }

  /** What it has printed since its start, or since a mark. */
  printed(mark = 0): string {
    return this.#program?.since(mark) ?? "";
  }

  mark(): number {
    return this.#program?.mark() ?? 0;
  }

  /** Waits until `isDone`, for `ms` at most, as long as the program may still do something. */
  async until(isDone: () => boolean, ms: number, looks?: Looks): Promise<boolean> {
    if (!this.#program) return await this.#waits.until(isDone, ms);
    return await this.#program.until(isDone, ms, looks);
  }

  /** Whether such a reply waits at another socket than this one. */
  isAstray(reply: Uint8Array, { but }: { but: Channel }): boolean {
    return this.#sockets.some((socket) => socket !== but && socket.holds(reply));
  }

  /** How it ended, if it did. */
  async exit(): Promise<Evidence["exit"]> {
    if (!this.#program || this.#isDaemon) return undefined;
    const program = this.#program;
    if (!await this.#waits.until(() => program.hasEnded, LAST_WORDS_MS)) return undefined;
    return { code: program.exitCode!, words: errorLine(program.output) };
  }

  /**
   * A new client. `isSame`: of the process that served the earlier ones, dead or alive.
   * @throws Unreachable
   */
  async connect({ isSame = false } = {}): Promise<Channel> {
    if (!isSame && !this.isByAddress && (!this.#program || this.hasDied)) await this.#start();
    if (this.isTcp) return await this.#connectTcp(isSame);
    if (!isSame && !this.#wasServed && !this.isByAddress) await this.#waitUntilBound();
    this.#wasServed = true;
    const socket = new UdpSocket(ownAddressFor(this.#address.hostname), this.#waits);
    const channel = new UdpChannel(socket, this.#address);
    this.#sockets.push(channel);
    return channel;
  }

  /** Whether a TCP server at an address takes clients. */
  async stillListens(): Promise<boolean> {
    const result = await connectTcp(this.#address, { waits: this.#waits, ms: CONNECT_MS });
    if (!(result instanceof TcpChannel)) return false;
    await result.leave();
    return true;
  }

  /** `isWithout`: the program may not set SO_REUSEADDR. */
  async #start({ isWithout = false } = {}): Promise<void> {
    await this.stopProgram();
    const port = this.#options.port ?? await this.#own.ports.take(this.isTcp);
    if (this.hasFixedPort) {
      await waitForPort(port, { isTcp: this.isTcp, isWithout, onNote: this.#options.onNote });
    }
    this.#address = { hostname: "127.0.0.1", port };
    this.#isDaemon = false;
    this.#wasServed = false;
    const program = new Program({
      command: this.#options.command!,
      port,
      type: this.#options.type,
      cwd: this.#options.cwd,
      ...this.#own,
    });
    this.#program = program;
    this.#mayStart = true;
    void program.until(() => program.hasEnded, START_MS, { firstMs: START_LOOK_MS }).then(
      (hasEnded) => {
        if (program === this.#program) this.#mayStart = hasEnded;
      },
    );
  }

  async #waitUntilBound(): Promise<void> {
    while (!await isUdpBound(this.#address.port)) {
      if (this.#isGone() || !this.#mayStart) throw await this.#unreachable("");
      await this.#waits.until(() => this.hasDied, RETRY_MS);
    }
    this.#isDaemon = this.#program!.hasEnded;
  }

  /** It has ended, and not because it went to the background. */
  #isGone(): boolean {
    return this.hasDied && this.#program!.exitCode !== 0;
  }

  async #connectTcp(isSame: boolean): Promise<TcpChannel> {
    let mayRestart = !this.isByAddress && !isSame;
    let mayWait = this.hasFixedPort;
    for (let endedAt = Infinity;;) {
      const result = await this.#tryHosts();
      if (result instanceof TcpChannel) {
        if (!this.#wasServed) this.#isDaemon = this.#program?.hasEnded ?? false;
        this.#wasServed = true;
        return result;
      }
      const now = performance.now();
      if (this.hasDied) endedAt = Math.min(endedAt, now);
      const mayStillListen = !this.#wasServed && !this.isByAddress && !this.#isGone() &&
        this.#mayStart && now < endedAt + CONNECT_MS;
      if (mayStillListen) {
        await this.#waits.until(() => false, RETRY_MS);
      } else if (mayRestart && this.#wasServed) {
        mayRestart = false;
        await this.#start();
        endedAt = Infinity;
      } else if (mayWait && !this.#wasServed && await isInTimeWait(this.#address.port)) {
        mayWait = false;
        await this.#start({ isWithout: true });
        endedAt = Infinity;
      } else {
        throw await this.#unreachable(result);
      }
    }
  }

  /** A server on `localhost` may have IPv6 only. */
  async #tryHosts(): Promise<TcpChannel | string> {
    const options = { waits: this.#waits, ms: CONNECT_MS };
    const result = await connectTcp(this.#address, options);
    if (result instanceof TcpChannel || this.isByAddress || this.#wasServed) return result;
    const other = { hostname: "::1", port: this.#address.port };
    const second = await connectTcp(other, options);
    if (!(second instanceof TcpChannel)) return result;
    this.#address = other;
    return second;
  }

  async #unreachable(reason: string): Promise<Unreachable> {
    const { port } = this.#address;
    const what = `nobody listens on port ${port}`;
    if (this.isByAddress) {
      return new Unreachable(`${what}${reason && ` (${reason})`}`, this.#wasServed);
    }
    const pid = this.#program?.pid;
    const holder = await holderOf(port, this.isTcp);
    const ports = pid && !this.hasDied ? await portsOf(pid, this.isTcp) : [];
    const where = ports.length > 0 ? `; the program is on port ${ports.join(", ")}` : "";
    const other = holder && !holder.includes(`process ${pid})`) ? `; ${holder} is on it` : "";
    return new Unreachable(`${what}${where}${other}`, this.#wasServed);
  }

  /** Ends the program, and what it may have left on its port. */
  async stopProgram(): Promise<void> {
    for (const socket of this.#sockets.splice(0)) await socket[Symbol.asyncDispose]();
    const program = this.#program;
    if (!program) return;
    this.#program = undefined;
    this.isSound = false;
    await program[Symbol.asyncDispose]();
    if (!await this.#waitUntilFree()) {
      await program.sweep(); // it left its group
      await this.#waitUntilFree();
    }
    for (const { pid, name } of program.leftBehind) {
      this.leftBehind.push(`${name} (process ${pid})`);
    }
  }

  async #waitUntilFree(): Promise<boolean> {
    const deadline = performance.now() + FREE_MS;
    while (isTaken(this.#address.port, this.isTcp)) {
      if (performance.now() > deadline) return false;
      await this.#waits.until(() => false, RETRY_MS);
    }
    return true;
  }

  async [Symbol.asyncDispose](): Promise<void> {
    await this.stopProgram();
  }
}
