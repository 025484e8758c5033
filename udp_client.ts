#!/usr/bin/env -S deno run --unstable-net --allow-net=127.0.0.1:0,127.0.0.1:12000
/**
 * UDP echo client: sends each sentence in one datagram, resends it until its echo comes (RFC 6298),
 * and prints the echo. Sentences come from the arguments, the keyboard or a pipe. It is the client of
 * the lab's task 4; "Step 1a" to "Step 1c.ii" in the comments are the handout's steps of a client, of
 * which UDP has no connect.
 *
 * ```sh
 * deno run --unstable-net --allow-net=127.0.0.1:0,127.0.0.1:12000 udp_client.ts hello
 * ncat -lu 12000 -k --exec /bin/cat # an independent server to try it with
 * ```
 *
 * Exit codes: 0 every message was echoed intact; 1 something failed, was lost or differed; 2 wrong
 * use; 130 SIGINT; 143 SIGTERM.
 *
 * @module
 */

import { parseArgs } from "@std/cli/parse-args";

const NAME = "udp_client";
const HELP = `UDP echo client: sends sentences, resends what is lost, and checks the echoes.

Usage: deno run --unstable-net --allow-net=LOCAL:0,HOST:PORT udp_client.ts [options] [message…]

Without a message it reads the keyboard or a pipe, one datagram a line.

  -H, --host HOST          name or address of the server (default 127.0.0.1)
  -p, --port PORT          1 to 65535 (default 12000)
      --timeout SECONDS    0.001 to 3600, for the first echo (default 1)
      --retries N          0 to 1000: send it again so often (default 3)
      --stop WORD…         a sentence that ends it all (default stop, exit)
      --no-stop            no sentence ends it
      --no-echo            expect no echo
  -c, --count N            1 to 1000000: probe like ping, with so many datagrams
  -i, --interval SECONDS   0 to 3600 between probes; 0: at its echo (default 1)
  -s, --size BYTES         16 to 65507 of each probe (default 64)
  -q, --quiet              print no echoes
      --json               print one JSON object a line
      --trace              draw each socket call on stderr
  -h, --help               print this
  -V, --version            print the version
`;

const MAX_DATAGRAM_BYTES = 65_507; // 65,535 less the IP and UDP headers
const BUFFER_BYTES = 65_535; // no datagram is longer, so no reply is cut to look like an echo
const MIN_RTO_MS = 200; // between two tries at least, as in Linux TCP; RFC 6298 (2.4) would have 1 s
const MAX_RTO_MS = 60_000; // at most (RFC 6298, 2.5)
const RECEIVE_RETRY_MS = 10; // after a receive that failed
const NEWLINE = 0x0a;
const LATE_PAYLOADS = 16; // whose late echoes are told from wrong ones

/** Where a socket sends to, and whom it believes. */
export type OpenOptions = {
  hostname?: string;
  port?: number;
  timeoutSeconds?: number; // the first RTO
  onTrace?: ((rung: Rung) => void) | undefined;
};

/** How to ask. */
export type RequestOptions = { retries?: number };

/** Options of {@linkcode converse}; their defaults are those of the command line. */
export type ConverseOptions = RequestOptions & {
  echo?: boolean;
  stop?: string[]; // sentences that end the conversation
  onReady?: () => void; // before each sentence: time for a prompt
  onLost?: (what: string) => void; // of a sentence that was never answered
  onLeft?: () => void; // of input behind the stop word, as far as it is there
};

/** What a conversation moved, in sentences. */
export type Conversation = { sent: number; echoed: number; lost: number };

/** No echo came, however often the datagram was sent. */
export class NoAnswerError extends Error {}

/** Step 1a: the address of a host, found once; a send to a name would look it up each time. */
export async function resolve(hostname: string): Promise<string> {
  const numeric = numericAddress(hostname);
  if (numeric) return numeric;
  const { lookup } = await import("node:dns/promises"); // Deno itself asks no hosts file
  try {
    return (await lookup(hostname)).address;
  } catch (cause) {
    throw cannot(`find the address of ${quote(hostname)}`, cause);
  }
}

/** An address as the system writes it, `127.1` as `127.0.0.1`; nothing for a name. */
function numericAddress(host: string): string | undefined {
  if (!/^[\d.]+$|^[\da-f.]*:[\da-f.:]+$/i.test(host)) return undefined;
  const url = URL.parse(`http://${host.includes(":") ? `[${host}]` : host}`);
  const address = url?.hostname.replace(/[[\]]/g, "");
  const [, high, low] = /^::ffff:([\da-f]+):([\da-f]+)$/.exec(address ?? "") ?? []; // IPv4, in IPv6
  if (!low) return address;
  const number = parseInt(high!, 16) * 65_536 + parseInt(low, 16);
  return URL.parse(`http://${number}`)?.hostname;
}

/** Where to bind for a server: on this machine only, if it is here. */
function localHost(server: string): string {
  if (server.includes(":")) return server === "::1" ? server : "::";
  return server.startsWith("127.") ? "127.0.0.1" : "0.0.0.0";
}

