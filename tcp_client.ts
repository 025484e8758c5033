#!/usr/bin/env -S deno run --allow-net=127.0.0.1:12000
/**
 * TCP echo client: sends sentences, prints their echoes, and checks them byte for byte. Sentences
 * come from the arguments, the keyboard or a pipe. It is the client of the lab's tasks 1 to 3;
 * "Step 1a" to "Step 1c.ii" in the comments are the handout's steps of a TCP client.
 *
 * ```sh
 * deno run --allow-net=127.0.0.1:12000 tcp_client.ts hello
 * socat TCP-LISTEN:12000,fork,reuseaddr EXEC:cat # an independent server to try it with
 * ```
 *
 * Exit codes: 0 every message was echoed intact; 1 something failed, was lost or differed; 2 wrong
 * use; 130 SIGINT; 143 SIGTERM.
 *
 * @module
 */

import { parseArgs } from "@std/cli/parse-args";

const NAME = "tcp_client";
const HELP = `TCP echo client: sends sentences, prints their echoes, and checks them.

Usage: deno run --allow-net=HOST:PORT tcp_client.ts [options] [message…]

Without a message it reads the keyboard, line by line, or a pipe, byte by byte.

  -H, --host HOST          name or address of the server (default 127.0.0.1)
  -p, --port PORT          1 to 65535 (default 12000)
      --timeout SECONDS    0.001 to 3600, to connect and for an echo (default 5)
      --wait SECONDS       0 to 86400, how long to try to connect (default 0)
      --stop WORD…         line that lets the server close (default stop, exit)
      --no-stop            no line lets the server close first
      --no-echo            expect no echo (task 1)
  -c, --count N            1 to 1000000: probe like ping, with so many messages
  -i, --interval SECONDS   0 to 3600 between probes; 0: at its echo (default 1)
  -s, --size BYTES         16 to 65507 of each probe (default 64)
  -q, --quiet              print no echoes
      --json               print one JSON object a line
      --trace              draw each socket call on stderr
  -h, --help               print this
  -V, --version            print the version
`;

const READ_BYTES = 65_536;
const WINDOW_BYTES = 1_048_576; // sent and not yet echoed, at most: kept to compare the echo with
const WATCH_MS = 100; // between two looks for an echo that is overdue
const STOP_LINE_BYTES = 1_000; // a longer line is no stop word
const RETRY_MS = 100; // between two tries to connect under --wait

/** Options of {@linkcode connect}; their defaults are those of the command line. */
export type ConnectOptions = {
  hostname?: string;
  port?: number;
  timeoutSeconds?: number;
  waitSeconds?: number;
  onTrace?: ((rung: Rung) => void) | undefined;
};

/** Options of {@linkcode converse}; their defaults are those of the command line. */
export type ConverseOptions = {
  echo?: boolean;
  timeoutSeconds?: number;
  stop?: string[]; // lines after which the server may close
  onReady?: () => void; // at the start, and whenever all that was sent has come back
  onTrace?: ((rung: Rung) => void) | undefined;
};

/** What a conversation moved. */
export type Conversation = { sent: number; echoed: number; seconds: number };

/** The echo is not what was sent: missing, late, different, or more. */
export class EchoError extends Error {}

/**
 * Steps 1a to 1c: creates a socket and connects it to the server.
 * @throws Error that names the address and the reason; its cause is of `Deno.connect`
 */
export async function connect(options: ConnectOptions = {}): Promise<Deno.TcpConn> {
  const { hostname = "127.0.0.1", port = 12_000, timeoutSeconds = 5, waitSeconds = 0 } = options;
  const address = formatAddress({ hostname, port });
  const giveUpAt = performance.now() + waitSeconds * 1000;
  while (true) {
    try {
      const signal = AbortSignal.timeout(timeoutSeconds * 1000);
      const conn = await Deno.connect({ hostname, port, signal });
      if (!isSelfConnect(conn)) {
        conn.setNoDelay(); // or a small message may wait 40 ms for the ACK of the one before it
        options.onTrace?.({ step: "1c", call: "connect()", peer: address });
        return conn;
      }
      conn.close();
      throw new Deno.errors.ConnectionRefused("Connection refused");
    } catch (cause) {
      const refused = cause instanceof Deno.errors.ConnectionRefused;
      if (!refused || performance.now() >= giveUpAt) {
        const hint = `Start the server first: deno run --allow-net=${address} tcp_server.ts`;
        const late = cause instanceof DOMException; // the signal's
        const why = late ? new Error(`no answer within ${timeoutSeconds} s`, { cause }) : cause;
        throw cannot(`connect to ${address}`, why, refused ? `. ${hint}` : "");
      }
      await new Promise((resolve) => setTimeout(resolve, RETRY_MS));
    }
  }
}

