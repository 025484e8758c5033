#!/usr/bin/env -S deno run --unstable-net --allow-net=127.0.0.1
/**
 * UDP echo server: prints each datagram and sends it back whole to where it came from (RFC 862). It
 * is the server of the lab's task 4; "Step 1" to "Step 6" are the handout's steps of a server, of
 * which UDP has no 3 and 4: nobody connects. With `--drop`, `--duplicate` and `--delay` it is also
 * the lossy network of a pinger lab.
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

// The defaults: of the command line, of serve() and in the help text.
const HOSTNAME = "127.0.0.1"; // this machine only
const PORT = 12_000; // those below 1024 are reserved
const STOP_WORDS = ["stop", "exit"]; // a datagram that is one of these ends its peer's session

const RECEIVE_RETRY_MS = 100; // after a receive that failed
const MAX_SESSIONS = 10_000; // peers that are remembered
const MAX_HOSTS = 4_096; // that Deno is asked about: each question costs 3 kB, for ever
const LOOP_ROUNDS = 65_536; // the same datagram from one peer so often: the last is left out
const MAX_DOUBLED = 4_096; // of these are doubled, or --duplicate would swell a loop
const MAX_HELD_BYTES = 16_777_216; // of replies that --delay holds
const HELD_OVERHEAD_BYTES = 1_000; // of each: its timer and the like, measured
const AT_ONCE = [0]; // ms: when a single reply goes out
const TELL_MS = 500; // of a shutdown, then it says what it waits for
const NO_PERMISSION = "no permission";
const NFS_PORT = 2_049; // the one well-known service above 1023 that answers whatever comes

/** Starts a UDP echo server. @throws Error naming the address; its cause is of `listenDatagram` */
export function serve(options: ServeOptions = {}): EchoServer {
  const { hostname = HOSTNAME, port = PORT, onTrace } = options;
  if (!Deno.listenDatagram) throw new Error(NEEDS_UNSTABLE);
  let socket: Deno.DatagramConn;
  try {
    // Step 1: create a UDP socket. Step 2: attach it to an address and a port. In Deno one call does
    // both. Steps 3 and 4, listen and accept, are TCP's.
    socket = Deno.listenDatagram({ transport: "udp", hostname, port });
  } catch (cause) {
    throw cannot(`receive on ${formatAddress({ hostname, port })}`, cause);
  }
  const addr = socket.addr as Deno.NetAddr;
  onTrace?.({ step: "1-2", call: "listenDatagram()", note: formatAddress(addr) });
  const steps = { receive: "5", send: "5", close: "6" };
  return new Server(onTrace ? traced(socket, { steps, onTrace }) : socket, options).start();
}

