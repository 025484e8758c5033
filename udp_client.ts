#!/usr/bin/env -S deno run --unstable-net --allow-net=127.0.0.1:0,127.0.0.1:12000
/**
 * UDP echo client: sends each sentence in one datagram, sends it again until its echo comes (RFC
 * 6298), and prints the echo. Sentences come from the arguments, the keyboard or a pipe. It is the
 * client of the lab's task 4; "Step 1a" to "Step 1c.ii" are the handout's steps of a client, of
 * which UDP has no connect.
 *
 * ```sh
 * deno run --unstable-net --allow-net=127.0.0.1:0,127.0.0.1:12000 udp_client.ts hello
 * ncat -lu 12000 -k --exec /bin/cat # an independent server to try it with
 * ```
 *
 * UNP is Stevens, _UNIX Network Programming_. Exit codes: 0 every message was echoed intact; 1
 * something failed, was lost or differed; 2 wrong use.
 *
 * @module
 */

import { parseArgs } from "jsr:@std/cli@^1.0.32/parse-args";

// The defaults: of the command line, of open(), request() and converse(), and in the help text.
const HOSTNAME = "127.0.0.1"; // this machine
const PORT = 12_000;
const STOP_WORDS = ["stop", "exit"]; // sentences that end a conversation
const TIMEOUT_SECONDS = 1; // for the first echo; then round trips decide
const RETRIES = 3;

const MIN_RTO_MS = 200; // between two tries at least, as in Linux TCP; RFC 6298 (2.4) would have 1 s
const MAX_RTO_MS = 60_000; // at most (RFC 6298, 2.5)
const MAX_IPV4_BYTES = 65_507; // of a datagram: 65,535 less the IP and UDP headers
const MAX_IPV6_BYTES = 65_527; // 65,535 less the UDP header
const RECEIVE_RETRY_MS = 10; // after a receive that failed
const FLOOD_MS = 10; // at an interval of 0 the next goes out after the echo, or after this (ping -f)
const LINGER_MS = 10; // at least, for copies of the last probe
const MAX_PENDING = 64; // sends that the system does not take: further probes are lost at once
const [DAMAGED, WHOLE] = [1, 2]; // how a probe came back

/** Creates a socket to talk to one server with. @throws Error that names the address */
export async function open(options: OpenOptions = {}): Promise<EchoSocket> {
  // Step 1a: get IP address and port number of the server.
  const { hostname = HOSTNAME, port = PORT, onTrace } = options;
  const address = await resolveInTime(hostname, options.timeoutSeconds);
  const server: Deno.NetAddr = { transport: "udp", hostname: address, port };
  const local = { hostname: localHost(address), port: 0 }; // any free port
  if (!Deno.listenDatagram) throw new Error(NEEDS_UNSTABLE);
  let socket: Deno.DatagramConn;
  try {
    // Step 1b: create a UDP socket. Step 1c, the connection request, is TCP's: UDP just sends.
    socket = Deno.listenDatagram({ transport: "udp", ...local });
  } catch (cause) {
    throw cannot(`open a socket at ${formatAddress(local)}`, cause);
  }
  const note = formatAddress(socket.addr as Deno.NetAddr);
  onTrace?.({ step: "1b", call: "listenDatagram()", note });
  const steps = { receive: "i", send: "i", close: "ii" };
  return new EchoSocket(onTrace ? traced(socket, { steps, onTrace }) : socket, server, options);
}

/** A UDP socket for one server. What others send to it is counted, not believed. */
export class EchoSocket {
  /** Datagrams of others, and those of the server that match nothing that is waited for. */
  readonly ignored = { strangers: 0, unmatched: 0 };
  /** How long an echo may take. */
  readonly timer: RetransmissionTimer;
  /** The address of the server, as its datagrams have it. */
  readonly server: string;
  /** The socket's own address. */
  readonly addr: Deno.NetAddr;
  /** Who answered first in place of the server, as for 0.0.0.0, since it was last asked; "": nobody. */
  stranger = "";
  /** Called with each datagram from the server; tells whether it was waited for. */
  onDatagram: (bytes: Uint8Array) => boolean = () => false;
  readonly #socket: Deno.DatagramConn;
  readonly #address: Deno.NetAddr;
  #received = 0; // datagrams, from anybody
  #resent: Uint8Array | undefined; // the last payload that was sent more than once
  #closed = false;

  /** See {@linkcode open}. */
  constructor(socket: Deno.DatagramConn, address: Deno.NetAddr, options: OpenOptions) {
    this.#socket = socket;
    this.#address = address;
    this.addr = socket.addr as Deno.NetAddr;
    this.server = formatAddress({ ...address, hostname: withoutZone(address.hostname) });
    this.timer = new RetransmissionTimer((options.timeoutSeconds ?? TIMEOUT_SECONDS) * 1000);
    this.#receiveDatagrams();
  }