/**
 * Steps 1a and 1b: creates a socket to talk to one server with. No connection is made.
 * @throws Error that names the address and the reason
 */
export async function open(options: OpenOptions = {}): Promise<EchoSocket> {
  const { hostname = "127.0.0.1", port = 12_000, onTrace } = options;
  const server: Deno.NetAddr = { transport: "udp", hostname: await resolve(hostname), port };
  const local = { hostname: localHost(server.hostname), port: 0 };
  if (!Deno.listenDatagram) throw new Error("UDP in Deno needs --unstable-net");
  try {
    const conn = Deno.listenDatagram({ transport: "udp", ...local });
    const note = formatAddress(conn.addr as Deno.NetAddr);
    onTrace?.({ step: "1b", call: "listenDatagram()", note });
    return new EchoSocket(conn, server, options);
  } catch (cause) {
    throw cannot(`open a socket at ${formatAddress(local)}`, cause);
  }
}

/** A UDP socket for one server. What others send to it is counted, not believed. */
export class EchoSocket {
  /** What came and was no echo: from strangers, late or once more, with other bytes. */
  readonly ignored = { strangers: 0, late: 0, different: 0 };
  /** How long an echo may take. */
  readonly timer: RetransmissionTimer;
  /** Payloads that were sent before, whose echoes are late by now. */
  readonly earlier: { payload: Uint8Array; tries: number }[] = [];
  /** The first stranger since the last request began. */
  stranger = "";
  /** Called with each datagram from the server. */
  onDatagram: (bytes: Uint8Array) => void = (bytes) => this.ignore(bytes);
  #closed = false;
  #sentAt = 0; // ms; 0: not yet

  /** See {@linkcode open}. */
  constructor(
    readonly conn: Deno.DatagramConn,
    readonly server: Deno.NetAddr,
    readonly options: OpenOptions,
  ) {
    this.timer = new RetransmissionTimer((options.timeoutSeconds ?? 1) * 1000);
    this.#receive();
  }

  /** One loop for good: a receive that lost a race with a timer would swallow the next datagram. */
  async #receive(): Promise<void> {
    const buffer = new Uint8Array(BUFFER_BYTES);
    while (!this.#closed) {
      // A failure is the close; or, on Windows, word of a closed port, which the timer tells as well.
      const received = await this.conn.receive(buffer).catch(() => undefined);
      if (!received) {
        if (!this.#closed) await new Promise((resolve) => setTimeout(resolve, RECEIVE_RETRY_MS));
        continue;
      }
      const [bytes, from] = received;
      const call = `receive() = ${bytes.length}`;
      const peer = formatAddress(from as Deno.NetAddr);
      const ms = performance.now() - this.#sentAt;
      if (peer === formatAddress(this.server)) {
        const note = this.#sentAt ? `${ms.toFixed(1)} ms` : "";
        this.options.onTrace?.({ step: "i", call, bytes, note });
        this.onDatagram(bytes);
      } else {
        this.options.onTrace?.({ step: "i", call, peer, bytes, note: "a stranger" });
        this.ignored.strangers++;
        this.stranger ||= peer;
      }
    }
  }

  /** Counts a datagram of the server that is no echo of what was asked last. */
  ignore(bytes: Uint8Array): void {
    const late = this.earlier.some(({ payload }) => sameBytes(bytes, payload));
    this.ignored[late ? "late" : "different"]++;
  }

  /** Step 1c.i: one datagram. */
  async send(bytes: Uint8Array): Promise<void> {
    const peer = formatAddress(this.server);
    this.options.onTrace?.({ step: "i", call: `send(${bytes.length})`, bytes });
    this.#sentAt = performance.now();
    try {
      await this.conn.send(bytes, this.server);
    } catch (cause) {
      throw cannot(`send to ${peer}`, cause);
    }
  }

  /** Step 1c.ii. */
  close(): void {
    this.#closed = true;
    this.conn.close();
    this.options.onTrace?.({ step: "ii", call: "close()" });
  }
}

/**
 * Sends one datagram, again and again, until its echo comes (UNP 22.5).
 * @throws NoAnswerError when no try was answered with the same bytes
 */
