#!/usr/bin/env -S deno run --allow-net=127.0.0.1:12000
/**
 * TCP echo server: prints each sentence it receives and echoes every byte (RFC 862), for many
 * clients at once, until a client says `stop`. It is the server of the lab's tasks 1 to 3; "Step 1"
 * to "Step 6" in the comments are the handout's steps of a TCP server.
 *
 * ```sh
 * deno run --allow-net=127.0.0.1:12000 tcp_server.ts
 * ncat 127.0.0.1 12000 # an independent client to try it with
 * ```
 *
 * Exit codes: 0 orderly stop; 1 failure; 2 wrong use; 130 or 143 a second SIGINT or SIGTERM.
 *
 * @module
 */

import { parseArgs } from "@std/cli/parse-args";

const NAME = "tcp_server";
const HELP = `TCP echo server: prints each sentence and echoes every byte.

Usage: deno run --allow-net=HOST:PORT tcp_server.ts [options]

  -H, --host HOST          address to listen on (default 127.0.0.1)
  -p, --port PORT          0 to 65535, not 1 to 1023; 0: any (default 12000)
      --stop WORD…         a line to close its connection (default stop, exit)
      --no-stop            no line is a command: plain RFC 862
      --no-echo            print only (task 1)
      --once               end after the first connection
      --idle SECONDS       0 to 86400 of silence close it; 0: never (default 0)
      --max-connections N  1 to 1000000 at once; others wait (default 4096)
      --reuse-port         share the port with other processes (Linux only)
  -q, --quiet              print no connections and sentences
      --json               print one JSON object a line
      --trace              draw each socket call on stderr
  -h, --help               print this
  -V, --version            print the version
`;

const READ_BYTES = 4_096; // of buffer a connection, so that 10,000 idle ones fit in 150 MiB
const BULK_BYTES = 65_536; // of buffer for one that fills the small one: a sixteenth of the calls
const BULK_BUFFERS = 16; // of these in the whole server, each made when it is needed
const SWEEP_MS = 100; // between two looks for silent and overdue connections
const QUIET_MS = 100; // of silence: nothing more is on its way to a server that shuts down
const LAST_MS = 1_000; // before it cuts all off, it half-closes what is silent while others are not
const GRACE_MS = 5_000; // for a peer to take its last echoes and close, before it is cut off
const ACCEPT_RETRY_MS = 100; // when out of descriptors; retrying at once takes a whole core
const NEWLINE = 0x0a;
const NO_BYTES = new Uint8Array();

/** What happens at the server, as `--json` prints it. `bytes` are received; `more` are not shown. */
export type ServerEvent =
  | { event: "listening"; transport: "tcp"; hostname: string; port: number }
  | { event: "open"; peer: string }
  | { event: "message"; peer: string; bytes: number; text: string; more?: number }
  | { event: "close"; peer: string; reason: CloseReason } & Totals
  | { event: "shutdown"; connections: number } & Totals
  | { event: "warning"; text: string };
/** Why a connection ended. */
export type CloseReason = "stop" | "eof" | "idle" | "reset" | "shutdown";
/** Lines and bytes received, in how many seconds. */
export type Totals = { messages: number; bytes: number; seconds: number };

/** Options of {@linkcode serve}; their defaults are those of the command line. */
export type ServeOptions = {
  hostname?: string;
  port?: number;
  stop?: string[]; // lines that end their connection
  echo?: boolean;
  once?: boolean;
  idleSeconds?: number;
  maxConnections?: number;
  reusePort?: boolean;
  quiet?: boolean; // no events of connections and lines
  signal?: AbortSignal; // shuts the server down
  onEvent?: (event: ServerEvent) => void;
  onTrace?: ((rung: Rung) => void) | undefined;
};

/** A running server, shaped like `Deno.HttpServer`. */
export type EchoServer = AsyncDisposable & {
  addr: Deno.NetAddr;
  finished: Promise<void>; // when the last connection is closed
  shutdown(): Promise<void>; // accepts no more; every connection ends within 5 s
};

/** One connection. Times are in ms, of `performance.now()`. */
class Client {
  readonly peer: string;
  readonly start = performance.now();
  messages = 0;
  bytes = 0;
  line: Uint8Array = NO_BYTES; // the start of an unfinished line, at most PREVIEW_BYTES
  lineBytes = 0; // of that line in all
  silence = 0; // sweeps since a byte moved
  writing = false;
  reason: CloseReason | undefined; // once the server half-closed: nothing is echoed from then on
  deadline = Infinity; // when it is cut off
  closed = false;

