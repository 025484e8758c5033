#!/usr/bin/env -S deno run --unstable-net --allow-net=127.0.0.1
/**
 * UDP echo server: prints each datagram and sends it back whole to where it came from (RFC 862). It
 * is the server of the lab's task 4; "Step 1" to "Step 6" are the handout's steps of a server, of
 * which UDP has no 3 and 4: nobody connects. With `--drop`, `--delay` and others like them it loses
 * or delays datagrams on purpose, as a lossy network does.
 *
 * ```sh
 * deno run --unstable-net --allow-net=127.0.0.1 udp_server.ts
 * echo hello | socat -t1 - UDP:127.0.0.1:12000 # an independent client to try it with
 * ```
 *
 * Exit codes: 0 orderly stop; 1 failure; 2 wrong use; 130, 143 or 129 a second SIGINT, SIGTERM or
 * SIGHUP.
 *
 * @module
 */

import { parseArgs } from "jsr:@std/cli@^1.0.32/parse-args";

// The defaults of the command line, of serve() and of the help text.
const HOSTNAME = "127.0.0.1"; // this machine only
const PORT = 12_000; // ports below 1024 are reserved
const STOP_WORDS = ["stop", "exit"]; // a datagram that is one of these ends its sender's session

const RECEIVE_RETRY_MS = 100; // after a receive that failed
const MAX_SESSIONS = 10_000; // peers that are remembered
const MAX_HOSTS = 4_096; // whose permission Deno is asked for, as it keeps each answer for ever
const LOOP_ROUNDS = 65_537; // one of so many replies is remembered; a prime, as traffic repeats
const MAX_DOUBLED = 1_000; // times that the same datagram is doubled, or a loop would grow
const MAX_DIFFERENT = 4_096; // datagrams whose doublings are counted
const MAX_HELD_BYTES = 16_777_216; // of replies wait to be sent at most
const COPY_BYTES = 1_200; // of memory for each copy of a reply, beside its datagram (measured)
const SWEEP_MS = 100; // between two checks of whether the end has come
const LINGER_SWEEPS = 20; // 2 s with --once, as the stop word comes again if its echo is lost
const GRACE_MS = 4_800; // for replies that are being sent; one more sweep ends within 5 s
const REPORT_MS = 500; // a shutdown that takes longer reports what it waits for
const NFS_PORT = 2_049; // a service above 1023 that answers whatever comes: it gets no reply

/**
 * Starts a UDP echo server: the handout's steps 1, 2, 5 and 6.
 *
 * @throws RangeError for an option out of its bounds
 * @throws Error that names the address if it cannot receive; its cause is that of `listenDatagram`
 * @throws Error that names `--unstable-net` if Deno runs without it
 */
export function serve(options: ServeOptions = {}): EchoServer {
  const { hostname = HOSTNAME, port = PORT, onTrace } = options;
  checkBounds(options, BOUNDS);
  const stopWords = toStopWords("stopWords", options.stopWords ?? STOP_WORDS);
  if (!Deno.listenDatagram) throw new Error(NEEDS_UNSTABLE);
  let socket: Deno.DatagramConn;
  try {
    // Step 1: create a UDP socket. Step 2: attach it to an address and a port. In Deno one call does
    // both. Steps 3 and 4, listen and accept, are TCP's.
    socket = Deno.listenDatagram({ transport: "udp", hostname, port });
  } catch (cause) {
    throw cannot(`receive on ${formatAddress({ hostname, port })}`, bindFailure(port, cause));
  }
  try {
    const server = new Server(socket, stopWords, options);
    const note = formatAddress(socket.addr as Deno.NetAddr);
    server.watch(onTrace?.({ step: "1-2", call: "listenDatagram()", note }));
    return server.start();
  } catch (error) {
    socket.close(); // as a callback threw an error
    throw error;
  }
}

