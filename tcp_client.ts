#!/usr/bin/env -S deno run --allow-net=127.0.0.1:12000
/**
 * TCP echo client: sends sentences, prints their echoes, and checks them byte for byte. Sentences
 * come from the arguments, the keyboard or a pipe. It is the client of the lab's tasks 1 to 3;
 * "Step 1a" to "Step 1c.ii" are the handout's steps of a TCP client.
 *
 * ```sh
 * deno run --allow-net=127.0.0.1:12000 tcp_client.ts hello
 * socat TCP-LISTEN:12000,fork,reuseaddr EXEC:cat # an independent server to try it with
 * ```
 *
 * UNP is Stevens, _UNIX Network Programming_. Exit codes: 0 every message was echoed intact; 1
 * something failed, was lost or differed; 2 wrong use.
 *
 * @module
 */

import { parseArgs } from "jsr:@std/cli@^1.0.32/parse-args";

// The defaults: of the command line, of connect() and converse(), and in the help text.
const HOSTNAME = "127.0.0.1"; // this machine
const PORT = 12_000;
const STOP_WORDS = ["stop", "exit"]; // lines at which the server closes the connection
const TIMEOUT_SECONDS = 5; // to connect, and for an echo

const READ_BYTES = 65_536;
const WINDOW_BYTES = 1_048_576; // sent and not yet echoed, at most: kept to compare the echo with
const WATCH_MS = 100; // between two looks for an echo that is overdue
const CLOSE_MS = 1_000; // for the server to close at a stop word, before the client says so
const SURPLUS_MS = 100; // for what comes behind the last echo, to tell how much it is
const RETRY_MS = 100; // between two tries to connect

/** A client from its first step to its last. @throws as `connect` and `converse` do */
export async function talk(
  input: ReadableStream<Uint8Array>,
  output: WritableStream<Uint8Array>,
  options: ConnectOptions & ConverseOptions = {},
): Promise<ConversationTotals> {
  const conn = await connect(options); // Steps 1a to 1c: connect to the server.
  try {
    return await converse(conn, input, output, options); // Step 1c.i: send and receive data.
  } finally {
    conn.close(); // Step 1c.ii: close the socket, when no more communication is intended.
  }
}

/** Connects to the server. @throws Error that names the address; its cause is of `Deno.connect` */
export async function connect(options: ConnectOptions = {}): Promise<Deno.TcpConn> {
  // Step 1a: get IP address and port number of the server.
  const { hostname = HOSTNAME, port = PORT, onTrace } = options;
  const { timeoutSeconds = TIMEOUT_SECONDS, waitSeconds = 0 } = options;
  const address = formatAddress({ hostname, port });
  const giveUpAt = performance.now() + waitSeconds * 1000;
  for (let tries = 1;; tries++) {
    try {
      // Step 1b: create a TCP socket. Step 1c: send a connection request. In Deno one call does both.
      const late = new AbortController();
      const request = Deno.connect({ hostname, port, signal: late.signal });
      const conn = await within(timeoutSeconds * 1000, request);
      if (!conn) {
        late.abort();
        request.then((conn) => conn.close(), () => {});
        throw new Deno.errors.TimedOut(`no answer within ${timeoutSeconds} s`);
      }
      if (isSelfConnect(conn)) {
        conn.close();
        throw new Deno.errors.ConnectionRefused("connection refused");
      }
      conn.setNoDelay(); // or a small message may wait 40 ms for the ACK of the one before it
      conn.setKeepAlive(); // or a server whose power failed would be waited for for ever
      onTrace?.({ step: "1c", call: "connect()", peer: address });
      const steps = { read: "i", write: "i", closeWrite: "ii", close: "ii" }; // of 1c
      return onTrace
        ? traced(conn, { steps, onTrace: ({ peer: _, ...rung }) => onTrace(rung) })
        : conn;
    } catch (cause) {
      if (isFinal(cause) || performance.now() >= giveUpAt) {
        throw cannot(`connect to ${address}`, cause, startHint(cause, { hostname, port }));
      }
      if (tries === 1) options.onWarning?.(`waiting for ${address}: ${reasonOf(cause)}`);
      await sleep(RETRY_MS);
    }
  }
}

