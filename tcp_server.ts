#!/usr/bin/env -S deno run --allow-net=127.0.0.1:12000
/**
 * TCP echo server: prints each sentence it receives and echoes every byte (RFC 862), for many
 * clients at once. A client that says `stop` has its connection closed. It is the server of the
 * lab's tasks 1 to 3; "Step 1" to "Step 6" are the handout's steps of a TCP server.
 *
 * ```sh
 * deno run --allow-net=127.0.0.1:12000 tcp_server.ts
 * ncat 127.0.0.1 12000 # an independent client to try it with
 * ```
 *
 * UNP is Stevens, _UNIX Network Programming_. Exit codes: 0 orderly stop; 1 failure; 2 wrong use;
 * 130, 143 or 129 a second SIGINT, SIGTERM or SIGHUP.
 *
 * @module
 */

import { parseArgs } from "jsr:@std/cli@^1.0.32/parse-args";

// The defaults: of the command line, of serve() and in the help text.
const HOSTNAME = "127.0.0.1"; // this machine only
const PORT = 12_000; // those below 1024 are reserved
const STOP_WORDS = ["stop", "exit"]; // a line that is one of these closes its connection

const BUFFER_BYTES = 4_096; // a connection, so that 10,000 idle ones fit in 150 MiB
const LARGE_BUFFER_BYTES = 65_536; // one that has more to say: a sixteenth of the calls
const MAX_CONNECTIONS = 4_096; // at once; others wait to be accepted
const LINES_AT_ONCE = 256; // of one connection: a read may bring 65,536
const LINES_TURN_MS = 5; // of taking lines, before all sockets are looked at
const BULK_TURN_MS = 50; // of taking large pieces, likewise: some of hundreds would wait for seconds
const ACCEPT_RETRY_MS = 100; // when out of descriptors: retrying at once takes a whole core
const SWEEP_MS = 100; // between two looks for who is silent
const GRACE_SWEEPS = 50; // 5 s for a client to take its last echoes and close
const TELL_SWEEPS = 5; // of a shutdown, then it says what it waits for

/** Starts a TCP echo server. @throws Error naming the address; its cause is of `Deno.listen` */
export function serve(options: ServeOptions = {}): EchoServer {
  const { hostname = HOSTNAME, port = PORT, reusePort = false, onTrace } = options;
  let listener: Deno.TcpListener;
  try {
    // Step 1: create a TCP socket. Step 2: attach it to an address and a port. Step 3: listen for
    // connection requests. In Deno these three are one call.
    listener = Deno.listen({ transport: "tcp", hostname, port, reusePort });
  } catch (cause) {
    throw cannot(`listen on ${formatAddress({ hostname, port })}`, cause);
  }
  onTrace?.({ step: "1-3", call: "listen()", note: formatAddress(listener.addr) });
  const steps = { accept: "4", read: "5", write: "5", closeWrite: "6", close: "6" };
  return new Server(onTrace ? traced(listener, { steps, onTrace }) : listener, options).start();
}

/** What `serve` starts: a listener and its connections. */
class Server {
  readonly #listener: Deno.TcpListener;
  readonly #options: ServeOptions;
  readonly #stopWords: Uint8Array[];
  readonly #startedAt = performance.now();
  readonly #connections = new Map<Connection, Promise<void>>();
  readonly #totals = { connections: 0, messages: 0, bytes: 0 };
  #accepting = true;
  #warned = false; // that clients cannot be accepted
  #onFreed = (): void => {}; // called when a connection ends
  #turn: Promise<void> | undefined; // of others, which is waited for
  #turnEndedAt = 0; // ms
  #silentSweeps = 0; // since a byte came from anybody
  #sweepsLeft = Infinity; // of a shutdown

  constructor(listener: Deno.TcpListener, options: ServeOptions) {
    this.#listener = listener;
    this.#options = options;
    this.#stopWords = (options.stopWords ?? STOP_WORDS)
      .map((word) => trimBlanks(encoder.encode(word)));
  }

