/**
 * A server that the grader plays, and the client that is graded against it.
 *
 * @module
 */

import { type Datagram, type TcpChannel, TcpListener, UdpSocket, type Waits } from "./channel.ts";
import { type Looks, Program } from "./program.ts";
import type { Resources } from "./server.ts";
import { concat, decode, encode } from "./text.ts";
import type { GradeOptions } from "./verdict.ts";

const LINE_END_MS = 50; // for a line end that a client sends by a write of its own
const MAX_SENTENCE = 65_536; // bytes: whoever sends more sends no sentence
const PIECE_MS = 1_000; // between two pieces of a sentence
const PAIR_MS = 300; // for the second of two sentences that were typed at once

/** What a client sent, and the way back. */
export type Message = {
  bytes: Uint8Array<ArrayBuffer>;
  text: string;
  /** It came on another connection than what came before. */
  isReconnected?: boolean;
  reply(bytes: Uint8Array<ArrayBuffer>): Promise<void>;
};

/** What a message is waited for with. */
export type NextOptions = Looks & { ms: number; then?: string | undefined; isReply?: boolean };

/** The server's side of a conversation, and the client's process. */
export abstract class Stage implements AsyncDisposable {
  readonly program: Program;
  readonly waits: Waits;
  readonly isUdp: boolean;
  /** Whether the client expects echoes. */
  readonly echoes: boolean;

  constructor(
    { kind, command, type, cwd, task }: GradeOptions,
    own: Resources & { port: number },
  ) {
    this.program = new Program({ command: command!, type, cwd, ...own });
    this.waits = own.waits;
    this.isUdp = kind.startsWith("udp");
    this.echoes = task !== 1;
  }

  /** Something came that was not heard yet. */
  abstract readonly hasMore: boolean;
  /** The client will send no more. */
  abstract readonly isHalfClosed: boolean;
  /** The ports that the client sent from. */
  abstract readonly clientPorts: number[];
  /** The next message, or what there is of it after `ms`; `isReply`: it is echoed at once. */
  abstract next(sentence: string, options: NextOptions): Promise<Message | undefined>;
  /** What was not heard yet. */
  abstract rest(): Uint8Array;
  /** Echoes what was not heard yet. */
  abstract replyAll(): Promise<void>;
  /** Echoes empty sentences, if they come next. */
  abstract replyBlanks(): Promise<void>;
  abstract [Symbol.asyncDispose](): Promise<void>;
  /** A datagram from a port that was never asked. */
  async replyAsStranger(_text: string): Promise<void> {}
  /** The server closes. */
  async hangUp(): Promise<void> {}
}

/** Starts a server and the client; `deadPort`: no server, and the client is given that port. */
export async function play(
  options: GradeOptions,
  { deadPort, ...own }: Resources & { deadPort?: number },
): Promise<Stage> {
  const { port } = options;
  if (options.kind === "udp-client") {
    const address = { hostname: "127.0.0.1", port: port ?? 0 };
    return new UdpStage(options, { ...own, socket: new UdpSocket(address, own.waits) });
  }
  const listener = new TcpListener(own.waits);
  if (deadPort === undefined) await listener.listen(port ?? 0);
  return new TcpStage(options, { ...own, listener, port: port ?? deadPort ?? listener.port });
}

/** A TCP server for one client. */
class TcpStage extends Stage {
  readonly #listener: TcpListener;
  #heard: TcpChannel | undefined;

  constructor(
    options: GradeOptions,
    { listener, ...own }: Resources & { listener: TcpListener; port: number },
  ) {
    super(options, own);
    this.#listener = listener;
  }