  constructor(readonly conn: Deno.TcpConn) {
    this.peer = formatAddress(conn.remoteAddr);
  }
}

/** Starts a TCP echo server. @throws Error naming the address; its cause is of `Deno.listen` */
export function serve(options: ServeOptions = {}): EchoServer {
  const { hostname = "127.0.0.1", port = 12_000, reusePort = false, once = false } = options;
  const { echo = true, idleSeconds = 0, maxConnections = 4_096, quiet = false } = options;
  const { onEvent = () => {}, onTrace } = options;
  const stop = (options.stop ?? ["stop", "exit"]).map((word) => encoder.encode(word.trim()));

  // Steps 1 to 3: in Deno one call creates the socket, binds it to the address, and listens.
  const listener = listen({ hostname, port, reusePort });
  const addr = listener.addr as Deno.NetAddr;
  onTrace?.({ step: "1-3", call: "listen()", note: formatAddress(addr) });
  const started = performance.now();
  const clients = new Map<Client, Promise<void>>();
  const totals = { connections: 0, messages: 0, bytes: 0 };
  const bulkBuffers: Uint8Array<ArrayBuffer>[] = []; // that are made and free
  let bulkMade = 0;
  let accepting = true;
  let endsAt = Infinity; // when all are cut off: GRACE_MS after the shutdown
  let silence = 0; // sweeps since a byte came from anybody
  let onFreed = (): void => {};

  /** Step 4: a new socket for each client. No accept that fails ends the server (UNP 5.11). */
  async function acceptClients(): Promise<void> {
    let warned = false;
    while (accepting) {
      if (clients.size >= maxConnections) {
        await new Promise<void>((resolve) => onFreed = resolve);
        continue;
      }
      try {
        const client = new Client(await listener.accept());
        clients.set(client, serveClient(client));
        if (once) stopAccepting();
      } catch (error) {
        // A client that was reset before it was accepted is its own loss alone.
        if (!accepting || error instanceof Deno.errors.NotConnected) continue;
        if (!warned) onEvent({ event: "warning", text: `cannot accept: ${reasonOf(error)}` });
        warned = true;
        await new Promise((resolve) => setTimeout(resolve, ACCEPT_RETRY_MS));
      }
    }
  }

  /** Step 5: every byte goes back as it came, in order. What fails in a connection stays in it. */
  async function serveClient(client: Client): Promise<void> {
    const { conn, peer } = client;
    onTrace?.({ step: "4", call: "accept()", peer });
    if (!quiet) onEvent({ event: "open", peer });
    const own = new Uint8Array(READ_BYTES);
    let buffer = own;
    try {
      conn.setNoDelay(); // or a small echo may wait 40 ms for the ACK of the one before it
      for (let size; (size = await conn.read(buffer)) !== null;) {
        const received = buffer.subarray(0, size);
        onTrace?.({ step: "5", call: `read() = ${size}`, peer, bytes: received });
        client.bytes += size;
        client.silence = silence = 0;
        if (client.reason) continue; // half-closed: read on, as a close with unread bytes is a reset
        const stopEnd = takeLines(client, received);
        const end = echo ? stopEnd ?? size : 0;
        client.writing = true;
        for (let sent = 0; sent < end;) {
          const bytes = buffer.subarray(sent, end);
          onTrace?.({ step: "5", call: `write(${bytes.length})`, peer, bytes });
          sent += await conn.write(bytes); // it may take fewer bytes (UNP 3.9)
          client.silence = 0;
        }
        client.writing = false;
        if (stopEnd !== undefined) halfClose(client, "stop");
        if (buffer !== own && size <= READ_BYTES) {
          bulkBuffers.push(buffer);
          buffer = own;
        } else if (buffer === own && size === READ_BYTES) {
          buffer = takeBulkBuffer() ?? own;
          if (buffer === own) await new Promise((resolve) => setTimeout(resolve)); // others' turn
        }
      }
      onTrace?.({ step: "5", call: "read() = null", peer, note: "FIN (inferred)" });
    } catch (error) {
      // A failure of the peer or the network has a system's code; others are our own.
      if (!client.closed && !(error instanceof Error && "code" in error)) throw error;
      client.reason ??= "reset";
    } finally {
      if (buffer !== own) bulkBuffers.push(buffer);
      endConnection(client);
    }
  }

  /** A large buffer; none where all are lent. */
  function takeBulkBuffer(): Uint8Array<ArrayBuffer> | undefined {
    if (bulkBuffers.length > 0 || bulkMade === BULK_BUFFERS) return bulkBuffers.pop();
    bulkMade++;
    return new Uint8Array(BULK_BYTES);
  }

  function endConnection(client: Client): void {
    close(client);
    clients.delete(client);
    onFreed();
    if (client.lineBytes > 0) endLine(client, NO_BYTES);
    const { peer, reason = "eof", messages, bytes, start } = client;
    totals.connections++;
    totals.messages += messages;
    totals.bytes += bytes;
    const seconds = secondsSince(start);
    if (!quiet) onEvent({ event: "close", peer, reason, messages, bytes, seconds });
  }

  /** Step 6, its first half: the peer reads every echo, then the end of the stream (UNP 6.6). */
  function halfClose(client: Client, reason: CloseReason): void {
    const { conn, peer, writing } = client;
    client.reason = reason;
    client.deadline = performance.now() + GRACE_MS;
    if (writing) return close(client); // its peer does not read, and closeWrite would wait for it
    conn.closeWrite().catch(() => {}); // or it is gone already
    onTrace?.({ step: "6", call: "closeWrite()", peer, note: "FIN (inferred)" });
  }

  /** Step 6. A call that is under way on this socket fails with it. */
  function close(client: Client): void {
    if (client.closed) return;
    client.closed = true;
    client.conn.close();
    onTrace?.({ step: "6", call: "close()", peer: client.peer });
  }

  /** Ends what is silent for too long, and cuts off what is past its deadline. */
  function sweep(): void {
    const now = performance.now();
    // One connection may be silent because all the others keep the server from reading it.
    const allRead = silence++ * SWEEP_MS >= QUIET_MS || endsAt - now < LAST_MS;
    for (const client of clients.keys()) {
      const silentMs = SWEEP_MS * client.silence++;
      if (now >= Math.min(client.deadline, endsAt)) {
        client.reason ??= "shutdown";
        close(client);
      } else if (client.reason) continue;
      else if (idleSeconds > 0 && silentMs >= idleSeconds * 1000) halfClose(client, "idle");
      else if (endsAt < Infinity && allRead && silentMs >= QUIET_MS && !client.writing) {
        halfClose(client, "shutdown");
      }
    }
  }

  /** Reports the lines that end in `received`; returns where that of a stop word ends, if any. */
  function takeLines(client: Client, received: Uint8Array): number | undefined {
    const newlineFrom = newlineFinder(received);
    let start = 0;
    for (let end; (end = newlineFrom(start)) !== -1; start = end + 1) {
      if (endLine(client, received.subarray(start, end))) return end + 1;
    }
    if (start === received.length) return;
    client.line = joinPreview(client.line, received.subarray(start));
    client.lineBytes += received.length - start;
  }

  /** Reports a line that ends with `rest`; returns whether it is a stop word. */
  function endLine(client: Client, rest: Uint8Array): boolean {
    const bytes = client.lineBytes + rest.length;
    const line = client.lineBytes === 0 ? rest : joinPreview(client.line, rest);
    client.line = NO_BYTES;
    client.lineBytes = 0;
    client.messages++;
    if (!quiet) {
      onEvent({ event: "message", peer: client.peer, bytes, ...previewText(line, bytes) });
    }
    return bytes <= PREVIEW_BYTES && isStopWord(line, stop);
  }

  function stopAccepting(): void {
    if (!accepting) return;
    accepting = false;
    listener.close(); // Step 6
    onTrace?.({ step: "6", call: "close()", note: formatAddress(addr) });
    onFreed();
  }

  function shutdown(): Promise<void> {
    stopAccepting();
    endsAt = Math.min(endsAt, performance.now() + GRACE_MS);
    for (const client of clients.keys()) client.silence = silence = 0; // for what is on its way
    return finished;
  }

  async function run(): Promise<void> {
    const sweeper = setInterval(sweep, SWEEP_MS);
    try {
      await acceptClients();
      await Promise.all(clients.values());
    } finally {
      clearInterval(sweeper);
    }
    onEvent({ event: "shutdown", ...totals, seconds: secondsSince(started) });
  }

  onEvent({ event: "listening", transport: "tcp", hostname: addr.hostname, port: addr.port });
  options.signal?.addEventListener("abort", shutdown, { once: true });
  const finished = run();
  if (options.signal?.aborted) shutdown();
  return { addr, finished, shutdown, [Symbol.asyncDispose]: shutdown };
}

