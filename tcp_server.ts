#!/usr/bin/env -S deno run --allow-net=127.0.0.1:12000
/**
 * TCP echo server: prints each sentence it receives and echoes every byte (RFC 862), for many
 * clients at once. A sentence is a line without its line end. A client that says `stop` has its
 * connection closed. It is the server of the lab's tasks 1 to 3; "Step 1" to "Step 6" are the
 * handout's steps of a TCP server.
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

// The defaults of the command line, of serve() and of the help text.
const HOSTNAME = "127.0.0.1"; // this machine only
const PORT = 12_000; // ports below 1024 are reserved
const STOP_WORDS = ["stop", "exit"]; // a sentence that is one of these closes its connection

const BUFFER_BYTES = 2_049; // per connection: 10,000 idle ones fit in 150 MiB; 2,048 do not fill it
const LARGE_BUFFER_BYTES = 65_536; // for a connection that fills the small one
const FULL_READS = 3; // in a row that fill a buffer; then a connection reads into a large one
const MAX_BULK = 64; // connections that keep a large buffer while they wait for data
const MAX_CONNECTIONS = 4_096; // at once; others wait to be accepted
const LINES_AT_ONCE = 256; // of a connection are printed before they are echoed
const BYTES_AT_ONCE = 16_384; // the same for long lines, which take longer to print
const LINES_TURN_MS = 5; // lines of one connection are printed before others are polled
const BULK_TURN_MS = 50; // the same for large reads: one of hundreds would wait for seconds
const ACCEPT_RETRY_MS = 100; // after an accept() that failed, as with too many open files
const SWEEP_MS = 50; // between two checks of which clients are silent
const SENTENCE_SWEEPS = 10; // 500 ms of silence end a sentence that was sent without a line end
const DRAINED_SWEEPS = 5; // 250 ms of silence in a shutdown: all that had arrived is read
const GRACE_MS = 5_000; // for a client to read its last echoes and to close
const REPORT_MS = 500; // a shutdown that takes longer reports what it waits for

/**
 * Starts a TCP echo server: the handout's steps 1 to 6 of a TCP server.
 *
 * @throws RangeError for an option out of its bounds
 * @throws Error that names the address if it cannot listen; its cause is that of `Deno.listen`
 * @throws Error that names `--unstable-net` if `reusePort` is set without it
 */
export function serve(options: ServeOptions = {}): EchoServer {
  const { hostname = HOSTNAME, port = PORT, reusePort = false, onTrace } = options;
  checkBounds(options, BOUNDS);
  const stopWords = toStopWords("stopWords", options.stopWords ?? STOP_WORDS);
  if (reusePort && !Deno.listenDatagram) throw new Error("--reuse-port needs --unstable-net");
  let listener: Deno.TcpListener;
  try {
    // Step 1: create a TCP socket. Step 2: attach it to an address and a port. Step 3: listen for
    // connection requests. In Deno these three are one call.
    listener = Deno.listen({ transport: "tcp", hostname, port, reusePort });
  } catch (cause) {
    throw cannot(`listen on ${formatAddress({ hostname, port })}`, bindFailure(port, cause));
  }
  try {
    const server = new Server(listener, stopWords, options);
    server.watch(onTrace?.({ step: "1-3", call: "listen()", note: formatAddress(listener.addr) }));
    return server.start();
  } catch (error) {
    listener.close(); // as a callback threw an error
    throw error;
  }
}

/** What `serve` starts: a listener and its connections. */
class Server {
  readonly #listener: Deno.TcpListener;
  readonly #stopWords: Uint8Array[];
  readonly #options: ServeOptions;
  readonly #onTrace: ((call: TraceCall) => unknown) | undefined;
  readonly #connections = new Set<Connection>();
  readonly #bulk = new Set<Connection>(); // those that keep a large buffer while they wait
  readonly #totals = { connections: 0, messages: 0, bytes: 0 };
  readonly #startedAt = performance.now(); // ms
  readonly #warned = new Set<string>(); // kinds of warnings that are given once
  #accepting = true;
  #onFreed = (): void => {}; // called when a connection ends
  #othersTurn: Promise<void> | undefined; // pending while other sockets are polled
  #turnEndedAt = 0; // ms of performance.now(): when that ended
  #silentSweeps = 0; // since a byte came from anybody
  #endsAt = Infinity; // ms of performance.now(): whatever is open then is closed
  #failure: { error: unknown } | undefined; // what a callback threw