/** A dead port among those that a client's own end is chosen from can be that end (RFC 9293, 3.5). */
function isSelfConnect({ localAddr, remoteAddr }: Deno.TcpConn): boolean {
  return formatAddress(localAddr) === formatAddress(remoteAddr);
}

/**
 * Step 1c.i: sends `input` and writes its echo to `output`, both at once (UNP 6.5), and compares the
 * two. It half-closes at the end of `input` and reads to the end of the stream.
 *
 * @throws EchoError if the echo is missing, late or different, or if the server closes too early
 */
export async function converse(
  conn: Deno.TcpConn,
  input: ReadableStream<Uint8Array>,
  output: WritableStream<Uint8Array>,
  options: ConverseOptions = {},
): Promise<Conversation> {
  const { echo = true, timeoutSeconds = 5, stop = ["stop", "exit"], onReady, onTrace } = options;
  const start = performance.now();
  const server = formatAddress(conn.remoteAddr);
  const reader = input.getReader();
  const writer = output.getWriter();
  const window = new Uint8Array(WINDOW_BYTES); // the last bytes sent; byte n at n % WINDOW_BYTES
  let sent = 0;
  let echoed = 0;
  let halfClosed = false;
  let printing = false;
  let broken: EchoError | undefined; // why sending failed
  let silence = 0; // ms since a byte moved, in ticks: the time of a suspended process is not counted
  let sentAt = NaN;
  let onRoom = (): void => {};
  const owed = (): number => echo ? sent - echoed : 0;

  async function sendInput(): Promise<void> {
    for (let chunk; (chunk = (await reader.read()).value);) {
      while (chunk.length > 0) {
        const at = sent % WINDOW_BYTES;
        const piece = chunk.subarray(0, Math.min(WINDOW_BYTES - owed(), WINDOW_BYTES - at));
        if (piece.length === 0) {
          await new Promise<void>((resolve) => onRoom = resolve);
          continue;
        }
        window.set(piece, at);
        sent += piece.length;
        await write(piece);
        chunk = chunk.subarray(piece.length);
      }
      if (!echo) onReady?.();
    }
    halfClosed = true;
    onTrace?.({ step: "ii", call: "closeWrite()", note: "FIN (inferred)" });
    await checked(conn.closeWrite());
  }

  /** A write may take fewer bytes than it is given (UNP 3.9). */
  async function write(bytes: Uint8Array): Promise<void> {
    for (let rest = bytes; rest.length > 0;) {
      onTrace?.({ step: "i", call: `write(${rest.length})`, bytes: rest });
      sentAt = performance.now();
      rest = rest.subarray(await checked(conn.write(rest)));
      silence = 0;
    }
  }

  async function receiveEcho(): Promise<void> {
    const buffer = new Uint8Array(READ_BYTES);
    for (let size; (size = await checked(conn.read(buffer))) !== null;) {
      const bytes = buffer.subarray(0, size);
      const took = sent > 0 ? `${(performance.now() - sentAt).toFixed(1)} ms` : "";
      onTrace?.({ step: "i", call: `read() = ${size}`, bytes, note: took });
      const wanted = bytes.subarray(0, owed());
      const wrong = firstDifference(wanted, window, echoed % WINDOW_BYTES);
      printing = true;
      await writer.write(bytes.slice()); // the sink may keep it
      printing = false;
      silence = 0;
      if (wrong >= 0) throw new EchoError(`echo differs at byte ${echoed + wrong}, from ${server}`);
      if (size > wanted.length) {
        throw new EchoError(`${size - wanted.length} bytes too many came from ${server}`);
      }
      echoed += size;
      onRoom();
      if (onReady && owed() === 0 && !halfClosed && !stopSent()) onReady();
    }
    onTrace?.({ step: "i", call: "read() = null", note: "FIN (inferred)" });
  }

  /** Settles when an echo, or the end of the stream, is owed but no byte moves. */
  const stalled = Promise.withResolvers<void>();
  const tick = Math.min(timeoutSeconds * 1000, WATCH_MS);
  const watch = setInterval(() => {
    silence = printing || owed() === 0 && !halfClosed ? 0 : silence + tick;
    if (silence <= timeoutSeconds * 1000) return;
    if (echo && owed() === 0) return stalled.resolve(); // all is well, but the server stays open
    stalled.reject(new EchoError(`nothing from ${server} for ${timeoutSeconds} s${missing()}`));
  }, tick);

  function missing(): string {
    return owed() > 0 ? `: ${owed()} bytes were not echoed (of ${sent})` : "";
  }

  function checked<T>(call: Promise<T>): Promise<T> {
    return call.catch((cause) => {
      throw new EchoError(`${reasonOf(cause)}, from ${server}${missing()}`, { cause });
    });
  }

  /** Whether the last line sent is a stop word: it is still in the window. */
  function stopSent(): boolean {
    const length = Math.min(sent, STOP_LINE_BYTES);
    const tail = Uint8Array.from({ length }, (_, i) => window[(sent - length + i) % WINDOW_BYTES]!);
    const lines = decoder.decode(tail).split("\n");
    return lines.at(-1) === "" && stop.some((word) => word.trim() === lines.at(-2)?.trim());
  }

  onReady?.();
  try {
    const sending = sendInput().catch((error) => {
      if (!(error instanceof EchoError)) throw error;
      broken = error; // the server may be gone; what it echoed before is still to be read
    });
    const inputFailed = new Promise<never>((_, reject) => sending.catch(reject));
    await Promise.race([receiveEcho(), stalled.promise, inputFailed]);
  } finally {
    clearInterval(watch);
    reader.cancel().catch(() => {});
    writer.releaseLock();
  }
  if (broken && !echo) throw broken;
  if (owed() > 0 || !halfClosed && !stopSent()) {
    const how = broken
      ? `${reasonOf(broken.cause)}, from ${server}`
      : `${server} closed the connection`;
    throw new EchoError(how + (missing() || " before the end of the input"));
  }
  return { sent, echoed, seconds: (performance.now() - start) / 1000 };
}