function listen(where: { hostname: string; port: number; reusePort: boolean }): Deno.TcpListener {
  try {
    return Deno.listen({ transport: "tcp", ...where });
  } catch (cause) {
    throw cannot(`listen on ${formatAddress(where)}`, cause);
  }
}

/** Finds the next newline in `bytes`, from an index on. */
function newlineFinder(bytes: Uint8Array): (start: number) => number {
  if (bytes.length <= READ_BYTES) return (start) => bytes.indexOf(NEWLINE, start);
  // Of many bytes, V8 searches a string with a character for each six times as fast.
  const text = globalThis.Buffer.prototype.latin1Slice.call(bytes);
  return (start) => text.indexOf("\n", start);
}

/** What is kept of a line that starts with `held` and goes on with `bytes`. */
function joinPreview(held: Uint8Array, bytes: Uint8Array): Uint8Array {
  if (held.length === PREVIEW_BYTES) return held;
  const line = new Uint8Array(Math.min(held.length + bytes.length, PREVIEW_BYTES));
  line.set(held);
  line.set(bytes.subarray(0, line.length - held.length), held.length);
  return line;
}

/** An event as a line for people. Only what a peer said stands behind brackets. */
function formatEvent(event: Exclude<ServerEvent, { event: "warning" }>): string {
  switch (event.event) {
    case "listening":
      return `listening on tcp ${formatAddress(event)}`;
    case "open":
      return `${event.peer} connected`;
    case "message":
      return `[${event.peer}] ${escape(event.text)}${event.more ? `… +${event.more} bytes` : ""}`;
    case "close":
      return `${event.peer} closed (${event.reason}): ${formatTotals(event)}`;
    case "shutdown":
      return `stopped: ${plural(event.connections, "connection")}, ${formatTotals(event)}`;
  }
}