  constructor(listener: Deno.TcpListener, stopWords: Uint8Array[], options: ServeOptions) {
    this.#listener = listener;
    this.#stopWords = stopWords;
    this.#options = options;
    const { onTrace } = options;
    this.#onTrace = onTrace && ((call) => this.#callBack(onTrace, call));
  }

  /** Step 4: accept each connection request; its new socket is for that client alone. */
  async #acceptClients(): Promise<void> {
    const { once, maxConnections = MAX_CONNECTIONS } = this.#options;
    while (this.#accepting) {
      if (this.#connections.size >= maxConnections) {
        const open = maxConnections === 1 ? "1 connection is" : `${maxConnections} connections are`;
        this.#warnOnce("full", `${open} open: others wait for an end`);
        await new Promise<void>((resolve) => this.#onFreed = resolve);
        continue;
      }
      try {
        const connection = new Connection(await this.#listener.accept());
        this.#connections.add(connection);
        this.#onTrace?.({ step: "4", call: "accept()", peer: connection.peer });
        connection.served = this.#serveClient(connection);
        if (once) this.#stopAccepting();
      } catch (error) {
        if (this.#accepting) await this.#surviveAccept(error);
      }
    }
  }

  /** Step 5: receive and send. Every byte goes back as it came, in order. */
  async #serveClient(connection: Connection): Promise<void> {
    const { conn, peer } = connection;
    const { echo = true, quiet } = this.#options;
    const small = new Uint8Array(BUFFER_BYTES);
    let buffer = small;
    try {
      setSocketOptions(conn);
      if (!quiet) connection.printing = this.#report({ event: "open", peer });
      while (true) {
        if (connection.printing) await connection.printed(); // its sender slows down
        connection.isAwaited = true;
        const size = await conn.read(buffer);
        connection.isAwaited = false;
        if (size === null) break;
        const received = buffer.subarray(0, size);
        this.#onTrace?.({ step: "5", call: `read() = ${size}`, peer, bytes: received });
        connection.bytes += size;
        connection.silentSweeps = this.#silentSweeps = 0;
        // After a half-close the server only reads on: to close a socket that has unread bytes
        // resets the connection, and the client may lose its last echoes.
        for (let at = 0, echoed = 0; at < size && !connection.reason;) {
          const { end, stops } = this.#takeLines(connection, received, at);
          const next = this.#isEnding ? size : end; // in a shutdown echoes go before lines
          if (echo && next > echoed) {
            await this.#writeAll(connection, received.subarray(echoed, next));
          }
          [at, echoed] = [end, Math.max(echoed, next)];
          if (stops) this.#halfClose(connection, "stop");
          else if (connection.printing) await connection.printed();
          else if (at < size) await this.#yieldToOthers(LINES_TURN_MS);
        }
        if (size > BUFFER_BYTES) await this.#yieldToOthers(BULK_TURN_MS);
        buffer = this.#needsLargeBuffer(connection, size, buffer)
          ? connection.largeBuffer ??= new Uint8Array(LARGE_BUFFER_BYTES)
          : small;
      }
      this.#onTrace?.({ step: "5", call: "read() = null", peer, note: "FIN (inferred)" });
    } catch (error) {
      this.#fail(connection, error);
    } finally {
      this.#closed(connection);
    }
  }

  /** Sends all of `bytes`: one write may take only a part of them (UNP 3.9). */
  async #writeAll(connection: Connection, bytes: Uint8Array): Promise<void> {
    const { conn, peer } = connection;
    connection.isAwaited = connection.isWriting = true;
    for (let rest = bytes; rest.length > 0;) {
      this.#onTrace?.({ step: "5", call: `write(${rest.length})`, peer, bytes: rest });
      const size = await conn.write(rest);
      connection.silentSweeps = this.#silentSweeps = 0;
      if (size === rest.length) break;
      rest = rest.subarray(size);
    }
    connection.isAwaited = connection.isWriting = false;
  }

