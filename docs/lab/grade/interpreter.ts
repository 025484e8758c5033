/**
 * Takes the steps of a check of a server, one after the other, as its clients, and keeps what is seen.
 *
 * @module
 */

import { type Channel, TcpChannel, UdpChannel, type Waits } from "./channel.ts";
import type { Check, ServerStep, Text } from "./checks.ts";
import type { Evidence, Wants } from "./diagnosis.ts";
import {
  Failed,
  listSent,
  NOT_WAITED,
  type Outcome,
  type Pace,
  Untried,
  waitedSince,
  Words,
} from "./outcome.ts";
import { SILENT } from "./program.ts";
import { type GradedServer, type Resources, Unreachable } from "./server.ts";
import { concat, encode, errorLine, isSame, saysError, show, withoutBytes } from "./text.ts";

const ECHO_MS = 4_000; // for what a task asks for: what a busy machine takes, and more
const STOP_MS = 1_000; // for what a program may do or not, before the grader goes on
const SETTLE_MS = 500; // for a piece to be dealt with, before the next is sent
const SILENCE_MS = 300; // in which nothing comes: a late one that is missed wrongs nobody
const REST_MS = 100; // for the rest of an echo that differs, for the other end of a connection
const LONG_MS = 10_000; // then a long echo is not waited for any more
const LONG_BYTES = 65_536; // an echo that comes in many pieces

/** One of a server's clients. */
type Peer = { channel: Channel; owed: Uint8Array[]; said: Uint8Array[] };

/** Takes the steps of a check of a server. */
export class ServerRun {
  readonly #server: GradedServer;
  readonly #waits: Waits;
  readonly #usual: Check["usual"];
  readonly #peers = new Map<number, Peer>();
  readonly #sent: string[] = [];
  #kept: Channel | undefined; // a connection of the check before
  readonly #isSame: boolean;
  readonly #pace: Pace;
  #words: Words;
  #mark: number;
  #came: string[] = [];
  #waited = NOT_WAITED; // in vain, of late

  constructor(
    check: Check<ServerStep>,
    { server, waits, pace, isSame = false }: Resources & {
      server: GradedServer;
      isSame?: boolean;
    },
  ) {
    this.#server = server;
    this.#pace = pace;
    this.#isSame = isSame;
    this.#waits = waits;
    this.#usual = check.usual;
    this.#mark = server.mark();
    this.#words = this.#newWords("");
  }