  /** Step 4: accept each connection request; its new socket is for that client alone. */
  async #acceptClients(): Promise<void> {
    const { once, maxConnections = MAX_CONNECTIONS } = this.#options;
    while (this.#accepting) {
      if (this.#connections.size >= maxConnections) {
        await new Promise<void>((resolve) => this.#onFreed = resolve); // until one ends
        continue;
      }
      try {
        const connection = new Connection(await this.#listener.accept());
        this.#connections.set(connection, this.#serveClient(connection));
        if (once) this.#stopAccepting();
      } catch (error) {
        if (this.#accepting) await this.#surviveAccept(error);
      }
    }
  }

  /** Step 5: receive and send. Every byte goes back as it came, in order. */
  async #serveClient(connection: Connection): Promise<void> {
    const { conn } = connection;
    const { echo = true } = this.#options;
    const small = new Uint8Array(BUFFER_BYTES);
    let buffer = small;
    try {
      this.#greet(connection);
      for (let size; (size = await conn.read(buffer)) !== null;) {
        const received = buffer.subarray(0, size);
        connection.bytes += size;
        connection.silentSweeps = this.#silentSweeps = 0;
        // Half-closed, it only reads on: a close with bytes unread is a reset.
        for (let at = 0; at < size && !connection.reason;) {
          const { end, stops } = this.#takeLines(connection, received, at);
          const piece = end - at === size ? received : received.subarray(at, end);
          if (echo) await connection.writeAll(piece);
          this.#silentSweeps = 0; // while one is written to, others are not read
          at = end;
          if (stops) this.#halfClose(connection, "stop");
          else if (at < size) await this.#giveTurn(LINES_TURN_MS);
        }
        if (size > BUFFER_BYTES) await this.#giveTurn(BULK_TURN_MS);
        if (size === BUFFER_BYTES) buffer = new Uint8Array(LARGE_BUFFER_BYTES);
        else if (size < LARGE_BUFFER_BYTES / 4) buffer = small;
      }
    } catch (error) {
      this.#fail(connection, error);
    } finally {
      this.#endConnection(connection);
    }
  }

  /** Step 6, its first half: the client reads every echo, then the end of the stream (UNP 6.6). */
  #halfClose(connection: Connection, reason: CloseReason): void {
    connection.reason = reason;
    if (connection.writing) return connection.close(); // it does not read: closeWrite would wait
    connection.conn.closeWrite().catch(() => {}); // or it is gone already
  }

  /** Step 6: close the listener, as no further communication with clients is intended. */
  #stopAccepting(): void {
    if (!this.#accepting) return;
    this.#accepting = false;
    this.#listener.close();
    this.#onFreed();
  }

  /** Runs to the end of the last connection, whose socket is closed by then. */
  async #run(): Promise<void> {
    let sweeping: Promise<void> | undefined;
    const sweeper = setInterval(() => {
      sweeping ??= this.#sweep().then(() => sweeping = undefined);
    }, SWEEP_MS);
    await this.#acceptClients();
    await Promise.all(this.#connections.values());
    clearInterval(sweeper);
    await sweeping;
    const seconds = secondsSince(this.#startedAt);
    this.#options.onEvent?.({ event: "shutdown", ...this.#totals, seconds });
  }

  /** Tells that it listens, and starts to. */
  start(): EchoServer {
    const { addr } = this.#listener;
    const { hostname, port } = addr;
    this.#options.onEvent?.({ event: "listening", transport: "tcp", hostname, port });
    const finished = this.#run();
    const shutdown = (): Promise<void> => {
      this.#shutdown();
      return finished;
    };
    this.#options.signal?.addEventListener("abort", shutdown, { once: true });
    if (this.#options.signal?.aborted) shutdown();
    return { addr, finished, shutdown, [Symbol.asyncDispose]: shutdown };
  }

  // ---- Lines ----

  /** Takes the next lines, not too many at once; tells where they end, and if in a stop word. */
  #takeLines(connection: Connection, received: Uint8Array, from: number): Taken {
    let end = from;
    for (let count = 0; count < LINES_AT_ONCE; count++) {
      const line = connection.lines.next(received, end);
      if (!line) return { end: received.length, stops: false };
      end = line.end;
      this.#tellMessage(connection, line);
      if (line.bytes <= PREVIEW_BYTES && isStopWord(line.start, this.#stopWords)) {
        return { end, stops: true };
      }
    }
    return { end, stops: false };
  }

  /** From time to time the sockets of others are read; a timer lets that be, an immediate not. */
  #giveTurn(afterMs: number): Promise<void> | undefined {
    if (this.#turn || performance.now() - this.#turnEndedAt < afterMs) return this.#turn;
    return this.#turn = sleep(0).then(() => {
      this.#turnEndedAt = performance.now();
      this.#turn = undefined;
    });
  }