/** What `serve` starts: one socket for all peers, and what is remembered of them. */
class Server {
  readonly #socket: Deno.DatagramConn;
  readonly #addr: Deno.NetAddr;
  readonly #options: ServeOptions;
  readonly #stopWords: Uint8Array[];
  readonly #zone: string; // of the address that it is bound to, as in fe80::1%eth0
  readonly #network: LossyNetwork | undefined;
  readonly #loops = new LoopGuard();
  readonly #sessions = new Map<number, Session>(); // by hash of a peer, the one longest silent first
  readonly #allowed = new Map<string, boolean>(); // hosts
  readonly #allAllowed = Deno.permissions.querySync({ name: "net" }).state === "granted";
  readonly #replies = new Set<Promise<void>>(); // that are delayed
  readonly #warned = new Set<string>();
  readonly #startedAt = performance.now();
  readonly #totals: { messages: number; bytes: number; unanswered: number; dropped?: number } = {
    messages: 0,
    bytes: 0,
    unanswered: 0,
  };
  #answering = false;
  #onAnswered = (): void => {};
  #closing: Promise<void> | undefined;

  constructor(socket: Deno.DatagramConn, options: ServeOptions) {
    const { hostname = HOSTNAME, drop = 0, duplicate = 0, delayMs = 0 } = options;
    this.#socket = socket;
    this.#addr = socket.addr as Deno.NetAddr;
    this.#options = options;
    this.#stopWords = (options.stopWords ?? STOP_WORDS)
      .map((word) => trimBlanks(encoder.encode(word)));
    this.#zone = hostname.slice(withoutZone(hostname).length);
    this.#network = drop + duplicate + delayMs > 0 ? new LossyNetwork(options) : undefined;
  }

  /** Step 5: receive and send: one datagram in, one out, whole, to where it came from. */
  async #echoDatagrams(): Promise<void> {
    const { echo = true } = this.#options;
    const buffer = new Uint8Array(BUFFER_BYTES);
    while (!this.#closing) { // one loop, as receives in parallel would finish in the wrong order
      let session: Session | undefined;
      try {
        const [datagram, from] = await this.#socket.receive(buffer) as [Uint8Array, Deno.NetAddr];
        session = this.#closing ? undefined : this.#sessionOf(from);
        if (!session) continue;
        this.#answering = true;
        const sentence = withoutLineEnd(datagram);
        this.#note(datagram, sentence, session);
        const delays = echo ? this.#copiesOf(datagram, session) : [];
        if (!delays) continue;
        if (from.hostname.startsWith("fe80:")) from.hostname += this.#zone;
        if (this.#network) await this.#sendCopies(datagram, { from, delays });
        else if (delays.length > 0) await this.#socket.send(datagram, from);
        if (isStopWord(sentence, this.#stopWords)) this.#endSession(session);
      } catch (error) {
        if (session) this.#leaveUnanswered(`cannot send: ${reasonOf(error)}`, session);
        else if (!this.#closing) await this.#surviveReceive(error);
      } finally {
        this.#answering = false;
        this.#onAnswered();
      }
    }
  }

  /** How many ms each copy of the reply is held: [0], but over a lossy network; none if it may not go. */
  #copiesOf(datagram: Uint8Array, session: Session): number[] | undefined {
    const { rate = 0 } = this.#options;
    const rounds = this.#loops.count(datagram, session.hash);
    const doubled = this.#options.duplicate ? MAX_DOUBLED : 0; // copies, which die with it
    if ((rounds + doubled) % LOOP_ROUNDS <= doubled) {
      const why = `one of ${LOOP_ROUNDS} identical datagrams`;
      return void this.#leaveUnanswered(why, session);
    }
    const delays = this.#network?.delaysOf(rounds) ?? AT_ONCE;
    if (delays.length === 0) this.#tellDropped(datagram, session);
    if (rate === 0 || delays.length === 0) return delays;
    const copies = delays.filter(() => session.takeToken(rate));
    if (copies.length > 0) return copies;
    this.#leaveUnanswered(`over --rate ${rate}`, session);
  }

  /** Sends a reply over the lossy network. @throws Error if no copy of it can be sent */
  async #sendCopies(
    datagram: Uint8Array,
    { from, delays }: { from: Deno.NetAddr; delays: number[] },
  ): Promise<void> {
    const bytes = datagram.slice(); // of the buffer that is received into
    const sends = delays.map(async (ms) => {
      if (ms > 0) await this.#network!.hold(bytes, ms);
      await this.#socket.send(bytes, from);
    });
    const reply = Promise.allSettled(sends).then((copies) => {
      const [failed, sent] = [copies[0], copies.some(({ status }) => status === "fulfilled")];
      if (!sent && failed?.status === "rejected") throw failed.reason;
    });
    if (!this.#options.delayMs) return await reply;
    const delayed = reply
      .catch((error) => this.#leaveUnanswered(`cannot send: ${reasonOf(error)}`, from))
      .finally(() => this.#replies.delete(delayed));
    this.#replies.add(delayed);
  }

  /** Step 6: close the socket, once what is under way is sent. */
  async #close(): Promise<void> {
    const teller = setTimeout(() => {
      this.#warn("closing", "waiting for replies to be sent");
    }, TELL_MS);
    this.#network?.release();
    if (this.#answering) await new Promise<void>((resolve) => this.#onAnswered = resolve);
    await Promise.allSettled(this.#replies);
    clearTimeout(teller);
    this.#socket.close();
  }

  #shutdown(): void {
    this.#closing ??= this.#close();
  }

  /** Runs until it is shut down and its socket is closed. */
  async #run(): Promise<void> {
    await this.#echoDatagrams();
    await this.#closing;
    const seconds = secondsSince(this.#startedAt);
    this.#options.onEvent?.({ event: "shutdown", ...this.#totals, seconds });
  }

  /** Tells that it listens, and starts to. */
  start(): EchoServer {
    const { hostname, port } = this.#addr;
    this.#options.onEvent?.({ event: "listening", transport: "udp", hostname, port });
    const finished = this.#run();
    const shutdown = (): Promise<void> => {
      this.#shutdown();
      return finished;
    };
    this.#options.signal?.addEventListener("abort", shutdown, { once: true });
    if (this.#options.signal?.aborted) shutdown();
    return { addr: this.#addr, finished, shutdown, [Symbol.asyncDispose]: shutdown };
  }

  // ---- Peers ----

  /** The sender's session; none where the answer would go astray, whoever forged its address. */
  #sessionOf(from: Deno.NetAddr): Session | undefined {
    const hash = hashOf(from, 0);
    const key = (hash >>> 0) * 2 ** 21 + (hashOf(from, hash) >>> 11); // 53 bits: no two share one
    let session = this.#sessions.get(key);
    if (session?.port !== from.port || session.hostname !== from.hostname) {
      const refusal = refusalOf(from, this.#addr.port) ?? this.#forbids(from.hostname);
      if (refusal) return void this.#leaveUnanswered(refusal, from);
      session ??= this.#sessions.size < MAX_SESSIONS ? new Session() : this.#forgetOldest();
      session.begin(from, hash);
    }
    this.#sessions.delete(key); // it goes to the end: the longest silent is first
    this.#sessions.set(key, session);
    return session;
  }

  /** Forgets the session longest silent, and returns it for another: new ones would be garbage. */
  #forgetOldest(): Session {
    const [key, session] = this.#sessions.entries().next().value!;
    this.#sessions.delete(key);
    return session;
  }

  /** Why a host is not answered: it may not be, or Deno must not be asked about one more. */
  #forbids(hostname: string): string | undefined {
    if (this.#allAllowed) return undefined;
    const host = toPermission(hostname);
    let allowed = this.#allowed.get(host);
    if (allowed === undefined) {
      if (this.#allowed.size >= MAX_HOSTS) {
        return `more than ${MAX_HOSTS} hosts, without --allow-net for all`;
      }
      allowed = Deno.permissions.querySync({ name: "net", host }).state === "granted";
      this.#allowed.set(host, allowed);
    }
    return allowed ? undefined : NO_PERMISSION;
  }

  #note({ length }: Uint8Array, sentence: Uint8Array, session: Session): void {
    if (session.messages++ === 0) session.startedAt = performance.now();
    session.bytes += length;
    this.#totals.messages++;
    this.#totals.bytes += length;
    if (this.#options.quiet) return;
    const { peer } = session;
    const bytes = sentence.length;
    this.#options.onEvent?.({ event: "message", peer, bytes, ...preview(sentence, bytes) });
  }

  /** The sum ends; what is remembered for --rate stays. */
  #endSession(session: Session): void {
    const { peer, messages, bytes, startedAt } = session;
    const seconds = secondsSince(startedAt);
    if (!this.#options.quiet) {
      this.#options.onEvent?.({ event: "close", peer, reason: "stop", messages, bytes, seconds });
    }
    session.messages = session.bytes = 0;
    if (this.#options.once) this.#shutdown();
  }

  // ---- What is not answered ----

  /** No receive that fails ends the server. */
  async #surviveReceive(error: unknown): Promise<void> {
    // Windows tells so of a peer that is gone: its own loss alone.
    if (error instanceof Deno.errors.ConnectionReset) return;
    this.#warn("receive", `cannot receive: ${reasonOf(error)}`);
    await sleep(RECEIVE_RETRY_MS);
  }

  /** Counts a datagram; says why once for each reason, not once for each datagram. */
  #leaveUnanswered(why: string, from: { hostname: string; port: number }): void {
    this.#totals.unanswered++;
    if (this.#warned.has(why)) return;
    const hint = why === NO_PERMISSION ? `, --allow-net=${toPermission(from.hostname)}` : "";
    const what = `not answering ${formatAddress(from)}: ${why}${hint}`;
    this.#warn(why, `${what}; the like is only counted from now on`);
  }

  /** Counts a reply that is lost on purpose: its datagram is dealt with. */
  #tellDropped(bytes: Uint8Array, session: Session): void {
    this.#totals.dropped = (this.#totals.dropped ?? 0) + 1;
    this.#options.onTrace?.({ step: "5", call: "--drop", peer: session.peer, bytes });
  }

  #warn(kind: string, text: string): void {
    if (!this.#warned.has(kind)) this.#options.onEvent?.({ event: "warning", text });
    this.#warned.add(kind);
  }
}

/** What is remembered of a peer: UDP has no connection that would. */
class Session {
  hostname = "";
  port = 0;
  hash = 0;
  startedAt = 0; // ms: when its first message came
  messages = 0; // since then
  bytes = 0;
  #tokens = 0; // replies that --rate still allows
  #refilledAt = 0; // ms

  begin({ hostname, port }: Deno.NetAddr, hash: number): void {
    [this.hostname, this.port, this.hash] = [hostname, port, hash];
    this.messages = this.bytes = 0;
    this.#refilledAt = -1_000; // a second ago, and more: all tokens are there
  }

  get peer(): string {
    return formatAddress(this);
  }

  /** Takes one of `rate` tokens, which come back in a second. Tells if there was one. */
  takeToken(rate: number): boolean {
    const now = performance.now();
    this.#tokens = Math.min(this.#tokens + (now - this.#refilledAt) * rate / 1000, rate);
    this.#refilledAt = now;
    if (this.#tokens < 1) return false;
    this.#tokens--;
    return true;
  }
}

/** Why a peer is never answered: its address is no client's, so it is probably forged. */
function refusalOf({ hostname, port }: Deno.NetAddr, ownPort: number): string | undefined {
  const host = hostname.replace(/^::ffff:/, "");
  if (port === 0) return "source port 0";
  if (port < 1_024 || port === NFS_PORT) return "the source port is a service's";
  if (port === ownPort) return "the source port is this server's own";
  if (/^(0|22[4-9]|23\d)\.|^(127|255)\.255\.255\.255$|^ff/.test(host)) {
    return "a multicast or broadcast source";
  }
}

/**
 * Counts how often the same datagram comes from a peer. One that was forged to come from another
 * echo server goes to and fro for ever, unless one of the two leaves it out now and then (CERT
 * CA-1996-01, CVE-2024-2169). Each of many that circulate has its own counter, all in fixed memory:
 * at a place that two share, the one that is counted gains 16 and loses 1 where the other comes.
 */
class LoopGuard {
  readonly #hashes = new Uint32Array(65_536);
  readonly #counts = new Uint32Array(65_536); // sixteenths
  #words: Uint32Array = new Uint32Array(); // of the buffer that is received into

  /** Which of the same datagram this is, from 1; behind 2 × LOOP_ROUNDS comes LOOP_ROUNDS + 1. */
  count(datagram: Uint8Array, peerHash: number): number {
    const hash = this.#hash(datagram, peerHash);
    const place = hash >>> 16;
    if (this.#hashes[place] !== hash && this.#counts[place]! > 0) {
      const others = this.#counts[place]!-- >> 4;
      return others > 1 ? MAX_DOUBLED + 1 : 1; // a loop may be as old as the other
    }
    this.#hashes[place] = hash;
    this.#counts[place]! += 16;
    const rounds = this.#counts[place]! >> 4;
    if (rounds === 2 * LOOP_ROUNDS) this.#counts[place] = 16 * LOOP_ROUNDS;
    return rounds;
  }

  /** Of four bytes at a time, then of the rest. */
  #hash(datagram: Uint8Array, peerHash: number): number {
    const { buffer, byteOffset, length } = datagram;
    if (this.#words.buffer !== buffer) {
      this.#words = new Uint32Array(buffer, 0, buffer.byteLength >> 2);
    }
    const [first, whole] = [byteOffset >> 2, length >> 2];
    let hash = peerHash ^ length;
    for (let i = first; i < first + whole; i++) hash = mix(hash, this.#words[i]!);
    for (let i = whole * 4; i < length; i++) hash = mix(hash, datagram[i]!);
    return (hash ^ (hash >>> 16)) >>> 0;
  }
}

const [FACTOR, OTHER_FACTOR] = crypto.getRandomValues(new Uint32Array(2)).map((word) => word | 1);

/** A hash that goes on with a word: two odd factors that nobody can guess spread its bits. */
function mix(hash: number, word: number): number {
  const mixed = Math.imul(hash ^ word, FACTOR!);
  return Math.imul(mixed ^ (mixed >>> 15), OTHER_FACTOR!);
}

/** A hash of a peer, one for each seed. */
function hashOf({ hostname, port }: Deno.NetAddr, seed: number): number {
  let hash = mix(seed, port);
  for (let i = 0; i < hostname.length; i++) hash = mix(hash, hostname.charCodeAt(i));
  return hash;
}

/** The network that --drop, --duplicate and --delay make of loopback: same seed, same faults. */
class LossyNetwork {
  readonly #options: ServeOptions;
  readonly #random: () => number;
  readonly #held = new Set<() => void>(); // what lets each held reply go
  #heldBytes = 0;

  constructor(options: ServeOptions) {
    this.#options = options;
    this.#random = randomFrom(options.seed ?? 0);
  }

  /** How long each copy of a reply is on its way, in ms; no copy: it is dropped. */
  delaysOf(rounds: number): number[] {
    const { drop = 0, duplicate = 0, delayMs = 0 } = this.#options;
    const random = this.#random;
    const [dropped, doubled] = [random() < drop, random() < duplicate];
    const delays = [random() * delayMs, random() * delayMs]; // drawn always: the seed alone decides
    if (dropped) return [];
    return doubled && rounds <= MAX_DOUBLED ? delays : delays.slice(1);
  }

  /** Waits for `ms`, or until all are let go. @throws Error where too many bytes wait */
  async hold({ length }: Uint8Array, ms: number): Promise<void> {
    const cost = length + HELD_OVERHEAD_BYTES;
    if (this.#heldBytes + cost > MAX_HELD_BYTES) throw new Error("too many are delayed");
    this.#heldBytes += cost;
    const { promise, resolve } = Promise.withResolvers<void>();
    this.#held.add(resolve);
    const timer = setTimeout(resolve, ms);
    await promise;
    clearTimeout(timer);
    this.#held.delete(resolve);
    this.#heldBytes -= cost;
  }

  /** Lets all go. */
  release(): void {
    for (const release of this.#held) release();
  }
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

/** What happens at the server, as `--json` prints it. `bytes` and `text` have no line end. */
export type ServerEvent =
  | { event: "listening"; transport: "udp"; hostname: string; port: number }
  | { event: "message"; peer: string; bytes: number; text: string; more?: number } // not in text
  | { event: "close"; peer: string; reason: "stop" } & Totals
  | { event: "shutdown"; unanswered: number; dropped?: number } & Totals
  | { event: "warning"; text: string };

/** Options of {@linkcode serve}; their defaults are those of the command line. */
export type ServeOptions = {
  hostname?: string;
  port?: number; // 0: any free one
  stopWords?: string[]; // datagrams that end their peer's session
  echo?: boolean;
  once?: boolean; // end after the first peer that stops
  rate?: number; // replies to one peer, at once and a second; 0: any
  drop?: number; // probability
  duplicate?: number; // probability
  delayMs?: number; // at most
  seed?: number;
  quiet?: boolean; // no events of sentences and sessions
  signal?: AbortSignal; // shuts the server down
  onEvent?: (event: ServerEvent) => void;
  onTrace?: ((rung: Rung) => void) | undefined;
};

/** A running server, shaped like `Deno.HttpServer`. */
export type EchoServer = AsyncDisposable & {
  addr: Deno.NetAddr;
  finished: Promise<void>; // when the socket is closed
  shutdown(): Promise<void>; // sends what is held, then closes
};

const NAME = "udp_server";
const HELP = `UDP echo server: prints each datagram and sends it back.

Usage: deno run --unstable-net --allow-net=HOST udp_server.ts [options]

  -H, --host HOST          address to receive on (default ${HOSTNAME})
  -p, --port PORT          0 to 65535, not 1 to 1023; 0: any (default ${PORT})
      --stop WORD…         a datagram that ends a session (default ${STOP_WORDS.join(", ")})
      --no-stop            no datagram is a command: plain RFC 862
      --no-echo            print only
      --once               end after the first peer that stops
      --rate N             0 to 1000000 replies a second; 0: any (default 0)
      --drop P             0 to 1: how likely a reply is left out (default 0)
      --duplicate P        0 to 1: how likely it is sent twice (default 0)
      --delay MS           0 to 60000: held at random up to this (default 0)
      --seed N             0 to 4294967295: the same seed, the same faults
  -q, --quiet              print no sentences and sessions
      --json               print one JSON object a line
      --trace              draw each socket call on stderr
  -h, --help               print this
  -V, --version            print the version`;

/** The command line: options to `serve`, events to lines, signals to a shutdown. */
export async function main(args: string[]): Promise<number> {
  begin(args);
  const flags = parseArgs(args, {
    boolean: ["no-stop", "no-echo", "once", "quiet", "json", "trace", "help", "version"],
    string: ["_", "host", "port", "stop", "rate", "drop", "duplicate", "delay", "seed"],
    collect: ["stop"],
    alias: { host: "H", port: "p", quiet: "q", help: "h", version: "V" },
    default: {
      host: HOSTNAME,
      port: `${PORT}`,
      stop: STOP_WORDS,
      rate: "0",
      drop: "0",
      duplicate: "0",
      delay: "0",
    },
    unknown: (arg: string) => refuse(arg, args),
  });
  if (flags.help || flags.version) {
    console.log(flags.help ? HELP : `${NAME} ${VERSION}`);
    return 0;
  }
  for (const word of flags._) refuse(word, args);
  const name = toHost(flags.host);
  const port = toListenPort(flags.port);
  const stopWords = flags["no-stop"] ? [] : toStopWords(flags.stop);
  const share = { min: 0, max: 1, whole: false };
  const rate = toNumber(["rate", flags.rate], { min: 0, max: 1_000_000 });
  const drop = toNumber(["drop", flags.drop], share);
  const duplicate = toNumber(["duplicate", flags.duplicate], share);
  const delayMs = toNumber(["delay", flags.delay], { min: 0, max: 60_000, whole: false });
  const random = `${Math.floor(Math.random() * 2 ** 32)}`;
  const seed = toNumber(["seed", flags.seed ?? random], { min: 0, max: 4_294_967_295 });
  const hostname = await resolve(name);
  requireNet(toPermission(hostname)); // without a port: replies go to any
  if (flags.seed === undefined && drop + duplicate + delayMs > 0) {
    warn(`to repeat these faults: --seed ${seed}`);
  }
  const stopping = new AbortController();
  onSignals(() => stopping.abort()); // before the ready line: a signal may come right behind it
  const server = serve({
    hostname,
    port,
    stopWords,
    echo: !flags["no-echo"],
    once: flags.once,
    rate,
    drop,
    duplicate,
    delayMs,
    seed,
    quiet: flags.quiet,
    signal: stopping.signal,
    onEvent: printEvent,
    onTrace: flags.trace ? (rung) => printRung("server", rung) : undefined,
  });
  await server.finished;
  return 0;
}

/** Prints an event, for people or as JSON. */
function printEvent(event: ServerEvent): void {
  if (event.event === "warning") return warn(event.text);
  const ending = event.event === "close" || event.event === "shutdown";
  stdout.print(stdout.json ? toJson(event) : formatEvent(event), { ending });
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

/** Prints an event, for people or as JSON. Who `waits` gets a promise where there is no room. */
function printEvent(event: ServerEvent, { waits }: { waits: boolean }): Promise<void> | undefined {
  if (event.event === "warning") return void warn(event.text);
  const keep = event.event === "close" || event.event === "shutdown";
  return stdout.print(() => stdout.json ? toJson(event) : formatEvent(event), { keep, waits });
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

/** The address of a host; a name asks for permission to look it up. @throws Error */
async function resolve(host: string): Promise<string> {
  if (/^[\d.]+$|:/.test(host)) return toCanonical(host);
  requireNet(host);
  const { lookup } = await import("node:dns/promises"); // Deno itself asks no hosts file
  try {
    return (await lookup(host)).address;
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

/** A host as a permission names it: an IPv6 address in brackets. */
function toPermission(hostname: string): string {
  return hostname.includes(":") ? `[${hostname}]` : hostname;
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
const TICK_MS = 100; // between two looks at whether anybody reads
const STUCK_TICKS = 10; // 1 s in which no byte was taken: lines are dropped where there is no room
const GIVE_UP_TICKS = 30; // 3 s in which no byte was taken, at the end: nobody reads
const REPORT_LOST_MS = 500; // for the report of lines that are lost at the end
const WARN_TICKS = 10; // 1 s between two warnings about dropped lines
const SAME_SIGNAL_MS = 500; // `deno task` and `timeout` send a signal twice
const encoder = new TextEncoder();
const decoder = new TextDecoder("utf-8", { ignoreBOM: true });
/**
 * What steers a terminal or is not seen there: controls, invisible formats, separators of lines. A
 * tab is ordinary text, and so is a joiner behind a letter, a mark or an emoji, as in Persian.
 */
const UNSAFE =
  /[[\p{Cc}\p{Cf}\p{Zl}\p{Zp}]--[\t\u200c\u200d\u0600-\u0605\u06dd\u070f\u08e2]]|(?<![\p{L}\p{M}\p{Emoji_Modifier}\p{Extended_Pictographic}])[\u200c\u200d]/gv;

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
  // The help text has the names of an option before two blanks, and a value in capitals.
  const names = HELP.split("\n").map((line) => line.trim().split("  ")[0]!);
  const switches = names.filter((name) => !/ [A-Z]/.test(name)).flatMap((name) => name.split(", "));
  for (const arg of optionsOf(args)) {
    const [name, value] = arg.split(/=(.*)/s);
    if (/^--?_$/.test(name!)) refuse(arg, args);
    if (value === undefined || !switches.includes(name!)) continue;
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
  return checkNumber(option, isNumber ? Number(text) : NaN, { ...bounds, text });
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
): number {
  if (number >= min && number <= max && (!whole || Number.isInteger(number))) return number;
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

/** `text` as a person may safely see it: an ESC reads `\u{1b}`. */
function escape(text: string): string {
  if (!/[^ -~]/.test(text)) return text; // most text is so, and this is twice as fast
  return text.replace(UNSAFE, (char) => `\\u{${char.codePointAt(0)!.toString(16)}}`);
}

function quote(text: string): string {
  return `"${escape(text)}"`;
}

/** An event as one line of JSON, as safe to see as escaped text. */
function toJson(event: Record<string, unknown>): string {
  const hex = (unit: string): string => unit.charCodeAt(0).toString(16).padStart(4, "0");
  return JSON.stringify({ time: new Date().toISOString(), ...event })
    .replace(UNSAFE, (char) => char.replace(/[^]/g, (unit) => `\\u${hex(unit)}`));
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
  let firstAt = Infinity; // ms
  for (const [signal, code] of Object.entries({ ...exitCodes, ...ofWindows })) {
    Deno.addSignalListener(signal as Deno.Signal, () => {
      const now = performance.now();
      if (!stop || now - firstAt > SAME_SIGNAL_MS) Deno.exit(code);
      if (firstAt === Infinity) stop();
      firstAt = Math.min(firstAt, now);
    });
  }
}

function sleep(ms: number): Promise<void> {
  return new Promise((resolve) => setTimeout(resolve, Math.max(ms, 0))); // Deno warns below 0
}

/**
 * Writes a piece of `bytes`, and returns what is left. The piece is so small that it is taken as a
 * whole or not at all where `to` does not block, as whoever shares a pipe or a terminal may set.
 */
async function writePiece(to: typeof Deno.stdout, bytes: Uint8Array): Promise<Uint8Array> {
  const piece = bytes.subarray(0, to.isTerminal() ? 1_024 : 4_096); // PIPE_BUF of pipe(7)
  while (true) {
    try {
      return bytes.subarray(await to.write(piece));
    } catch (error) {
      if (!(error instanceof Deno.errors.WouldBlock)) throw error;
      await sleep(GATHER_MS);
    }
  }
}

/** Lines on their way to stdout or stderr, which are written in the background. */
class Output {
  json = false; // whether events are printed as JSON
  failed = false; // as the disk is full, or the terminal is gone
  readonly closed = Promise.withResolvers<never>(); // rejects when the reader closes, as `head` does
  #waiting = ""; // lines
  #unwritten: Uint8Array = new Uint8Array(); // lines that are being written
  #dropped = 0; // lines, since the last warning
  #isRead = true; // whether anybody read when the last of them was dropped
  #silentTicks = 0; // since a byte was taken
  #ticksToWarning = 0;
  #writtenAt = -Infinity; // ms
  #writing: Promise<void> | undefined;
  #room: PromiseWithResolvers<void> | undefined; // resolves when lines are taken again, or dropped
  #isClosed = false;

  constructor(readonly name: "stdout" | "stderr") {
    this.closed.promise.catch(() => {}); // who must know waits for it
  }

  /**
   * Prints a line. Where there is no room, one that is to `keep` is printed all the same; who
   * `waits` gets a promise of the moment to print the next; other lines are dropped and counted.
   */
  print(
    line: () => string,
    { end = "\n", keep = false, waits = false } = {},
  ): Promise<void> | undefined {
    if (this.#isClosed) return;
    const size = this.#waiting.length + this.#unwritten.length;
    const isFull = size >= (keep ? MAX_KEPT : MAX_WAITING);
    const isWaitedFor = isFull && waits && this.#silentTicks < STUCK_TICKS;
    if (isFull && !isWaitedFor) return this.#drop();
    this.#waiting += line() + end;
    this.#writing ??= this.#write();
    if (isWaitedFor) return (this.#room ??= Promise.withResolvers()).promise;
  }

  async #write(): Promise<void> {
    const ticker = setInterval(() => this.#tick(), TICK_MS);
    while (this.#waiting !== "") {
      const pause = GATHER_MS - (performance.now() - this.#writtenAt);
      if (this === stdout && pause > 0) await sleep(pause);
      this.#unwritten = encoder.encode(this.#waiting);
      this.#waiting = "";
      try {
        while (this.#unwritten.length > 0) {
          this.#unwritten = await writePiece(Deno[this.name], this.#unwritten);
          this.#silentTicks = 0;
          this.#makeRoom();
        }
      } catch (error) {
        this.#fail(error);
      }
      this.#makeRoom();
      this.#writtenAt = performance.now();
    }
    clearInterval(ticker);
    this.#writing = undefined;
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
    if (this.#dropped > 0 && this.#ticksToWarning-- <= 0) this.#warnDropped();
  }

  #drop(): undefined {
    this.#dropped++;
    this.#isRead = this.#silentTicks < STUCK_TICKS;
  }

  #warnDropped(): void {
    const how = this.#isRead ? "read too slowly" : "not read";
    const dropped = plural(this.#dropped, "line");
    this.#dropped = 0;
    this.#ticksToWarning = WARN_TICKS;
    warn(`${this.name} is ${how}: ${dropped} dropped`);
  }

  /** Waits until all is written, as long as anybody reads; else reports how many lines are lost. */
  async flush(): Promise<void> {
    if (this.#isClosed) return;
    for (let silent = 0; this.#writing && silent < GIVE_UP_TICKS;) {
      await Promise.race([this.#writing, sleep(TICK_MS)]);
      silent = Math.min(silent + 1, this.#silentTicks); // ticks since both it waits and none was taken
    }
    if (!this.#writing) {
      if (this.#dropped === 0) return;
      this.#warnDropped();
      return await this.flush();
    }
    const text = decoder.decode(this.#unwritten) + this.#waiting;
    const lost = this.#dropped + text.split("\n").length - 1;
    this.#isClosed = true;
    stderr.print(() => `${NAME}: ${this.name} is not read: ${plural(lost, "line")} lost`);
  }
}

const stdout = new Output("stdout");
const stderr = new Output("stderr");

/** Prints a text to stdout. Returns the exit code. */
async function printText(text: string): Promise<number> {
  stdout.print(() => text);
  await stdout.flush();
  return stdout.failed ? 1 : 0;
}

/** Warns a person on stderr; under --json it is an event on stdout, too. */
function warn(text: string, event: "warning" | "error" | "lost" = "warning"): void {
  stderr.print(() => `${NAME}: ${escape(text)}`, { keep: true });
  if (stdout.json) stdout.print(() => toJson({ event, text }), { keep: true });
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
  stderr.print(() => line.trimEnd());
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
  await Promise.race([stderr.flush(), sleep(REPORT_LOST_MS)]);
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
  const toNumber = (version: string): number =>
    version.split(".").reduce((sum, part) => sum * 1_000 + parseInt(part), 0);
  if (toNumber(Deno.version.deno) >= toNumber(OLDEST_DENO)) return;
  throw new Error(`Deno ${Deno.version.deno} is too old: ${OLDEST_DENO} or later is needed`);
}

if (import.meta.main) await run(main);