/** Where `bytes` first differ from those in the ring from `start` on; -1: nowhere. */
function firstDifference(bytes: Uint8Array, ring: Uint8Array, start: number): number {
  for (let i = 0, at = start; i < bytes.length; i++) {
    if (bytes[i] !== ring[at]) return i;
    if (++at === ring.length) at = 0;
  }
  return -1;
}

/**
 * Probes the server like ping. A stream has no messages: each `size` bytes of it are one echo. A
 * connection that ends before its time ends the probe: `failure` of the book says how.
 */
export async function probe(conn: Deno.TcpConn, options: ProbeOptions = {}): Promise<ProbeBook> {
  const book = new ProbeBook(options);
  const { size = 64, count = 4, onTrace } = options;
  async function send(payload: Uint8Array): Promise<void> {
    for (let rest = payload; rest.length > 0;) {
      onTrace?.({ step: "i", call: `write(${rest.length})`, bytes: rest });
      rest = rest.subarray(await conn.write(rest));
    }
  }
  async function receive(): Promise<void> {
    const echo = new Uint8Array(size);
    for (let length = 0, more; (more = await conn.read(echo.subarray(length))) !== null;) {
      onTrace?.({
        step: "i",
        call: `read() = ${more}`,
        bytes: echo.subarray(length, length + more),
      });
      length += more;
      if (length < size) continue;
      book.receive(echo);
      length = 0;
    }
  }
  const server = formatAddress(conn.remoteAddr);
  receive().then(
    () => `${server} closed the connection`,
    (error) => `${reasonOf(error)}, from ${server},`,
  ).then((how) => {
    const { sent, lost } = book.counts();
    if (sent === count && lost === 0) return book.end(); // all is well
    book.end(new EchoError(`${how} after ${sent} of ${count} probes`));
  });
  await book.run((payload) => send(payload).catch(() => {})); // the read fails with it, and says why
  return book;
}

/** The command line: arguments, keyboard or pipe to `connect` and `converse`; `--count` to `probe`. */
export async function main(args: string[]): Promise<number> {
  if (showInfo(args)) return 0;
  const options = parseOptions(args);
  const { flags, values, numbers } = options;
  const server = { hostname: values.host![0]!, port: numbers.port! };
  const address = formatAddress(server);
  const probing = isProbe(options);
  const [timeoutSeconds, waitSeconds] = [numbers.timeout!, numbers.wait!];
  const trace = (rung: Rung): void => console.error(formatRung("client", rung));
  const onTrace = flags.has("trace") ? trace : undefined;
  requireNet(address);
  if (!probing) onSignals();
  const conn = await connect({ ...server, timeoutSeconds, waitSeconds, onTrace });
  try {
    if (probing) {
      return await showProbe(options, address, (show) => probe(conn, { ...show, onTrace }));
    }
    const { input, output, prompt, end } = openDialog(options, { byLine: false });
    await converse(conn, input, output, {
      echo: !flags.has("no-echo"),
      stop: flags.has("no-stop") ? [] : values.stop!,
      timeoutSeconds,
      onReady: prompt,
      onTrace: onTrace && ((rung) => {
        end();
        onTrace(rung);
      }),
    }).finally(end);
    return 0;
  } finally {
    conn.close(); // Step 1c.ii
    onTrace?.({ step: "ii", call: "close()" });
  }
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