/** The command line: options to `serve`, events to lines, signals to `shutdown`. */
export async function main(args: string[]): Promise<number> {
  if (showInfo(args)) return 0;
  const options = parseOptions(args);
  const { flags, values, numbers } = options;
  const hostname = values.host![0]!;
  const port = listenPort(options);
  if (flags.has("reuse-port") && Deno.build.os !== "linux") {
    throw new UsageError("--reuse-port is for Linux only");
  }
  requireNet(formatAddress({ hostname, port }));
  const output = new LineOutput();
  const stopping = new AbortController();
  onSignals(() => stopping.abort()); // before the ready line: a signal may come right behind it
  const server = serve({
    hostname,
    port,
    stop: flags.has("no-stop") ? [] : values.stop!,
    echo: !flags.has("no-echo"),
    once: flags.has("once"),
    idleSeconds: numbers.idle!,
    maxConnections: numbers["max-connections"]!,
    reusePort: flags.has("reuse-port"),
    quiet: flags.has("quiet"),
    signal: stopping.signal,
    onEvent: (event) => {
      if (event.event === "warning") say(`${NAME}: ${event.text}`);
      else output.print(flags.has("json") ? toJson(event) : formatEvent(event));
    },
    onTrace: flags.has("trace") ? (rung) => say(formatRung("server", rung)) : undefined,
  });
  // As pledge(2) would have it: accepting and echoing go on, connecting out is impossible.
  Deno.permissions.revokeSync({ name: "net" });
  await Promise.race([server.finished, output.failure.promise]);
  await output.flush();
  return 0;
}

// ---- The same in both servers, to the letter: tests/cli_test.ts compares them. ----

const PREVIEW_BYTES = 1_000; // of a sentence are printed; the rest is only counted
const MAX_WAITING_CHARS = 1_048_576; // of lines wait for a slow stdout; further lines are dropped
const GATHER_MS = 10; // between two writes to stdout: many lines for the price of one
const GATHER_CHARS = 65_536; // of lines that wait are enough for a write at once
const MAX_UNSAID = 10_000; // lines wait for a slow stderr; further lines are dropped
const FLUSH_MS = 1_000; // for stdout to take the last lines of a server that ends