  /** Waits until `isDone`, as long as the program may still do something. */
  async #until(isDone: () => boolean, ms = ECHO_MS): Promise<boolean> {
    const start = performance.now();
    const result = await this.#server.until(isDone, ms);
    this.#waited = result ? NOT_WAITED : waitedSince(start, ms);
    return result;
  }

  #newWords(stop: string): Words {
    const { isTcp, obeyed } = this.#server;
    return new Words({
      lf: isTcp ? "\n" : "",
      stopline: obeyed.line,
      stop: stop || obeyed.stop,
    });
  }

  /** @throws Failed, Untried */
  async take(check: Check<ServerStep>, kept?: Channel): Promise<Outcome> {
    this.#kept = kept;
    if (kept) this.#addPeer(1, kept);
    for (const stop of check.stop === "each" ? this.#server.stopWords : [""]) {
      this.#words = this.#newWords(stop);
      for (const [i, step] of check.steps.entries()) {
        if (i >= (check.enough ?? Infinity) && this.#pace.isSlow) break;
        await this.#take(step);
      }
    }
    return { sent: listSent(this.#sent), came: this.#came.join(", then ") };
  }

  /**
   * Ends the connections; the first client's may be kept for the next check. With a FIN first, as a
   * reset ends many a server; where the server is to be ended next, with a reset, so that its port
   * is not left in TIME-WAIT.
   */
  async end({ isKept = false, isLast = false } = {}): Promise<TcpChannel | undefined> {
    const first = this.#peers.get(1)?.channel;
    this.#server.hasClosedEarlier ||= this.#server.isByAddress && first?.ended === "eof";
    const kept = isKept && first instanceof TcpChannel && first.ended === "" ? first : undefined;
    for (const { channel } of this.#peers.values()) {
      if (!(channel instanceof TcpChannel) || channel === kept) continue;
      await (isLast ? channel[Symbol.asyncDispose]() : closeGently(channel, this.#waits));
    }
    return kept;
  }

  #addPeer(by: number, channel: Channel): Peer {
    const peer = { channel, owed: [], said: [] };
    this.#peers.set(by, peer);
    return peer;
  }

  async #peer(by: number): Promise<Peer> {
    const peer = this.#peers.get(by);
    if (peer) return peer;
    try {
      return this.#addPeer(
        by,
        await this.#server.connect({ isSame: this.#isSame || this.#peers.size > 0 }),
      );
    } catch (error) {
      if (!(error instanceof Unreachable)) throw error;
      if (error.wasThere && this.#server.isByAddress && this.#peers.size === 0) {
        throw new Untried(`${error.message} any more; start it again to try this`, "over");
      }
      const exit = await this.#server.exit();
      const unbound = error.wasThere ? undefined : error.message;
      return await this.#fail("connection", undefined, {
        ...(unbound === undefined ? { said: error.message } : { unbound }),
        exit,
      });
    }
  }

  /** @throws Failed with what was seen */
  async #fail(
    wants: Wants,
    peer: Peer | undefined,
    seen: Partial<Evidence> & { how?: string } = {},
  ): Promise<never> {
    if (peer && await this.#isOver(peer, seen.came)) {
      throw new Untried("it ended after an earlier client; start it again to try this", "over");
    }
    const expected = seen.expected ?? concat(peer?.owed ?? [encode("a connection")]);
    const came = seen.came ?? new Uint8Array();
    const ended = peer?.channel.ended ?? "";
    const isMissing = (came.length < expected.length || wants === "output") && wants !== "end";
    const mayHaveEnded = isMissing && !seen.isFreed && !this.#waited.isWaiting;
    const exit = mayHaveEnded ? await this.#server.exit() : undefined;
    const output = this.#server.printed(this.#mark);
    const evidence: Evidence = {
      side: "server",
      isUdp: !this.#server.isTcp,
      wants,
      usual: this.#usual,
      expected,
      came,
      ended,
      ...this.#waited,
      earlier: peer?.said ?? [],
      others: [...this.#peers.values()].filter((other) => other !== peer)
        .flatMap(({ said, owed }) => [...said, ...owed]),
      exit,
      said: saysError(output) ? errorLine(output) : undefined,
      stray: this.#strayOf(peer),
      ...seen,
    };
    const end = { "": "", eof: "the end", reset: "a reset" }[ended];
    const what = came.length > 0 ? show(came) : end || evidence.exit ? "" : seen.how ?? "nothing";
    const sent = peer && wants !== "connection" ? show(expected) : "a connection";
    throw new Failed({
      sent: seen.expected && wants !== "echo" ? this.#sent.at(-1) ?? sent : sent,
      came: [what, end].filter(Boolean).join(", then ") || "nothing",
      evidence,
    });
  }

  /**
   * By address: an earlier connection was closed by the server, this one too, without a byte, and
   * now nobody listens. It ended in order, as one for a single client does, while this one waited.
   */
  async #isOver({ channel, said }: Peer, came: Uint8Array | undefined): Promise<boolean> {
    const isNew = channel !== this.#kept && said.length === 0;
    const isUnserved = isNew && channel.ended !== "" && !came?.length;
    return isUnserved && this.#server.hasClosedEarlier && !await this.#server.stillListens();
  }

  #strayOf(peer: Peer | undefined): Evidence["stray"] {
    const channel = peer?.channel;
    if (!(channel instanceof UdpChannel)) return undefined;
    const isAstray = peer!.owed.some((reply) => this.#server.isAstray(reply, { but: channel }));
    if (isAstray) return "to an earlier client";
    return channel.hasStray ? "from another port" : undefined;
  }

  async #take(step: ServerStep): Promise<void> {
    const peer = await this.#peer(step.by);
    const { channel } = peer;
    const tcp = channel as TcpChannel;
    switch (step.do) {
      case "open":
        return;
      case "send":
        return await this.#send(peer, step.text);
      case "echo":
        return await this.#echo(peer, ECHO_MS);
      case "probe":
        return await this.#echo(peer, STOP_MS);
      case "beside":
        return await this.#beside(peer);
      case "settle":
        return await this.#settle(peer);
      case "quiet":
        return await this.#quiet(peer);
      case "nothing":
        return await this.#nothing(peer);
      case "print":
        return await this.#print(peer, this.#words.fill(step.text));
      case "halfClose":
        this.#sent.push("a half-close");
        return tcp.halfClose();
      case "end":
        if (await this.#until(() => channel.ended !== "")) return void this.#came.push("the end");
        return await this.#fail("end", peer, { expected: new Uint8Array(), came: channel.take() });
      case "leave":
        return await this.#leave(peer, step.by);
      case "reset":
        this.#sent.push("a reset");
        await channel[Symbol.asyncDispose]();
        await this.#waits.until(() => this.#server.hasDied, REST_MS); // or the next client is faster
        return;
      case "pause":
        return tcp.pause();
      case "resume":
        return tcp.resume();
      case "stop":
        return await this.#stop(peer);
    }
  }

  /** A server that closes first is let. Over UDP a late reply goes to nobody. */
  async #leave({ channel }: Peer, by: number): Promise<void> {
    if (!(channel instanceof TcpChannel)) return void this.#peers.delete(by);
    await this.#waits.until(() => channel.ended !== "", REST_MS);
    await channel.leave();
  }

  async #send(peer: Peer, text: Text): Promise<void> {
    const bytes = typeof text === "string" ? encode(this.#words.fill(text)) : text;
    this.#sent.push(show(bytes));
    peer.owed.push(bytes);
    const sent = peer.channel.send(bytes); // a long one is on its way until it is read
    if (!this.#server.isTcp) await sent;
    if (peer.channel instanceof UdpChannel && peer.channel.isTooLong) {
      throw new Untried("this system sends no datagram of that size");
    }
  }

  /** All that is owed comes back, and nothing in its place. */
  async #echo(peer: Peer, ms: number): Promise<void> {
    const { channel } = peer;
    const isTcp = this.#server.isTcp;
    const expected = concat(peer.owed);
    const wanted = isTcp ? expected.length : 1;
    const isLost = (): boolean =>
      !isTcp && (this.#strayOf(peer) !== undefined || this.#server.hasDied);
    const isDecided = (): boolean => channel.unread >= wanted || channel.ended !== "" || isLost();
    const start = performance.now();
    if (wanted >= LONG_BYTES && this.#pace.isSlow) throw new Untried("it would take too long");
    await this.#until(isDecided, ms);
    if (wanted >= LONG_BYTES && !isDecided()) await this.#waitForLong(channel, isDecided);
    const hasCome = channel.unread > 0; // an empty datagram, too
    let came = channel.take(expected.length);
    if (hasCome && isSame(came, expected)) {
      if (wanted < LONG_BYTES) this.#pace.saw(performance.now() - start);
      peer.said.push(...peer.owed.splice(0));
      this.#came = ["the same"];
      return;
    }
    if (isTcp && channel.ended === "") {
      await this.#waits.until(() => channel.ended !== "", REST_MS);
      came = concat([came, channel.take()]);
    }
    await this.#fail("echo", peer, { expected, came });
  }

  /**
   * A long echo is waited for as long as something comes. A program that was seen to wait has sent
   * all it will: only what is on its way is waited for.
   */
  async #waitForLong(channel: Channel, isDecided: () => boolean): Promise<void> {
    const deadline = performance.now() + LONG_MS;
    const ms = this.#waited.isWaiting ? REST_MS : STOP_MS;
    for (let unread = -1; !isDecided() && unread < channel.unread;) {
      if (performance.now() > deadline) throw new Untried("it would take too long");
      unread = channel.unread;
      await this.#waits.until(isDecided, ms);
    }
  }

  /** Until a piece has been dealt with, so that no read brings it with the next. */
  async #settle({ channel, owed }: Peer): Promise<void> {
    const mark = this.#server.mark();
    const wanted = concat(owed).length;
    const isSeen = (): boolean =>
      channel.unread >= wanted || channel.ended !== "" || this.#server.mark() > mark;
    if (!this.#server.isTcp) {
      await this.#waits.until(() => channel.unread > 0, SETTLE_MS);
      channel.take(); // an answer to a stop word may come, or not
      owed.splice(0);
      return;
    }
    await this.#waits.until(isSeen, SETTLE_MS);
    await this.#waits.until(() => channel.unread >= wanted, REST_MS);
  }

  /** An echo beside a silent client; where it waits for that one to leave, the reason is plain. */
  async #beside(peer: Peer): Promise<void> {
    const isAnswered = (): boolean => peer.channel.unread > 0 || peer.channel.ended !== "";
    if (await this.#until(isAnswered)) return await this.#echo(peer, ECHO_MS);
    await closeGently(this.#peers.get(1)!.channel as TcpChannel, this.#waits);
    const isFreed = await this.#until(isAnswered);
    await this.#fail("echo", peer, { isFreed });
  }

  async #quiet(peer: Peer): Promise<void> {
    const { channel } = peer;
    const isDecided = (): boolean => channel.unread > 0 || channel.ended !== "";
    await this.#server.until(isDecided, SILENCE_MS, SILENT);
    if (channel.unread > 0) await this.#fail("silence", peer, { came: channel.take() });
  }

  /** The end of input makes most servers close: then nothing can come any more. */
  async #nothing(peer: Peer): Promise<void> {
    const { channel } = peer;
    const isDecided = (): boolean => channel.unread > 0 || channel.ended !== "";
    if (channel instanceof TcpChannel && !await this.#waits.until(isDecided, SILENCE_MS)) {
      channel.halfClose();
    }
    await this.#until(isDecided, STOP_MS);
    if (channel.unread > 0) await this.#fail("silence", peer, { came: channel.take() });
    this.#came = ["nothing"];
  }

  async #print(peer: Peer, text: string): Promise<void> {
    const isPrinted = (): boolean => withoutBytes(this.#server.printed(this.#mark)).includes(text);
    const mayPrint = async (ms: number): Promise<boolean> =>
      await this.#until(() => isPrinted() || this.#server.hasDied, ms) && isPrinted();
    this.#came = ["printed"];
    if (await mayPrint(STOP_MS)) return;
    if (peer.channel instanceof TcpChannel) peer.channel.halfClose(); // it may print when it has all
    if (await mayPrint(ECHO_MS)) return;
    if (this.#server.unseen) throw new Untried(this.#server.unseen);
    const output = encode(this.#server.printed(this.#mark));
    await this.#fail("output", peer, {
      expected: encode(text),
      came: output,
      how: "nothing printed",
    });
  }

  /** Task 3: "the server only closes the connection upon receiving a specific command". */
  async #stop(peer: Peer): Promise<void> {
    const { channel } = peer;
    const words = this.#server.stopWords;
    const lines = [...words.map((word) => `${word}\n`), ...words, ...words.map((w) => `${w}\r\n`)];
    for (const [i, line] of lines.entries()) {
      await this.#send(peer, line);
      const isLast = i === lines.length - 1;
      if (await this.#closesAt(peer, { line, ms: isLast ? ECHO_MS : STOP_MS })) {
        Object.assign(this.#server.obeyed, { stop: line.trim(), line });
        this.#server.isSound = false; // it may be about to end
        this.#sent.splice(0, Infinity, show(line));
        this.#came = ["the end"];
        return;
      }
    }
    this.#sent.splice(0, Infinity, words.map((word) => show(word)).join(", "));
    await this.#fail("end", peer, { expected: new Uint8Array(), came: channel.take() });
  }

  /** A server that echoes the word, and then is silent, goes on. */
  async #closesAt({ channel }: Peer, { line, ms }: { line: string; ms: number }): Promise<boolean> {
    const hasEnded = (): boolean => channel.ended !== "";
    const start = performance.now();
    const isEcho = await this.#until(() => hasEnded() || channel.unread >= line.length, ms);
    if (await this.#waits.until(hasEnded, isEcho ? SILENCE_MS : 0)) return true;
    if (isEcho) this.#waited = waitedSince(start, SILENCE_MS);
    channel.take();
    return false;
  }
}

/** Closes a connection as a client does that has no more to say. */
export async function closeGently(channel: TcpChannel, waits: Waits): Promise<void> {
  if (channel.ended === "") {
    channel.halfClose();
    await waits.until(() => channel.ended !== "", REST_MS);
  }
  await channel.leave();
}