  #tellMessage(connection: Connection, { start, bytes }: Sentence): void {
    connection.messages++;
    if (this.#options.quiet) return;
    const { peer } = connection;
    this.#options.onEvent?.({ event: "message", peer, bytes, ...preview(start, bytes) });
  }

  // ---- The begin and the end of a connection ----

  #greet({ conn, peer }: Connection): void {
    conn.setNoDelay(); // or a small echo may wait 40 ms for the ACK of the one before it
    conn.setKeepAlive(); // or a client whose power failed would keep its place for ever
    if (!this.#options.quiet) this.#options.onEvent?.({ event: "open", peer });
  }

  /** What fails in a connection stays in it: a reset, a network that is down. */
  #fail(connection: Connection, error: unknown): void {
    connection.reason ??= "reset";
    if (connection.closed || isSystemError(error)) return;
    this.#warn(`${connection.peer}: ${reasonOf(error)}`); // a fault of this program
  }

  #endConnection(connection: Connection): void {
    const { lines, peer, bytes, startedAt } = connection;
    connection.close();
    this.#connections.delete(connection);
    this.#onFreed();
    if (lines.bytes > 0) this.#tellMessage(connection, lines.take());
    const { reason = "eof", messages } = connection;
    this.#totals.connections++;
    this.#totals.messages += messages;
    this.#totals.bytes += bytes;
    if (this.#options.quiet) return;
    const seconds = secondsSince(startedAt);
    this.#options.onEvent?.({ event: "close", peer, reason, messages, bytes, seconds });
  }

  /** No accept that fails ends the server (UNP 5.11). */
  async #surviveAccept(error: unknown): Promise<void> {
    if (isGone(error)) return;
    const open = plural(this.#connections.size, "connection");
    const hint = ` (${open} open; "ulimit -n" tells how many files may be)`;
    const full = (error as { code?: string }).code === "EMFILE";
    if (!this.#warned) this.#warn(`cannot accept: ${reasonOf(error)}${full ? hint : ""}`);
    this.#warned = true;
    await sleep(ACCEPT_RETRY_MS);
  }

  #warn(text: string): void {
    this.#options.onEvent?.({ event: "warning", text });
  }

  // ---- Deadlines, counted in sweeps ----

  #shutdown(): void {
    this.#stopAccepting();
    if (this.#sweepsLeft < Infinity) return;
    this.#sweepsLeft = GRACE_SWEEPS;
    this.#silentSweeps = 0; // what was sent before is still on its way
  }

  /** Half-closes who was silent for too long; closes who had its time to close. */
  async #sweep(): Promise<void> {
    // A process that was suspended reads first what came meanwhile: timers come before the sockets.
    for (let timers = 0; timers < 3; timers++) await sleep(1);
    const ending = this.#sweepsLeft < Infinity;
    const allSilent = this.#silentSweeps++ > 0; // else a connection may only wait for its turn
    const idleSweeps = (this.#options.idleSeconds || Infinity) * 1000 / SWEEP_MS;
    if (this.#sweepsLeft-- === GRACE_SWEEPS - TELL_SWEEPS && this.#connections.size > 0) {
      const open = plural(this.#connections.size, "connection");
      const seconds = (GRACE_SWEEPS - TELL_SWEEPS) * SWEEP_MS / 1000;
      this.#warn(`waiting for ${open} to end, ${seconds} s at most`);
    }
    for (const connection of this.#connections.keys()) {
      const silent = connection.silentSweeps++;
      if (this.#sweepsLeft <= 0 || connection.reason && connection.sweepsLeft-- <= 0) {
        connection.reason ??= "shutdown";
        connection.close();
      } else if (connection.reason) continue;
      else if (silent >= idleSweeps) this.#halfClose(connection, "idle");
      else if (ending && allSilent && silent > 0 && !connection.writing) {
        this.#halfClose(connection, "shutdown");
      }
    }
  }
}