/**
 * Step 1c.i: sends `input` and writes its echo to `output`, both at once (UNP 6.5), and compares the
 * two. It half-closes at the end of `input` and reads to the end of the stream.
 *
 * @throws EchoError if the echo is missing, late or different, or if the server closes too early
 */
export function converse(
  conn: Deno.TcpConn,
  input: ReadableStream<Uint8Array>,
  output: WritableStream<Uint8Array>,
  options: ConverseOptions = {},
): Promise<ConversationTotals> {
  return new Conversation(conn, options).run(input, output);
}

/** The echo is not what was sent: missing, late, different, or more. */
export class EchoError extends Error {}

/** A conversation: what was sent, how much of it came back, and since when nothing moves. */
class Conversation {
  readonly #conn: Deno.TcpConn;
  readonly #server: string;
  readonly #options: ConverseOptions;
  readonly #echo: boolean;
  readonly #timeoutSeconds: number;
  readonly #stopWords: Uint8Array[];
  readonly #window = new Uint8Array(WINDOW_BYTES); // the last bytes sent; byte n at n % WINDOW_BYTES
  readonly #stalled = Promise.withResolvers<void>(); // no byte moves, where one is waited for
  #sent = 0;
  #echoed = 0;
  #writing = false;
  #printing = false;
  #halfClosed = false;
  #ended = false;
  #left = false; // input that was not sent
  #sendFailure: unknown;
  #silentMs = 0; // since a byte moved: in ticks, as a suspended process has none
  #openMs = 0; // since a stop word came back, likewise
  #onRoom = (): void => {}; // called when the window has some

  constructor(conn: Deno.TcpConn, options: ConverseOptions) {
    this.#conn = conn;
    this.#server = formatAddress(conn.remoteAddr);
    this.#options = options;
    this.#echo = options.echo ?? true;
    this.#timeoutSeconds = options.timeoutSeconds ?? TIMEOUT_SECONDS;
    this.#stopWords = (options.stopWords ?? STOP_WORDS)
      .map((word) => trimBlanks(encoder.encode(word)));
  }

