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

// The defaults of the command line, of connect() and converse(), and of the help text.
const HOSTNAME = "127.0.0.1"; // this machine
const PORT = 12_000;
const STOP_WORDS = ["stop", "exit"]; // sentences at which the server closes the connection
const TIMEOUT_SECONDS = 5; // to wait for a connection, and for an echo

const READ_BYTES = 65_536; // at once, of the echo
const WINDOW_BYTES = 1_048_576; // sent and not yet echoed at most; they are kept to compare
const SMALL_BYTES = 4_096; // two pieces that wait for their echo are joined up to this size
const WATCH_MS = 100; // between two checks of whether an echo is overdue
const SENTENCE_MS = 500; // a pause that ends a sentence without a line end
const CLOSE_MS = 1_000; // for the server to close after a stop word; then the client warns
const SURPLUS_MS = 100; // for each piece that comes after the last echo and is counted as wrong
const RETRY_MS = 100; // between two tries to connect

/**
 * A client from its first step to its last: it calls `connect`, then `converse`, and closes.
 *
 * @throws what {@linkcode connect} and {@linkcode converse} throw
 */
export async function talk(
  input: ReadableStream<Uint8Array>,
  output: WritableStream<Uint8Array>,
  options: ConnectOptions & ConverseOptions = {},
): Promise<ConversationTotals> {
  const conn = await connect(options); // Steps 1a to 1c: connect to the server.
  try {
    return await converse(conn, input, output, options); // Step 1c.i: send and receive data.
  } finally {
    // Step 1c.ii: close the socket, when no more communication is intended.
    conn.close();
    options.onTrace?.({ step: "ii", call: "close()" });
  }
}

/**
 * Connects to the server.
 *
 * @throws RangeError for an option out of its bounds
 * @throws Error that names the address; its cause is that of `Deno.connect`
 */
export async function connect(options: ConnectOptions = {}): Promise<Deno.TcpConn> {
  // Step 1a: get IP address and port number of the server.
  const { hostname = HOSTNAME, port = PORT } = options;
  const { timeoutSeconds = TIMEOUT_SECONDS, waitSeconds = 0 } = options;
  checkBounds(options, BOUNDS);
  const address = formatAddress({ hostname, port });
  const giveUpAt = performance.now() + waitSeconds * 1000;
  for (let tries = 1;; tries++) {
    // Step 1b: create a TCP socket. Step 1c: send a connection request. In Deno one call does both.
    const giveUp = new AbortController();
    const connecting = Deno.connect({ hostname, port, signal: giveUp.signal });
    const failure = await failureOf(connecting, { hostname, timeoutSeconds });
    if (!failure) return prepare(await connecting, options);
    giveUp.abort();
    connecting.then((conn) => conn.close(), () => {}); // if it is established after all
    if (isHopeless(failure) || performance.now() >= giveUpAt) {
      throw cannot(`connect to ${address}`, failure, startHint(failure, { hostname, port }));
    }
    if (tries === 1) options.onWarning?.(`waiting for ${address}: ${reasonOf(failure)}`);
    await sleep(RETRY_MS);
  }
}

/** Why connecting failed; undefined if it succeeded. */
async function failureOf(
  connecting: Promise<Deno.TcpConn>,
  { hostname, timeoutSeconds }: { hostname: string; timeoutSeconds: number },
): Promise<unknown> {
  try {
    const conn = await within(timeoutSeconds * 1000, connecting);
    if (!conn) return new Deno.errors.TimedOut(`no answer within ${timeoutSeconds} s`);
    if (isSelfConnect(conn)) return new Deno.errors.ConnectionRefused("connection refused");
  } catch (error) {
    if (!(error instanceof Deno.errors.AddrNotAvailable)) return error;
    // The system says "cannot assign requested address": over IPv6 there may be none.
    const reason = `no local port is free${hostname.includes(":") ? ", or no IPv6 address" : ""}`;
    return new Deno.errors.AddrNotAvailable(reason, { cause: error });
  }
}