/** Where the lines that were taken end, and whether in a stop word. */
type Taken = { end: number; stops: boolean };

/** One connection: its socket, and what is known of it. */
class Connection {
  readonly peer: string;
  readonly startedAt = performance.now(); // ms
  readonly lines = new LineAssembler();
  messages = 0;
  bytes = 0; // received
  silentSweeps = 0; // since a byte moved
  writing = false;
  reason: CloseReason | undefined; // once the server half-closed
  sweepsLeft = GRACE_SWEEPS; // from then on
  closed = false;

  constructor(readonly conn: Deno.TcpConn) {
    this.peer = formatAddress(conn.remoteAddr);
  }

  /** Sends all of `bytes`: one write may take only a part of them (UNP 3.9). */
  async writeAll(bytes: Uint8Array): Promise<void> {
    this.writing = true;
    for (let rest = bytes, size; (size = await this.conn.write(rest)) < rest.length;) {
      rest = rest.subarray(size);
      this.silentSweeps = 0;
    }
    this.writing = false;
  }

  /** Step 6. A call that waits on this socket fails with it. */
  close(): void {
    if (!this.closed) this.conn.close();
    this.closed = true;
  }
}

/** Whether the client of an accept that failed was gone already: its own loss alone. */
function isGone(error: unknown): boolean {
  const { NotConnected, ConnectionAborted, ConnectionReset } = Deno.errors;
  const gone = [NotConnected, ConnectionAborted, ConnectionReset];
  return gone.some((kind) => error instanceof kind) ||
    (error as { code?: string }).code === "EINVAL"; // macOS
}

/** Whether the system failed a call: Deno gives no code to ENETDOWN and some others. */
function isSystemError(error: unknown): boolean {
  return error instanceof Error && ("code" in error || /\(os error \d+\)/.test(error.message));
}

/** What happens at the server, as `--json` prints it. `bytes` and `text` have no line end. */
export type ServerEvent =
  | { event: "listening"; transport: "tcp"; hostname: string; port: number }
  | { event: "open"; peer: string }
  | { event: "message"; peer: string; bytes: number; text: string; more?: number } // not in text
  | { event: "close"; peer: string; reason: CloseReason } & Totals
  | { event: "shutdown"; connections: number } & Totals
  | { event: "warning"; text: string };
/** Why a connection ended. */
export type CloseReason = "stop" | "eof" | "idle" | "reset" | "shutdown";