/** What `serve` starts: one socket for all peers, and what is remembered of them. */
class Server {
  readonly #socket: Deno.DatagramConn;
  readonly #addr: Deno.NetAddr;
  readonly #stopWords: Uint8Array[];
  readonly #options: ServeOptions;
  readonly #onTrace: ((call: TraceCall) => unknown) | undefined;
  readonly #zone: string; // of its own address: the %eth0 of fe80::1%eth0
  readonly #network: LossyNetwork | undefined;
  #replies = 0;
  #remembered: { reply: Uint8Array; peer: string } | undefined; // a reply: its return is a loop
  readonly #sessions = new Map<string, Session>(); // by host and port, the oldest first
  readonly #allAllowed = isAllAllowed();
  readonly #allowed = new Map<string, boolean>(); // by host, if not all hosts are allowed
  readonly #held = new Map<Timer, Reply>(); // copies that are delayed, by their timer
  readonly #due: Reply[] = []; // copies whose delay is over; the first one is being sent
  #heldBytes = 0; // of these replies
  readonly #totals: { messages: number; bytes: number; unanswered: number; dropped?: number } = {
    messages: 0,
    bytes: 0,
    unanswered: 0,
  };
  readonly #startedAt = performance.now(); // ms
  readonly #warned = new Set<string>(); // kinds of warnings, each of which is given once
  #isAnswering = false; // whether a datagram is being answered
  #isClosed = false;
  #lingerSweeps = Infinity; // until the end, with --once
  #endsAt = Infinity; // ms of performance.now(): the socket is closed then, whatever waits
  readonly #overdue = Promise.withResolvers<void>(); // resolves at that time
  #failure: { error: unknown } | undefined; // what a callback threw

  constructor(socket: Deno.DatagramConn, stopWords: Uint8Array[], options: ServeOptions) {
    const { hostname = HOSTNAME, onTrace } = options;
    this.#socket = socket;
    this.#addr = socket.addr as Deno.NetAddr;
    this.#stopWords = stopWords;
    this.#options = options;
    this.#onTrace = onTrace && ((call) => this.#callBack(onTrace, call));
    this.#zone = hostname.slice(withoutZone(hostname).length);
    this.#network = isLossy(options) ? new LossyNetwork(options) : undefined;
  }

  /** Step 5: receive and send. Each datagram goes back whole to its sender. */
  async #echoDatagrams(): Promise<void> {
    const { echo = true } = this.#options;
    const buffer = new Uint8Array(BUFFER_BYTES);
    while (!this.#isClosed) { // one loop, as several receive() at once may finish out of order
      let session: Session | undefined;
      try {
        const [bytes, from] = await this.#socket.receive(buffer) as [Uint8Array, Deno.NetAddr];
        if (this.#isEnding) continue;
        this.#isAnswering = true;
        this.#onTrace?.({
          step: "5",
          call: `receive() = ${bytes.length}`,
          peer: formatAddress(from),
          bytes,
        });
        const faults = this.#network?.faultsFor(bytes, from);
        session = faults?.isLost
          ? this.#countDropped("--drop-request", bytes, from)
          : this.#sessionOf(from);
        if (!session) continue;
        const sentence = this.#takeSentence(bytes, session);
        const stops = isStopWord(sentence, this.#stopWords);
        if (echo) {
          const reply = faults?.reply ?? bytes;
          if (this.#isLoop(bytes, { reply, session }) || this.#isOverRate(session)) continue;
          if (faults) {
            if (!await this.#sendCopies(faults, { from, session, stops })) continue;
          } else {
            this.#onTrace?.({
              step: "5",
              call: `send(${bytes.length})`,
              peer: session.peer,
              bytes,
            });
            await this.#socket.send(bytes, this.#withZone(from));
          }
        }
        if (!stops || this.#isClosed) continue;
        this.#endSession(session);
        const isEchoed = !echo || !faults; // the lossy network sends the echo later, if at all
        if (isEchoed || this.#lingerSweeps < Infinity) this.#linger();
      } catch (error) {
        if (session) this.#failToSend(error, session);
        else if (!this.#isClosed) await this.#surviveReceive(error);
      } finally {
        this.#isAnswering = false;
        if (this.#isEnding) this.#closeWhenSent();
      }
    }
  }

  /** Step 5 over the lossy network, for each copy of a reply. */
  async #sendCopy(reply: Reply): Promise<void> {
    const { bytes, to } = reply;
    try {
      this.#onTrace?.({
        step: "5",
        call: `send(${bytes.length})`,
        peer: formatAddress(to),
        bytes,
      });
      await this.#socket.send(bytes, this.#withZone(to));
      reply.isSent = true;
      if (reply.stops) this.#linger();
    } catch (error) {
      reply.failure = { error };
    }
    this.#endCopy(reply);
  }

  /** Step 6: close the socket. A receive that waits fails with it, a send does not. */
  #close(): void {
    if (this.#isClosed) return;
    this.#isClosed = true;
    this.#onTrace?.({ step: "6", call: "close()", note: formatAddress(this.#addr) });
    this.#socket.close();
    for (const reply of this.#due.splice(0)) this.#endCopy(reply);
  }

  /** Reports that it receives, and starts to. */
  start(): EchoServer {
    const { hostname, port } = this.#addr;
    const { signal, onEvent } = this.#options;
    const listening = { event: "listening", transport: "udp", hostname, port } as const;
    this.watch(onEvent?.(listening)); // what it throws ends serve()
    const finished = this.#run();
    const shutdown = (): Promise<void> => {
      this.#shutdown();
      return finished;
    };
    const abort = (): void => this.#shutdown();
    signal?.addEventListener("abort", abort);
    finished.finally(() => signal?.removeEventListener("abort", abort)).catch(() => {});
    if (signal?.aborted) abort();
    return { addr: this.#addr, finished, shutdown, [Symbol.asyncDispose]: shutdown };
  }

  /** Runs until the socket is closed. */
  async #run(): Promise<void> {
    const sweeper = setInterval(() => this.#sweep(), SWEEP_MS);
    await Promise.race([this.#echoDatagrams(), this.#overdue.promise]);
    clearInterval(sweeper);
    if (this.#isAnswering) this.#totals.unanswered++; // its send still waits
    const seconds = secondsSince(this.#startedAt);
    await this.#report({ event: "shutdown", ...this.#totals, seconds });
    if (this.#failure) throw this.#failure.error;
  }

  // ---- Peers ----

  /** The session of a peer; none for one that must not be answered. */
  #sessionOf(from: Deno.NetAddr): Session | undefined {
    const key = keyOf(from);
    const known = this.#sessions.get(key);
    if (known) return known;
    const refusal = refusalOf(from, { ownPort: this.#addr.port, zone: this.#zone });
    if (refusal) return this.#leaveUnanswered(from, refusal);
    if (!this.#allAllowed && !this.#isAllowed(from)) return undefined;
    // The object of a forgotten peer is used again: new ones would make V8 keep more memory.
    const isFull = this.#sessions.size >= MAX_SESSIONS;
    const session = isFull ? takeFirst(this.#sessions) : new Session();
    session.begin(from);
    this.#sessions.set(key, session);
    return session;
  }

  /** Where a peer is reached: a link-local address is one of the link that --host names. */
  #withZone(to: Deno.NetAddr): Deno.NetAddr {
    if (!this.#zone || !isLinkLocal(to.hostname)) return to;
    return { ...to, hostname: to.hostname + this.#zone };
  }

  /** Whether Deno lets it send to a host; of one host too many it is not asked. */
  #isAllowed(from: Deno.NetAddr): boolean {
    const host = toPermission(from.hostname);
    let allowed = this.#allowed.get(host);
    if (allowed === undefined) {
      if (this.#allowed.size >= MAX_HOSTS) {
        this.#leaveUnanswered(from, `more than ${MAX_HOSTS} hosts, without --allow-net for all`);
        return false;
      }
      allowed = Deno.permissions.querySync({ name: "net", host }).state === "granted";
      this.#allowed.set(host, allowed);
    }
    if (!allowed) this.#leaveUnanswered(from, "no permission", { hint: `, --allow-net=${host}` });
    return allowed;
  }

  /** Counts and prints a sentence, which is a datagram without its line end. */
  #takeSentence(datagram: Uint8Array, session: Session): Uint8Array {
    const sentence = withoutLineEnd(datagram);
    if (session.messages++ === 0) session.startedAt = performance.now();
    session.bytes += datagram.length;
    this.#totals.messages++;
    this.#totals.bytes += datagram.length;
    if (!this.#options.quiet) {
      const { peer } = session;
      const bytes = sentence.length;
      this.#report({ event: "message", peer, bytes, ...preview(sentence, bytes) });
    }
    return sentence;
  }

  /** Sums up the session of a peer that stopped. What is remembered for --rate stays. */
  #endSession(session: Session): void {
    const { peer, messages, bytes, startedAt } = session;
    const seconds = secondsSince(startedAt);
    session.messages = session.bytes = 0;
    if (this.#options.quiet) return;
    this.#report({ event: "close", peer, reason: "stop", messages, bytes, seconds });
  }

  /** With --once: a peer has the echo of its stop word, but the word may be sent again. */
  #linger(): void {
    const { once, echo = true } = this.#options;
    if (once) this.#lingerSweeps = echo ? LINGER_SWEEPS : 0;
  }

  // ---- What is not answered ----

  /**
   * Whether a datagram is left out to end a loop: one that was forged to come from another echo
   * server goes to and fro for ever (CERT CA-1996-01, CVE-2024-2169). Of every `LOOP_ROUNDS` replies
   * one is remembered with its peer; if the very same comes back before the next one is, it is left
   * out.
   */
  #isLoop(
    datagram: Uint8Array,
    { reply, session }: { reply: Uint8Array; session: Session },
  ): boolean {
    this.#replies++;
    const known = this.#remembered;
    const isLoop = known !== undefined && sameBytes(known.reply, datagram) &&
      known.peer === session.peer;
    if (isLoop) {
      const why = `one of ${LOOP_ROUNDS} identical datagrams, which might go round for ever`;
      this.#leaveUnanswered(session, why);
      this.#remembered = undefined;
    } else if (this.#replies % LOOP_ROUNDS === 0) {
      this.#remembered = { reply: reply.slice(), peer: session.peer };
    }
    return isLoop;
  }

  #isOverRate(session: Session): boolean {
    const { rate = 0 } = this.#options;
    const isOver = !session.takeToken(rate);
    if (isOver) this.#leaveUnanswered(session, `over --rate ${rate}`);
    return isOver;
  }

  #failToSend(error: unknown, to: Address): void {
    const { code, name } = error as { code?: string; name?: string };
    const macOs = code === "EMSGSIZE" ? "; on macOS net.inet.udp.maxdgram is the limit" : "";
    const hint = `: ${reasonOf(error)}${macOs}`;
    this.#leaveUnanswered(to, "cannot send", { hint, kind: `send ${code ?? name}` });
  }

  /** Counts a datagram that is not answered, and warns of the first of its kind. */
  #leaveUnanswered(from: Address, why: string, { hint = "", kind = why } = {}): undefined {
    this.#totals.unanswered++;
    if (this.#isClosed) return; // what was being sent failed with the socket
    if (this.#warned.has(kind)) return; // which spares a flood the text of each address
    const what = `not answering ${formatAddress(from)}: ${why}${hint}`;
    this.#warnOnce(kind, `${what}; others like it are only counted from now on`);
  }

  /** Counts a datagram, or its reply, that the lossy network loses. */
  #countDropped(how: string, bytes: Uint8Array, from: Address): undefined {
    this.#totals.dropped = (this.#totals.dropped ?? 0) + 1;
    this.#onTrace?.({ step: "5", call: how, peer: formatAddress(from), bytes });
  }

  /** No receive that fails ends the server. */
  async #surviveReceive(error: unknown): Promise<void> {
    // Windows reports a vanished peer here; only that peer is affected.
    if (error instanceof Deno.errors.ConnectionReset) return;
    this.#warnOnce("receive", `cannot receive: ${reasonOf(error)}`);
    await sleep(RECEIVE_RETRY_MS);
  }

  // ---- The lossy network ----

  /**
   * Sends the copies of a reply that the lossy network leaves of it, each when its time comes.
   * Returns whether there was room for it.
   */
  async #sendCopies(
    faults: Faults,
    { from, session, stops }: { from: Deno.NetAddr; session: Session; stops: boolean },
  ): Promise<boolean> {
    const { rate = 0, delayMs = 0 } = this.#options;
    const { reply: bytes, isDropped, isLimited } = faults;
    if (isDropped) {
      this.#countDropped("--drop", bytes, session);
      return true;
    }
    if (isLimited) {
      const what = `the same datagram of ${session.peer} was doubled ${MAX_DOUBLED} times`;
      this.#warnOnce("doubled", `${what} and is not any more; number what you measure with`);
    }
    const delays = faults.delays.filter((_, i) => i === 0 || session.takeToken(rate));
    const copies = delays.length;
    const cost = bytes.length + copies * COPY_BYTES;
    if (this.#heldBytes + cost > MAX_HELD_BYTES) {
      this.#leaveUnanswered(session, "too many replies wait");
      return false;
    }
    this.#heldBytes += cost;
    const reply: Reply = { bytes, to: from, stops, cost, copies, isSent: false };
    for (const ms of delays) {
      if (delayMs === 0) await this.#sendCopy(reply);
      else {
        const timer = setTimeout(() => this.#sendHeld(timer, reply), ms);
        this.#held.set(timer, reply);
      }
    }
    return true;
  }

  /** The time of a held copy has come. Copies are sent one by one: a socket has but one buffer. */
  async #sendHeld(timer: Timer, reply: Reply): Promise<void> {
    this.#held.delete(timer);
    if (this.#due.push(reply) > 1) return;
    while (this.#due.length > 0) {
      await this.#sendCopy(this.#due[0]!);
      this.#due.shift();
    }
    if (this.#isEnding) this.#closeWhenSent();
  }

  /** Gives the memory of a reply back once none of its copies waits, and counts what became of it. */
  #endCopy(reply: Reply): void {
    if (--reply.copies > 0) return;
    this.#heldBytes -= reply.cost;
    if (reply.isSent) return;
    if (reply.failure) this.#failToSend(reply.failure.error, reply.to);
    else this.#totals.dropped = (this.#totals.dropped ?? 0) + 1; // it was held at the end
  }

  // ---- The end ----

  get #isEnding(): boolean {
    return this.#endsAt < Infinity;
  }

  /** Ends the server: what is being sent goes out, what is held is lost. */
  #shutdown(): void {
    if (this.#isEnding) return;
    this.#endsAt = performance.now() + GRACE_MS;
    for (const [timer, reply] of this.#held) {
      clearTimeout(timer);
      this.#endCopy(reply);
    }
    this.#held.clear();
    this.#closeWhenSent();
  }

  #closeWhenSent(): void {
    if (!this.#isAnswering && this.#due.length === 0) this.#close();
  }

  /** Sweeps are counted, as a suspended process has none: what arrived meanwhile is read first. */
  #sweep(): void {
    const now = performance.now();
    if (now >= this.#endsAt) {
      this.#close();
      this.#overdue.resolve();
    } else if (now >= this.#endsAt - GRACE_MS + REPORT_MS) {
      const seconds = (GRACE_MS - REPORT_MS) / 1000;
      this.#warnOnce("ending", `waiting for up to ${seconds} s for replies to be sent`);
    } else if (--this.#lingerSweeps < 0) this.#shutdown();
  }

  // ---- Reports to the caller ----

  #warnOnce(kind: string, text: string): void {
    if (!this.#warned.has(kind)) this.#report({ event: "warning", text });
    this.#warned.add(kind);
  }

  /** Reports an event; the promise is that of `onEvent`, if it returns one. */
  #report(event: ServerEvent): Promise<unknown> | undefined {
    const { onEvent } = this.#options;
    if (onEvent) return this.#callBack(onEvent, event);
  }

  /** Calls the caller. What that throws ends the server, and `finished` rejects with it. */
  #callBack<T>(callback: (argument: T) => unknown, argument: T): Promise<unknown> | undefined {
    try {
      return this.watch(callback(argument));
    } catch (error) {
      this.#abort(error);
    }
  }

  /** What a callback returns may be anything; a promise that rejects is a callback that throws. */
  watch(returned: unknown): Promise<unknown> | undefined {
    if (returned instanceof Promise) return returned.catch((error) => this.#abort(error));
  }

  #abort(error: unknown): void {
    this.#failure ??= { error };
    this.#shutdown();
    this.#close();
  }
}