  /** One loop for good: a receive that lost a race with a timer would swallow the next datagram. */
  async #receiveDatagrams(): Promise<void> {
    const buffer = new Uint8Array(BUFFER_BYTES);
    while (!this.#closed) {
      try {
        const [bytes, from] = await this.#socket.receive(buffer);
        this.#received++;
        const peer = formatAddress(from as Deno.NetAddr);
        if (peer !== this.server) {
          this.ignored.strangers++;
          this.stranger ||= peer;
        } else if (!this.onDatagram(bytes)) this.ignored.unmatched++;
      } catch {
        // It is the close; or, on Windows, word of a closed port, which the timer tells as well.
        if (!this.#closed) await sleep(RECEIVE_RETRY_MS);
      }
    }
  }

  /** Step 1c.i: sends one datagram. @throws Error that names the address, and keeps its cause */
  async send(bytes: Uint8Array): Promise<void> {
    try {
      await this.#socket.send(bytes, this.#address);
    } catch (cause) {
      throw cannot(`send to ${formatAddress(this.#address)}`, cause);
    }
  }

  /** Waits for the echo of `payload`. */
  expect(payload: Uint8Array): Expected {
    const { promise, resolve } = Promise.withResolvers<true>();
    this.onDatagram = (bytes) => {
      if (!sameBytes(bytes, payload)) return false;
      this.onDatagram = () => false; // one more of the same is not waited for
      resolve(true);
      return true;
    };
    this.stranger = "";
    const ambiguous = this.#resent !== undefined && sameBytes(payload, this.#resent);
    return { payload, echo: promise, sent: 0, ambiguous, unmatched: this.ignored.unmatched };
  }

  /** Ends that; a late echo of what was sent more than once may still come. */
  forget({ payload, sent }: Expected): void {
    this.onDatagram = () => false;
    if (sent > 1) this.#resent = payload;
  }

  /** The most bytes that a datagram to the server holds. */
  get mostBytes(): number {
    return this.#address.hostname.includes(":") ? MAX_IPV6_BYTES : MAX_IPV4_BYTES;
  }

  /** Waits until what lies in the socket is read: after a pause, timers come before that. */
  async drain(): Promise<void> {
    for (let before = -1, turns = 0; before < this.#received && turns < 100; turns++) {
      before = this.#received;
      await turn();
    }
  }

  /** Step 1c.ii: closes the socket, as no more communication is intended. */
  close(): void {
    this.#closed = true;
    this.#socket.close();
  }
}

/**
 * Step 1c.i: sends one datagram, again and again, until its echo comes (UNP 22.5).
 * @throws NoAnswerError when no try was answered with the same bytes
 */
export async function request(
  socket: EchoSocket,
  payload: Uint8Array,
  { retries = RETRIES, onRetry }: RequestOptions = {},
): Promise<{ tries: number; ms: number }> {
  const { timer } = socket;
  const startedAt = performance.now();
  const asked = socket.expect(payload);
  let failure: unknown;
  timer.restart();
  try {
    for (let tries = 1; tries <= retries + 1; tries++) {
      const sentAt = performance.now();
      failure = await socket.send(payload).catch((error) => error);
      if (isTooLong(failure)) throw failure;
      asked.sent += failure ? 0 : 1;
      if (await within(timer.rto, asked.echo, () => socket.drain())) {
        const ms = performance.now() - sentAt;
        if (asked.sent > 1) timer.stretch(performance.now() - startedAt);
        else if (!asked.ambiguous) timer.sample(ms);
        return { tries, ms };
      }
      timer.backOff();
      if (tries <= retries) onRetry?.();
    }
    if (asked.sent === 0) throw failure; // else one that cannot be sent is as good as lost
    throw noAnswer(socket, { tries: retries + 1, startedAt, ...asked });
  } finally {
    socket.forget(asked);
  }
}

/** The retransmission timer of RFC 6298; times in ms. */
export class RetransmissionTimer {
  /** How long to wait for an echo now. */
  rto: number;
  readonly #least: number;
  readonly #most: number;
  #first: number; // the first wait of each datagram
  #srtt = NaN;
  #rttvar = NaN;

  /** Starts with the first wait, before any round trip is known. */
  constructor(firstRto: number) {
    this.rto = this.#first = firstRto;
    this.#least = Math.min(MIN_RTO_MS, firstRto);
    this.#most = Math.max(MAX_RTO_MS, firstRto);
  }

  /** For a new datagram: a back-off ends with its datagram, or a lossy line would be a slow one. */
  restart(): void {
    this.rto = this.#first;
  }