  /**
   * Whether the next read is into a large buffer: after three reads in a row that filled theirs,
   * and after a large read. The latter holds for a few connections only, as a client that falls
   * silent keeps the buffer that is read into.
   */
  #needsLargeBuffer(connection: Connection, size: number, buffer: Uint8Array): boolean {
    const bulk = this.#bulk;
    if (size < LARGE_BUFFER_BYTES / 4) bulk.delete(connection);
    else if (bulk.size < MAX_BULK) bulk.add(connection);
    connection.fullReads = size === buffer.length ? connection.fullReads + 1 : 0;
    return connection.fullReads >= FULL_READS || bulk.has(connection);
  }

  /** Step 6, its first half: the client reads every echo, then the end of the stream (UNP 6.6). */
  #halfClose(connection: Connection, reason: CloseReason): void {
    const { conn, peer } = connection;
    connection.reason = reason;
    connection.closesAt = performance.now() + GRACE_MS;
    if (connection.isWriting) return this.#close(connection); // closeWrite would wait for the write
    this.#onTrace?.({ step: "6", call: "closeWrite()", peer, note: "FIN (inferred)" });
    conn.closeWrite().catch(() => {}); // the client may be gone
  }

  /** Step 6: close the socket of a client. A call that waits on it fails with it. */
  #close(connection: Connection): void {
    if (connection.isClosed) return;
    connection.isClosed = true;
    connection.resume();
    this.#onTrace?.({ step: "6", call: "close()", peer: connection.peer });
    connection.conn.close();
  }

  /** Step 6: close the listener, as no further communication with clients is intended. */
  #stopAccepting(): void {
    if (!this.#accepting) return;
    this.#accepting = false;
    this.#onTrace?.({ step: "6", call: "close()", note: formatAddress(this.#listener.addr) });
    this.#listener.close();
    this.#onFreed();
  }

  /** Reports that it listens, and starts to accept. */
  start(): EchoServer {
    const { addr } = this.#listener;
    const { hostname, port } = addr;
    const { signal, onEvent } = this.#options;
    this.watch(onEvent?.({ event: "listening", transport: "tcp", hostname, port }));
    const finished = this.#run();
    const shutdown = (): Promise<void> => {
      this.#shutdown();
      return finished;
    };
    const abort = (): void => this.#shutdown();
    signal?.addEventListener("abort", abort);
    finished.finally(() => signal?.removeEventListener("abort", abort)).catch(() => {});
    if (signal?.aborted) abort();
    return { addr, finished, shutdown, [Symbol.asyncDispose]: shutdown };
  }

  /** Runs to the end of the last connection, whose socket is closed by then. */
  async #run(): Promise<void> {
    let sweeping: Promise<void> | undefined;
    const sweeper = setInterval(() => sweeping = this.#sweep(), SWEEP_MS);
    await this.#acceptClients();
    await Promise.all([...this.#connections].map(({ served }) => served));
    clearInterval(sweeper);
    await sweeping;
    const seconds = secondsSince(this.#startedAt);
    await this.#report({ event: "shutdown", ...this.#totals, seconds });
    if (this.#failure) throw this.#failure.error;
  }

  // ---- Lines ----

  /** Prints the next lines, not too many at once. Returns where they end, and whether in a stop word. */
  #takeLines(connection: Connection, received: Uint8Array, from: number): Taken {
    let end = from;
    for (let lines = 0, bytes = 0; lines < LINES_AT_ONCE && bytes < BYTES_AT_ONCE; lines++) {
      const line = connection.lines.next(received, end);
      if (!line) return { end: received.length, stops: false };
      end = line.end;
      bytes += line.start.length;
      if (this.#takeSentence(connection, line)) return { end, stops: true };
      if (connection.printing) break;
    }
    return { end, stops: false };
  }

  /** Counts and prints a sentence. Returns whether it is a stop word. */
  #takeSentence(connection: Connection, { start, bytes }: Sentence): boolean {
    connection.messages++;
    if (!this.#options.quiet) {
      const { peer } = connection;
      const event = { event: "message", peer, bytes, ...preview(start, bytes) } as const;
      const printing = this.#report(event);
      if (!this.#isEnding) connection.printing = printing; // at the end nobody waits for it
    }
    return isStopWord(start, this.#stopWords);
  }

  /** Lets other sockets be polled, at most every `afterMs`. A timer does that; setImmediate does not. */
  #yieldToOthers(afterMs: number): Promise<void> | undefined {
    if (this.#othersTurn || performance.now() - this.#turnEndedAt < afterMs) {
      return this.#othersTurn;
    }
    return this.#othersTurn = sleep(0).then(() => {
      this.#turnEndedAt = performance.now();
      this.#othersTurn = undefined;
    });
  }

  // ---- The end of a connection ----

  /** An error of a connection, such as a reset, ends only that connection. */
  #fail(connection: Connection, error: unknown): void {
    connection.reason ??= "reset";
    if (connection.isClosed || isSystemError(error)) return;
    this.#report({ event: "warning", text: `${connection.peer}: ${reasonOf(error)}` });
  }

  #closed(connection: Connection): void {
    const { lines, peer, bytes, startedAt } = connection;
    this.#close(connection);
    this.#connections.delete(connection);
    this.#bulk.delete(connection);
    this.#onFreed();
    if (lines.isUnended) this.#takeSentence(connection, lines.takeUnended());
    const { reason = "eof", messages } = connection;
    this.#totals.connections++;
    this.#totals.messages += messages;
    this.#totals.bytes += bytes;
    if (this.#options.quiet) return;
    const seconds = secondsSince(startedAt);
    this.#report({ event: "close", peer, reason, messages, bytes, seconds });
  }

  /** No accept that fails ends the server (UNP 5.11). */
  async #surviveAccept(error: unknown): Promise<void> {
    if (isGone(error)) return;
    const open = plural(this.#connections.size, "connection");
    const isFull = (error as { code?: string }).code === "EMFILE";
    const hint = isFull ? ` (${open} open; "ulimit -n" shows how many files may be)` : "";
    this.#warnOnce("accept", `cannot accept: ${reasonOf(error)}${hint}`);
    await sleep(ACCEPT_RETRY_MS);
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
    this.#stopAccepting();
    for (const connection of this.#connections) this.#close(connection);
  }

  // ---- Deadlines ----

  get #isEnding(): boolean {
    return this.#endsAt < Infinity;
  }

  /** Ends the server: what was received is echoed, and every connection ends in time. */
  #shutdown(): void {
    this.#stopAccepting();
    if (this.#isEnding) return;
    this.#endsAt = performance.now() + GRACE_MS;
    this.#silentSweeps = 0; // what was sent before is still on its way
    for (const connection of this.#connections) connection.resume();
  }

  /**
   * Ends sentences and connections that are silent for too long, and closes what had its time to
   * close. Silence is counted in sweeps, as a suspended process makes none. Each sweep first lets
   * the sockets read what has arrived.
   */
  async #sweep(): Promise<void> {
    const now = performance.now();
    for (let timers = 0; timers < 3; timers++) await sleep(1); // sockets are read between timers
    const { idleSeconds } = this.#options;
    const idleSweeps = (idleSeconds || Infinity) * 1000 / SWEEP_MS;
    const allSilent = this.#silentSweeps++ >= DRAINED_SWEEPS; // else one may wait for its turn
    const isOver = now >= this.#endsAt;
    if (now >= this.#endsAt - GRACE_MS + REPORT_MS && !isOver) this.#reportWaiting();
    for (const connection of this.#connections) {
      const silent = connection.isAwaited ? connection.silentSweeps++ : 0;
      if (silent >= SENTENCE_SWEEPS && !connection.isWriting) this.#endSilentSentence(connection);
      if (isOver || now >= connection.closesAt) {
        connection.reason ??= "shutdown";
        this.#close(connection);
      } else if (connection.reason) continue;
      else if (silent >= idleSweeps) this.#halfClose(connection, "idle");
      else if (this.#isEnding && allSilent && silent >= DRAINED_SWEEPS && !connection.isWriting) {
        this.#halfClose(connection, "shutdown");
      }
    }
  }

  /** Silence ends a sentence without a line end; the large buffer is not needed until more comes. */
  #endSilentSentence(connection: Connection): void {
    const { lines } = connection;
    connection.largeBuffer = undefined;
    if (!lines.isUnended || connection.reason) return;
    if (this.#takeSentence(connection, lines.takeUnended())) this.#halfClose(connection, "stop");
  }

  #reportWaiting(): void {
    if (this.#connections.size === 0) return;
    const open = plural(this.#connections.size, "connection");
    const seconds = (GRACE_MS - REPORT_MS) / 1000;
    this.#warnOnce("ending", `waiting for ${open} to end, ${seconds} s at most`);
  }
}

/** Where the lines that were taken end, and whether in a stop word. */
type Taken = { end: number; stops: boolean };

/** One connection: its socket, and what is known of it. */
class Connection {
  readonly conn: Deno.TcpConn;
  readonly peer: string;
  readonly startedAt = performance.now(); // ms
  readonly lines = new LineAssembler();
  messages = 0;
  bytes = 0; // received
  fullReads = 0; // in a row: they filled their buffers
  isAwaited = false; // its client is waited for: to send, or to take what it is owed
  isWriting = false;
  isClosed = false;
  silentSweeps = 0; // since a byte moved, while the server waited for the client
  printing: Promise<unknown> | undefined; // while its lines wait for room in the output
  reason: CloseReason | undefined; // why the server half-closed, once it has
  closesAt = Infinity; // ms: the client had its time to close
  served: Promise<void> | undefined; // resolves when it is closed
  largeBuffer: Uint8Array<ArrayBuffer> | undefined; // until it falls silent
  #onResume = (): void => {};

  constructor(conn: Deno.TcpConn) {
    this.conn = conn;
    this.peer = formatAddress(conn.remoteAddr);
  }

  /** Waits until its lines have room, or until `resume` is called. */
  async printed(): Promise<void> {
    const { promise, resolve } = Promise.withResolvers<void>();
    this.#onResume = resolve;
    this.printing?.then(() => resolve());
    await promise;
    this.printing = undefined;
  }

  /** Ends that wait, as the server ends. */
  resume(): void {
    this.printing = undefined;
    this.#onResume();
  }
}

/** Whether the client of an accept that failed was gone already: only that client is affected. */
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

/** What happens at the server, as `--json` prints it. `bytes` and `text` are without the line end. */
export type ServerEvent =
  | { event: "listening"; transport: "tcp"; hostname: string; port: number }
  | { event: "open"; peer: string }
  | { event: "message"; peer: string; bytes: number; text: string; more?: number }
  | { event: "close"; peer: string; reason: CloseReason } & Totals
  | { event: "shutdown"; connections: number } & Totals
  | { event: "warning"; text: string };
/** Why a connection ended. */
export type CloseReason = "stop" | "eof" | "idle" | "reset" | "shutdown";

/** Options of {@linkcode serve}; their defaults are those of the command line. */
export type ServeOptions = {
  /** The address or name to listen on; default `127.0.0.1`. */
  hostname?: string;
  /** The port to listen on, 0 to 65535; 0: any free one; default 12000. */
  port?: number;
  /** Sentences that close their connection, each of 1 to 100 bytes; default `stop` and `exit`. */
  stopWords?: string[];
  /** Whether what is received is sent back; default true. */
  echo?: boolean;
  /** Whether to end after the first connection; default false. */
  once?: boolean;
  /** Seconds, 0 to 86400, of a client's silence that close its connection; 0, the default: never. */
  idleSeconds?: number;
  /** Connections at once, 1 to 1000000; others wait to be accepted; default 4096. */
  maxConnections?: number;
  /** Whether other processes may listen on the same port (Linux); default false. */
  reusePort?: boolean;
  /** Whether connections and sentences are not reported; default false. */
  quiet?: boolean;
  /** Shuts the server down when it aborts. */
  signal?: AbortSignal | undefined;
  /**
   * Called at each event. A promise is waited for before the server reads on from that connection.
   * What it throws ends the server.
   */
  onEvent?: ((event: ServerEvent) => unknown) | undefined;
  /** Called at each socket call. What it throws ends the server. */
  onTrace?: ((call: TraceCall) => void) | undefined;
};

/** A running server, shaped like `Deno.HttpServer`. */
export type EchoServer = AsyncDisposable & {
  /** Where it listens. */
  addr: Deno.NetAddr;
  /** Resolves when the last connection is closed; rejects with what a callback threw. */
  finished: Promise<void>;
  /** Accepts no more clients; what was received is echoed, and all connections end within 5 s. */
  shutdown(): Promise<void>;
};

const BOUNDS = {
  port: { min: 0, max: 65_535 },
  idleSeconds: { min: 0, max: 86_400, whole: false },
  maxConnections: { min: 1, max: 1_000_000 },
};
const NAME = "tcp_server";
const HELP = `TCP echo server: prints each sentence and echoes every byte.

Usage: deno run --allow-net=HOST:PORT tcp_server.ts [options]

  -H, --host HOST          address to listen on (default ${HOSTNAME})
  -p, --port PORT          0 to 65535, not 1 to 1023; 0: any (default ${PORT})
      --stop WORD…         a sentence to close a connection (default ${STOP_WORDS.join(", ")})
      --no-stop            no sentence is a command: plain RFC 862
      --no-echo            print only (task 1)
      --once               end after the first connection
      --idle SECONDS       0 to 86400 of silence close it; 0: never (default 0)
      --max-connections N  1 to 1000000 at once; others wait (default ${MAX_CONNECTIONS})
      --reuse-port         share the port with other processes (Linux only)
  -q, --quiet              print no connections and sentences
      --json               print one JSON object a line
      --trace              draw each socket call on stderr
  -h, --help               print this
  -V, --version            print the version

Every line is printed while anybody reads them: a slow reader slows the clients
down, and lines are dropped and counted only when nobody took one for 1 s.
A client that is to close, at a stop word or --idle, has 5 s for it. Silent
clients keep their place at --max-connections: --idle frees it.`;

/** The command line: options to `serve`, events to lines, signals to a shutdown. */
export async function main(args: string[]): Promise<number> {
  checkArgs(args);
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
  if (flags.help || flags.version) return printText(flags.help ? HELP : `${NAME} ${VERSION}`);
  for (const word of flags._) refuse(word, args);
  if (flags["reuse-port"] && Deno.build.os !== "linux") {
    throw new UsageError("--reuse-port is for Linux only");
  }
  const stopWords = flags["no-stop"] ? [] : flags.stop;
  toStopWords("--stop", stopWords);
  const most = flags["max-connections"];
  const options = {
    hostname: toHost(flags.host),
    port: toListenPort(flags.port),
    stopWords,
    echo: !flags["no-echo"],
    once: flags.once,
    idleSeconds: toNumber("--idle", flags.idle, BOUNDS.idleSeconds),
    maxConnections: toNumber("--max-connections", most, BOUNDS.maxConnections),
    reusePort: flags["reuse-port"],
    quiet: flags.quiet,
  };
  requireNet(formatAddress(options));
  const stopping = new AbortController();
  const { signal } = stopping;
  onSignals(() => stopping.abort()); // before the ready line: a signal may come right behind it
  const server = serve({
    ...options,
    signal,
    onEvent: (event) => printEvent(event, { waits: !signal.aborted }),
    onTrace: flags.trace ? (call) => printTraceCall("server", call) : undefined,
  });
  // From here on it can accept and echo, but not connect, like a program after pledge(2).
  Deno.permissions.revokeSync({ name: "net" });
  await server.finished;
  return 0;
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