export async function request(
  socket: EchoSocket,
  payload: Uint8Array,
  { retries = 3 }: RequestOptions = {},
): Promise<{ tries: number; ms: number }> {
  const { timer, earlier } = socket;
  const echoed = Promise.withResolvers<true>();
  socket.onDatagram = (bytes) => {
    if (sameBytes(bytes, payload)) echoed.resolve(true);
    else socket.ignore(bytes);
  };
  // Of bytes that were sent more than once before, too, a late echo may be taken for one of these.
  const doubtful = earlier.some((old) => old.tries > 1 && sameBytes(old.payload, payload));
  const start = performance.now();
  let tries = 0;
  let sent = false;
  let failure: unknown;
  timer.restart();
  socket.stranger = "";
  try {
    while (tries++ <= retries) {
      const sentAt = performance.now();
      failure = await socket.send(payload).catch((error) => error);
      if (failure && isTooLong(failure)) throw failure;
      sent ||= !failure;
      if (await within(timer.rto, echoed.promise)) {
        const ms = performance.now() - sentAt;
        if (tries > 1) timer.stretch(performance.now() - start);
        else if (!doubtful) timer.sample(ms);
        return { tries, ms };
      }
      timer.backOff();
    }
  } finally {
    socket.onDatagram = (bytes) => socket.ignore(bytes);
    earlier.push({ payload, tries });
    if (earlier.length > LATE_PAYLOADS) earlier.shift();
  }
  if (!sent) throw failure; // a try that cannot be sent is as good as lost, unless none could be
  const count = retries === 0 ? "1 try" : `${retries + 1} tries`;
  const seconds = Number(((performance.now() - start) / 1000).toPrecision(2));
  const other = socket.stranger && `, but ${socket.stranger} answered`; // say, for 0.0.0.0
  throw new NoAnswerError(
    `no answer from ${formatAddress(socket.server)} after ${count} in ${seconds} s${other}`,
  );
}