/** Prints lines in the background, so that a stdout that is read slowly never stalls an echo. */
class LineOutput {
  /** It rejects when stdout cannot be written, as when its reader is gone. */
  readonly failure = Promise.withResolvers<never>();
  #waiting = "";
  #dropped = 0;
  #writing: Promise<void> | undefined;

  print(line: string): void {
    if (this.#waiting.length + line.length < MAX_WAITING_CHARS) this.#waiting += `${line}\n`;
    else this.#dropped++;
    this.#writing ??= this.#write().catch(this.failure.reject);
  }

  async #write(): Promise<void> {
    while (this.#waiting !== "") {
      const dropped = this.#dropped;
      const bytes = encoder.encode(this.#waiting);
      this.#waiting = "";
      this.#dropped = 0;
      await writeOut(bytes);
      if (dropped > 0) say(`${NAME}: more lines than stdout takes: ${dropped} lines dropped`);
      if (this.#waiting.length > GATHER_CHARS) continue;
      await new Promise((resolve) => setTimeout(resolve, GATHER_MS));
    }
    this.#writing = undefined;
  }

  /** Waits until all is written, on stderr too, but no longer than FLUSH_MS for each. */
  async flush(): Promise<void> {
    const late = (): Promise<void> => new Promise((resolve) => setTimeout(resolve, FLUSH_MS));
    await Promise.race([this.#writing, this.failure.promise, late()]);
    const lost = this.#dropped + this.#waiting.split("\n").length - 1;
    if (this.#writing) say(`${NAME}: stdout is not read: over ${lost} lines lost`);
    await Promise.race([said, late()]);
  }
}

let said = Promise.resolve();
let unsaid = 0; // lines
let lost = 0;

/** A line on stderr, in its turn. Nothing waits for it: stderr may be read as slowly as stdout. */
function say(line: string): void {
  if (unsaid === MAX_UNSAID) return void lost++;
  const write = (): Promise<number> => Deno.stderr.write(encoder.encode(`${line}\n`));
  const written = unsaid++ === 0 ? write() : said.then(write);
  said = written.then(() => {}, () => {}).finally(() => {
    if (--unsaid > 0 || lost === 0) return;
    say(`${NAME}: more lines than stderr takes: ${lost} lines dropped`);
    lost = 0;
  });
}

/** Whether a sentence, but for the blanks and line ends around it, is one of `words`. */
function isStopWord(sentence: Uint8Array, words: Uint8Array[]): boolean {
  const isBlank = (byte: number): boolean => byte === 0x20 || byte >= 0x09 && byte <= 0x0d;
  let [start, end] = [0, sentence.length];
  while (start < end && isBlank(sentence[start]!)) start++;
  while (start < end && isBlank(sentence[end - 1]!)) end--;
  return words.some((word) =>
    word.length === end - start && word.every((byte, i) => byte === sentence[start + i])
  );
}

/** What is shown of a sentence of `total` bytes that starts with `bytes`, and how many are not. */
function previewText(bytes: Uint8Array, total: number): { text: string; more?: number } {
  if (total <= PREVIEW_BYTES) return { text: decoder.decode(bytes).replace(/\r?\n?$/, "") };
  let end = PREVIEW_BYTES; // perhaps within a character of two to four bytes: it is left out
  while (end > PREVIEW_BYTES - 3 && (bytes[end - 1]! & 0xc0) === 0x80) end--;
  if (bytes[end - 1]! >= 0xc0) end--;
  return { text: decoder.decode(bytes.subarray(0, end)), more: total - end };
}

/** The port to listen on: not one of those that the handout keeps clear of. */
function listenPort({ numbers: { port = 0 } }: Options): number {
  if (port === 0 || port >= 1_024) return port;
  throw new UsageError(
    `--port ${port} may be reserved for an existing service, as all below 1024 may; use 1024 to 65535, or 0 for any free port`,
  );
}

/** `1 message, 33 bytes, 0.1 s`. */
function formatTotals({ messages, bytes, seconds }: Totals): string {
  return `${plural(messages, "message")}, ${plural(bytes, "byte")}, ${seconds.toFixed(1)} s`;
}

/** To the millisecond. */
function secondsSince(start: number): number {
  return Math.round(performance.now() - start) / 1000;
}

function plural(count: number, noun: string): string {
  return `${count} ${noun}${count === 1 ? "" : "s"}`;
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