/** Options of {@linkcode serve}; their defaults are those of the command line. */
export type ServeOptions = {
  hostname?: string;
  port?: number; // 0: any free one
  stopWords?: string[]; // lines that close their connection
  echo?: boolean;
  once?: boolean; // end after the first connection
  idleSeconds?: number; // of silence close a connection; 0: never
  maxConnections?: number; // at once; others wait
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

const NAME = "tcp_server";
const HELP = `TCP echo server: prints each sentence and echoes every byte.

Usage: deno run --allow-net=HOST:PORT tcp_server.ts [options]

  -H, --host HOST          address to listen on (default ${HOSTNAME})
  -p, --port PORT          0 to 65535, not 1 to 1023; 0: any (default ${PORT})
      --stop WORD…         a line to close its connection (default ${STOP_WORDS.join(", ")})
      --no-stop            no line is a command: plain RFC 862
      --no-echo            print only (task 1)
      --once               end after the first connection
      --idle SECONDS       0 to 86400 of silence close it; 0: never (default 0)
      --max-connections N  1 to 1000000 at once; others wait (default ${MAX_CONNECTIONS})
      --reuse-port         share the port with other processes (Linux only)
  -q, --quiet              print no connections and sentences
      --json               print one JSON object a line
      --trace              draw each socket call on stderr
  -h, --help               print this
  -V, --version            print the version`;

/** The command line: options to `serve`, events to lines, signals to a shutdown. */
export async function main(args: string[]): Promise<number> {
  begin(args);
  const flags = parseArgs(args, {
    boolean: [
      "no-stop",
      "no-echo",
      "once",
      "reuse-port",
      "quiet",
      "json",
      "trace",
      "help",
      "version",
    ],
    string: ["_", "host", "port", "stop", "idle", "max-connections"],
    collect: ["stop"],
    alias: { host: "H", port: "p", quiet: "q", help: "h", version: "V" },
    default: {
      host: HOSTNAME,
      port: `${PORT}`,
      stop: STOP_WORDS,
      idle: "0",
      "max-connections": `${MAX_CONNECTIONS}`,
    },
    unknown: (arg: string) => refuse(arg, args),
  });
  if (flags.help || flags.version) {
    console.log(flags.help ? HELP : `${NAME} ${VERSION}`);
    return 0;
  }
  for (const word of flags._) refuse(word, args);
  if (flags["reuse-port"] && Deno.build.os !== "linux") {
    throw new UsageError("--reuse-port is for Linux only");
  }
  const stopWords = flags["no-stop"] ? [] : toStopWords(flags.stop);
  const hostname = toHost(flags.host);
  const port = toListenPort(flags.port);
  const idleSeconds = toNumber(["idle", flags.idle], { min: 0, max: 86_400, whole: false });
  const maxConnections = toNumber(["max-connections", flags["max-connections"]], {
    min: 1,
    max: 1_000_000,
  });
  requireNet(formatAddress({ hostname, port }));
  const stopping = new AbortController();
  onSignals(() => stopping.abort()); // before the ready line: a signal may come right behind it
  const server = serve({
    hostname,
    port,
    stopWords,
    echo: !flags["no-echo"],
    once: flags.once,
    idleSeconds,
    maxConnections,
    reusePort: flags["reuse-port"],
    quiet: flags.quiet,
    signal: stopping.signal,
    onEvent: printEvent,
    onTrace: flags.trace ? (rung) => printRung("server", rung) : undefined,
  });
  // As pledge(2) would have it: accepting and echoing go on, connecting out is impossible.
  Deno.permissions.revokeSync({ name: "net" });
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
      return `listening on tcp ${formatAddress(event)}`;
    case "open":
      return `${event.peer} connected`;
    case "message":
      return formatMessage(event);
    case "close":
      return `${event.peer} closed (${event.reason}): ${formatTotals(event)}`;
    case "warning":
      return escape(event.text);
    case "shutdown":
      return `stopped: ${plural(event.connections, "connection")}, ${formatTotals(event)}`;
  }
}

// ---- The same in both servers, to the letter: tests/cli_test.ts compares them. ----

/** Sentences and bytes received, in how many seconds. */
export type Totals = { messages: number; bytes: number; seconds: number };