/** What is remembered of a peer: UDP has no connection that would. */
class Session {
  hostname = "";
  port = 0;
  startedAt = 0; // ms: when its first message came
  messages = 0; // since then
  bytes = 0;
  #tokens = 0; // replies that --rate still allows
  #refilledAt = 0; // ms

  begin({ hostname, port }: Address): void {
    [this.hostname, this.port] = [hostname, port];
    this.messages = this.bytes = 0;
    this.#refilledAt = -1_000; // a second ago and more, so all tokens are there
  }

  get peer(): string {
    return formatAddress(this);
  }

  /** Takes one of `rate` tokens, which come back in a second. Returns whether there was one. */
  takeToken(rate: number): boolean {
    if (rate === 0) return true;
    const now = performance.now();
    this.#tokens = Math.min(this.#tokens + (now - this.#refilledAt) * rate / 1000, rate);
    this.#refilledAt = now;
    if (this.#tokens < 1) return false;
    this.#tokens--;
    return true;
  }
}

/** Why a peer is never answered: its address is no client's, so it is probably forged. */
function refusalOf(
  { hostname, port }: Address,
  { ownPort, zone }: { ownPort: number; zone: string },
): string | undefined {
  const host = hostname.replace(/^::ffff:(?=\d+\.)/, ""); // IPv4, as a socket on :: has it
  const isBroadcast = /^(22[4-9]|23\d)\.|^(127|255)\.255\.255\.255$|^ff/.test(host);
  if (port === 0) return "source port 0";
  if (port < 1_024 || port === NFS_PORT) return "the source port is a service's";
  if (port === ownPort) return "the source port is this server's own";
  if (/^(0\.|::$)/.test(host)) {
    return "an unspecified source, to which a reply stays on this machine";
  }
  if (isBroadcast) return "a multicast or broadcast source";
  if (isLinkLocal(host) && zone === "") {
    return "its link is not known: --host must name it, as in fe80::1%eth0";
  }
}

/** Whether an address is one of a single link, which a reply must name (RFC 4291). */
function isLinkLocal(hostname: string): boolean {
  return /^fe[89ab].:/.test(hostname);
}

/**
 * A peer as the key of a map. The port is one character: as digits, V8 would keep the text of each
 * port, and 40 MiB for them (measured).
 */
function keyOf({ hostname, port }: Address): string {
  return hostname + String.fromCharCode(port);
}

/** A host as a permission names it: an IPv6 address in brackets. */
function toPermission(hostname: string): string {
  return hostname.includes(":") ? `[${hostname}]` : hostname;
}

/** Whether all of net is allowed, and no part of it denied. */
function isAllAllowed(): boolean {
  const { state, partial } = Deno.permissions.querySync({ name: "net" });
  return state === "granted" && !partial;
}

/** Takes what was put into a map first out of it. */
function takeFirst<Value>(map: Map<string, Value>): Value {
  const [key, value] = map.entries().next().value!;
  map.delete(key);
  return value;
}

type Timer = ReturnType<typeof setTimeout>;
type Address = { hostname: string; port: number };

/** A reply on its way through the lossy network. */
type Reply = {
  bytes: Uint8Array;
  to: Deno.NetAddr;
  stops: boolean; // it is the echo of a stop word
  cost: number; // bytes of memory
  copies: number; // that are held or being sent
  isSent: boolean; // one of them was
  failure?: { error: unknown }; // of one that was not
};

/** What the lossy network does to a datagram and its reply. */
type Faults = {
  isLost: boolean; // the datagram itself
  isDropped: boolean; // the reply
  isLimited: boolean; // it would be doubled, but was so often enough
  reply: Uint8Array; // a copy, as the buffer is received into again
  delays: number[]; // ms, of each copy that is sent
};

/** Whether any fault of the lossy network is asked for. */
function isLossy({ drop = 0, duplicate = 0, delayMs = 0, ...others }: ServeOptions): boolean {
  const { dropRequest = 0, corrupt = 0 } = others;
  return drop + duplicate + delayMs + dropRequest + corrupt > 0;
}

/** The network that --drop and others make of loopback: the seed alone decides what happens. */
class LossyNetwork {
  readonly #options: ServeOptions;
  readonly #random: () => number;
  readonly #otherRandom: () => number; // for --drop-request, --corrupt: they leave the others alone
  readonly #doublings = new Map<string, number>(); // by datagram, the longest unseen first