/** Sets the options of a connection, and reports it. If `onTrace` throws, it is closed. */
function prepare(conn: Deno.TcpConn, { onTrace }: ConnectOptions): Deno.TcpConn {
  try {
    setSocketOptions(conn);
    onTrace?.({ step: "1c", call: "connect()", peer: formatAddress(conn.remoteAddr) });
    return conn;
  } catch (error) {
    conn.close();
    throw error;
  }
}

/**
 * Step 1c.i: sends `input` and writes its echo to `output`, both at once (UNP 6.5), and compares
 * the two. At the end of `input` it closes its sending half, and reads until the server closes.
 * Chunks of `input` are kept until they are echoed: do not change them before.
 *
 * @throws RangeError for an option out of its bounds
 * @throws EchoError if the echo is missing, late or different, or if the server closes too early
 */
export async function converse(
  conn: Deno.TcpConn,
  input: ReadableStream<Uint8Array>,
  output: WritableStream<Uint8Array>,
  options: ConverseOptions = {},
): Promise<ConversationTotals> {
  checkBounds(options, BOUNDS);
  return await new Conversation(conn, options).run(input, output);
}

/** The echo is not what was sent: missing, late, different, or more. */
export class EchoError extends Error {}

/** A conversation: what was sent, how much of it came back, and for how long no byte has moved. */
class Conversation {
  readonly #conn: Deno.TcpConn;
  readonly #server: string;
  readonly #options: ConverseOptions;
  readonly #echo: boolean;
  readonly #timeoutSeconds: number;
  readonly #stopWords: Uint8Array[];
  readonly #window: Uint8Array[] = []; // what was sent and is not yet echoed, in pieces
  readonly #stalled = Promise.withResolvers<void>(); // settles if no byte comes in time
  #sent = 0;
  #echoed = 0;
  #sentence: Uint8Array = new Uint8Array(); // the last bytes of the echo, or else of what was sent
  #sentenceAt = 0; // ms of performance.now(): when they came
  #isWriting = false;
  #isPrinting = false;
  #isHalfClosed = false;
  #hasEnded = false;
  #unsentInput = false;
  #sendFailure: unknown;
  #silentMs = 0; // since a byte moved: counted in ticks, as a suspended process has none
  #openMs = 0; // that the server stayed open after a stop word
  #onRoom = (): void => {}; // called when the window has some

  constructor(conn: Deno.TcpConn, options: ConverseOptions) {
    this.#conn = conn;
    this.#server = formatAddress(conn.remoteAddr);
    this.#options = options;
    this.#echo = options.echo ?? true;
    this.#timeoutSeconds = options.timeoutSeconds ?? TIMEOUT_SECONDS;
    this.#stopWords = toStopWords("stopWords", options.stopWords ?? STOP_WORDS);
  }