  async run(
    input: ReadableStream<Uint8Array>,
    output: WritableStream<Uint8Array>,
  ): Promise<ConversationTotals> {
    const startedAt = performance.now();
    const [reader, writer] = [input.getReader(), output.getWriter()];
    const tick = Math.min(this.#timeoutSeconds * 1000, WATCH_MS);
    let watching: Promise<void> | undefined;
    const watch = setInterval(() => watching = turn().then(() => this.#watch(tick)), tick);
    this.#options.onReady?.();
    try {
      const sending = this.#sendInput(reader);
      const inputFailed = new Promise<never>((_, reject) => sending.catch(reject));
      await Promise.race([this.#receiveEcho(writer), this.#stalled.promise, inputFailed]);
      this.#ended = true;
      if (this.#stopped) await within(LEFT_MS, sending);
    } finally {
      this.#ended = true;
      clearInterval(watch);
      await watching;
      reader.cancel().catch(() => {});
      writer.releaseLock();
    }
    this.#checkEnd();
    const seconds = (performance.now() - startedAt) / 1000;
    return { sent: this.#sent, echoed: this.#echoed, seconds };
  }

  /** Sends the input as it comes, but never more beyond its echo than the window holds. */
  async #sendInput(reader: ReadableStreamDefaultReader<Uint8Array>): Promise<void> {
    for (let chunk; (chunk = (await reader.read()).value);) {
      if (this.#ended) return void (this.#left = true);
      while (chunk.length > 0) {
        const at = this.#sent % WINDOW_BYTES;
        const piece = chunk.subarray(0, Math.min(WINDOW_BYTES - this.#owed, WINDOW_BYTES - at));
        if (piece.length === 0) await new Promise<void>((resolve) => this.#onRoom = resolve);
        else if (!await this.#writeAll(piece, at)) return;
        chunk = chunk.subarray(piece.length);
      }
      if (!this.#echo) this.#options.onReady?.();
    }
    if (this.#ended) return;
    this.#halfClosed = true;
    await this.#conn.closeWrite().catch((error) => this.#sendFailure ??= error);
  }

  /** Sends all of `bytes`: one write may take only a part of them (UNP 3.9). Tells if it could. */
  async #writeAll(bytes: Uint8Array, at: number): Promise<boolean> {
    this.#window.set(bytes, at);
    this.#sent += bytes.length;
    this.#writing = true;
    try {
      for (let rest = bytes; rest.length > 0; this.#silentMs = 0) {
        rest = rest.subarray(await this.#conn.write(rest));
      }
    } catch (error) {
      this.#sendFailure = error; // the server may be gone: what it echoed before is still to be read
    }
    this.#writing = false;
    return !this.#sendFailure;
  }

  /** Reads the echo to the end of the stream, compares it with the window, and prints it. */
  async #receiveEcho(writer: WritableStreamDefaultWriter<Uint8Array>): Promise<void> {
    const buffer = new Uint8Array(READ_BYTES);
    for (let size; (size = await this.#read(buffer)) !== null;) {
      const bytes = buffer.subarray(0, size);
      const owed = this.#owed;
      const wrong = this.#firstDifference(bytes.subarray(0, owed));
      this.#printing = true;
      await writer.write(bytes.slice()); // the sink may keep it
      this.#printing = false;
      if (wrong >= 0) {
        throw new EchoError(`echo differs at byte ${this.#echoed + wrong}, from ${this.#server}`);
      }
      if (size > owed) throw await this.#countSurplus(size - owed, buffer);
      this.#echoed += size;
      this.#onRoom();
      if (this.#owed === 0 && !this.#halfClosed && !this.#stopped) this.#options.onReady?.();
    }
  }

  async #read(buffer: Uint8Array): Promise<number | null> {
    try {
      return await this.#conn.read(buffer);
    } catch (cause) {
      throw new EchoError(`${reasonOf(cause)}, from ${this.#server}${this.#missing}`, { cause });
    } finally {
      this.#silentMs = this.#openMs = 0;
    }
  }

  /** Where `bytes` differ from those that are owed; -1: nowhere. */
  #firstDifference(bytes: Uint8Array): number {
    const start = this.#echoed % WINDOW_BYTES;
    const wanted = this.#window.subarray(start, start + bytes.length);
    for (let i = 0; i < wanted.length; i++) if (bytes[i] !== wanted[i]) return i;
    for (let i = wanted.length; i < bytes.length; i++) {
      if (bytes[i] !== this.#window[i - wanted.length]) return i; // the window is a ring
    }
    return -1;
  }

  /** More came than was sent: reads on for a moment, to tell how much it is. */
  async #countSurplus(bytes: number, buffer: Uint8Array): Promise<EchoError> {
    const next = (): Promise<number | null> => this.#conn.read(buffer).catch(() => null);
    for (let more; bytes < WINDOW_BYTES && (more = await within(SURPLUS_MS, next()));) {
      bytes += more;
    }
    const over = bytes < WINDOW_BYTES ? "" : "over ";
    return new EchoError(`${over}${plural(bytes, "byte")} too many came from ${this.#server}`);
  }

  /** Bytes that were sent and did not come back yet. */
  get #owed(): number {
    return this.#echo ? this.#sent - this.#echoed : 0;
  }

  /** Whether a stop word was sent last, and all is echoed: now the server may close. */
  get #stopped(): boolean {
    if (this.#owed > 0 || this.#sent === 0) return false;
    const length = Math.min(this.#sent, PREVIEW_BYTES + 3); // its line end, and the one before it
    const end = (this.#sent - 1) % WINDOW_BYTES + 1;
    const last = end >= length
      ? this.#window.subarray(end - length, end)
      : joinBytes(this.#window.subarray(end - length), this.#window.subarray(0, end));
    if (last.at(-1) !== 0x0a) return false;
    const line = last.subarray(last.lastIndexOf(0x0a, -2) + 1, last.at(-2) === 0x0d ? -2 : -1);
    return isStopWord(line, this.#stopWords);
  }

  /** What an end that comes too early leaves open. */
  get #missing(): string {
    if (this.#owed === 1) return `: 1 byte was not echoed (of ${this.#sent})`;
    if (this.#owed > 0) return `: ${this.#owed} bytes were not echoed (of ${this.#sent})`;
    return this.#halfClosed || this.#stopped ? "" : " before the end of the input";
  }

  /** Looks if a byte moves wherever one is waited for. */
  #watch(tick: number): void {
    if (this.#ended) return;
    const waits = this.#owed > 0 || this.#writing || this.#halfClosed;
    this.#silentMs = waits && !this.#printing ? this.#silentMs + tick : 0;
    if (this.#silentMs > this.#timeoutSeconds * 1000) this.#giveUp();
    if (!this.#stopped || this.#halfClosed) return;
    const missed = this.#openMs < CLOSE_MS && (this.#openMs += tick) >= CLOSE_MS;
    if (!missed) return;
    this.#options.onWarning?.(`${this.#server} does not close at a stop word; Ctrl-D ends this`);
    this.#options.onReady?.();
  }

  #giveUp(): void {
    if (this.#owed === 0 && this.#halfClosed) return this.#stalled.resolve(); // only it stays open
    const what = this.#owed > 0 ? "nothing from" : "nothing is taken by";
    const text = `${what} ${this.#server} for ${this.#timeoutSeconds} s${this.#missing}`;
    this.#stalled.reject(new EchoError(text));
  }

  /** @throws EchoError unless all was sent and echoed */
  #checkEnd(): void {
    if (this.#left) throw new EchoError(LEFT);
    if (
      this.#owed === 0 && (this.#halfClosed || this.#stopped) && (this.#echo || !this.#sendFailure)
    ) {
      return;
    }
    const how = this.#sendFailure
      ? `${reasonOf(this.#sendFailure)}, from ${this.#server}`
      : `${this.#server} closed the connection`;
    throw new EchoError(how + this.#missing);
  }
}

/** A dead port among those that a client's own end is chosen from can be that end (RFC 9293, 3.5). */
function isSelfConnect({ localAddr, remoteAddr }: Deno.TcpConn): boolean {
  return formatAddress(localAddr) === formatAddress(remoteAddr);
}

/** Whether no later try to connect can do better. */
function isFinal(error: unknown): boolean {
  return error instanceof Deno.errors.NotCapable || error instanceof TypeError ||
    error instanceof URIError;
}

/** What starts the server, where nobody listens: typed as it stands, it works. */
function startHint(cause: unknown, server: { hostname: string; port: number }): string {
  const { hostname, port } = server;
  if (!(cause instanceof Deno.errors.ConnectionRefused) || port < 1_024) return "";
  const host = hostname === HOSTNAME ? "" : ` --host ${hostname}`;
  const options = host + (port === PORT ? "" : ` --port ${port}`);
  const here = import.meta.dirname === Deno.cwd();
  const script = here ? "tcp_server.ts" : new URL("tcp_server.ts", import.meta.url).href;
  const command = Deno.build.standalone
    ? "tcp_server"
    : `deno run --allow-net=${withoutZone(formatAddress(server))} ${script}`;
  return `. Start the server first: ${command}${options}`;
}

/** Options of {@linkcode connect}; their defaults are those of the command line. */
export type ConnectOptions = {
  hostname?: string;
  port?: number;
  timeoutSeconds?: number; // of one try, its name look-up included
  waitSeconds?: number; // to try again, whatever the reason
  onWarning?: (text: string) => void; // at the first try that failed, if it waits
  onTrace?: ((rung: Rung) => void) | undefined;
};

/** Options of {@linkcode converse}; their defaults are those of the command line. */
export type ConverseOptions = {
  echo?: boolean;
  timeoutSeconds?: number; // in which no byte moves where one is waited for
  stopWords?: string[]; // lines after which the server may close
  onReady?: () => void; // at the start, and whenever all that was sent has come back
  onWarning?: (text: string) => void;
};

/** What a conversation moved, in bytes. */
export type ConversationTotals = { sent: number; echoed: number; seconds: number };

/** A probe is a conversation, too: numbered lines, each sent after the echo of the one before. */
class Probe {
  readonly times: number[] = []; // round trips in ms
  sent = 0;
  startedAt = 0;
  sentAt = 0; // the last of them
  #ended = false;
  #echoed = Promise.withResolvers<void>();
  readonly #waiter = new Waiter();

  /** The input of the conversation. */
  async *lines(
    { count, size, intervalSeconds }: { count: number; size: number; intervalSeconds: number },
  ): AsyncGenerator<Uint8Array> {
    let due = this.startedAt = performance.now();
    while (this.sent < count && !this.#ended) {
      const line = encoder.encode(`${`${++this.sent} `.padEnd(size - 1, ".")}\n`);
      this.#echoed = Promise.withResolvers();
      this.sentAt = performance.now();
      yield line;
      await this.#echoed.promise;
      due = Math.max(due + intervalSeconds * 1000, performance.now());
      if (this.sent < count) await this.#waiter.until(due, () => this.#ended);
    }
  }

  /** All that was sent has come back. Returns the round trip of a line in ms, if it is one's. */
  takeEcho(): number | undefined {
    if (this.times.length === this.sent) return undefined; // nothing was sent yet
    const ms = performance.now() - this.sentAt;
    this.times.push(ms);
    this.#echoed.resolve();
    return ms;
  }

  /** Ends it once the line that is under way has come back. */
  end(): void {
    this.#ended = true;
    this.#waiter.wake();
  }
}

const NAME = "tcp_client";
const HELP = `TCP echo client: sends sentences, prints their echoes, and checks them.

Usage: deno run --allow-net=HOST:PORT tcp_client.ts [options] [message…]

Without a message it reads the keyboard, line by line, or a pipe, byte by byte.

  -H, --host HOST          name or address of the server (default ${HOSTNAME})
  -p, --port PORT          1 to 65535 (default ${PORT})
      --timeout SECONDS    0.001 to 3600, to connect and for an echo (default ${TIMEOUT_SECONDS})
      --wait SECONDS       0 to 86400, how long to try to connect (default 0)
      --stop WORD…         line that lets the server close (default ${STOP_WORDS.join(", ")})
      --no-stop            no line lets the server close first
      --no-echo            expect no echo (task 1)
  -c, --count N            1 to 1000000: send so many numbered lines, like ping
  -i, --interval SECONDS   0 to 3600 from one to the next, at least (default 1)
  -s, --size BYTES         16 to 65507 of each numbered line (default 64)
  -q, --quiet              print no echoes
      --json               print one JSON object a line
      --trace              draw each socket call on stderr
  -h, --help               print this
  -V, --version            print the version`;

/** The command line: its arguments, the keyboard or a pipe to `connect` and `converse`. */
export async function main(args: string[]): Promise<number> {
  begin(args);
  const flags = parseArgs(args, {
    boolean: ["no-stop", "no-echo", "quiet", "json", "trace", "help", "version"],
    string: ["_", "host", "port", "timeout", "wait", "stop", "count", "interval", "size"],
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
      wait: "0",
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
  const hostname = toHost(flags.host);
  const port = toNumber(["port", flags.port], { min: 1, max: 65_535 });
  const seconds = { max: 86_400, whole: false };
  const timeoutSeconds = toNumber(["timeout", flags.timeout], {
    ...seconds,
    min: 0.001,
    max: 3_600,
  });
  const waitSeconds = toNumber(["wait", flags.wait], { ...seconds, min: 0 });
  const plan = toProbePlan(flags);
  checkMessages(flags._);
  requireNet(formatAddress({ hostname, port }));
  if (!plan && Deno.pid === 1) onSignals(); // which no signal ends by itself
  const prompt = new Prompt(!plan && flags._.length === 0 && Deno.stdin.isTerminal());
  const options = {
    hostname,
    port,
    timeoutSeconds,
    waitSeconds,
    stopWords,
    echo: !flags["no-echo"],
    onWarning: (text: string) => prompt.interrupt(() => warn(text)),
    onTrace: flags.trace
      ? (rung: Rung) => prompt.interrupt(() => printRung("client", rung))
      : undefined,
  };
  if (plan) await probe(plan, { ...options, quiet: flags.quiet });
  else await talkWith(prompt, flags._, { ...options, quiet: flags.quiet });
  await stdout.flush();
  return stdout.failed ? 1 : 0;
}

/** A conversation from the arguments, the keyboard or a pipe. */
async function talkWith(
  prompt: Prompt,
  words: string[],
  { quiet, ...options }: ConnectOptions & ConverseOptions & { quiet: boolean },
): Promise<void> {
  const output = openOutput(quiet);
  try {
    await talk(openInput(words, prompt), output, { ...options, onReady: () => prompt.show() });
  } finally {
    await output.close().catch(() => {}); // or it failed, and so did the conversation
    prompt.end();
  }
}

/** A conversation of numbered lines; prints their round trips, and what they say together. */
async function probe(
  plan: ProbePlan,
  { quiet, ...options }: ConnectOptions & ConverseOptions & { quiet: boolean },
): Promise<void> {
  const { hostname = HOSTNAME, port = PORT, onTrace } = options;
  const server = formatAddress({ hostname, port });
  const probe = new Probe();
  const { times } = probe;
  const said = (): string => `${probe.sent} sent, ${times.length} echoed`;
  const endStatus = startStatus(quiet && !onTrace, said);
  function onReady(): void {
    const ms = probe.takeEcho();
    if (ms === undefined) onSignals(() => probe.end()); // it is the start
    if (ms === undefined || quiet) return;
    const rtt_ms = toMicroseconds(ms);
    printEcho({ event: "echo", seq: probe.sent, bytes: plan.size, rtt_ms }, server);
  }
  try {
    const lines = ReadableStream.from(probe.lines(plan));
    await talk(lines, new WritableStream(), { ...options, stopWords: [], onReady });
  } finally {
    probe.end();
    await endStatus();
    checkInterval(plan.intervalSeconds, probe.sent, probe.sentAt - probe.startedAt);
    if (probe.sent > 0) printSummary(said(), { sent: probe.sent, echoed: times.length }, times);
  }
}

/** Where the echo goes: bytes to a pipe, safe text to a terminal, an event a line as JSON. */
function openOutput(quiet: boolean): WritableStream<Uint8Array> {
  const atTerminal = Deno.stdout.isTerminal();
  const partial = new TextDecoder("utf-8", { ignoreBOM: true });
  const lines = new LineAssembler();
  const toEvent = ({ start, bytes }: Sentence): string =>
    `${toJson({ event: "echo", bytes, ...preview(start, bytes) })}\n`;
  return new WritableStream({
    async write(echo): Promise<void> {
      if (quiet) return;
      if (stdout.json) {
        let events = "";
        for (let line, at = 0; (line = lines.next(echo, at)); at = line.end) {
          events += toEvent(line);
        }
        await writeOut(encoder.encode(events));
      } else if (atTerminal) await writeToTerminal(partial.decode(echo, { stream: true }));
      else await writeOut(echo);
    },
    async close(): Promise<void> {
      if (lines.bytes > 0) await writeOut(encoder.encode(toEvent(lines.take())));
      await writeToTerminal(partial.decode()); // of bytes that are no whole character
    },
  });
}

// ---- The same in both clients: edit it in tcp_client.ts, then `deno task sync`. ----

const STATUS_MS = 200; // between two drawings of the live status
const BARS_MS = [0.01, 0.1, 1, 10, 100, 1_000].flatMap((ms) => [2 * ms, 5 * ms, 10 * ms]);
const BAR_COLUMNS = 40; // of the longest bar of a histogram
const LEFT_MS = 200; // behind a stop word, for input that is already on its way
const LEFT = "input behind the stop word was not sent; --no-stop sends it";

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
): ProbePlan | undefined {
  const size = toNumber(["size", flags.size], { min: 16, max: 65_507 });
  const bounds = { min: 0, max: 3_600, whole: false };
  const intervalSeconds = toNumber(["interval", flags.interval], bounds);
  if (flags.count === undefined) return undefined;
  const count = toNumber(["count", flags.count], { min: 1, max: 1_000_000 });
  const [word] = flags._;
  if (word !== undefined) throw new UsageError(`--count sends numbers, and not ${quote(word)}`);
  if (flags["no-echo"]) throw new UsageError("--count waits for echoes: without --no-echo");
  return { count, size, intervalSeconds };
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

/** Prints an echo of a probe. */
function printEcho(echo: ProbeEcho, server: string): void {
  const time = echo.rtt_ms.toFixed(3);
  const line = `${plural(echo.bytes, "byte")} from ${server}: seq=${echo.seq} time=${time} ms`;
  stdout.print(stdout.json ? toJson(echo) : line);
}

/** Prints what a probe found: its counts, which `text` says to people, and its round trips. */
function printSummary(text: string, counts: Record<string, number>, times: number[]): void {
  const rtt = times.length > 0 && { rtt_ms: roundTrips(times) };
  const event = { event: "summary", ...counts, ...rtt };
  const lines = stdout.json ? [toJson(event)] : [text, ...formatRoundTrips(times)];
  for (const line of lines) stdout.print(line, { ending: true });
}

/** The lines that tell round trips in ms: their figures, then a bar for each step of them. */
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

/** Says so if probes went out in longer intervals than was asked for. */
function checkInterval(seconds: number, sent: number, ms: number): void {
  const real = ms / 1000 / Math.max(sent - 1, 1);
  if (seconds === 0 || ms < 100 || real < 1.1 * seconds) return;
  warn(`the interval of ${seconds} s could not be kept: it was ${real.toPrecision(2)} s`);
}

/** Shows how a probe gets on, where its echoes are not printed; returns what ends that. */
function startStatus(shown: boolean, status: () => string): () => Promise<void> {
  if (!shown || !Deno.stderr.isTerminal()) return () => Promise.resolve();
  const draw = (text: string): void => stderr.print(`\r\x1b[K${text}`, { end: "" });
  const ticker = setInterval(() => draw(status()), STATUS_MS);
  return async () => {
    clearInterval(ticker);
    draw("");
    await stderr.flush(); // before stdout has more to say
  };
}

/** Waits for a time to come or something to happen, whichever is first. */
class Waiter {
  wake: () => void = () => {};

  /** Until `time`, of performance.now(), or until `done` holds when it is woken. */
  async until(time: number, done: () => boolean): Promise<void> {
    while (!done() && performance.now() < time) {
      const { promise, resolve } = Promise.withResolvers<void>();
      const timer = setTimeout(resolve, Math.max(time - performance.now(), 0));
      this.wake = resolve;
      await promise;
      clearTimeout(timer);
    }
  }
}

/** The prompt of a person who types; there is none for a pipe. */
class Prompt {
  #unanswered = false;

  constructor(readonly shown: boolean) {}

  show(): void {
    if (this.shown) stderr.print("> ", { end: "" });
    this.#unanswered = this.shown;
  }

  answer(): void {
    this.#unanswered = false;
  }

  /** Says something below a prompt that nobody answered. */
  interrupt(say: () => void): void {
    this.end();
    say();
  }

  /** Ends the line of a prompt that nobody answered. */
  end(): void {
    if (this.#unanswered) stderr.print("");
    this.#unanswered = false;
  }
}

/** What is said: the arguments, a line each; or else what is typed or comes through a pipe. */
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

/** Writes to stdout what must not be lost: whoever reads it slowly is waited for. */
async function writeOut(bytes: Uint8Array): Promise<void> {
  try {
    await writeTo(Deno.stdout, bytes);
  } catch (error) {
    throw error instanceof Deno.errors.BrokenPipe ? error : cannot("write to stdout", error);
  }
}

/** Writes text to a terminal, where line ends and tabs are safe; below what stderr tells there. */
async function writeToTerminal(text: string): Promise<void> {
  if (Deno.stderr.isTerminal()) await stderr.flush();
  const parts = text.split(/([\t\n])/).map((part, i) => i % 2 ? part : escape(part));
  await writeOut(encoder.encode(parts.join("")));
}

/** @throws UsageError for a message with bytes that a command line cannot hold */
function checkMessages(words: string[]): void {
  const broken = words.find((word) => word.includes("\ufffd"));
  if (broken === undefined) return;
  throw new UsageError(`${quote(broken)} has bytes that are no UTF-8: send them through a pipe`);
}

/** Lets be read what has arrived: after a pause of the process, timers come before the sockets. */
async function turn(): Promise<void> {
  for (let timers = 0; timers < 3; timers++) await sleep(1); // two were enough, measured
}

/** What `promise` gives; nothing after `ms`, once what came by then is read. */
async function within<T>(
  ms: number,
  promise: Promise<T>,
  readAll: () => Promise<void> = turn,
): Promise<T | undefined> {
  const late = Promise.withResolvers<undefined>();
  let reading: Promise<void> | undefined;
  const timer = setTimeout(() => reading = readAll().then(() => late.resolve(undefined)), ms);
  try {
    return await Promise.race([promise, late.promise]);
  } finally {
    clearTimeout(timer);
    await reading;
  }
}

// ---- The same in both TCP scripts: edit it in tcp_server.ts, then `deno task sync`. ----

/** A sentence: its first bytes, of which one more is kept than is shown, and how many it has. */
type Sentence = { start: Uint8Array; bytes: number };

const NO_BYTES: Uint8Array = new Uint8Array();

/** Puts the lines of a stream together, which come in pieces of any size, in bounded memory. */
class LineAssembler {
  #bytes = 0; // of the line so far
  #start = NO_BYTES; // of the line so far
  #last = 0; // byte of the line so far
  #endMayFollow = false; // of a line that was taken without its end
  #chunk = NO_BYTES; // the one that #text has
  #text = "";

  /** The line that ends next in `chunk`, and where; if none does, what is left is kept. */
  next(chunk: Uint8Array, from: number): Sentence & { end: number } | undefined {
    const end = from < chunk.length ? this.#findLineEnd(chunk, from) : -1;
    this.#add(chunk, from, end < 0 ? chunk.length : end);
    if (end < 0) {
      if (this.#bytes > 0) this.#start = this.#start.slice(); // the buffer will be read into again
      [this.#chunk, this.#text] = [NO_BYTES, ""];
      return undefined;
    }
    const isEndOnly = this.#endMayFollow && !this.isUnended;
    const { start, bytes } = this.#take();
    this.#endMayFollow = false;
    return isEndOnly ? this.next(chunk, end + 1) : { start, bytes, end: end + 1 };
  }

  /** Whether there is a sentence so far; a CR alone may be half of a line end. */
  get isUnended(): boolean {
    return this.#bytes > 1 || this.#bytes === 1 && this.#last !== 0x0d;
  }

  /** The sentence so far, which silence ended, or the end of the stream: no line end did. */
  takeUnended(): Sentence {
    this.#endMayFollow = true;
    return this.#take();
  }

  #take(): Sentence {
    const bytes = this.#last === 0x0d ? this.#bytes - 1 : this.#bytes; // without the CR of CRLF
    const start = bytes < this.#start.length ? this.#start.subarray(0, bytes) : this.#start;
    this.#start = NO_BYTES;
    this.#last = this.#bytes = 0;
    return { start, bytes };
  }

  #add(chunk: Uint8Array, from: number, end: number): void {
    if (from === end) return;
    const missing = PREVIEW_BYTES + 1 - this.#start.length;
    if (missing > 0) {
      const piece = chunk.subarray(from, Math.min(end, from + missing));
      this.#start = this.#bytes === 0 ? piece : joinBytes(this.#start, piece);
    }
    this.#last = chunk[end - 1]!;
    this.#bytes += end - from;
  }

  #findLineEnd(chunk: Uint8Array, from: number): number {
    if (chunk.length <= 4_097) return chunk.indexOf(0x0a, from);
    // V8 searches a string six times as fast as an array; in Latin-1 it has a character for a byte.
    if (chunk !== this.#chunk) {
      const { buffer, byteOffset, length } = this.#chunk = chunk;
      this.#text = globalThis.Buffer.from(buffer, byteOffset, length).toString("latin1");
    }
    return this.#text.indexOf("\n", from);
  }
}

function joinBytes(a: Uint8Array, b: Uint8Array): Uint8Array {
  const joined = new Uint8Array(a.length + b.length);
  joined.set(a);
  joined.set(b, a.length);
  return joined;
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
  return new Promise((resolve) => setTimeout(resolve, ms));
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
  failed = false; // as the disk is full, or the terminal is gone, or nobody reads
  readonly closed = Promise.withResolvers<never>(); // rejects when the reader closes, as `head` does
  #waiting = ""; // lines
  #unwritten: Uint8Array = new Uint8Array(); // lines that are being written
  #dropped = 0; // lines, since the last warning
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
    if (isFull && !isWaitedFor) return void this.#dropped++;
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

  #warnDropped(): void {
    const how = this.#silentTicks < STUCK_TICKS ? "read too slowly" : "not read";
    const dropped = plural(this.#dropped, "line");
    this.#dropped = 0;
    this.#ticksToWarning = WARN_TICKS;
    warn(`${this.name} is ${how}: ${dropped} dropped`);
  }

  /** Waits until all is written, as long as anybody reads; else reports how many lines are lost. */
  async flush(): Promise<void> {
    if (this.#isClosed) return;
    this.#silentTicks = 0;
    while (this.#writing && this.#silentTicks < GIVE_UP_TICKS) {
      await Promise.race([this.#writing, sleep(TICK_MS)]);
    }
    if (!this.#writing) {
      if (this.#dropped === 0) return;
      this.#warnDropped();
      return await this.flush();
    }
    const text = decoder.decode(this.#unwritten) + this.#waiting;
    const lost = this.#dropped + text.split("\n").length - 1;
    this.failed = this.#isClosed = true;
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
  await stderr.flush(); // what was not read of stdout
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