  constructor(options: ServeOptions) {
    const { seed = 0 } = options;
    this.#options = options;
    this.#random = randomFrom(seed);
    this.#otherRandom = randomFrom(seed + 1);
  }

  /** The faults of the next datagram. All are drawn always, whichever of them are asked for. */
  faultsFor(datagram: Uint8Array, from: Address): Faults {
    const { drop = 0, duplicate = 0, delayMs = 0, dropRequest = 0, corrupt = 0 } = this.#options;
    const [random, otherRandom] = [this.#random, this.#otherRandom];
    const [isDropped, isDoubled] = [random() < drop, random() < duplicate];
    const [delay, otherDelay] = [random() * delayMs, random() * delayMs];
    const [isLost, isDamaged] = [otherRandom() < dropRequest, otherRandom() < corrupt];
    const bit = Math.floor(otherRandom() * datagram.length * 8);
    const reply = datagram.slice();
    if (isDamaged && bit < reply.length * 8) reply[bit >> 3]! ^= 1 << (bit & 7);
    const doubles = isDoubled && !isDropped && !isLost;
    const isLimited = duplicate > 0 && !this.#mayDouble(datagram, { from, doubles });
    const delays = doubles && !isLimited ? [delay, otherDelay] : [otherDelay];
    return { isLost, isDropped, isLimited, reply, delays };
  }

  /** Counts how often the same datagram of a peer is doubled: without a limit a loop would swell. */
  #mayDouble(
    datagram: Uint8Array,
    { from, doubles }: { from: Address; doubles: boolean },
  ): boolean {
    const { corrupt = 0 } = this.#options;
    // Damage makes ever new datagrams of one that circulates, but they are all of one length.
    const content = corrupt > 0 ? "" : checksum(datagram);
    const key = `${keyOf(from)} ${datagram.length} ${content}`;
    const count = this.#doublings.get(key) ?? 0;
    const mayDouble = count < MAX_DOUBLED;
    this.#doublings.delete(key);
    if (this.#doublings.size >= MAX_DIFFERENT) takeFirst(this.#doublings);
    this.#doublings.set(key, doubles && mayDouble ? count + 1 : count);
    return mayDouble || !doubles;
  }
}

/** A checksum of some bytes (FNV-1a). */
function checksum(bytes: Uint8Array): number {
  let sum = 0x811c9dc5;
  for (const byte of bytes) sum = Math.imul(sum ^ byte, 0x01000193);
  return sum;
}

/** Numbers from 0 to 1 that a seed decides (mulberry32). */
function randomFrom(seed: number): () => number {
  let state = seed;
  return () => {
    state = (state + 0x6d2b79f5) | 0;
    let bits = Math.imul(state ^ (state >>> 15), state | 1);
    bits = (bits + Math.imul(bits ^ (bits >>> 7), bits | 61)) ^ bits;
    return ((bits ^ (bits >>> 14)) >>> 0) / 2 ** 32;
  };
}

/** What happens at the server, as `--json` prints it. `bytes` and `text` are without the line end. */
export type ServerEvent =
  | { event: "listening"; transport: "udp"; hostname: string; port: number }
  | { event: "message"; peer: string; bytes: number; text: string; more?: number }
  | { event: "close"; peer: string; reason: "stop" } & Totals
  | { event: "shutdown"; unanswered: number; dropped?: number } & Totals
  | { event: "warning"; text: string };

/** Options of {@linkcode serve}; their defaults are those of the command line. */
export type ServeOptions = {
  /** The address or name to receive on; default `127.0.0.1`. */
  hostname?: string;
  /** The port to receive on, 0 to 65535; 0: any free one; default 12000. */
  port?: number;
  /** Sentences that end their peer's session, each of 1 to 100 bytes; default `stop` and `exit`. */
  stopWords?: string[];
  /** Whether datagrams are sent back; default true. */
  echo?: boolean;
  /** Whether to end 2 s after a peer got the echo of its stop word; default false. */
  once?: boolean;
  /** Replies to one peer at once, and in a second: 0 to 1000000; 0, the default: any. */
  rate?: number;
  /** Probability, 0 to 1, that a reply is lost; default 0. */
  drop?: number;
  /** Probability, 0 to 1, that a datagram is lost before it is seen; default 0. */
  dropRequest?: number;
  /** Probability, 0 to 1, that a reply is sent twice; default 0. */
  duplicate?: number;
  /** Probability, 0 to 1, that one random bit of a reply is flipped; default 0. */
  corrupt?: number;
  /** Milliseconds, 0 to 60000, that each reply is held at most, at random; default 0. */
  delayMs?: number;
  /** A whole number, 0 to 4294967295, that decides the faults of the network; default 0. */
  seed?: number;
  /** Whether sentences and sessions are not reported; default false. */
  quiet?: boolean;
  /** Shuts the server down when it aborts. */
  signal?: AbortSignal | undefined;
  /** Called at each event, and not waited for. What it throws ends the server. */
  onEvent?: ((event: ServerEvent) => unknown) | undefined;
  /** Called at each socket call. What it throws ends the server. */
  onTrace?: ((call: TraceCall) => void) | undefined;
};

/** A running server, shaped like `Deno.HttpServer`. */
export type EchoServer = AsyncDisposable & {
  /** Where it receives. */
  addr: Deno.NetAddr;
  /** Resolves when the socket is closed; rejects with what a callback threw. */
  finished: Promise<void>;
  /**
   * Sends what is being sent, drops what is held, and closes the socket within 5 s. A send that the
   * network does not take may outlive it, as in Deno no close ends a send.
   */
  shutdown(): Promise<void>;
};

const SHARE = { min: 0, max: 1, whole: false };
const BOUNDS = {
  port: { min: 0, max: 65_535 },
  rate: { min: 0, max: 1_000_000 },
  drop: SHARE,
  dropRequest: SHARE,
  duplicate: SHARE,
  corrupt: SHARE,
  delayMs: { min: 0, max: 60_000, whole: false },
  seed: { min: 0, max: 4_294_967_295 },
};
const NAME = "udp_server";
const HELP = `UDP echo server: prints each datagram and sends it back.

Usage: deno run --unstable-net --allow-net=HOST udp_server.ts [options]

  -H, --host HOST          address to receive on (default ${HOSTNAME})
  -p, --port PORT          0 to 65535, not 1 to 1023; 0: any (default ${PORT})
      --stop WORD…         a datagram that ends a session (default ${STOP_WORDS.join(", ")})
      --no-stop            no datagram is a command: plain RFC 862
      --no-echo            print only
      --once               end 2 s after the first peer that stops has its echo
      --rate N             0 to 1000000 replies a second; 0: any (default 0)
      --drop P             0 to 1: how likely a reply is lost (default 0)
      --drop-request P     0 to 1: how likely a datagram never comes (default 0)
      --duplicate P        0 to 1: how likely a reply is sent twice (default 0)
      --corrupt P          0 to 1: how likely it has a bit flipped (default 0)
      --delay MS           0 to 60000: held at random up to this (default 0)
      --seed N             0 to 4294967295: the same seed, the same faults
  -q, --quiet              print no sentences and sessions
      --json               print one JSON object a line
      --trace              draw each socket call on stderr
  -h, --help               print this
  -V, --version            print the version

--rate is for each peer, an address and a port. Sources that are no client's are
not answered, nor is one of ${LOOP_ROUNDS} identical datagrams: they may be a loop. The
same datagram is doubled ${MAX_DOUBLED} times at most. Lines that are printed faster
than they are read are dropped and counted, as datagrams do not wait.`;

/** The command line: options to `serve`, events to lines, signals to a shutdown. */
export async function main(args: string[]): Promise<number> {
  checkArgs(args);
  const flags = parseArgs(args, {
    boolean: ["no-stop", "no-echo", "once", "quiet", "json", "trace", "help", "version"],
    string: [
      "_",
      "host",
      "port",
      "stop",
      "rate",
      "drop",
      "drop-request",
      "duplicate",
      "corrupt",
      "delay",
      "seed",
    ],
    collect: ["stop"],
    alias: { host: "H", port: "p", quiet: "q", help: "h", version: "V" },
    default: {
      host: HOSTNAME,
      port: `${PORT}`,
      stop: STOP_WORDS,
      rate: "0",
      drop: "0",
      "drop-request": "0",
      duplicate: "0",
      corrupt: "0",
      delay: "0",
    },
    unknown: (arg: string) => refuse(arg, args),
  });
  if (flags.help || flags.version) return printText(flags.help ? HELP : `${NAME} ${VERSION}`);
  for (const word of flags._) refuse(word, args);
  const stopWords = flags["no-stop"] ? [] : flags.stop;
  toStopWords("--stop", stopWords);
  const name = toHost(flags.host);
  const options: ServeOptions = {
    port: toListenPort(flags.port),
    stopWords,
    echo: !flags["no-echo"],
    once: flags.once,
    rate: toNumber("--rate", flags.rate, BOUNDS.rate),
    drop: toNumber("--drop", flags.drop, SHARE),
    dropRequest: toNumber("--drop-request", flags["drop-request"], SHARE),
    duplicate: toNumber("--duplicate", flags.duplicate, SHARE),
    corrupt: toNumber("--corrupt", flags.corrupt, SHARE),
    delayMs: toNumber("--delay", flags.delay, BOUNDS.delayMs),
    seed: toNumber("--seed", flags.seed ?? `${Math.floor(Math.random() * 2 ** 32)}`, BOUNDS.seed),
    quiet: flags.quiet,
    onEvent: (event) => printEvent(event, { waits: false }),
    onTrace: flags.trace ? (call) => printTraceCall("server", call) : undefined,
  };
  const [hostname = name] = await resolve(name);
  requireNet(toPermission(hostname)); // without a port: replies go to any
  if (!flags.seed && isLossy(options)) warn(`to repeat these faults: --seed ${options.seed}`);
  const stopping = new AbortController();
  onSignals(() => stopping.abort()); // before the ready line: a signal may come right behind it
  await serve({ ...options, hostname, signal: stopping.signal }).finished;
  return 0;
}

/** An event as a line for people, safe to see. */
export function formatEvent(event: ServerEvent): string {
  switch (event.event) {
    case "listening":
      return `listening on udp ${formatAddress(event)}`;
    case "message":
      return formatMessage(event);
    case "close":
      return `${event.peer} closed (${event.reason}): ${formatTotals(event)}`;
    case "warning":
      return escape(event.text);
    case "shutdown": {
      const dropped = event.dropped ? `, ${event.dropped} dropped` : "";
      return `stopped: ${formatTotals(event)}, ${event.unanswered} not answered${dropped}`;
    }
  }
}

// ---- The same in both servers: edit it in tcp_server.ts, then `deno task sync`. ----

/** Sentences and bytes received, in how many seconds. */
export type Totals = { messages: number; bytes: number; seconds: number };

/** The port to listen on: not one of those that the handout keeps clear of. @throws UsageError */
function toListenPort(text: string): number {
  const port = toNumber("--port", text, BOUNDS.port);
  if (port === 0 || port >= 1_024) return port;
  throw new UsageError(
    `--port ${port} may be reserved for an existing service, as all below 1024 may; use 1024 to 65535, or 0 for any free port`,
  );
}

/** Why a port cannot be bound: the system says "address already in use" where none is free, too. */
function bindFailure(port: number, cause: unknown): unknown {
  const isFull = port === 0 && cause instanceof Deno.errors.AddrInUse;
  return isFull ? new Deno.errors.AddrInUse("no local port is free", { cause }) : cause;
}

/** Prints an event, for people or as JSON. Who `waits` gets a promise where there is no room. */
function printEvent(event: ServerEvent, { waits }: { waits: boolean }): Promise<void> | undefined {
  if (event.event === "warning") return void warn(event.text);
  const keep = event.event === "close" || event.event === "shutdown";
  return stdout.print(stdout.json ? toJson(event) : formatEvent(event), { keep, waits });
}

/** `[127.0.0.1:53412] hello`: only what a peer said stands behind brackets. */
function formatMessage(message: { peer: string; text: string; more?: number }): string {
  const { peer, text, more } = message;
  return `[${peer}] ${escape(text)}${more ? `… +${more} bytes` : ""}`;
}

/** `1 message, 33 bytes, 0.1 s`. */
function formatTotals({ messages, bytes, seconds }: Totals): string {
  return `${plural(messages, "message")}, ${plural(bytes, "byte")}, ${seconds.toFixed(1)} s`;
}

/** To the millisecond. */
function secondsSince(startedAt: number): number {
  return Math.round(performance.now() - startedAt) / 1000;
}

// ---- The same in both UDP scripts: edit it in udp_server.ts, then `deno task sync`. ----

const BUFFER_BYTES = 65_535; // no datagram is longer, so none is cut
const NEEDS_UNSTABLE = "UDP in Deno needs --unstable-net";

/** The addresses of a host; a name asks for permission to look it up. @throws Error */
async function resolve(host: string): Promise<string[]> {
  if (/^[\d.]+$|:/.test(host)) return [toCanonical(host)];
  requireNet(host);
  const { lookup } = await import("node:dns/promises"); // Deno itself asks no hosts file
  try {
    const found = await lookup(host, { all: true });
    return [...new Set(found.map(({ address }) => address))];
  } catch (cause) {
    throw cannot(`find the address of ${quote(host)}`, cause);
  }
}

/** An address as datagrams have it: `127.0.0.1` for `127.1` or `::ffff:127.0.0.1`. */
function toCanonical(address: string): string {
  const [bare, zone] = [withoutZone(address), address.slice(withoutZone(address).length)];
  const url = URL.parse(`http://${bare.includes(":") ? `[${bare}]` : bare}`);
  const host = url ? url.hostname.replace(/[[\]]/g, "") : bare;
  const [, high, low] = /^::ffff:([\da-f]+):([\da-f]+)$/.exec(host) ?? []; // IPv4, in IPv6
  if (!high || !low) return host + zone;
  return URL.parse(`http://${parseInt(high, 16) * 65_536 + parseInt(low, 16)}`)!.hostname;
}

/** A datagram or a line without the line end behind it, LF or CRLF, if there is one. */
function withoutLineEnd(bytes: Uint8Array): Uint8Array {
  const { length } = bytes;
  if (bytes[length - 1] !== 0x0a) return bytes;
  return bytes.subarray(0, bytes[length - 2] === 0x0d ? -2 : -1);
}

// ---- The same in all four scripts: edit it in tcp_server.ts, then `deno task sync`. ----

const VERSION = "1.0.0";
const OLDEST_DENO = "2.9.5"; // from here on a close ends the calls that wait on the socket
const PREVIEW_BYTES = 1_000; // of a sentence are shown, the rest is counted; no stop word is longer
const MAX_WAITING = 1_048_576; // characters of lines that wait for stdout, and as many for stderr
const MAX_KEPT = 16_777_216; // beyond this even warnings and the last lines of a connection are dropped
const GATHER_MS = 10; // between two writes to stdout: many lines for the price of one
const LARGE_PIECE_BYTES = 65_536; // are written at once to a reader that is fast
const FAST_BYTES = 262_144; // taken without a pause, more than a pipe holds: the reader is fast
const FAST_MS = 50; // for a small piece: at this pace a large one takes less than a second
const TICK_MS = 100; // between two checks of whether anybody reads
const STUCK_TICKS = 10; // after 1 s without a byte taken, lines without room are dropped
const GIVE_UP_TICKS = 30; // after 3 s without a byte taken, the end waits no longer
const REPORT_TICKS = 5; // 500 ms at most for the report of lines that are lost at the end
const WARN_TICKS = 10; // 1 s between two warnings about dropped lines
const SAME_SIGNAL_MS = 500; // `deno task` and `timeout` send a signal twice
const encoder = new TextEncoder();
const decoder = new TextDecoder("utf-8", { ignoreBOM: true });

/** Wrong use of an option: on the command line it is one line on stderr and exit code 2. */
class UsageError extends RangeError {}

/** The least and the most that a number may be. */
type Bounds = { min: number; max: number; whole?: boolean };

/** The arguments before `--`, behind which everything is a message. */
function optionsOf(args: string[]): string[] {
  return args.includes("--") ? args.slice(0, args.indexOf("--")) : args;
}

/** Refuses what parseArgs lets pass: an option named `_`, a value for an option that takes none. */
function checkArgs(args: string[]): void {
  for (const arg of optionsOf(args)) {
    const [name = "", value] = arg.split(/=(.*)/s);
    if (/^--?_$/.test(name)) refuse(arg, args);
    if (value === undefined || !name.startsWith("-")) continue;
    // In its line of the help text, two blanks follow an option that takes no value.
    const line = HELP.split("\n").find((line) => line.trim().split(/,? /).includes(name));
    if (!/--\S+ {2}/.test(line ?? "")) continue;
    throw new UsageError(`${name} takes no value, so it cannot be ${quote(value)}`);
  }
}

/** Ends parseArgs at what its table does not know. @throws UsageError */
function refuse(arg: string, args: string[]): never {
  const option = args[args.indexOf(arg) - 1] ?? "";
  const isValue = option.startsWith("-") && /^(-[\d.].*)?$/.test(arg); // parseArgs finds none
  const what = isValue ? `${escape(option)} cannot be ${quote(arg)}` : `unexpected ${quote(arg)}`;
  const isMessage = arg.startsWith("-") && HELP.includes("[message…]");
  const hint = isMessage ? ", and behind -- it is a message" : "";
  throw new UsageError(`${what}; --help lists what is allowed${hint}`);
}

/** The value of a numeric option. @throws UsageError out of its bounds */
function toNumber(option: string, text: string, bounds: Bounds): number {
  const isNumber = (bounds.whole ?? true ? /^\d+$/ : /^(\d+\.?\d*|\.\d+)$/).test(text);
  const number = isNumber ? Number(text) : NaN;
  checkNumber(option, number, { ...bounds, text });
  return number;
}

/** Checks the numbers among the options of a function. @throws UsageError out of their bounds */
function checkBounds(options: object, bounds: Record<string, Bounds>): void {
  for (const [name, value] of Object.entries(options)) {
    if (bounds[name] && value !== undefined) checkNumber(name, value, bounds[name]);
  }
}

function checkNumber(
  name: string,
  number: number,
  { min, max, whole = true, text = `${number}` }: Bounds & { text?: string },
): void {
  if (number >= min && number <= max && (!whole || Number.isInteger(number))) return;
  const wanted = `a ${whole ? "whole " : ""}number from ${min} to ${max}`;
  throw new UsageError(`${name} needs a value, ${wanted}, not ${quote(text)}`);
}

/** A host without the brackets of an IPv6 address. @throws UsageError */
function toHost(text: string): string {
  const host = text.replace(/^\[(.*)\]$/, "$1");
  const isIpv6 = URL.canParse(`http://[${withoutZone(host)}]`);
  if (isIpv6 || /^[^\s:/[\]]+$/.test(text)) return host;
  const hint = /^\s*$/.test(text) ? "" : `, not ${quote(text)}; a port goes to --port`;
  throw new UsageError(`--host needs a value, a name or an address${hint}`);
}

/** Stop words as bytes, without the blanks around them. @throws UsageError for what none can be */
function toStopWords(option: string, words: string[]): Uint8Array[] {
  return words.map((word) => {
    const bytes = trimBlanks(encoder.encode(word));
    if (bytes.length >= 1 && bytes.length <= 100 && !/[\n\ufffd]/.test(word)) return bytes;
    throw new UsageError(`${option} needs a value, a word of 1 to 100 bytes, not ${quote(word)}`);
  });
}

/** Without the ASCII blanks around it. */
function trimBlanks(bytes: Uint8Array): Uint8Array {
  const isBlank = (byte: number): boolean => byte === 0x20 || byte >= 0x09 && byte <= 0x0d;
  let [start, end] = [0, bytes.length];
  while (start < end && isBlank(bytes[start]!)) start++;
  while (start < end && isBlank(bytes[end - 1]!)) end--;
  return end - start === bytes.length ? bytes : bytes.subarray(start, end);
}

/** Whether a sentence, but for the blanks around it, is one of `stopWords`, which have none. */
function isStopWord(sentence: Uint8Array, stopWords: Uint8Array[]): boolean {
  if (stopWords.length === 0 || sentence.length > PREVIEW_BYTES) return false;
  const word = trimBlanks(sentence);
  return stopWords.some((stopWord) => sameBytes(stopWord, word));
}

function sameBytes(a: Uint8Array, b: Uint8Array): boolean {
  return a.length === b.length && a.every((byte, i) => byte === b[i]);
}

/** What is shown of a sentence of `bytes` bytes that begins with `start`, and how many are not. */
function preview(start: Uint8Array, bytes: number): { text: string; more?: number } {
  if (bytes <= PREVIEW_BYTES) return { text: decoder.decode(start) };
  let end = PREVIEW_BYTES;
  while (end > PREVIEW_BYTES - 3 && (start[end]! & 0xc0) === 0x80) end--; // not within a character
  return { text: decoder.decode(start.subarray(0, end)), more: bytes - end };
}

/**
 * Replaces what steers a terminal or is not seen there: controls, invisible formats, separators of
 * lines. A tab is ordinary text, and so is a joiner behind a letter, a mark or an emoji, as in
 * Persian.
 */
function replaceUnsafe(text: string, replacer: (char: string) => string): string {
  if (!/[^ -~]/.test(text)) return text; // most text is so, and this is twice as fast
  return text.replace(
    /[[\p{Cc}\p{Cf}\p{Zl}\p{Zp}]--[\t\u200c\u200d\u0600-\u0605\u06dd\u070f\u08e2]]|(?<![\p{L}\p{M}\p{Emoji_Modifier}\p{Extended_Pictographic}])[\u200c\u200d]/gv,
    replacer,
  );
}

/** `text` as a person may safely see it: an ESC reads `\u{1b}`. */
function escape(text: string): string {
  return replaceUnsafe(text, (char) => `\\u{${char.codePointAt(0)!.toString(16)}}`);
}

function quote(text: string): string {
  return `"${escape(text)}"`;
}

/** An event as one line of JSON, as safe to see as escaped text. */
function toJson(event: object): string {
  const hex = (unit: string): string => unit.charCodeAt(0).toString(16).padStart(4, "0");
  const json = JSON.stringify({ time: new Date().toISOString(), ...event });
  return replaceUnsafe(json, (char) => char.replace(/[^]/g, (unit) => `\\u${hex(unit)}`));
}

function plural(count: number, noun: string): string {
  return `${count} ${noun}${count === 1 ? "" : "s"}`;
}

/** `127.0.0.1:12000`, `[::1]:12000`. */
function formatAddress({ hostname, port }: { hostname: string; port: number }): string {
  return `${hostname.includes(":") ? `[${hostname}]` : hostname}:${port}`;
}

/** `fe80::1` for `fe80::1%eth0`, as permissions know no zones. */
function withoutZone(address: string): string {
  return address.replace(/%[^\]:]*/, "");
}

/** Why a call failed, in the system's words without its number: `connection refused`. */
function reasonOf(error: unknown): string {
  const { message = String(error), code = "" } = error as { message?: string; code?: string };
  // Over UDP a name look-up fails with a code alone, and a refusal reads like one of Deno's.
  if (code === "EAI_AGAIN" || message.includes("Temporary failure in name")) {
    return "no name server answers";
  }
  if (code === "ENOTFOUND" || message.startsWith("failed to lookup")) return "name not found";
  if (code === "EACCES" || code === "EPERM") return `refused by the system (${code})`;
  const text = message.replace(/\.? \(os error \d+\)$/, "");
  return text.charAt(0).toLowerCase() + text.slice(1);
}

/** An error that says what could not be done and why, and keeps its cause. */
function cannot(what: string, cause: unknown, hint = ""): Error {
  return new Error(`cannot ${what}: ${reasonOf(cause)}${hint}`, { cause });
}

/** Asks for net permission, before the first socket call. @throws Error that names the flag */
function requireNet(...addresses: string[]): void {
  const hosts = addresses.map(withoutZone);
  for (const host of hosts) {
    if (Deno.permissions.requestSync({ name: "net", host }).state === "granted") continue;
    const where = Deno.build.standalone
      ? "at deno compile"
      : "behind deno run, or at deno install for an installed command,";
    throw new Error(`no permission to use ${host}: ${where} add --allow-net=${hosts}`);
  }
}

/** The first signal calls `stop`; a second one, or one without `stop`, ends the program at once. */
function onSignals(stop?: () => void): void {
  const exitCodes = { SIGINT: 130, SIGTERM: 143, SIGHUP: 129 }; // 128 and the signal's number
  const ofWindows = Deno.build.os === "windows" ? { SIGBREAK: 149 } : {}; // Ctrl-Break
  let firstAt: number | undefined; // ms
  for (const [signal, code] of Object.entries({ ...exitCodes, ...ofWindows })) {
    Deno.addSignalListener(signal as Deno.Signal, () => {
      const now = performance.now();
      if (!stop || now - (firstAt ?? now) > SAME_SIGNAL_MS) Deno.exit(code);
      if (firstAt === undefined) stop();
      firstAt ??= now;
    });
  }
}

function sleep(ms: number): Promise<void> {
  return new Promise((resolve) => setTimeout(resolve, Math.max(ms, 0))); // Deno warns below 0
}

/**
 * Writes a piece of `bytes`, and returns its length. Another process that shares the pipe or the
 * terminal may have made it non-blocking. A piece that is small (PIPE_BUF in pipe(7)) and ends in a
 * line end is then taken as a whole or not at all. What follows the last line end Deno's stdout
 * keeps in a buffer of its own, so that it must not be written again.
 */
async function writePiece(
  to: typeof Deno.stdout,
  bytes: Uint8Array,
  onWouldBlock = (): void => {},
): Promise<number> {
  const most = bytes.subarray(0, to.isTerminal() ? 1_024 : 4_096);
  const piece = most.subarray(0, most.lastIndexOf(0x0a) + 1 || most.length);
  const isKept = to === Deno.stdout && piece.length < 1_024 && piece.at(-1) !== 0x0a;
  for (let rest = piece;;) {
    try {
      rest = rest.subarray(await to.write(rest));
      if (rest.length === 0) return piece.length;
    } catch (error) {
      if (!(error instanceof Deno.errors.WouldBlock)) throw error;
      onWouldBlock();
      if (isKept) rest = piece.subarray(0, 0); // which writes the buffer
      await sleep(GATHER_MS);
    }
  }
}

/** Lines on their way to stdout or stderr, which are written in the background. */
class Output {
  json = false; // whether events are printed as JSON
  failed = false; // as when the disk is full, or the terminal is gone
  readonly closed = Promise.withResolvers<never>(); // rejects when its reader closes, as `head` does
  #waiting = ""; // lines
  #unwritten: Uint8Array = new Uint8Array(); // lines that are being written
  #dropped = 0; // lines, since the last warning
  #isRead = true; // whether anybody read when a line was last dropped
  #silentTicks = 0; // since a byte was taken
  #ticksToWarning = 0;
  #writtenAt = -Infinity; // ms
  #fastBytes = 0; // taken since a write had to wait
  #writing: Promise<void> | undefined;
  #room: PromiseWithResolvers<void> | undefined; // resolves when lines are taken again, or dropped
  #isClosed = false; // by its reader, or given up