  /** Sends and receives to the end of both. */
  async run(
    input: ReadableStream<Uint8Array>,
    output: WritableStream<Uint8Array>,
  ): Promise<ConversationTotals> {
    const startedAt = performance.now();
    const [reader, writer] = [input.getReader(), output.getWriter()];
    const tick = Math.min(this.#timeoutSeconds * 1000, WATCH_MS);
    const watch = setInterval(() => this.#watch(tick), tick);
    try {
      this.#options.onReady?.();
      const sending = this.#sendInput(reader);
      const inputFailed = new Promise<never>((_, reject) => sending.catch(reject));
      await Promise.race([this.#receiveEcho(writer), this.#stalled.promise, inputFailed]);
      this.#hasEnded = true;
      if (this.#stops && this.#owed === 0) await within(UNSENT_MS, sending);
    } finally {
      this.#hasEnded = true;
      clearInterval(watch);
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
      if (this.#hasEnded) return void (this.#unsentInput = true);
      while (chunk.length > 0) {
        const piece = chunk.subarray(0, WINDOW_BYTES - this.#owed);
        if (piece.length === 0) await new Promise<void>((resolve) => this.#onRoom = resolve);
        else if (!await this.#writeAll(piece)) return;
        chunk = chunk.subarray(piece.length);
      }
      if (!this.#echo) this.#options.onReady?.();
    }
    if (this.#hasEnded) return;
    this.#isHalfClosed = true;
    this.#options.onTrace?.({ step: "ii", call: "closeWrite()", note: "FIN (inferred)" });
    await this.#conn.closeWrite().catch((error) => this.#sendFailure ??= error);
  }

  /** Sends all of `bytes`: one write may take only a part of them (UNP 3.9). Returns whether it could. */
  async #writeAll(bytes: Uint8Array): Promise<boolean> {
    const { onTrace } = this.#options;
    this.#sent += bytes.length;
    if (this.#echo) this.#keep(bytes);
    else this.#addToSentence(bytes);
    this.#reportProgress();
    this.#isWriting = true;
    for (let rest = bytes; rest.length > 0; this.#silentMs = 0) {
      onTrace?.({ step: "i", call: `write(${rest.length})`, bytes: rest });
      try {
        rest = rest.subarray(await this.#conn.write(rest));
      } catch (error) { // the server may be gone: what it echoed before is still to be read
        this.#sendFailure = error;
        break;
      }
    }
    this.#isWriting = false;
    return !this.#sendFailure;
  }

  /** Keeps what is sent, to compare its echo with. */
  #keep(bytes: Uint8Array): void {
    const last = this.#window.at(-1);
    if (!last || last.length + bytes.length > SMALL_BYTES) this.#window.push(bytes);
    else this.#window[this.#window.length - 1] = joinBytes(last, bytes);
  }

  /** Reads the echo to the end of the stream, compares it with the window, and prints it. */
  async #receiveEcho(writer: WritableStreamDefaultWriter<Uint8Array>): Promise<void> {
    const buffer = new Uint8Array(READ_BYTES);
    for (let size; (size = await this.#read(buffer)) !== null;) {
      const bytes = buffer.subarray(0, size);
      const owed = this.#owed;
      const intact = this.#takeEcho(bytes);
      this.#isPrinting = true;
      await writer.write(bytes.slice()); // the sink may keep it
      this.#isPrinting = false;
      if (intact < Math.min(size, owed)) {
        throw new EchoError(`echo differs at byte ${this.#echoed + intact}, from ${this.#server}`);
      }
      if (size > owed) throw await this.#countSurplus(size - owed, buffer);
      this.#echoed += size;
      this.#addToSentence(bytes);
      this.#reportProgress();
      this.#onRoom();
      if (this.#owed === 0 && !this.#isHalfClosed && !this.#stops) this.#options.onReady?.();
    }
  }

  async #read(buffer: Uint8Array): Promise<number | null> {
    const { onTrace } = this.#options;
    let size: number | null;
    try {
      size = await this.#conn.read(buffer);
    } catch (cause) {
      throw new EchoError(`${reasonOf(cause)}, from ${this.#server}${this.#missing}`, { cause });
    }
    this.#silentMs = this.#openMs = 0;
    if (size === null) onTrace?.({ step: "i", call: "read() = null", note: "FIN (inferred)" });
    else onTrace?.({ step: "i", call: `read() = ${size}`, bytes: buffer.subarray(0, size) });
    return size;
  }

  /** Takes `bytes` off the window, as far as they are its echo. Returns how many are. */
  #takeEcho(bytes: Uint8Array): number {
    for (let at = 0;;) {
      const piece = this.#window[0];
      if (!piece || at === bytes.length) return at;
      const length = Math.min(piece.length, bytes.length - at);
      for (let i = 0; i < length; i++) if (bytes[at + i] !== piece[i]) return at + i;
      at += length;
      if (length === piece.length) this.#window.shift();
      else this.#window[0] = piece.subarray(length);
    }
  }

  /** More came than was sent: reads on for a moment, to count how much. */
  async #countSurplus(bytes: number, buffer: Uint8Array): Promise<EchoError> {
    this.#hasEnded = true; // what is sent from now on would be echoed, too
    const next = (): Promise<number | null> => this.#conn.read(buffer).catch(() => null);
    for (let more; bytes < WINDOW_BYTES && (more = await within(SURPLUS_MS, next()));) {
      bytes += more;
    }
    const over = bytes < WINDOW_BYTES ? "" : "over ";
    return new EchoError(`${over}${plural(bytes, "byte")} too many came from ${this.#server}`);
  }

  #reportProgress(): void {
    this.#options.onProgress?.({ sent: this.#sent, echoed: this.#echoed });
  }

  /** Bytes that were sent and did not come back yet. */
  get #owed(): number {
    return this.#echo ? this.#sent - this.#echoed : 0;
  }

  /** Keeps so much of the end that a stop word, its line end and the one before it fit. */
  #addToSentence(bytes: Uint8Array): void {
    const now = performance.now();
    const isNew = now - this.#sentenceAt >= SENTENCE_MS;
    this.#sentenceAt = now;
    const before = isNew ? new Uint8Array() : this.#sentence;
    const end = bytes.subarray(-PREVIEW_BYTES - 3);
    this.#sentence = joinBytes(before, end).subarray(-PREVIEW_BYTES - 3);
  }

  /** Whether the last sentence is a stop word: now the server may close. */
  get #stops(): boolean {
    const last = this.#sentence;
    const end = last.at(-1) !== 0x0a ? last.length : last.length - (last.at(-2) === 0x0d ? 2 : 1);
    const start = end > 0 ? last.lastIndexOf(0x0a, end - 1) + 1 : 0;
    return end > 0 && isStopWord(last.subarray(start, end), this.#stopWords);
  }

  /** What an end that comes too early leaves open. */
  get #missing(): string {
    const were = `${plural(this.#owed, "byte")} ${this.#owed === 1 ? "was" : "were"} not echoed`;
    if (this.#owed > 0) return `: ${were} (of ${this.#sent})`;
    return this.#isHalfClosed || this.#stops ? "" : " before the end of the input";
  }

  /** Looks if a byte moves wherever one is waited for. */
  #watch(tick: number): void {
    if (this.#hasEnded) return;
    const waits = this.#owed > 0 || this.#isWriting || this.#isHalfClosed;
    this.#silentMs = waits && !this.#isPrinting ? this.#silentMs + tick : 0;
    if (this.#silentMs > this.#timeoutSeconds * 1000) this.#giveUp();
    if (this.#owed > 0 || !this.#stops || this.#isHalfClosed) return;
    const isMissed = this.#openMs < CLOSE_MS && (this.#openMs += tick) >= CLOSE_MS;
    if (!isMissed) return;
    try {
      this.#options.onWarning?.(`${this.#server} does not close at a stop word; Ctrl-D ends this`);
      this.#options.onReady?.();
    } catch (error) {
      this.#stalled.reject(error);
    }
  }

  #giveUp(): void {
    if (this.#owed === 0 && this.#isHalfClosed) return this.#stalled.resolve(); // it stays open
    const what = this.#owed > 0 ? "nothing from" : "nothing is taken by";
    const text = `${what} ${this.#server} for ${this.#timeoutSeconds} s${this.#missing}`;
    this.#stalled.reject(new EchoError(text));
  }

  /** @throws EchoError unless all was sent and echoed */
  #checkEnd(): void {
    if (this.#unsentInput) throw new EchoError(UNSENT);
    const mayEnd = this.#isHalfClosed || this.#stops;
    if (this.#owed === 0 && mayEnd && (this.#echo || !this.#sendFailure)) return;
    if (this.#owed > 0 && this.#stops) {
      const hint = "; --no-stop on both sides sends all";
      throw new EchoError(`${this.#server} closed at a stop word${this.#missing}${hint}`);
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
function isHopeless(error: unknown): boolean {
  return error instanceof Deno.errors.NotCapable || error instanceof TypeError ||
    error instanceof URIError;
}

/** What starts the server, where nobody listens: typed as it stands, it works in any shell. */
function startHint(cause: unknown, server: { hostname: string; port: number }): string {
  const { hostname, port } = server;
  if (!(cause instanceof Deno.errors.ConnectionRefused) || port < 1_024) return "";
  const host = hostname === HOSTNAME ? [] : ["--host", hostname];
  const options = [...host, ...(port === PORT ? [] : ["--port", `${port}`])];
  const here = import.meta.dirname === Deno.cwd();
  const script = here ? "tcp_server.ts" : new URL("tcp_server.ts", import.meta.url).href;
  const command = Deno.build.standalone
    ? ["tcp_server"]
    : ["deno", "run", `--allow-net=${withoutZone(formatAddress(server))}`, script];
  const words = [...command, ...options].map((word) =>
    /^[\w.,:/=%-]+$/.test(word) ? word : `'${word.replaceAll("'", "'\\''")}'`
  );
  return `. Start the server first: ${words.join(" ")}`;
}

/** Options of {@linkcode connect}; their defaults are those of the command line. */
export type ConnectOptions = {
  /** Name or address of the server; default `127.0.0.1`. */
  hostname?: string;
  /** Port of the server, 1 to 65535; default 12000. */
  port?: number;
  /** Seconds, 0.001 to 3600, for one try, its name look-up included; default 5. */
  timeoutSeconds?: number;
  /** Seconds, 0 to 86400, in which to try again, whatever the reason; default 0. */
  waitSeconds?: number;
  /** Called at the first try that failed, if it waits. What it throws ends `connect`. */
  onWarning?: ((text: string) => void) | undefined;
  /** Called when it is connected. What it throws ends `connect`. */
  onTrace?: ((call: TraceCall) => void) | undefined;
};

/** Options of {@linkcode converse}; their defaults are those of the command line. */
export type ConverseOptions = {
  /** Whether an echo is expected; default true. */
  echo?: boolean;
  /** Seconds, 0.001 to 3600, in which no byte moves where one is waited for; default 5. */
  timeoutSeconds?: number;
  /** Sentences after which the server may close, each of 1 to 100 bytes; default `stop`, `exit`. */
  stopWords?: string[];
  /** Called at the start, and whenever all that was sent has come back. */
  onReady?: (() => void) | undefined;
  /** Called whenever bytes were sent or echoed, with how many in all. */
  onProgress?: ((progress: { sent: number; echoed: number }) => void) | undefined;
  /** Called with what a person should know. */
  onWarning?: ((text: string) => void) | undefined;
  /** Called at each socket call. What any of these throws ends `converse`. */
  onTrace?: ((call: TraceCall) => void) | undefined;
};

/** What a conversation moved. */
export type ConversationTotals = {
  /** Bytes that were sent. */
  sent: number;
  /** Bytes that came back. */
  echoed: number;
  /** How long it took. */
  seconds: number;
};

/**
 * A probe is a conversation, too: numbered lines, each sent when it is due, whether the echo of the
 * one before is back or not; at an interval of 0 they are sent one by one. Returns the exit code.
 */
async function probe(plan: ProbePlan, options: TalkOptions): Promise<number> {
  const { count, size, intervalSeconds } = plan;
  const { hostname = HOSTNAME, port = PORT, quiet, onTrace } = options;
  const server = formatAddress({ hostname, port });
  const sentAt: number[] = []; // ms, by line
  const times: number[] = []; // round trips in ms
  let wake = (): void => {}; // ends the wait for the next line
  let hasEnded = false;
  let lastEcho = Promise.withResolvers<void>(); // of the line that was sent last
  let printed: Promise<void> | undefined; // while the output has no room
  const counts = (): string => `${sentAt.length} sent, ${times.length} echoed`;

  async function* lines(): AsyncGenerator<Uint8Array> {
    onSignals(end); // the first one ends the probe once what is under way has come back
    let due = performance.now();
    while (sentAt.length < count && !hasEnded) {
      lastEcho = Promise.withResolvers();
      sentAt.push(performance.now());
      yield encoder.encode(`${`${sentAt.length} `.padEnd(size - 1, ".")}\n`);
      if (sentAt.length === count) break;
      due = Math.max(due + intervalSeconds * 1000, performance.now()); // late ones go in no burst
      const isDue = intervalSeconds > 0 ? sleep(due - performance.now()) : lastEcho.promise;
      await new Promise<void>((resolve) => {
        wake = resolve;
        isDue.then(() => printed).then(resolve);
      });
    }
    await lastEcho.promise; // some servers close at the half-close, before all is echoed
  }

  function end(): void {
    hasEnded = true;
    wake();
  }

  function onProgress({ echoed }: { echoed: number }): void {
    while (times.length < Math.floor(echoed / size)) {
      const ms = performance.now() - sentAt[times.length]!;
      times.push(ms);
      const rtt_ms = toMicroseconds(ms);
      const event = { event: "echo", seq: times.length, bytes: size, rtt_ms } as const;
      if (!quiet) printed = printEcho(event, server);
    }
    if (times.length === sentAt.length) lastEcho.resolve();
  }

  const endStatus = startStatus(quiet && !onTrace, counts);
  let code = 0;
  try {
    const input = ReadableStream.from(lines());
    await talk(input, new WritableStream(), { ...options, stopWords: [], onProgress });
  } catch (error) {
    code = reportError(error);
  }
  end();
  await endStatus();
  checkInterval(intervalSeconds, sentAt.length, (sentAt.at(-1) ?? 0) - (sentAt[0] ?? 0));
  printSummary(counts(), { sent: sentAt.length, echoed: times.length }, times);
  return code;
}

const BOUNDS = {
  port: { min: 1, max: 65_535 },
  timeoutSeconds: { min: 0.001, max: 3_600, whole: false },
  waitSeconds: { min: 0, max: 86_400, whole: false },
};
const NAME = "tcp_client";
const HELP = `TCP echo client: sends sentences, prints their echoes, and checks them.

Usage: deno run --allow-net=HOST:PORT tcp_client.ts [options] [message…]

Without a message it reads the keyboard, line by line, or a pipe, byte by byte.
Behind -- everything is a message.

  -H, --host HOST          name or address of the server (default ${HOSTNAME})
  -p, --port PORT          1 to 65535 (default ${PORT})
      --timeout SECONDS    0.001 to 3600, to connect and for an echo (default ${TIMEOUT_SECONDS})
      --wait SECONDS       0 to 86400, how long to try to connect (default 0)
      --stop WORD…         lets the server close (default ${STOP_WORDS.join(", ")})
      --no-stop            no sentence lets the server close first
      --no-echo            expect no echo (task 1)
  -c, --count N            1 to 1000000: send so many numbered lines, like ping
  -i, --interval SECONDS   0 to 3600 between them; 0: at the echo (default 1)
  -s, --size BYTES         16 to 65507 of each numbered line (default 64)
  -q, --quiet              print no echoes
      --json               print one JSON object a line
      --trace              draw each socket call on stderr
  -h, --help               print this
  -V, --version            print the version`;

/** The command line: its arguments, the keyboard or a pipe to `connect` and `converse`. */
export async function main(args: string[]): Promise<number> {
  checkArgs(args);
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
  if (flags.help || flags.version) return printText(flags.help ? HELP : `${NAME} ${VERSION}`);
  const stopWords = flags["no-stop"] ? [] : flags.stop;
  toStopWords("--stop", stopWords);
  const plan = toProbePlan(flags, args);
  checkMessages(flags._);
  const prompt = new Prompt(!plan && flags._.length === 0 && Deno.stdin.isTerminal());
  const options = {
    hostname: toHost(flags.host),
    port: toNumber("--port", flags.port, BOUNDS.port),
    timeoutSeconds: toNumber("--timeout", flags.timeout, BOUNDS.timeoutSeconds),
    waitSeconds: toNumber("--wait", flags.wait, BOUNDS.waitSeconds),
    stopWords,
    echo: !flags["no-echo"],
    quiet: flags.quiet,
    onWarning: (text: string) => {
      prompt.end();
      warn(text);
    },
    onTrace: flags.trace
      ? (call: TraceCall) => {
        prompt.end();
        printTraceCall("client", call);
      }
      : undefined,
  };
  requireNet(formatAddress(options));
  if (!plan && Deno.pid === 1) onSignals(); // no signal ends process 1 by itself
  warnOfAddress(flags._);
  const code = plan ? await probe(plan, options) : await runTalk(flags._, prompt, options);
  await stdout.flush();
  return stdout.failed ? 1 : code;
}

/** The options of a conversation, and whether its echoes are not printed. */
type TalkOptions = ConnectOptions & ConverseOptions & { quiet: boolean };

/** A conversation from the arguments, the keyboard or a pipe. Returns the exit code. */
async function runTalk(words: string[], prompt: Prompt, options: TalkOptions): Promise<number> {
  const output = openOutput(options.quiet);
  let progress = { sent: 0, echoed: 0 };
  let code = 0;
  try {
    await talk(openInput(words, prompt), output, {
      ...options,
      onReady: () => prompt.show(),
      onProgress: (now) => progress = now,
    });
  } catch (error) {
    prompt.end();
    code = reportError(error);
  }
  await output.close().catch((error) => code ||= reportError(error)); // it failed, and so did talk
  prompt.end();
  const { sent, echoed } = progress;
  if (stdout.json) printJsonSummary({ sent_bytes: sent, echoed_bytes: echoed });
  return code;
}

/** Where the echo goes: bytes to a pipe, safe text to a terminal, an event a line as JSON. */
function openOutput(quiet: boolean): WritableStream<Uint8Array> {
  const partial = new TextDecoder("utf-8", { ignoreBOM: true });
  let cr = ""; // of a CRLF that is cut in two
  const lines = new LineAssembler();
  let silence: ReturnType<typeof setTimeout> | undefined; // ends a sentence without a line end
  const print = ({ start, bytes }: Sentence): Promise<void> | undefined =>
    printJson({ event: "echo", bytes, ...preview(start, bytes) });
  const printUnended = (): void => {
    if (lines.isUnended) print(lines.takeUnended());
  };
  const endAtSilence = (): void => {
    const timer = silence = setTimeout(async () => {
      await letSocketsRead();
      if (timer === silence) printUnended();
    }, SENTENCE_MS);
  };
  return new WritableStream({
    async write(echo): Promise<void> {
      if (quiet) return;
      if (stdout.json) {
        clearTimeout(silence);
        silence = undefined;
        for (let line, at = 0; (line = lines.next(echo, at)); at = line.end) await print(line);
        if (lines.isUnended) endAtSilence();
      } else if (Deno.stdout.isTerminal()) {
        const text = cr + partial.decode(echo, { stream: true });
        cr = text.endsWith("\r") ? "\r" : "";
        await writeToTerminal(cr ? text.slice(0, -1) : text);
      } else await writeOut(echo);
    },
    async close(): Promise<void> {
      clearTimeout(silence);
      printUnended();
      await writeToTerminal(cr + partial.decode()); // bytes that are no whole character
    },
  });
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
function printJson(event: object, { keep = false } = {}): Promise<void> | undefined {
  return stdout.print(toJson(event), { keep, waits: true });
}

/** Prints an echo of a probe. */
function printEcho(echo: ProbeEcho, server: string): Promise<void> | undefined {
  if (stdout.json) return printJson(echo);
  const line = `${plural(echo.bytes, "byte")} from ${server}: seq=${echo.seq}`;
  return stdout.print(`${line} time=${echo.rtt_ms.toFixed(3)} ms`, { waits: true });
}

/** Prints what a probe found: its counts, which `text` has for people, and its round trips. */
function printSummary(text: string, counts: Record<string, number>, times: number[]): void {
  const rtt = times.length > 0 && { rtt_ms: roundTrips(times) };
  if (stdout.json) return printJsonSummary({ ...counts, ...rtt });
  const lines = counts.sent ? [text, ...formatRoundTrips(times)] : [];
  for (const line of lines) stdout.print(line, { keep: true });
}

/** Prints the summary as JSON. It is the last line: what was dropped is reported before it. */
function printJsonSummary(summary: Record<string, unknown>): void {
  stdout.warnDropped();
  printJson({ event: "summary", ...summary }, { keep: true });
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
  const counts = [...BARS_MS, Infinity].map((to, i) => {
    const from = BARS_MS[i - 1] ?? -Infinity;
    return times.filter((time) => time > from && time <= to).length;
  });
  const most = Math.max(...counts);
  const bars = counts.map((count, i) => {
    const ms = BARS_MS[i] ?? BARS_MS.at(-1)!;
    const [number, unit] = ms < 1 ? [ms * 1000, "µs"] : ms < 1000 ? [ms, "ms"] : [ms / 1000, "s"];
    const label = `${i < BARS_MS.length ? "to" : "over"} ${Math.round(number)} ${unit}`;
    const bar = "█".repeat(Math.ceil(count / most * BAR_COLUMNS));
    return `${label.padStart(10)} ${`${count}`.padStart(7)} ${bar}`.trimEnd();
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
  const draw = (text: string): void => void stderr.print(`\r\x1b[K${text}`, { end: "" });
  const ticker = setInterval(() => draw(status()), STATUS_MS);
  return async () => {
    clearInterval(ticker);
    draw("");
    await stderr.flush(); // before stdout has more to say
  };
}

/** The prompt of a person who types; there is none for a pipe. */
class Prompt {
  #isUnanswered = false;

  constructor(readonly isShown: boolean) {}

  show(): void {
    if (this.isShown) stderr.print("> ", { end: "" });
    this.#isUnanswered = this.isShown;
  }

  answer(): void {
    this.#isUnanswered = false;
  }

  /** Ends the line of a prompt that nobody answered: what comes next stands below it. */
  end(): void {
    if (this.#isUnanswered) stderr.print("");
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

// ---- The same in both TCP scripts: edit it in tcp_server.ts, then `deno task sync`. ----

/** A sentence: its first bytes, of which one more is kept than is shown, and how many it has. */
type Sentence = { start: Uint8Array; bytes: number };

const NO_BYTES: Uint8Array = new Uint8Array();

/** Finds the lines in a stream that comes in pieces. Of a long line only the start is kept. */
class LineAssembler {
  #bytes = 0; // of the line so far
  #start = NO_BYTES; // of the line so far
  #last = 0; // byte of the line so far
  #endMayFollow = false; // as silence ended the last line, its line end may come now
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
    if (this.#last === 0x0d) this.#bytes--; // of CRLF
    const { start, bytes } = this.#take();
    const isEndOnly = bytes === 0 && this.#endMayFollow;
    this.#endMayFollow = false;
    return isEndOnly ? this.next(chunk, end + 1) : { start, bytes, end: end + 1 };
  }

  /** Whether there is a part of a line so far. */
  get isUnended(): boolean {
    return this.#bytes > 0;
  }

  /** The line so far as a sentence: silence ended it, or the end of the stream. */
  takeUnended(): Sentence {
    this.#endMayFollow = true;
    return this.#take();
  }

  #take(): Sentence {
    const bytes = this.#bytes;
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

/**
 * Sends small messages at once: else one may wait 40 ms for the ACK of the one before it. Asks now
 * and then whether the peer is still there: one whose power failed would keep its connection for ever.
 */
function setSocketOptions(conn: Deno.TcpConn): void {
  for (const set of [() => conn.setNoDelay(), () => conn.setKeepAlive()]) {
    try {
      set();
    } catch {
      continue; // the connection works without it
    }
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