/** The port to listen on: not one of those that the handout keeps clear of. @throws UsageError */
function toListenPort(text: string): number {
  const port = toNumber(["port", text], { min: 0, max: 65_535 });
  if (port === 0 || port >= 1_024) return port;
  throw new UsageError(
    `--port ${port} may be reserved for an existing service, as all below 1024 may; use 1024 to 65535, or 0 for any free port`,
  );
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

// ---- The same in both TCP scripts, to the letter: tests/cli_test.ts compares them. ----

/** A sentence: its first bytes, of which one more is kept than is shown, and how many it has. */
type Sentence = { start: Uint8Array; bytes: number };

const NO_BYTES: Uint8Array = new Uint8Array();

/** Puts the lines of a stream together, which come in pieces of any size, in bounded memory. */
class LineAssembler {
  bytes = 0; // of the line so far
  #start = NO_BYTES; // of it
  #last = 0; // byte of it
  #chunk = NO_BYTES; // as #text
  #text = "";

  /** The line that ends next in `chunk`, and where; if none does, what is left is kept. */
  next(chunk: Uint8Array, from: number): Sentence & { end: number } | undefined {
    const end = from < chunk.length ? this.#findLineEnd(chunk, from) : -1;
    this.#add(chunk, from, end < 0 ? chunk.length : end);
    if (end < 0) {
      if (this.bytes > 0) this.#start = this.#start.slice(); // the buffer will be read into again
      [this.#chunk, this.#text] = [NO_BYTES, ""];
      return undefined;
    }
    if (this.#last === 0x0d) this.bytes--; // of CRLF
    const { start, bytes } = this.take();
    return { start, bytes, end: end + 1 };
  }

  /** The line so far. */
  take(): Sentence {
    const { bytes } = this;
    const start = bytes < this.#start.length ? this.#start.subarray(0, bytes) : this.#start;
    this.#start = NO_BYTES;
    this.#last = this.bytes = 0;
    return { start, bytes };
  }

  #add(chunk: Uint8Array, from: number, end: number): void {
    if (from === end) return;
    const missing = PREVIEW_BYTES + 1 - this.#start.length;
    if (missing > 0) {
      const piece = chunk.subarray(from, Math.min(end, from + missing));
      this.#start = this.bytes === 0 ? piece : joinBytes(this.#start, piece);
    }
    this.#last = chunk[end - 1]!;
    this.bytes += end - from;
  }

  #findLineEnd(chunk: Uint8Array, from: number): number {
    if (chunk.length <= 4_096) return chunk.indexOf(0x0a, from);
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

/** `socket`, but its calls are told: one that waits with its result, another when it is made. */
function traced<T extends Deno.TcpListener | Deno.TcpConn>(socket: T, trace: Trace): T {
  const inner = socket as unknown as Deno.TcpListener & Deno.TcpConn;
  const peer = "remoteAddr" in socket ? { peer: formatAddress(socket.remoteAddr) } : {};
  const tell = (name: string, rung: Omit<Rung, "step">): void =>
    trace.onTrace({ step: trace.steps[name]!, ...peer, ...rung });
  return withCalls(socket, {
    async accept(): Promise<Deno.TcpConn> {
      const conn = await inner.accept();
      tell("accept", { call: "accept()", peer: formatAddress(conn.remoteAddr) });
      return traced(conn, trace);
    },
    async read(buffer: Uint8Array): Promise<number | null> {
      const size = await inner.read(buffer);
      if (size === null) tell("read", { call: "read() = null", note: "FIN (inferred)" });
      else tell("read", { call: `read() = ${size}`, bytes: buffer.subarray(0, size) });
      return size;
    },
    write(bytes: Uint8Array): Promise<number> {
      tell("write", { call: `write(${bytes.length})`, bytes });
      return inner.write(bytes);
    },
    closeWrite(): Promise<void> {
      tell("closeWrite", { call: "closeWrite()", note: "FIN (inferred)" });
      return inner.closeWrite();
    },
    close(): void {
      tell("close", { call: "close()", ...(inner.addr && { note: formatAddress(inner.addr) }) });
      inner.close();
    },
  });
}

// ---- The same in all four scripts, to the letter: tests/cli_test.ts compares them. ----

const VERSION = "1.0.0";
const PREVIEW_BYTES = 1_000; // of a sentence are shown, the rest is counted; no stop word is longer
const MAX_WAITING = 1_048_576; // characters wait for a slow stdout or stderr; more lines are dropped
const MAX_ENDINGS = 16_777_216; // so many, before lines that end a connection or a server are, too
const WRITE_BYTES = 65_536; // at once to stdout or stderr
const GATHER_MS = 10; // between two writes to stdout: many lines for the price of one
const TELL_DROPPED_MS = 1_000; // between two times that it is told how many were dropped
const FLUSH_MS = 1_000; // without one of the last lines taken: nobody reads them
const encoder = new TextEncoder();
const decoder = new TextDecoder("utf-8", { ignoreBOM: true });
/** What steers a terminal or is not seen there: controls, formats, separators of lines. */
const UNSAFE = /[\p{Cc}\p{Cf}\p{Zl}\p{Zp}]/gu;
/** Our words for common codes: the system's differ from system to system, or are translated. */
const REASONS: Record<string, string> = {
  EADDRINUSE: "address already in use",
  EADDRNOTAVAIL: "no such address on this machine",
  ECONNREFUSED: "connection refused",
  ECONNRESET: "connection reset by peer",
  EHOSTUNREACH: "no route to host",
  EMFILE: "too many open files",
  EMSGSIZE: "too long for a datagram here (macOS: sysctl net.inet.udp.maxdgram)",
  ENETUNREACH: "network unreachable",
  ENOTFOUND: "name not found",
  ETIMEDOUT: "connection timed out",
};

/** Wrong use of the command line: one line on stderr, exit code 2. */
class UsageError extends Error {}

/** What parseArgs cannot be asked: if --json is there, and if an option has its name for words. */
function begin(args: string[]): void {
  stdout.json = args.includes("--json"); // also for what parseArgs refuses
  const odd = args.find((arg) => /^--?_(=|$)/.test(arg));
  if (odd) refuse(odd, args);
}

/** Ends parseArgs at what its table does not know. @throws UsageError */
function refuse(arg: string, args: string[]): never {
  const option = args[args.indexOf(arg) - 1] ?? "";
  const isValue = option.startsWith("-") && /^(-[\d.].*)?$/.test(arg); // to parseArgs it is none
  const what = isValue ? `${escape(option)} cannot be ${quote(arg)}` : `unexpected ${quote(arg)}`;
  throw new UsageError(`${what}; --help lists what is allowed`);
}

/** The value of a numeric option. @throws UsageError out of its bounds */
function toNumber(
  [name, text]: [name: string, text: string],
  { min, max, whole = true }: { min: number; max: number; whole?: boolean },
): number {
  const number = (whole ? /^\d+$/ : /^(\d+\.?\d*|\.\d+)$/).test(text) ? Number(text) : NaN;
  if (number >= min && number <= max) return number;
  const wanted = `a ${whole ? "whole " : ""}number from ${min} to ${max}`;
  throw new UsageError(`--${name} needs a value, ${wanted}, not ${quote(text)}`);
}

/** A host without the brackets of an IPv6 address. @throws UsageError */
function toHost(text: string): string {
  if (text.trim() === "") throw new UsageError("--host needs a value, a name or an address");
  return text.replace(/^\[(.*:.*)\]$/, "$1");
}

/** Stop words that a sentence can be. @throws UsageError */
function toStopWords(words: string[]): string[] {
  const isWord = (word: string): boolean => {
    const { length } = trimBlanks(encoder.encode(word));
    return length >= 1 && length <= 100 && !/[\n\ufffd]/.test(word);
  };
  const wrong = words.find((word) => !isWord(word));
  if (wrong === undefined) return words;
  throw new UsageError(`--stop needs a value, a word of 1 to 100 bytes, not ${quote(wrong)}`);
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
  if (!/[^ -~]/.test(text)) return text; // as most is; this is twice as fast
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

/** Why a call failed, to end a sentence with: `connection refused`. */
function reasonOf(error: unknown): string {
  const { message = String(error), code = "" } = error as { message?: string; code?: string };
  if (message.startsWith("failed to lookup address")) return REASONS.ENOTFOUND!;
  const [, text, number] = /^(.*?)\.? \(os error (\d+)\)/.exec(message) ?? [];
  const unknown = number && !code ? `system error ${number} (${text})` : text ?? message;
  return REASONS[code] ?? unknown.charAt(0).toLowerCase() + unknown.slice(1);
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

/** The first signal calls `stop`; the second, or one without `stop`, ends the program at once. */
function onSignals(stop?: () => void): void {
  const exitCodes = { SIGINT: 130, SIGTERM: 143, SIGHUP: 129 }; // 128 and the signal's number
  const ofWindows = Deno.build.os === "windows" ? { SIGBREAK: 149 } : {}; // Ctrl-Break
  for (const [signal, code] of Object.entries({ ...exitCodes, ...ofWindows })) {
    Deno.addSignalListener(signal as Deno.Signal, () => {
      if (!stop) Deno.exit(code);
      stop();
      stop = undefined;
    });
  }
}

function sleep(ms: number): Promise<void> {
  return new Promise((resolve) => setTimeout(resolve, ms));
}

/** Writes all of `bytes`: one call may take fewer, and a full pipe may refuse to block. */
async function writeTo(to: typeof Deno.stdout, bytes: Uint8Array): Promise<void> {
  for (let rest = bytes; rest.length > 0;) {
    try {
      rest = rest.subarray(await to.write(rest));
    } catch (error) {
      if (!(error instanceof Deno.errors.WouldBlock)) throw error;
      await sleep(GATHER_MS);
    }
  }
}

/** Lines on their way to stdout or stderr. Nothing waits for them; too many are dropped. */
class Output {
  json = false; // whether events are printed as JSON
  failed = false; // as the disk is full, or the terminal is gone
  readonly closed = Promise.withResolvers<never>(); // rejects when nobody reads on, as `| head -1`
  readonly #buffer = new Uint8Array(WRITE_BYTES);
  #waiting = "";
  #dropped = 0; // lines
  #written = 0; // times
  #writtenAt = -Infinity; // ms
  #toldAt = -Infinity; // ms: that lines were dropped
  #writing: Promise<void> | undefined;
  #ended = false;

  constructor(readonly name: "stdout" | "stderr") {
    this.closed.promise.catch(() => {}); // who must know waits for it
  }

  print(line: string, { end = "\n", ending = false } = {}): void {
    if (this.#ended) return;
    const text = line + end;
    const most = ending ? MAX_ENDINGS : MAX_WAITING;
    if (this.#waiting.length + text.length <= most) this.#waiting += text;
    else this.#dropped++;
    this.#writing ??= this.#write();
  }

  async #write(): Promise<void> {
    while (this.#waiting !== "") {
      const pause = GATHER_MS - (performance.now() - this.#writtenAt);
      const gathers = this === stdout && this.#waiting.length < MAX_WAITING / 2;
      if (gathers && pause > 0) await sleep(pause);
      let text = this.#waiting;
      this.#waiting = "";
      try {
        for (; text !== ""; this.#written++) {
          const { read, written } = encoder.encodeInto(text, this.#buffer);
          await writeTo(Deno[this.name], this.#buffer.subarray(0, written));
          text = text.slice(read);
        }
      } catch (error) {
        if (error instanceof Deno.errors.BrokenPipe) return this.#end(error);
        if (this === stdout && !this.failed) warn(cannot("write to stdout", error).message);
        this.failed = true;
      }
      this.#writtenAt = performance.now();
      if (this.#writtenAt - this.#toldAt > TELL_DROPPED_MS) this.#tellDropped();
    }
    this.#writing = undefined;
  }

  /** Nobody reads on. */
  #end(error: Error): void {
    this.#ended = true;
    this.#waiting = "";
    this.closed.reject(error);
  }

  /** Waits until all is written, or nobody reads it. */
  async flush(): Promise<void> {
    for (let before = -1; this.#writing && before < this.#written;) {
      before = this.#written;
      await Promise.race([this.#writing, sleep(FLUSH_MS)]);
    }
    if (this.#waiting === "") return this.#tellDropped();
    const lost = this.#dropped + this.#waiting.split("\n").length - 1;
    stderr.print(`${NAME}: ${this.name} is not read: over ${plural(lost, "line")} lost`);
  }

  #tellDropped(): void {
    if (this.#dropped === 0) return;
    this.#toldAt = performance.now();
    const dropped = plural(this.#dropped, "line");
    this.#dropped = 0;
    warn(`${this.name} is read too slowly: ${dropped} dropped`);
  }
}

const stdout = new Output("stdout");
const stderr = new Output("stderr");

/** What a person is told on stderr; under --json it is an event on stdout, too. */
function warn(text: string, event: "warning" | "error" | "lost" = "warning"): void {
  stderr.print(`${NAME}: ${escape(text)}`);
  if (stdout.json) stdout.print(toJson({ event, text }));
}

/** One socket call, for `--trace`: its handout step, its result, the bytes that it moved. */
export type Rung = { step: string; call: string; peer?: string; bytes?: Uint8Array; note?: string };

/** The handout's step of each call on a socket, and whom to tell of it. */
type Trace = { steps: Record<string, string>; onTrace: (rung: Rung) => void };

/** `socket`, but with some calls of its own. */
function withCalls<T extends object>(socket: T, calls: Record<string | symbol, unknown>): T {
  return new Proxy(socket, {
    get(target, name): unknown {
      const value = Reflect.get(target, name, target);
      return typeof value === "function" ? calls[name] ?? value.bind(target) : value;
    },
  });
}

/** Prints a rung of the ladder: time since the start, side, step, call, arrow, bytes. */
function printRung(side: "client" | "server", { step, call, peer, bytes, note }: Rung): void {
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
  let code = 1;
  try {
    code = await Promise.race([main(Deno.args), stdout.closed.promise]);
  } catch (error) {
    if (error instanceof UsageError) code = 2;
    const text = error instanceof Error ? error.message : String(error);
    if (!(error instanceof Deno.errors.BrokenPipe)) warn(text, "error");
  }
  await stdout.flush();
  await stderr.flush();
  Deno.exit(code);
}

if (import.meta.main) await run(main);