  constructor(readonly name: "stdout" | "stderr") {
    this.closed.promise.catch(() => {}); // without a reader of it, that is no uncaught error
  }

  /**
   * Prints a line. Where there is no room, a line to `keep` is printed all the same; a caller that
   * `waits` gets a promise that resolves when there is room; other lines are dropped and counted.
   */
  print(line: string, { end = "\n", keep = false, waits = false } = {}): Promise<void> | undefined {
    if (this.#isClosed) return;
    const size = this.#waiting.length + this.#unwritten.length;
    const isFull = size >= (keep ? MAX_KEPT : MAX_WAITING);
    const isWaitedFor = isFull && waits && this.#silentTicks < STUCK_TICKS;
    if (isFull && !isWaitedFor) {
      this.#dropped++;
      this.#isRead = this.#silentTicks < STUCK_TICKS;
      return;
    }
    this.#waiting += line + end;
    this.#writing ??= this.#write();
    if (isWaitedFor) return (this.#room ??= Promise.withResolvers()).promise;
  }

  async #write(): Promise<void> {
    const ticker = setInterval(() => this.#tick(), TICK_MS);
    while (this.#waiting !== "") {
      const pause = GATHER_MS - (performance.now() - this.#writtenAt);
      const gathers = this === stdout && this.#waiting.length < MAX_WAITING / 4;
      if (gathers && pause > 0) await sleep(pause);
      this.#unwritten = encoder.encode(this.#waiting);
      this.#waiting = "";
      try {
        while (this.#unwritten.length > 0) await this.#writeSome();
      } catch (error) {
        this.#fail(error);
      }
      this.#makeRoom();
      this.#writtenAt = performance.now();
    }
    clearInterval(ticker);
    this.#writing = undefined;
  }

  /**
   * Writes a piece of the lines. Only small pieces show that a slow reader reads; large ones cost
   * less, and are for a reader that was fast so far.
   */
  async #writeSome(): Promise<void> {
    const to = Deno[this.name];
    const lines = this.#unwritten;
    const startedAt = performance.now();
    const isLarge = this.#fastBytes > FAST_BYTES && !to.isTerminal();
    const end = lines.lastIndexOf(0x0a, LARGE_PIECE_BYTES - 1) + 1; // no line is so long
    const large = lines.subarray(0, end || lines.length);
    try {
      const stayWithSmall = (): void => void (this.#fastBytes = -Infinity);
      const size = isLarge ? await to.write(large) : await writePiece(to, lines, stayWithSmall);
      const isFast = performance.now() - startedAt < FAST_MS;
      this.#fastBytes = isFast ? this.#fastBytes + size : Math.min(this.#fastBytes, 0);
      this.#unwritten = lines.subarray(size);
    } catch (error) {
      if (!(error instanceof Deno.errors.WouldBlock)) throw error;
      // Nobody knows how much of the large piece was taken: it counts as lost.
      this.#fastBytes = -Infinity;
      this.#dropped += countLines(decoder.decode(large));
      this.#unwritten = encoder.encode(`\n${decoder.decode(lines.subarray(large.length))}`);
    }
    this.#silentTicks = 0;
    this.#makeRoom();
  }

  #fail(error: unknown): void {
    this.#unwritten = new Uint8Array();
    if (error instanceof Deno.errors.BrokenPipe) {
      this.#isClosed = true;
      this.#waiting = "";
      this.closed.reject(error);
    } else if (this === stdout && !this.failed) warn(cannot("write to stdout", error).message);
    this.failed = true;
  }

  /** Lets who waits print on: there is room again, or nobody reads and lines are dropped. */
  #makeRoom(): void {
    const isFull = this.#waiting.length + this.#unwritten.length > MAX_WAITING / 2;
    if (isFull && this.#silentTicks < STUCK_TICKS) return;
    this.#room?.resolve();
    this.#room = undefined;
  }

  #tick(): void {
    this.#silentTicks++;
    this.#makeRoom();
    if (this.#dropped > 0 && this.#ticksToWarning-- <= 0) this.warnDropped();
  }

  /** Warns of the lines that were dropped since the last warning, if there are any. */
  warnDropped(): void {
    if (this.#dropped === 0) return;
    const how = this.#isRead ? "read too slowly" : "not read";
    const dropped = plural(this.#dropped, "line");
    this.#dropped = 0;
    this.#ticksToWarning = WARN_TICKS;
    warn(`${this.name} is ${how}: ${dropped} dropped`);
  }

  /** Waits until all is written, as long as anybody reads; else reports how many lines are lost. */
  async flush(ticks = GIVE_UP_TICKS): Promise<void> {
    if (this.#isClosed) return;
    for (let silent = 0; this.#writing && silent < ticks;) {
      await Promise.race([this.#writing, sleep(TICK_MS)]);
      silent = Math.min(silent + 1, this.#silentTicks); // in which it waited and no byte was taken
    }
    if (!this.#writing) return this.warnDropped();
    const lost = countLines(decoder.decode(this.#unwritten) + this.#waiting) + this.#dropped;
    this.#isClosed = true;
    stderr.print(`${NAME}: ${this.name} is not read: ${plural(lost, "line")} lost`);
  }
}

function countLines(text: string): number {
  return text.split("\n").length - 1;
}

const stdout = new Output("stdout");
const stderr = new Output("stderr");

/** Writes to stdout at once, byte for byte; a slow reader is waited for. */
async function writeOut(bytes: Uint8Array): Promise<void> {
  try {
    for (let rest = bytes; rest.length > 0;) {
      rest = rest.subarray(await writePiece(Deno.stdout, rest));
    }
  } catch (error) {
    throw error instanceof Deno.errors.BrokenPipe ? error : cannot("write to stdout", error);
  }
}

/**
 * Prints a text, and returns the exit code. As it waits for the write, Deno has the time to store
 * what it compiled, and the next start takes a tenth less.
 */
async function printText(text: string): Promise<number> {
  await writeOut(encoder.encode(`${text}\n`));
  return 0;
}

/** Warns a person on stderr; under --json it is an event on stdout, too. */
function warn(text: string, event: "warning" | "error" | "lost" = "warning"): void {
  stderr.print(`${NAME}: ${escape(text)}`, { keep: true });
  if (stdout.json) stdout.print(toJson({ event, text }), { keep: true });
}

/** One socket call, for `--trace`. */
export type TraceCall = {
  /** The handout's step. */
  step: string;
  /** The call, with its result where there is one: `read() = 15`. */
  call: string;
  /** Whom it concerns. */
  peer?: string;
  /** The bytes that it moved: a view that is valid during the call of `onTrace` only. */
  bytes?: Uint8Array;
  /** What else there is to know. */
  note?: string;
};

/** Prints a socket call: time since the start, side, step, call, arrow, bytes. */
function printTraceCall(side: "client" | "server", traceCall: TraceCall): void {
  const { step, call, peer, bytes, note } = traceCall;
  const time = performance.now().toFixed(1).padStart(7);
  const came = /^(accept|read|receive)\b/.test(call);
  const went = /^(connect|write|send|closeWrite)\b/.test(call);
  const arrow = !came && !went ? " │ " : came === (side === "server") ? "──▶" : "◀──";
  const text = bytes && escape(JSON.stringify(decoder.decode(bytes.subarray(0, 24))));
  const shown = text && text.length > 18 ? `${text.slice(0, 17)}…` : text;
  const what = [peer, shown, note].filter(Boolean).join(" ");
  const line = `${time} ms ${side} ${step.padEnd(3)} ${call.padEnd(17)} ${arrow} ${what}`;
  stderr.print(line.trimEnd());
}

/** Runs `main` to its exit code. An error is one line on stderr; a closed stdout is none. */
async function run(main: (args: string[]) => Promise<number>): Promise<never> {
  stdout.json = optionsOf(Deno.args).includes("--json"); // also for what parseArgs refuses
  let code: number;
  try {
    requireDeno();
    code = await Promise.race([main(Deno.args), stdout.closed.promise]);
  } catch (error) {
    code = reportError(error);
  }
  await Promise.all([stdout.flush(), stderr.flush()]);
  await stdout.flush(); // with --json, the warning of lines that were dropped
  await stderr.flush(REPORT_TICKS);
  Deno.exit(code);
}

/** Reports why the program fails. Returns its exit code. */
function reportError(error: unknown): number {
  const text = error instanceof Error ? error.message : String(error);
  if (!(error instanceof Deno.errors.BrokenPipe)) warn(text, "error");
  return error instanceof UsageError ? 2 : 1;
}

/** @throws Error where Deno is too old */
function requireDeno(): void {
  const sortable = (version: string): string => version.replace(/\d+/g, (n) => n.padStart(4, "0"));
  if (sortable(Deno.version.deno) >= sortable(OLDEST_DENO)) return;
  throw new Error(`Deno ${Deno.version.deno} is too old: ${OLDEST_DENO} or later is needed`);
}

if (import.meta.main) await run(main);