  /** A round trip of a datagram that was sent once. */
  sample(rtt: number): void {
    if (Number.isNaN(this.#srtt)) [this.#srtt, this.#rttvar] = [rtt, rtt / 2];
    else {
      this.#rttvar += (Math.abs(this.#srtt - rtt) - this.#rttvar) / 4;
      this.#srtt += (rtt - this.#srtt) / 8;
    }
    const computed = Math.max(this.#srtt + 4 * this.#rttvar, this.#least);
    this.rto = this.#first = Math.min(computed, this.#most);
  }

  /**
   * After one that was sent again: no sample, as nobody knows which try came back (Karn), but the
   * next may wait longer; not longer than it took since the first try, which was answered at last.
   */
  stretch(sinceFirst: number): void {
    this.#first = Math.min(this.#first * 2, sinceFirst + this.#least, this.#most);
  }

  /** Nothing came in time: wait twice as long (RFC 6298, 5.5). */
  backOff(): void {
    this.rto = Math.min(this.rto * 2, this.#most);
  }
}

/** A datagram whose echo is waited for. */
export type Expected = {
  payload: Uint8Array;
  echo: Promise<true>;
  sent: number; // times
  ambiguous: boolean; // whether its echo may be a late one of the same bytes before
  unmatched: number; // datagrams of the server so far
};

/** No echo came, however often the datagram was sent. */
export class NoAnswerError extends Error {}

/** What is known of a datagram whose echo did not come. */
function noAnswer(
  socket: EchoSocket,
  { tries, startedAt, unmatched }: { tries: number; startedAt: number; unmatched: number },
): NoAnswerError {
  const seconds = Number(((performance.now() - startedAt) / 1000).toPrecision(2));
  const count = `${tries} ${tries === 1 ? "try" : "tries"} in ${seconds} s`;
  const others = socket.ignored.unmatched - unmatched;
  if (others > 0) {
    const had = `${plural(others, "answer")} had other bytes`;
    return new NoAnswerError(`no echo from ${socket.server} after ${count}: ${had}`);
  }
  const stranger = socket.stranger && `, but ${socket.stranger} answered`;
  return new NoAnswerError(`no answer from ${socket.server} after ${count}${stranger}`);
}

/** Whether a send failed for good, as what it was given is longer than a datagram. */
function isTooLong(error: unknown): boolean {
  return ((error as Error | undefined)?.cause as { code?: string } | undefined)?.code ===
    "EMSGSIZE";
}

/** The address of a host. @throws Error where it is not found in time */
async function resolveInTime(
  hostname: string,
  timeoutSeconds: number = TIMEOUT_SECONDS,
): Promise<string> {
  const address = await within(timeoutSeconds * 1000, resolve(hostname));
  if (address) return address;
  throw new Error(
    `cannot find the address of ${quote(hostname)}: no answer within ${timeoutSeconds} s`,
  );
}

/** Where to bind for a server: on this machine only, if it is here. */
function localHost(server: string): string {
  if (server.includes(":")) return server === "::1" ? server : "::";
  return server.startsWith("127.") ? "127.0.0.1" : "0.0.0.0";
}

/**
 * Sends the lines of `input` without their ends, each once the one before it was echoed, and writes
 * the lines that were echoed to `output`. A stop word ends it.
 *
 * @throws NoAnswerError if the server never answered; a later loss is told to `onLost`
 */
export async function converse(
  socket: EchoSocket,
  input: ReadableStream<Uint8Array>,
  output: WritableStream<Uint8Array>,
  options: ConverseOptions = {},
): Promise<ConversationTotals> {
  const { echo = true, retries = RETRIES, onReady, onLost } = options;
  const stopWords = (options.stopWords ?? STOP_WORDS)
    .map((word) => trimBlanks(encoder.encode(word)));
  const reader = ReadableStream.from(linesOf(input, socket.mostBytes)).getReader();
  const writer = output.getWriter();
  const totals = { sent: 0, echoed: 0, lost: 0 };
  let unanswered: unknown;
  onReady?.();
  try {
    for (let line; (line = (await reader.read()).value);) {
      const sentence = withoutLineEnd(line);
      totals.sent++;
      try {
        if (echo) await request(socket, sentence, options);
        else await socket.send(sentence);
        if (echo && totals.echoed++ === 0 && totals.lost > 0) {
          const which = totals.lost === 1 ? "sentence 1 is" : `sentences 1 to ${totals.lost} are`;
          onLost?.(`${which} lost: no answer from ${socket.server}`);
        }
        if (echo) await writer.write(line);
      } catch (error) {
        const lost = error instanceof NoAnswerError && (totals.echoed > 0 || retries === 0);
        if (!lost) throw error; // or nobody is there
        totals.lost++;
        unanswered = error;
        if (totals.echoed > 0) onLost?.(`sentence ${totals.sent} is lost: ${error.message}`);
      }
      if (isStopWord(sentence, stopWords)) {
        if (await hasMore(reader)) throw new Error(LEFT);
        break;
      }
      onReady?.();
    }
  } finally {
    reader.cancel().catch(() => {});
    writer.releaseLock();
  }
  if (unanswered && totals.echoed === 0) throw unanswered;
  return totals;
}

/** The lines of `input` with their ends. @throws Error for one that fits in no datagram */
async function* linesOf(
  input: ReadableStream<Uint8Array>,
  mostBytes: number,
): AsyncGenerator<Uint8Array> {
  // Not at the top: it would take a tenth of the time in which the script starts.
  const { DelimiterStream } = await import("jsr:@std/streams@^1.1.2/delimiter-stream");
  let length = 0; // of a line that goes on: DelimiterStream would gather it without end
  const guard = new TransformStream<Uint8Array, Uint8Array>({
    transform(chunk, controller): void {
      const end = chunk.lastIndexOf(0x0a);
      length = end < 0 ? length + chunk.length : chunk.length - end - 1;
      controller.enqueue(chunk);
      if (length > mostBytes + 1) controller.terminate(); // it is refused as soon as it is so long
    },
  });
  const delimiter = new DelimiterStream(Uint8Array.of(0x0a), { disposition: "suffix" });
  for await (const line of input.pipeThrough(guard).pipeThrough(delimiter)) {
    const { length: bytes } = withoutLineEnd(line);
    const more = bytes === length && length > mostBytes + 1 ? " or more" : "";
    if (bytes > mostBytes) {
      const most = `a datagram holds ${mostBytes} at most`;
      throw new Error(`a sentence of ${bytes} bytes${more} is refused: ${most}`);
    }
    if (line.length > 0) yield line; // none stands behind the last line end
  }
}

/** Whether there is input behind a stop word, if only on its way. */
async function hasMore(reader: ReadableStreamDefaultReader<Uint8Array>): Promise<boolean> {
  const next = await within(LEFT_MS, reader.read());
  return next?.value !== undefined;
}

/** Probes the server like ping: numbered datagrams, of which one that is lost stays lost. */
export async function probe(socket: EchoSocket, options: ProbeOptions = {}): Promise<ProbeBook> {
  const { count = 4, intervalSeconds = 1, signal, onProgress } = options;
  const timeoutMs = (options.timeoutSeconds ?? TIMEOUT_SECONDS) * 1000;
  const [book, waiter] = [new ProbeBook(options), new Waiter()];
  let ended = signal?.aborted ?? false;
  signal?.addEventListener("abort", () => {
    ended = true;
    waiter.wake();
  }, { once: true });
  socket.onDatagram = (bytes) => {
    const known = book.take(bytes);
    onProgress?.(book);
    waiter.wake();
    return known;
  };
  let due = performance.now();
  for (let seq = 1; seq <= count && !ended; seq++) {
    book.send(seq, (payload) => socket.send(payload));
    onProgress?.(book);
    if (seq === count) break;
    due = Math.max(due + intervalSeconds * 1000, performance.now()); // late ones go in no burst
    if (intervalSeconds > 0) await waiter.until(due, () => ended);
    else await waiter.until(due + FLOOD_MS, () => ended || book.isBack(seq));
  }
  await waiter.until(performance.now() + timeoutMs, () => book.counts().lost === 0);
  await socket.drain();
  const lingerMs = Math.min(Math.max(2 * book.longest, LINGER_MS), timeoutMs);
  await waiter.until(performance.now() + lingerMs, () => false); // for copies of the last ones
  await socket.drain();
  socket.onDatagram = () => false;
  return book;
}

/** The book that a probe keeps: what was sent when, and what came back. */
export class ProbeBook {
  /** Round trips in ms, in order of arrival. */
  readonly times: number[] = [];
  /** When the first and the last probe were sent, in ms. */
  readonly span = { first: 0, last: 0 };
  /** The longest round trip, in ms. */
  longest = 0;
  /** Why a probe could not be sent, if one could not. */
  failure: unknown;
  readonly #options: ProbeOptions;
  readonly #run = hex(Math.floor(Math.random() * 2 ** 28), 7);
  readonly #sentAt: Float64Array; // ms, by number, from 1
  readonly #back: Uint8Array; // by number: WHOLE or DAMAGED
  readonly #odd = { duplicated: 0, reordered: 0, corrupt: 0 };
  #sent = 0;
  #returned = 0; // whole or damaged, but once each
  #latest = 0; // the highest number that is back
  #sending = Promise.resolve(); // sends that are under way together may change their order
  #pending = 0; // of them

  /** An empty book. */
  constructor(options: ProbeOptions) {
    const { count = 4 } = options;
    this.#options = options;
    this.#sentAt = new Float64Array(count + 1);
    this.#back = new Uint8Array(count + 1);
  }

  /** Probe number `seq`: unlike any other, and one line for a server that prints it. */
  #payload(seq: number): Uint8Array {
    const { size = 64 } = this.#options;
    return encoder.encode(`${(this.#run + hex(seq, 8)).padEnd(size - 1, ".")}\n`);
  }

  /** Sends a probe, after those before it. One that cannot be sent is lost, as on its way. */
  send(seq: number, send: (payload: Uint8Array) => Promise<void>): void {
    this.#sent = seq;
    if (this.#pending === MAX_PENDING) return; // nothing is taken at the moment
    this.#pending++;
    this.#sending = this.#sending.then(() => {
      this.#sentAt[seq] = this.span.last = performance.now();
      this.span.first ||= this.span.last;
      return send(this.#payload(seq));
    }).catch((error) => this.failure ??= error)
      .then(() => void this.#pending--);
  }

  /** Takes what came back: an echo, one more of the same, one overtaken, or other bytes. */
  take(bytes: Uint8Array): boolean {
    const now = performance.now();
    const seq = parseInt(decoder.decode(bytes.subarray(7, 15)), 16);
    const known = seq >= 1 && seq <= this.#sent;
    if (!known || !sameBytes(bytes, this.#payload(seq))) {
      this.#odd.corrupt++;
      if (known) this.#mark(seq, DAMAGED);
    } else if (this.#back[seq] === WHOLE) this.#odd.duplicated++;
    else {
      this.#mark(seq, WHOLE);
      const ms = now - this.#sentAt[seq]!;
      this.times.push(ms);
      this.longest = Math.max(this.longest, ms);
      if (seq < this.#latest) this.#odd.reordered++;
      this.#latest = Math.max(this.#latest, seq);
      const rtt_ms = toMicroseconds(ms);
      this.#options.onEcho?.({ event: "echo", seq, bytes: bytes.length, rtt_ms });
    }
    return true;
  }

  #mark(seq: number, how: number): void {
    if (!this.#back[seq]) this.#returned++;
    this.#back[seq] = Math.max(this.#back[seq]!, how);
  }

  /** Whether a probe came back, if only damaged. */
  isBack(seq: number): boolean {
    return this.#back[seq]! > 0;
  }

  /** The counts so far. Lost is what did not come back, not even damaged. */
  counts(): ProbeCounts {
    const lost = this.#sent - this.#returned;
    return { sent: this.#sent, echoed: this.times.length, lost, ...this.#odd };
  }
}

function hex(number: number, digits: number): string {
  return number.toString(16).padStart(digits, "0");
}

/** Where a socket sends to, and whom it believes. */
export type OpenOptions = {
  hostname?: string;
  port?: number;
  timeoutSeconds?: number; // for the name look-up, and the first RTO
  onTrace?: ((rung: Rung) => void) | undefined;
};

/** How to ask. */
export type RequestOptions = {
  retries?: number;
  onRetry?: () => void; // no echo came in time, and it is sent again
};

/** Options of {@linkcode converse}; their defaults are those of the command line. */
export type ConverseOptions = RequestOptions & {
  echo?: boolean;
  stopWords?: string[]; // sentences that end the conversation
  onReady?: () => void; // before each sentence: time for a prompt
  onLost?: (text: string) => void; // of a sentence that was never answered
};

/** What a conversation moved, in sentences. */
export type ConversationTotals = { sent: number; echoed: number; lost: number };

/** How to probe; the defaults are those of the command line, but for `count`: 4. */
export type ProbeOptions = {
  count?: number; // at most 1,000,000, as their times are kept
  intervalSeconds?: number; // from one to the next; 0: once the echo is back, or 100 a second
  size?: number; // bytes of each, 16 at least
  timeoutSeconds?: number; // to wait for the last echoes
  signal?: AbortSignal; // ends the probe, once what is under way is back
  onEcho?: (echo: ProbeEcho) => void;
  onProgress?: (book: ProbeBook) => void; // after each probe and each datagram
};

/** What became of the probes. */
export type ProbeCounts = Record<
  "sent" | "echoed" | "lost" | "duplicated" | "reordered" | "corrupt",
  number
>;

const NAME = "udp_client";
const HELP = `UDP echo client: sends sentences, resends what is lost, and checks the echoes.

Usage: deno run --unstable-net --allow-net=LOCAL:0,HOST:PORT udp_client.ts
       [options] [message…]

Without a message it reads the keyboard or a pipe, one datagram a line.

  -H, --host HOST          name or address of the server (default ${HOSTNAME})
  -p, --port PORT          1 to 65535 (default ${PORT})
      --timeout SECONDS    0.001 to 3600, for the first echo (default ${TIMEOUT_SECONDS})
      --retries N          0 to 1000: send it again so often (default ${RETRIES})
      --stop WORD…         a sentence that ends it all (default ${STOP_WORDS.join(", ")})
      --no-stop            no sentence ends it
      --no-echo            expect no echo
  -c, --count N            1 to 1000000: probe like ping, with so many datagrams
  -i, --interval SECONDS   0 to 3600 between probes; 0: at its echo (default 1)
  -s, --size BYTES         16 to 65507 of each probe (default 64)
  -q, --quiet              print no echoes
      --json               print one JSON object a line
      --trace              draw each socket call on stderr
  -h, --help               print this
  -V, --version            print the version`;

/** The command line: its arguments, the keyboard or a pipe to `converse`, or `--count` to `probe`. */
export async function main(args: string[]): Promise<number> {
  begin(args);
  const flags = parseArgs(args, {
    boolean: ["no-stop", "no-echo", "quiet", "json", "trace", "help", "version"],
    string: ["_", "host", "port", "timeout", "retries", "stop", "count", "interval", "size"],
    collect: ["stop"],
    alias: {
      host: "H",
      port: "p",
      count: "c",
      interval: "i",
      size: "s",
      quiet: "q",
      help: "h",
      version: "V",
    },
    default: {
      host: HOSTNAME,
      port: `${PORT}`,
      timeout: `${TIMEOUT_SECONDS}`,
      retries: `${RETRIES}`,
      stop: STOP_WORDS,
      interval: "1",
      size: "64",
    },
    unknown: (arg: string, name?: string) => name === undefined || refuse(arg, args),
  });
  if (flags.help || flags.version) {
    console.log(flags.help ? HELP : `${NAME} ${VERSION}`);
    return 0;
  }
  const stopWords = flags["no-stop"] ? [] : toStopWords(flags.stop);
  const name = toHost(flags.host);
  const port = toNumber(["port", flags.port], { min: 1, max: 65_535 });
  const seconds = { min: 0.001, max: 3_600, whole: false };
  const timeoutSeconds = toNumber(["timeout", flags.timeout], seconds);
  const retries = toNumber(["retries", flags.retries], { min: 0, max: 1_000 });
  const plan = toProbePlan(flags);
  checkMessages(flags._);
  const hostname = await resolveInTime(name, timeoutSeconds);
  requireNet(`${toPermission(localHost(hostname))}:0`, `${toPermission(hostname)}:${port}`);
  if (!plan && Deno.pid === 1) onSignals(); // which no signal ends by itself
  const prompt = new Prompt(!plan && flags._.length === 0 && Deno.stdin.isTerminal());
  const socket = await open({
    hostname,
    port,
    timeoutSeconds,
    onTrace: flags.trace ? (rung) => prompt.interrupt(() => printRung("client", rung)) : undefined,
  });
  try {
    if (plan) return await runProbe(socket, { ...flags, ...plan, timeoutSeconds });
    return await talk(socket, { ...flags, prompt, stopWords, retries });
  } finally {
    socket.close();
    const { strangers, unmatched } = socket.ignored;
    if (strangers > 0) warn(`${plural(strangers, "datagram")} of strangers ignored`);
    if (unmatched > 0) {
      warn(`${plural(unmatched, "datagram")} of the server ignored: nothing waited for such bytes`);
    }
  }
}

/** A conversation from the arguments, the keyboard or a pipe. Returns the exit code. */
async function talk(
  socket: EchoSocket,
  { _: words, prompt, quiet, "no-echo": noEcho, stopWords, retries }: {
    _: string[];
    prompt: Prompt;
    quiet: boolean;
    "no-echo": boolean;
    stopWords: string[];
    retries: number;
  },
): Promise<number> {
  let told = !Deno.stderr.isTerminal(); // a person would wait in silence
  function onRetry(): void {
    if (!told) warn(`no answer from ${socket.server} yet; trying again`);
    told = true;
  }
  try {
    const { lost } = await converse(socket, openInput(words, prompt), openOutput(quiet), {
      echo: !noEcho,
      stopWords,
      retries,
      onReady: () => prompt.show(),
      onLost: (text) => warn(text, "lost"),
      onRetry,
    });
    return lost === 0 ? 0 : 1;
  } catch (error) {
    const silent = error instanceof NoAnswerError && error.message.startsWith("no answer");
    if (!silent) throw error;
    throw new Error(`${error.message}; is udp_server.ts running there?`, { cause: error });
  } finally {
    prompt.end();
  }
}

/** Where the echo goes: bytes to a pipe, safe text to a terminal, an event a sentence as JSON. */
function openOutput(quiet: boolean): WritableStream<Uint8Array> {
  const atTerminal = Deno.stdout.isTerminal();
  return new WritableStream({
    async write(line): Promise<void> {
      if (quiet) return;
      const sentence = withoutLineEnd(line);
      const bytes = sentence.length;
      const event = { event: "echo", bytes, ...preview(sentence, bytes) };
      if (stdout.json) await writeOut(encoder.encode(`${toJson(event)}\n`));
      else if (atTerminal) await writeToTerminal(`${decoder.decode(sentence)}\n`);
      else await writeOut(line);
    },
  });
}

/** Shows a probe as it runs, then what it found; the first signal ends it. Returns the exit code. */
async function runProbe(
  socket: EchoSocket,
  { quiet, trace, ...plan }: ProbePlan & { quiet: boolean; trace: boolean; timeoutSeconds: number },
): Promise<number> {
  const interrupt = new AbortController();
  onSignals(() => interrupt.abort());
  let current: ProbeBook | undefined;
  const endStatus = startStatus(quiet && !trace, () => {
    const { sent = 0, echoed = 0, lost = 0 } = current?.counts() ?? {};
    return `${sent} sent, ${echoed} echoed, ${lost} not yet`;
  });
  const book = await probe(socket, {
    ...plan,
    signal: interrupt.signal,
    onEcho: (echo) => quiet || printEcho(echo, socket.server),
    onProgress: (book) => current = book,
  }).finally(endStatus);
  const counts = book.counts();
  checkInterval(plan.intervalSeconds, counts.sent, book.span.last - book.span.first);
  if (book.failure) warn((book.failure as Error).message);
  printSummary(formatCounts(counts), counts, book.times);
  await stdout.flush();
  const intact = counts.echoed === counts.sent && counts.corrupt === 0;
  return intact && !stdout.failed ? 0 : 1;
}

/** `100 sent, 88 echoed, 12 lost (12 %)`, then what else there is. */
export function formatCounts({ sent, echoed, lost, ...odd }: ProbeCounts): string {
  const percent = Number((100 * lost / Math.max(sent, 1)).toPrecision(3));
  const others = Object.entries(odd).filter(([, count]) => count > 0);
  const more = others.map(([what, count]) => `, ${count} ${what}`).join("");
  return `${sent} sent, ${echoed} echoed, ${lost} lost (${percent} %)${more}`;
}

// ---- The same in both clients: edit it in tcp_client.ts, then `deno task sync`. ----

const STATUS_MS = 200; // between two updates of the status line
const BARS_MS = [0.01, 0.1, 1, 10, 100, 1_000].flatMap((ms) => [2 * ms, 5 * ms, 10 * ms]);
const BAR_COLUMNS = 40; // of the longest bar of a histogram
const UNSENT_MS = 200; // behind a stop word, for input that is already on its way
const UNSENT = "input behind the stop word was not sent; --no-stop sends it";

const PROBE_BOUNDS = {
  count: { min: 1, max: 1_000_000 },
  size: { min: 16, max: 65_507 },
  intervalSeconds: { min: 0, max: 3_600, whole: false },
};

/** What a probe sends: so many messages of so many bytes, one an interval. */
type ProbePlan = { count: number; size: number; intervalSeconds: number };

/** The probe that a command line asks for, if it does. @throws UsageError */
function toProbePlan(
  flags: {
    _: string[];
    count?: string | undefined;
    size: string;
    interval: string;
    "no-echo": boolean;
  },
  args: string[],
): ProbePlan | undefined {
  const size = toNumber("--size", flags.size, PROBE_BOUNDS.size);
  const intervalSeconds = toNumber("--interval", flags.interval, PROBE_BOUNDS.intervalSeconds);
  if (flags.count === undefined) {
    const [option] = ["--size", "--interval"].filter((option) => isGiven(option, args));
    if (option) throw new UsageError(`${option} is for numbered messages: it needs --count`);
    return undefined;
  }
  const count = toNumber("--count", flags.count, PROBE_BOUNDS.count);
  const [word] = flags._;
  if (word !== undefined) throw new UsageError(`--count sends numbers, and not ${quote(word)}`);
  if (flags["no-echo"]) throw new UsageError("--count waits for echoes: without --no-echo");
  return { count, size, intervalSeconds };
}

/** Whether an option is among the arguments, by its name or by its letter, which is its first. */
function isGiven(option: string, args: string[]): boolean {
  const pattern = new RegExp(`^(${option}(=|$)|-[A-Za-z]*${option[2]}([^A-Za-z]|$))`); // also -qs20
  return optionsOf(args).some((arg) => pattern.test(arg));
}

/** One echo of a probe, as `--json` prints it. */
export type ProbeEcho = { event: "echo"; seq: number; bytes: number; rtt_ms: number };

/** Round trips in ms: mdev is the standard deviation, as in ping; percentiles by nearest rank. */
export type RoundTrips = Record<
  "min" | "avg" | "max" | "mdev" | "p50" | "p90" | "p99" | "jitter",
  number
>;

/** The figures of some round trips in ms; jitter is the mean difference of one to the next. */
export function roundTrips(times: number[]): RoundTrips {
  const sorted = times.toSorted((a, b) => a - b);
  const mean = (values: number[]): number =>
    values.reduce((sum, value) => sum + value, 0) / Math.max(values.length, 1);
  const rank = (share: number): number => sorted[Math.ceil(share * sorted.length) - 1]!;
  const avg = mean(times);
  const figures = {
    min: sorted[0]!,
    avg,
    max: sorted.at(-1)!,
    mdev: Math.sqrt(mean(times.map((time) => (time - avg) ** 2))),
    p50: rank(0.5),
    p90: rank(0.9),
    p99: rank(0.99),
    jitter: mean(times.slice(1).map((time, i) => Math.abs(time - times[i]!))),
  };
  const rounded = Object.entries(figures).map(([name, ms]) => [name, toMicroseconds(ms)]);
  return Object.fromEntries(rounded) as RoundTrips;
}

/** In ms, to the microsecond. */
function toMicroseconds(ms: number): number {
  return Math.round(ms * 1000) / 1000;
}

/** Prints an event as JSON; the promise is that of {@linkcode Output.print}. */
function printJson(
  event: Record<string, unknown>,
  { keep = false } = {},
): Promise<void> | undefined {
  return stdout.print(() => toJson(event), { keep, waits: true });
}

/** Prints an echo of a probe. */
function printEcho(echo: ProbeEcho, server: string): Promise<void> | undefined {
  if (stdout.json) return printJson(echo);
  const line = `${plural(echo.bytes, "byte")} from ${server}: seq=${echo.seq}`;
  return stdout.print(() => `${line} time=${echo.rtt_ms.toFixed(3)} ms`, { waits: true });
}

/** Prints what a probe found: its counts, which `text` has for people, and its round trips. */
function printSummary(text: string, counts: Record<string, number>, times: number[]): void {
  const rtt = times.length > 0 && { rtt_ms: roundTrips(times) };
  if (stdout.json) return void printJson({ event: "summary", ...counts, ...rtt }, { keep: true });
  const lines = counts.sent ? [text, ...formatRoundTrips(times)] : [];
  for (const line of lines) stdout.print(() => line, { keep: true });
}

/** Round trips in ms as lines for people: their figures, then a histogram. */
export function formatRoundTrips(times: number[]): string[] {
  if (times.length === 0) return [];
  const [min, avg, max, mdev, p50, p90, p99, jitter] = Object.values(roundTrips(times))
    .map((ms) => ms.toFixed(3));
  return [
    `rtt min/avg/max/mdev = ${min}/${avg}/${max}/${mdev} ms`,
    `    p50/p90/p99 = ${p50}/${p90}/${p99} ms, jitter = ${jitter} ms`,
    ...histogram(times),
  ];
}

/** A bar for each step of round trips, from 20 µs on: 1, 2, 5, 10 …; the last has no upper end. */
function histogram(times: number[]): string[] {
  const counts = [...BARS_MS, Infinity].map(() => 0);
  for (const time of times) {
    const step = BARS_MS.findIndex((ms) => time <= ms);
    counts[step < 0 ? BARS_MS.length : step]!++;
  }
  const most = Math.max(...counts);
  const bars = counts.map((count, i) => {
    const ms = BARS_MS[i] ?? BARS_MS.at(-1)!;
    const [number, unit] = ms < 1 ? [ms * 1000, "µs"] : ms < 1000 ? [ms, "ms"] : [ms / 1000, "s"];
    const label = `${i < BARS_MS.length ? "to" : "over"} ${Math.round(number)} ${unit}`.padStart(
      10,
    );
    return `${label} ${String(count).padStart(7)} ${
      "█".repeat(Math.ceil(count / most * BAR_COLUMNS))
    }`.trimEnd();
  });
  return bars.slice(counts.findIndex(Boolean), counts.findLastIndex(Boolean) + 1);
}

/** Warns if messages went out at longer intervals than was asked for. */
function checkInterval(seconds: number, sent: number, ms: number): void {
  const real = ms / 1000 / Math.max(sent - 1, 1);
  if (seconds === 0 || ms < 100 || real < 1.1 * seconds) return;
  warn(`the interval of ${seconds} s could not be kept: it was ${real.toPrecision(2)} s`);
}

/** Shows the counts of a probe whose echoes are not printed, at a terminal; returns what ends that. */
function startStatus(shown: boolean, status: () => string): () => Promise<void> {
  if (!shown || !Deno.stderr.isTerminal()) return () => Promise.resolve();
  const draw = (text: string): void => void stderr.print(() => `\r\x1b[K${text}`, { end: "" });
  const ticker = setInterval(() => draw(status()), STATUS_MS);
  return async () => {
    clearInterval(ticker);
    draw("");
    await stderr.flush(); // before stdout has more to say
  };
}

/** The prompt of a person who types; there is none for a pipe. */
class Prompt {
  readonly #shown: boolean;
  #isUnanswered = false;

  constructor(shown: boolean) {
    this.#shown = shown;
  }

  show(): void {
    if (this.#shown) stderr.print(() => "> ", { end: "" });
    this.#isUnanswered = this.#shown;
  }

  answer(): void {
    this.#isUnanswered = false;
  }

  /** Ends the line of a prompt that nobody answered: what comes next stands below it. */
  end(): void {
    if (this.#isUnanswered) stderr.print(() => "");
    this.#isUnanswered = false;
  }
}

/** The input: the arguments, a line each; or else what is typed or comes through a pipe. */
function openInput(words: string[], prompt: Prompt): ReadableStream<Uint8Array> {
  async function* read(): AsyncGenerator<Uint8Array> {
    for (const word of words) yield encoder.encode(`${word}\n`);
    if (words.length > 0) return;
    try {
      for await (const typed of Deno.stdin.readable) {
        prompt.answer();
        yield typed;
      }
    } catch (cause) {
      throw cannot("read stdin", cause);
    }
  }
  return ReadableStream.from(read());
}

/** Writes an echo to stdout, byte for byte; a slow reader is waited for. */
async function writeOut(bytes: Uint8Array): Promise<void> {
  try {
    for (let rest = bytes; rest.length > 0;) rest = await writePiece(Deno.stdout, rest);
  } catch (error) {
    throw error instanceof Deno.errors.BrokenPipe ? error : cannot("write to stdout", error);
  }
}

/** Writes text to a terminal, safe to see, below what stderr has there. */
async function writeToTerminal(text: string): Promise<void> {
  if (Deno.stderr.isTerminal()) await stderr.flush();
  await writeOut(encoder.encode(text.split(/\r?\n/).map(escape).join("\n")));
}

/** @throws UsageError for a message with bytes that a command line cannot hold */
function checkMessages(words: string[]): void {
  const broken = words.find((word) => word.includes("\ufffd"));
  if (broken === undefined) return;
  throw new UsageError(`${quote(broken)} has bytes that are no UTF-8: send them through a pipe`);
}

/** Warns of two messages that look like the address and the port of a server, as `nc` takes them. */
function warnOfAddress([host, port, ...others]: string[]): void {
  if (!host || !/^\d{1,5}$/.test(port ?? "") || others.length > 0 || /\s/.test(host)) return;
  const messages = `${quote(host)} and ${quote(port!)} are sent as two messages`;
  warn(`${messages}; another server is --host ${escape(host)} --port ${port}`);
}

/** After a suspension timers fire before the sockets are read: gives the sockets their turn first. */
async function letSocketsRead(): Promise<void> {
  for (let timers = 0; timers < 3; timers++) await sleep(1); // two were enough, measured
}

/** What `promise` gives; undefined after `ms`, once what came by then is read. */
async function within<T>(ms: number, promise: Promise<T>): Promise<T | undefined> {
  const late = Promise.withResolvers<undefined>();
  let reading: Promise<void> | undefined;
  const timer = setTimeout(() => {
    reading = letSocketsRead().then(() => late.resolve(undefined));
  }, ms);
  try {
    return await Promise.race([promise, late.promise]);
  } finally {
    clearTimeout(timer);
    await reading;
  }
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