/** Whether a send failed for good, as what it was given is longer than a datagram. */
function isTooLong({ cause }: { cause?: unknown }): boolean {
  return (cause as { code?: string } | undefined)?.code === "EMSGSIZE";
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

/** What `promise` resolves to; nothing if it takes longer than `ms`. */
async function within<T>(ms: number, promise: Promise<T>): Promise<T | undefined> {
  const late = Promise.withResolvers<undefined>();
  const timer = setTimeout(() => late.resolve(undefined), ms);
  try {
    return await Promise.race([promise, late.promise]);
  } finally {
    clearTimeout(timer);
  }
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
): Promise<Conversation> {
  const { echo = true, stop = ["stop", "exit"], retries = 3, onReady, onLost } = options;
  const writer = output.getWriter();
  const counts = { sent: 0, echoed: 0, lost: 0 };
  const stopWords = new Set(stop.map(trimBlanks));
  let stopped = false;
  let unanswered: NoAnswerError | undefined;
  onReady?.();
  for await (const line of linesOf(input, () => stopped && options.onLeft?.())) {
    const sentence = line.at(-1) === NEWLINE ? line.subarray(0, -1) : line;
    counts.sent++;
    try {
      if (echo) {
        await request(socket, sentence, options);
        if (counts.echoed++ === 0 && counts.lost > 0) {
          const which = counts.lost === 1 ? "sentence 1 is" : `sentences 1 to ${counts.lost} are`;
          onLost?.(`${which} lost: no answer from ${formatAddress(socket.server)}`);
        }
        await writer.write(line);
      } else await socket.send(sentence);
    } catch (error) {
      if (!(error instanceof NoAnswerError)) throw error;
      if (counts.echoed === 0 && retries > 0) throw error; // nobody is there
      counts.lost++;
      unanswered = error;
      if (counts.echoed > 0) onLost?.(`sentence ${counts.sent} is lost: ${error.message}`);
    }
    stopped = stopWords.has(trimBlanks(decoder.decode(sentence)));
    if (stopped) break;
    onReady?.();
  }
  writer.releaseLock();
  if (unanswered && counts.echoed === 0) throw unanswered;
  return counts;
}

/** Without the blanks that the server does not mind around a stop word. */
function trimBlanks(text: string): string {
  return text.replace(/^[\t-\r ]+|[\t-\r ]+$/g, "");
}

/**
 * The lines of `input`, with their ends. Where they are not all taken, it tells `onLeft` of those it
 * has. @throws Error for a line that fits in no datagram
 */
async function* linesOf(
  input: ReadableStream<Uint8Array>,
  onLeft: () => void,
): AsyncGenerator<Uint8Array> {
  const line = new Uint8Array(MAX_DATAGRAM_BYTES + 1); // and its end
  let length = 0;
  function add(bytes: Uint8Array): void {
    line.set(bytes.subarray(0, Math.max(line.length - length, 0)), Math.min(length, line.length));
    length += bytes.length;
  }
  function take(end: number, more = ""): Uint8Array {
    if (length - end > MAX_DATAGRAM_BYTES) {
      const most = `a datagram holds ${MAX_DATAGRAM_BYTES} at most`;
      throw new Error(`a sentence of ${length - end} bytes${more} is refused: ${most}`);
    }
    const taken = line.slice(0, length);
    length = 0;
    return taken;
  }
  for await (const chunk of input) {
    let start = 0;
    try {
      for (let end; (end = chunk.indexOf(NEWLINE, start) + 1) > 0;) {
        add(chunk.subarray(start, end));
        start = end;
        yield take(1);
      }
      add(chunk.subarray(start));
      start = chunk.length;
      if (length > line.length) take(0, " or more"); // refused at once: its end may never come
    } finally {
      if (start < chunk.length) onLeft();
    }
  }
  if (length > 0) yield take(0);
}

/** Probes the server like ping; a datagram that is lost stays lost. */
export async function probe(socket: EchoSocket, options: ProbeOptions = {}): Promise<ProbeBook> {
  const book = new ProbeBook({ timeoutSeconds: 1, ...options });
  socket.onDatagram = (bytes) => book.receive(bytes);
  // What cannot be sent is lost, as on the way; the first reason is told at the end.
  await book.run((payload) => socket.send(payload).catch((error) => void (book.failure ??= error)));
  return book;
}

/** The command line: arguments, keyboard or pipe to `open` and `converse`, or `--count` to `probe`. */
export async function main(args: string[]): Promise<number> {
  if (showInfo(args)) return 0;
  const options = parseOptions(args);
  const { flags, values, numbers } = options;
  const name = values.host![0]!;
  const port = numbers.port!;
  const timeoutSeconds = numbers.timeout!;
  const onTrace = flags.has("trace")
    ? (rung: Rung): void => console.error(formatRung("client", rung))
    : undefined;
  const probing = isProbe(options);
  const names = numericAddress(name) ? [] : [name]; // looking one up takes a permission of its own
  requireNet(...names);
  const hostname = await resolve(name);
  const server = formatAddress({ hostname, port });
  requireNet(...names, formatAddress({ hostname: localHost(hostname), port: 0 }), server);
  const socket = await open({ hostname, port, timeoutSeconds, onTrace });
  try {
    if (probing) return await showProbe(options, server, (show) => probe(socket, show));
    onSignals();
    const { input, output, prompt, end } = openDialog(options, { byLine: true });
    const { lost } = await converse(socket, input, output, {
      echo: !flags.has("no-echo"),
      stop: flags.has("no-stop") ? [] : values.stop!,
      retries: numbers.retries!,
      onReady: prompt,
      onLost: warn,
      onLeft: () => warn("what stands behind the stop word is not sent; with --no-stop all is"),
    }).finally(end);
    return lost === 0 ? 0 : 1;
  } catch (error) {
    if (!(error instanceof NoAnswerError)) throw error;
    throw new Error(`${error.message}; is udp_server.ts running there?`, { cause: error });
  } finally {
    socket.close();
    const odd = Object.entries(socket.ignored).filter(([, count]) => count > 0);
    if (odd.length > 0) {
      warn(`ignored datagrams: ${odd.map(([why, count]) => `${count} ${why}`).join(", ")}`);
    }
  }
}

function warn(text: string): void {
  console.error(`${NAME}: ${text}`);
}

// ---- The same in both clients, to the letter: tests/cli_test.ts compares them. ----

const FLOOD_MS = 10; // at an interval of 0 the next goes out after the echo, or after this (ping -f)
const STATUS_MS = 200; // between two drawings of the live status
const STEPS_MS = [0.01, 0.1, 1, 10, 100, 1_000].flatMap((ms) => [2 * ms, 5 * ms, 10 * ms]);
const BAR_COLUMNS = 40; // of the longest bar of a histogram

/** How to probe; the defaults are those of the command line. */
export type ProbeOptions = {
  count?: number; // probes, at most 1,000,000, as their times are kept; default 4
  intervalSeconds?: number; // from one to the next; 0: once the echo is back, or 100 a second
  size?: number; // bytes of each, 16 at least
  timeoutSeconds?: number; // to wait for the last echoes
  signal?: AbortSignal; // ends the probe
  onEcho?: (echo: ProbeEcho) => void;
  onProgress?: (book: ProbeBook) => void; // after each probe and each echo
  onTrace?: ((rung: Rung) => void) | undefined;
};
/** One echo, as `--json` prints it. */
export type ProbeEcho = { event: "echo"; seq: number; bytes: number; rtt_ms: number };
/** Round trips in ms: mdev is the standard deviation, as in ping; percentiles by nearest rank. */
export type RoundTrips = Record<"min" | "avg" | "max" | "mdev" | "p50" | "p90" | "p99", number>;
/** What became of the probes. */
export type ProbeCounts = Record<
  "sent" | "echoed" | "lost" | "duplicated" | "reordered" | "corrupt",
  number
>;

/** The book that a probe keeps: what was sent when, and what came back. */
export class ProbeBook {
  /** Round trips in ms, in order of arrival. */
  readonly times: number[] = [];
  readonly #run = hex(Math.floor(Math.random() * 2 ** 28), 7);
  readonly #sentAt: number[] = []; // ms, by number, from 1
  readonly #back = new Map<number, "whole" | "damaged">(); // by number
  readonly #odd = { duplicated: 0, reordered: 0, corrupt: 0 };
  /** What kept probes from being sent, if anything did. */
  failure: Error | undefined;
  #latest = 0; // the highest number that is back
  #ended = false;
  #wake = (): void => {};

  /** An empty book. */
  constructor(readonly options: ProbeOptions) {
    options.signal?.addEventListener("abort", () => this.end(), { once: true });
    this.#ended = options.signal?.aborted ?? false;
  }

  /** Probe number `seq`: unlike any other, and one line for a server that prints it. */
  payload(seq: number): Uint8Array {
    const { size = 64 } = this.options;
    return encoder.encode(`${(this.#run + hex(seq, 8)).padEnd(size - 1, ".")}\n`);
  }

  /** Sends all probes in their time, then waits for the last echoes. */
  async run(send: (payload: Uint8Array) => Promise<void>): Promise<void> {
    const { count = 4, intervalSeconds = 1, timeoutSeconds = 5, onProgress } = this.options;
    const timeoutMs = timeoutSeconds * 1000;
    for (let seq = 1, next = performance.now(); seq <= count && !this.#ended; seq++) {
      const payload = this.payload(seq);
      this.#sentAt[seq] = performance.now();
      let sent = false;
      send(payload).then(() => sent = true, (error) => this.end(error)).finally(() => this.#wake());
      await this.#wait(performance.now() + timeoutMs, () => sent);
      if (!sent) return this.end(new Error(`nothing more is taken for ${timeoutSeconds} s`));
      onProgress?.(this);
      if (seq === count) break;
      next = Math.max(next + intervalSeconds * 1000, performance.now()); // late ones in no burst
      if (intervalSeconds > 0) await this.#wait(next, () => false);
      else await this.#wait(next + FLOOD_MS, () => this.#back.has(seq));
    }
    const allBack = (): boolean => this.counts().lost === 0;
    await this.#wait(performance.now() + timeoutMs, allBack);
  }

  /** Until then, or until it is done; but what came meanwhile is taken in any case. */
  async #wait(until: number, done: () => boolean): Promise<void> {
    while (!done() && !this.#ended) {
      const { promise, resolve } = Promise.withResolvers<void>();
      this.#wake = resolve;
      const timer = setTimeout(resolve, Math.max(until - performance.now(), 0));
      await promise;
      clearTimeout(timer);
      if (performance.now() >= until) break;
    }
  }

  /** Takes what came back: an echo, one more of the same, one overtaken, or other bytes. */
  receive(bytes: Uint8Array): void {
    const now = performance.now();
    const seq = parseInt(decoder.decode(bytes.subarray(7, 15)), 16);
    const sentAt = this.#sentAt[seq];
    const before = this.#back.get(seq);
    if (sentAt === undefined || !sameBytes(bytes, this.payload(seq))) {
      this.#odd.corrupt++;
      if (sentAt !== undefined && !before) this.#back.set(seq, "damaged");
    } else if (before === "whole") this.#odd.duplicated++;
    else {
      this.#back.set(seq, "whole");
      this.times.push(now - sentAt);
      if (seq < this.#latest) this.#odd.reordered++;
      this.#latest = Math.max(this.#latest, seq);
      const rtt_ms = round(now - sentAt);
      this.options.onEcho?.({ event: "echo", seq, bytes: bytes.length, rtt_ms });
    }
    this.options.onProgress?.(this);
    this.#wake();
  }

  /** Ends the probe before its time, perhaps as it failed. */
  end(failure?: Error): void {
    if (!this.#ended) this.failure ??= failure;
    this.#ended = true;
    this.#wake();
  }

  /** The counts so far. Lost is what did not come back, not even damaged. */
  counts(): ProbeCounts {
    const sent = Math.max(this.#sentAt.length - 1, 0);
    return { sent, echoed: this.times.length, lost: sent - this.#back.size, ...this.#odd };
  }
}

/** The figures of some round trips in ms; none of no round trip. */
export function roundTrips(times: number[]): RoundTrips | undefined {
  if (times.length === 0) return undefined;
  const sorted = times.toSorted((a, b) => a - b);
  const mean = (values: number[]): number => values.reduce((a, b) => a + b) / values.length;
  const rank = (share: number): number => sorted[Math.ceil(share * sorted.length) - 1]!;
  const avg = mean(times);
  const mdev = Math.sqrt(mean(times.map((time) => (time - avg) ** 2)));
  const [min, max, p50, p90, p99] = [sorted[0]!, sorted.at(-1)!, rank(0.5), rank(0.9), rank(0.99)];
  const figures = Object.entries({ min, avg, max, mdev, p50, p90, p99 });
  return Object.fromEntries(figures.map(([name, ms]) => [name, round(ms)])) as RoundTrips;
}

/** What a probe found, for people or as JSON. */
function formatSummary(book: ProbeBook, json: boolean): string {
  const counts = book.counts();
  const rtt = roundTrips(book.times);
  if (json) return toJson({ event: "summary", ...counts, ...(rtt && { rtt_ms: rtt }) });
  const text = Object.entries(counts).map(([what, count]) => `${count} ${what}`).join(", ");
  if (!rtt) return text;
  const figures = Object.values(rtt).map((ms) => ms.toFixed(3));
  const moments = `rtt min/avg/max/mdev = ${figures.slice(0, 4).join("/")} ms`;
  const percentiles = `    p50/p90/p99 = ${figures.slice(4).join("/")} ms`;
  return [text, moments, percentiles, ...histogram(book.times)].join("\n");
}

/** A bar for each step of round trips, from 20 µs on: 1, 2, 5, 10 … */
function histogram(times: number[]): string[] {
  const counts = STEPS_MS.map(() => 0);
  for (const time of times) {
    const step = STEPS_MS.findIndex((ms) => time <= ms);
    counts[step < 0 ? counts.length - 1 : step]!++;
  }
  const most = counts.reduce((a, b) => Math.max(a, b));
  return STEPS_MS.map((ms, i) => {
    const [number, unit] = ms < 1 ? [ms * 1000, "µs"] : ms < 1000 ? [ms, "ms"] : [ms / 1000, "s"];
    const bar = "█".repeat(Math.ceil(counts[i]! / most * BAR_COLUMNS));
    const label = `${Math.round(number)} ${unit}`.padStart(6);
    return `  to ${label} ${String(counts[i]).padStart(7)} ${bar}`.trimEnd();
  }).slice(counts.findIndex(Boolean), counts.findLastIndex(Boolean) + 1);
}

/** Whether a command line asks for a probe. @throws UsageError where it asks for more besides */
function isProbe({ words, flags, numbers }: Options): boolean {
  if (!numbers.count) return false;
  if (words.length > 0) throw new UsageError(`--count sends probes, and not ${quote(words[0]!)}`);
  if (flags.has("no-echo")) throw new UsageError("--count waits for echoes: without --no-echo");
  return true;
}

/** Shows a probe as it runs, then what it found; the first SIGINT ends it. Returns the exit code. */
async function showProbe(
  { flags, numbers }: Options,
  server: string,
  probe: (options: ProbeOptions) => Promise<ProbeBook>,
): Promise<number> {
  const json = flags.has("json");
  const interrupt = new AbortController();
  onSignals(() => interrupt.abort());
  const status = (text: string): void => {
    if (Deno.stderr.isTerminal()) Deno.stderr.writeSync(encoder.encode(`\r\x1b[K${text}`));
  };
  let lines = "";
  let writing = Promise.resolve();
  /** Writes what is there by then: a stdout that is not read holds up neither probe nor signal. */
  async function writeLines(): Promise<void> {
    const text = lines;
    lines = "";
    if (text !== "") await writeOut(encoder.encode(text));
  }
  function print(line: string): void {
    lines += `${line}\n`;
    writing = writing.then(writeLines);
    writing.catch(() => interrupt.abort()); // nobody reads on
  }
  let current: ProbeBook | undefined;
  const ticker = setInterval(() => { // not with each probe: drawing would be part of its time
    const { sent, echoed, lost } = current?.counts() ?? { sent: 0, echoed: 0, lost: 0 };
    status(`${sent} sent, ${echoed} echoed, ${lost} not yet`);
  }, STATUS_MS);
  const book = await probe({
    count: numbers.count!,
    intervalSeconds: numbers.interval!,
    size: numbers.size!,
    timeoutSeconds: numbers.timeout!,
    signal: interrupt.signal,
    onProgress: (book) => current = book,
    onEcho: (echo) => {
      if (flags.has("quiet")) return;
      status("");
      const time = echo.rtt_ms.toFixed(3);
      const line = `${echo.bytes} bytes from ${server}: seq=${echo.seq} time=${time} ms`;
      print(json ? toJson(echo) : line);
    },
  }).finally(() => {
    clearInterval(ticker);
    status("");
  });
  print(formatSummary(book, json));
  await writing;
  if (book.failure) throw book.failure;
  const { sent, echoed, corrupt } = book.counts();
  return echoed === sent && corrupt === 0 ? 0 : 1;
}

/** Where sentences come from: the arguments, the keyboard or a pipe. And where echoes go. */
type Dialog = {
  input: ReadableStream<Uint8Array>;
  output: WritableStream<Uint8Array>;
  prompt: () => void;
  end: () => void; // ends the line of a prompt that nobody answered
};

/** The dialog that a command line asks for. Its output takes bytes as they come, or line by line. */
function openDialog({ words, flags }: Options, { byLine }: { byLine: boolean }): Dialog {
  const typing = words.length === 0 && Deno.stdin.isTerminal();
  const partial = new TextDecoder("utf-8", { ignoreBOM: true });
  let prompted = false;
  const typed = new TransformStream<Uint8Array, Uint8Array>({
    transform(line, controller): void {
      prompted = false;
      controller.enqueue(line);
    },
  });
  function show(echo: Uint8Array): Uint8Array {
    if (!flags.has("json") && !Deno.stdout.isTerminal()) return echo; // byte-exact
    const text = partial.decode(echo, { stream: !byLine });
    if (!flags.has("json")) return encoder.encode(text.split("\n").map(escape).join("\n"));
    const end = byLine && text.endsWith("\n") ? 1 : 0;
    const said = { bytes: echo.length - end, text: text.slice(0, text.length - end) };
    return encoder.encode(`${toJson({ event: "echo", ...said })}\n`);
  }
  return {
    input: words.length > 0
      ? ReadableStream.from([encoder.encode(words.map((word) => `${word}\n`).join(""))])
      : typing
      ? Deno.stdin.readable.pipeThrough(typed)
      : Deno.stdin.readable,
    output: new WritableStream({
      async write(echo): Promise<void> {
        if (!flags.has("quiet")) await writeOut(show(echo));
      },
    }),
    prompt: () => {
      if (typing) Deno.stderr.writeSync(encoder.encode("> "));
      prompted = typing;
    },
    end: () => {
      if (prompted) console.error();
      prompted = false;
    },
  };
}

function hex(number: number, digits: number): string {
  return number.toString(16).padStart(digits, "0");
}

/** To the microsecond. */
function round(ms: number): number {
  return Math.round(ms * 1000) / 1000;
}

function sameBytes(a: Uint8Array, b: Uint8Array): boolean {
  return a.length === b.length && a.every((byte, i) => byte === b[i]);
}

// ---- The same in all four scripts, to the letter: tests/cli_test.ts compares them. ----

const VERSION = "1.0.0";
const WRITE_RETRY_MS = 10; // where stdout is full and does not block
const encoder = new TextEncoder();
const decoder = new TextDecoder("utf-8", { ignoreBOM: true });
/** What could steer a terminal or reorder its text: C0, DEL, C1, bidi controls, line separators. */
const UNSAFE = /[\p{Cc}\p{Bidi_Control}\p{Zl}\p{Zp}]/gu;
/** An option in HELP: letter, name; if it takes a value, its kind, … for several, bounds, default. */
const OPTION =
  /(?:-(\w),| {3}) --([\w-]+)(?: ([A-Z]+)(…)?(?: +([\d.]+) to (\d+))?(?:.*default (.+)\))?)?/g;

/** Wrong use of the command line: one line on stderr, exit code 2. */
class UsageError extends Error {}

/** A command line: its words, the flags that are set, the values of options, the numbers of some. */
type Options = {
  words: string[];
  flags: Set<string>;
  values: Record<string, string[]>;
  numbers: Record<string, number>;
};

/** parseArgs, made strict: it knows what HELP lists, bounds and defaults included, and no more. */
function parseOptions(args: string[]): Options {
  const known = [...HELP.matchAll(OPTION)]
    .map(([, letter, name = "", kind, ...value]) => ({ letter, name, kind, value }));
  const takers = known.filter(({ kind }) => kind);
  const end = [...args, "--"].indexOf("--"); // behind it there are only words
  const flags = new Set<string>();
  const unknown: string[] = [];
  let lack = ""; // what to say of the option before, if its value is not next
  // To parseArgs, a flag may have a value, and the value of an option may be an option behind it.
  const plain = args.slice(0, end).flatMap((arg) => {
    const [, name, letter, tail = ""] = /^-(?:-([^=]+)|([^-]))(.*)$/s.exec(arg) ?? [];
    const option = known.find((option) =>
      name ? name === option.name : letter && letter === option.letter
    );
    if (lack && arg.startsWith("-")) throw new UsageError(`${lack}, but got ${quote(arg)}`);
    lack = option?.kind && !tail ? `--${option.name} needs a value, ${option.kind}` : "";
    if (!name && !letter) return [arg];
    if (option?.kind) return [`--${option.name}${tail && tail.replace(/^=?/, "=")}`];
    if (option && !tail) flags.add(option.name);
    else unknown.push(arg);
    return [];
  });
  const given = parseArgs([...plain, ...args.slice(end)], {
    string: ["_", ...takers.map(({ name }) => name)],
    collect: takers.map(({ name }) => name),
  });
  const options: Options = { words: given._.map(String), flags, values: {}, numbers: {} };
  for (const { name, kind = "", value: [many, min = "", max, preset] } of takers) {
    const values = given[name] as string[];
    if (values.some((value) => value.trim() === "")) {
      throw new UsageError(`--${name} needs a value, ${kind}, but got nothing`);
    }
    if (values.length > 1 && !many) {
      const shown = values.map(quote).join(" and ");
      throw new UsageError(`--${name} takes one ${kind}, not ${shown}`);
    }
    options.values[name] = values.length > 0 ? values : preset?.split(", ") ?? [];
    const [text] = options.values[name];
    if (max && text) options.numbers[name] = toNumber(text, { name, kind, min, max });
  }
  if (!HELP.includes("[message…]")) unknown.push(...options.words);
  if (unknown.length === 0) return options;
  throw new UsageError(`unexpected ${quote(unknown[0]!)}; --help lists what is allowed`);
}

/** @throws UsageError unless `text` is a number in the bounds of its option */
function toNumber(text: string, option: Record<"name" | "kind" | "min" | "max", string>): number {
  const { name, kind, min, max } = option;
  const whole = !["SECONDS", "MS", "P"].includes(kind);
  const number = (whole ? /^\d+$/ : /^(\d+\.?\d*|\.\d+)$/).test(text) ? Number(text) : NaN;
  if (number >= Number(min) && number <= Number(max)) return number;
  const wanted = `a ${whole ? "whole " : ""}number from ${min} to ${max}`;
  throw new UsageError(`--${name} must be ${wanted}, not ${quote(text)}`);
}

/** `text` as a person may safely see it: an ESC reads `\u{1b}`. */
function escape(text: string): string {
  return text.replace(UNSAFE, (char) => `\\u{${char.charCodeAt(0).toString(16)}}`);
}

function quote(text: string): string {
  return `"${escape(text)}"`;
}

/** One line of JSON, as safe to see as escaped text. */
function toJson(value: unknown): string {
  const hex = (char: string): string => char.charCodeAt(0).toString(16).padStart(4, "0");
  return JSON.stringify(value).replace(UNSAFE, (char) => `\\u${hex(char)}`);
}

/** `127.0.0.1:12000`, `[::1]:12000`. */
function formatAddress({ hostname, port }: { hostname: string; port: number }): string {
  return `${hostname.includes(":") ? `[${hostname}]` : hostname}:${port}`;
}

/** What the system says of a failure, to end a sentence with: `connection refused`. */
function reasonOf(error: unknown): string {
  const reason = error instanceof Error ? error.message : String(error);
  return reason.charAt(0).toLowerCase() + reason.slice(1).replace(/ \(os error \d+\)/, "");
}

/** An error that says what could not be done and why, and keeps its cause. */
function cannot(what: string, cause: unknown, hint = ""): Error {
  return new Error(`cannot ${what}: ${reasonOf(cause)}${hint}`, { cause });
}

/** Asks for net permission, before the first socket call. @throws Error that names the flag */
function requireNet(...hosts: string[]): void {
  for (const host of hosts) {
    if (Deno.permissions.requestSync({ name: "net", host }).state === "granted") continue;
    throw new Error(`no permission to use ${host}. Add --allow-net=${hosts}`);
  }
}

/** SIGINT and SIGTERM: the first calls `stop`; the second, or one without `stop`, ends at once. */
function onSignals(stop?: () => void): void {
  for (const [signal, code] of [["SIGINT", 130], ["SIGTERM", 143]] as const) {
    if (signal === "SIGTERM" && Deno.build.os === "windows") continue; // not to be had there
    Deno.addSignalListener(signal, () => {
      if (!stop) Deno.exit(code);
      stop();
      stop = undefined;
    });
  }
}

/** One socket call, for `--trace`: its handout step, its result, the bytes that it moved. */
export type Rung = { step: string; call: string; peer?: string; bytes?: Uint8Array; note?: string };

/** A rung of the ladder: time since the start, side, step, call, arrow, bytes. */
function formatRung(side: "client" | "server", { step, call, peer, bytes, note }: Rung): string {
  const time = performance.now().toFixed(1).padStart(7);
  const came = /^(accept|read|receive)\b/.test(call);
  const went = /^(connect|write|send|closeWrite)\b/.test(call);
  const arrow = !came && !went ? " │ " : came === (side === "server") ? "──▶" : "◀──";
  const text = bytes && escape(JSON.stringify(decoder.decode(bytes.subarray(0, 24))));
  const shown = text && text.length > 18 ? `${text.slice(0, 17)}…` : text;
  const what = [peer, shown, note].filter(Boolean).join(" ");
  return `${time} ms ${side} ${step.padEnd(3)} ${call.padEnd(17)} ${arrow} ${what}`.trimEnd();
}

/** Writes all of `bytes` to stdout: one call may take fewer, and a full pipe may refuse to block. */
async function writeOut(bytes: Uint8Array): Promise<void> {
  for (let rest = bytes; rest.length > 0;) {
    try {
      rest = rest.subarray(await Deno.stdout.write(rest));
    } catch (error) {
      if (error instanceof Deno.errors.BrokenPipe) throw error; // as behind `| head`
      if (!(error instanceof Deno.errors.WouldBlock)) throw cannot("write to stdout", error);
      await new Promise((resolve) => setTimeout(resolve, WRITE_RETRY_MS));
    }
  }
}

/** Prints what `--help` or `--version` ask for, whatever stands beside; tells whether they did. */
function showInfo(args: string[]): boolean {
  const asks = (...flags: string[]): boolean =>
    args.slice(0, [...args, "--"].indexOf("--")).some((arg) => flags.includes(arg));
  if (asks("-h", "--help")) console.log(HELP.trimEnd());
  else if (asks("-V", "--version")) console.log(`${NAME} ${VERSION}`);
  else return false;
  return true;
}

/** Runs `main` to its exit code. An error is one line on stderr; a closed stdout is none. */
async function run(main: (args: string[]) => Promise<number>): Promise<never> {
  try {
    Deno.exit(await main(Deno.args));
  } catch (error) {
    const text = error instanceof Error ? error.message : String(error);
    if (!(error instanceof Deno.errors.BrokenPipe)) console.error(`${NAME}: ${escape(text)}`);
    Deno.exit(error instanceof UsageError ? 2 : 1);
  }
}

if (import.meta.main) await run(main);