  get #channels(): TcpChannel[] {
    return this.#listener.channels;
  }

  get hasMore(): boolean {
    return this.#channels.some((channel) => channel.unread > 0);
  }

  get isHalfClosed(): boolean {
    return this.#channels.some((channel) => channel.ended !== "");
  }

  get clientPorts(): number[] {
    return this.#channels.map(({ ports }) => ports.remotePort);
  }

  async next(
    sentence: string,
    { ms, then, isReply, ...looks }: NextOptions,
  ): Promise<Message | undefined> {
    const holds = (channel: TcpChannel, text: string): boolean =>
      channel.unread > MAX_SENTENCE ||
      (channel.unread > 0 && decode(channel.peek()).includes(text));
    const find = (): TcpChannel | undefined =>
      this.#channels.find((channel) => holds(channel, sentence));
    await this.program.until(() => this.hasMore || this.program.hasEnded, ms, looks);
    const size = (): number => this.#channels.reduce((sum, { unread }) => sum + unread, 0);
    for (let before = -1; !find() && before < size();) { // as long as something comes
      before = size();
      await this.waits.until(() => find() !== undefined, PIECE_MS);
    }
    const channel = find() ?? this.#channels.find(({ unread }) => unread > 0);
    if (!channel) return undefined;
    if (then) await this.waits.until(() => holds(channel, then), PAIR_MS);
    if (channel.unread < MAX_SENTENCE) {
      await this.waits.until(() => decode(channel.peek()).endsWith("\n"), LINE_END_MS);
    }
    const bytes = channel.take();
    const isReconnected = this.#heard !== undefined && this.#heard !== channel;
    this.#heard = channel;
    if (isReply) await channel.send(bytes);
    return { bytes, text: decode(bytes), isReconnected, reply: (data) => channel.send(data) };
  }

  rest(): Uint8Array {
    return concat(this.#channels.map((channel) => channel.take()));
  }

  async replyAll(): Promise<void> {
    for (const channel of this.#channels) await channel.send(channel.take());
  }

  async replyBlanks(): Promise<void> {
    if (this.#channels.every((channel) => decode(channel.peek()).trim() === "")) {
      await this.replyAll();
    }
  }

  override async hangUp(): Promise<void> {
    this.#listener.close();
    for (const channel of this.#channels) await channel.leave();
  }

  async [Symbol.asyncDispose](): Promise<void> {
    await this.#listener[Symbol.asyncDispose]();
    await this.program[Symbol.asyncDispose]();
  }
}

/** A UDP server for one client. */
class UdpStage extends Stage {
  readonly isHalfClosed = false;
  readonly clientPorts: number[] = [];
  readonly #socket: UdpSocket;
  readonly #heard: string[] = [];
  #last: Deno.NetAddr | undefined;

  constructor(options: GradeOptions, { socket, ...own }: Resources & { socket: UdpSocket }) {
    super(options, { ...own, port: socket.port });
    this.#socket = socket;
  }

  get hasMore(): boolean {
    return this.#socket.inbox.length > 0;
  }

  async next(
    sentence: string,
    { ms, isReply, ...looks }: NextOptions,
  ): Promise<Message | undefined> {
    await this.program.until(
      () => this.#skipRepeats(sentence) || this.program.hasEnded,
      ms,
      looks,
    );
    if (!this.#skipRepeats(sentence)) {
      await this.waits.until(() => this.#skipRepeats(sentence), LINE_END_MS);
    }
    if (!this.hasMore) return undefined;
    const { bytes, from } = this.#take();
    const reply = async (data: Uint8Array): Promise<void> =>
      void await this.#socket.send(data, from);
    if (isReply) await reply(bytes);
    return { bytes, text: decode(bytes), reply };
  }

  #take(): Datagram {
    const datagram = this.#socket.inbox.shift()!;
    this.#heard.push(decode(datagram.bytes));
    this.#last = datagram.from;
    this.clientPorts.push(datagram.from.port);
    return datagram;
  }

  /** A message that was heard may come again: its echo took too long. Returns whether another came. */
  #skipRepeats(sentence: string): boolean {
    const { inbox } = this.#socket;
    while (inbox.length > 0) {
      const text = decode(inbox[0]!.bytes);
      if (!this.#heard.includes(text) || text.trimEnd() === sentence) return true;
      inbox.shift();
    }
    return false;
  }

  rest(): Uint8Array {
    return concat(this.#socket.inbox.splice(0).map(({ bytes }) => bytes));
  }

  async replyAll(): Promise<void> {
    while (this.hasMore) await this.#replyToNext();
  }

  async replyBlanks(): Promise<void> {
    while (this.hasMore && decode(this.#socket.inbox[0]!.bytes).trim() === "") {
      await this.#replyToNext();
    }
  }

  async #replyToNext(): Promise<void> {
    const { bytes, from } = this.#take();
    await this.#socket.send(bytes, from);
  }

  /** It arrives before the echo. */
  override async replyAsStranger(text: string): Promise<void> {
    await using stranger = new UdpSocket({ hostname: "127.0.0.1", port: 0 }, this.waits);
    await stranger.send(encode(text), this.#last!);
  }

  async [Symbol.asyncDispose](): Promise<void> {
    await this.#socket[Symbol.asyncDispose]();
    await this.program[Symbol.asyncDispose]();
  }
}
