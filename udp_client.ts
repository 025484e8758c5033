#!/usr/bin/env -S deno run --unstable-net --allow-net=127.0.0.1:0,127.0.0.1:12000
/**
 * UDP echo client: sends each sentence in one datagram, sends it again if its echo does not come in
 * time (RFC 6298), and prints the echo. Sentences come from the arguments, the keyboard or a pipe.
 * It is the client of the lab's task 4; "Step 1a" to "Step 1c.ii" are the handout's steps of a
 * client, of which UDP has no connect.
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

// The defaults of the command line, of open(), request() and converse(), and of the help text.
const HOSTNAME = "127.0.0.1"; // this machine
const PORT = 12_000;
const STOP_WORDS = ["stop", "exit"]; // sentences that end a conversation
const TIMEOUT_SECONDS = 1; // for the first echo; later waits are computed from the round trips
const RETRIES = 3; // after a first try that is not answered

const MAX_IPV4_BYTES = 65_507; // of a datagram: 65,535 less the IP and UDP headers
const MAX_IPV6_BYTES = 65_527; // 65,535 less the UDP header
const MAX_SENDS = 64; // at once that wait for the network; a datagram beyond them counts as lost
const RECEIVE_RETRY_MS = 10; // after a receive that failed
const MIN_RTO_MS = 200; // retransmission time-out at least, as in Linux TCP; 1 s in RFC 6298 (2.4)
const MAX_RTO_MS = 60_000; // retransmission time-out at most (RFC 6298, 2.5)

/**
 * Looks up the server, and creates a socket to talk to it.
 *
 * @throws RangeError for an option out of its bounds
 * @throws Error if the server is not found, no socket can be created, or a permission is missing
 * @throws Error that names `--unstable-net` if Deno runs without it
 */
export async function open(options: OpenOptions = {}): Promise<EchoSocket> {
  checkBounds(options, BOUNDS);
  // Step 1a: get IP address and port number of the server. A name may have several addresses.
  const { hostname = HOSTNAME, port = PORT, timeoutSeconds = TIMEOUT_SECONDS } = options;
  const found = await within(timeoutSeconds * 1000, resolve(hostname));
  if (!found) {
    const reason = new Error(`no answer within ${timeoutSeconds} s`);
    throw cannot(`find the address of ${quote(hostname)}`, reason);
  }
  const servers = found.map((hostname) => ({ hostname, port }));
  const needed = servers.flatMap((server) => [localAddress(server), server]).map(formatAddress);
  requireNet(...new Set(needed));
  if (!Deno.listenDatagram) throw new Error(NEEDS_UNSTABLE);
  return new EchoSocket(servers, options);
}

/** Creates a socket from which the server can be reached. @throws Error that names the address */
function createSocket(server: Address): Deno.DatagramConn {
  const local = localAddress(server);
  try {
    // Step 1b: create a UDP socket. Step 1c, the connection request, is TCP's: UDP just sends.
    return Deno.listenDatagram({ transport: "udp", ...local });
  } catch (cause) {
    const what = `open a socket at ${formatAddress(local)}`;
    if (!(cause instanceof Deno.errors.AddrInUse)) throw cannot(what, cause);
    throw new Error(`cannot ${what}: no local port is free`, { cause });
  }
}

/** The local address for a server: any free port, of loopback if the server is there, or of all. */
function localAddress({ hostname }: Address): Address {
  if (hostname.includes(":")) return { hostname: hostname === "::1" ? "::1" : "::", port: 0 };
  return { hostname: hostname.startsWith("127.") ? "127.0.0.1" : "0.0.0.0", port: 0 };
}

/** A UDP socket for one server. What others send to it is counted and ignored. */
export class EchoSocket {
  /** Datagrams of other senders, and those of the server that no request waits for. */
  readonly ignored = { strangers: 0, unmatched: 0 };
  /** How long an echo may take. */
  readonly timer: RetransmissionTimer;
  /** Who answered the last request in place of the server, as to 0.0.0.0; "" if nobody did. */
  stranger = "";
  readonly #closing = new AbortController();
  /** Aborts when the socket is closed, with the reason. */
  readonly closed: AbortSignal = this.#closing.signal;
  readonly #onTrace: ((call: TraceCall) => void) | undefined;
  readonly #others: Address[]; // of the server's name, for when this one never answers
  #address!: Address;
  #socket!: Deno.DatagramConn;
  #isAnswered = false; // whether anything ever came from this address
  #listener: DatagramListener | undefined;
  #sends = 0; // that have not finished

  /** See {@linkcode open}, which makes one. */
  constructor(addresses: Address[], { timeoutSeconds, onTrace }: OpenOptions) {
    this.timer = new RetransmissionTimer((timeoutSeconds ?? TIMEOUT_SECONDS) * 1000);
    this.#others = [...addresses];
    this.#onTrace = onTrace && ((call) => this.#callBack(() => onTrace(call)));
    this.#changeAddress();
  }

  /** The address of the server, in the form that `receive` has: without a zone. */
  get server(): string {
    const { hostname, port } = this.#address;
    return formatAddress({ hostname: withoutZone(hostname), port });
  }

  /** The socket's own address. */
  get addr(): Deno.NetAddr {
    return this.#socket.addr as Deno.NetAddr;
  }

  /** The largest number of bytes in a datagram to the server. */
  get mostBytes(): number {
    return this.#address.hostname.includes(":") ? MAX_IPV6_BYTES : MAX_IPV4_BYTES;
  }

  /** Changes to the server's next address if this one never answered; returns whether it did. */
  tryNextAddress(): boolean {
    if (this.#isAnswered || this.#others.length === 0) return false;
    this.#changeAddress();
    return true;
  }

  /** Changes to the next address that a socket can be created for. @throws Error if none is left */
  #changeAddress(): void {
    const address = this.#others.shift()!;
    let socket: Deno.DatagramConn;
    try {
      socket = createSocket(address);
    } catch (error) {
      if (this.#others.length === 0) throw error;
      return this.#changeAddress();
    }
    const before = this.#socket;
    this.#socket = socket;
    this.#address = address;
    if (before) this.#closeSocket(before);
    this.#onTrace?.({ step: "1b", call: "listenDatagram()", note: formatAddress(this.addr) });
    this.#receiveDatagrams(socket);
  }

  /**
   * Step 1c.i: receives, in one loop. A receive() that was left behind at a time-out would take the
   * next datagram, which would be lost.
   */
  async #receiveDatagrams(socket: Deno.DatagramConn): Promise<void> {
    const buffer = new Uint8Array(BUFFER_BYTES);
    while (socket === this.#socket && !this.closed.aborted) {
      try {
        const [bytes, from] = await socket.receive(buffer);
        this.#take(bytes, formatAddress(from as Deno.NetAddr));
      } catch {
        // The socket was closed; or Windows reports that the server's port is closed, and the
        // request times out.
        if (socket === this.#socket && !this.closed.aborted) await sleep(RECEIVE_RETRY_MS);
      }
    }
  }

  /** Hands a datagram to whoever waits for it. */
  #take(bytes: Uint8Array, peer: string): void {
    this.#onTrace?.({ step: "i", call: `receive() = ${bytes.length}`, peer, bytes });
    if (peer !== this.server) {
      this.ignored.strangers++;
      this.stranger ||= peer;
      return;
    }
    this.#isAnswered = true;
    if (!this.#callBack(() => this.#listener?.take(bytes))) this.ignored.unmatched++;
  }

  /** Step 1c.i: sends one datagram. @throws Error that names the address, and keeps its cause */
  async send(bytes: Uint8Array): Promise<void> {
    const what = `send to ${formatAddress(this.#address)}`;
    if (this.#sends === MAX_SENDS) throw cannot(what, new Error("the network takes nothing"));
    this.#onTrace?.({ step: "i", call: `send(${bytes.length})`, peer: this.server, bytes });
    this.#sends++;
    try {
      await this.#socket.send(bytes, { transport: "udp", ...this.#address });
    } catch (cause) {
      const isMacOs = isTooLong(cause) && Deno.build.os === "darwin";
      const hint = isMacOs ? "; sudo sysctl net.inet.udp.maxdgram=65507 allows it" : "";
      throw cannot(what, cause, hint);
    } finally {
      this.#sends--;
    }
  }

  /** Gives the server's datagrams to `listener`; returns what ends that. @throws Error if it cannot */
  listen(listener: DatagramListener): () => void {
    this.closed.throwIfAborted();
    if (this.#listener) throw new Error(`one request at a time: ${this.server} is being asked`);
    this.#listener = listener;
    this.stranger = "";
    return () => this.#listener = undefined;
  }

  /** Calls the caller. What that throws closes the socket, and is the reason why it is closed. */
  #callBack<Result>(callback: () => Result): Result {
    try {
      return callback();
    } catch (error) {
      this.close(error);
      throw error;
    }
  }

  /** Step 1c.ii: closes the socket, as no more communication is intended, and ends what waits. */
  close(reason: unknown = new Error(`the socket to ${this.server} was closed`)): void {
    if (this.closed.aborted) return;
    this.#closing.abort(reason);
    this.#listener?.fail(reason);
    this.#closeSocket(this.#socket);
  }

  #closeSocket(socket: Deno.DatagramConn): void {
    const note = formatAddress(socket.addr as Deno.NetAddr);
    socket.close();
    this.#onTrace?.({ step: "ii", call: "close()", note });
  }
}

/**
 * Step 1c.i: sends one datagram, and again, up to `retries` times, until its echo comes (UNP 22.5).
 * If the server never answers, its next address is tried.
 *
 * @throws RangeError for an option out of its bounds
 * @throws NoAnswerError when no try was answered with the same bytes
 * @throws Error when a request is under way, when the socket is closed, or for too long a datagram
 */
export async function request(
  socket: EchoSocket,
  payload: Uint8Array,
  options: RequestOptions = {},
): Promise<{ tries: number; ms: number }> {
  checkBounds(options, BOUNDS);
  const echoed = Promise.withResolvers<true>();
  echoed.promise.catch(() => {}); // it may fail while nobody waits for it
  let isEchoed = false;
  const release = socket.listen({
    take(bytes): boolean {
      if (isEchoed || !sameBytes(bytes, payload)) return false;
      isEchoed = true; // one more of the same is not waited for
      echoed.resolve(true);
      return true;
    },
    fail: echoed.reject,
  });
  try {
    return await sendUntilEchoed(socket, payload, { ...options, echoed });
  } catch (error) {
    if (!(error instanceof NoAnswerError) || !socket.tryNextAddress()) throw error;
    options.onRetry?.(`${error.message}; trying ${socket.server}`);
  } finally {
    release();
  }
  return await request(socket, payload, options); // at the next address
}

/** Sends a datagram up to 1 + `retries` times. One that the system refuses counts as a lost one. */
async function sendUntilEchoed(
  socket: EchoSocket,
  payload: Uint8Array,
  options: RequestOptions & { echoed: PromiseWithResolvers<true> },
): Promise<{ tries: number; ms: number }> {
  const { retries = RETRIES, echo = true, onRetry, echoed } = options;
  const { timer, ignored: { unmatched } } = socket;
  const tally: Tally = { startedAt: performance.now(), unmatched, tries: 0, sent: 0, refused: 0 };
  let sentAt = NaN; // ms
  let isSending = false;
  async function send(): Promise<void> {
    isSending = true;
    sentAt = performance.now();
    try {
      await socket.send(payload);
      tally.sent++;
      if (!echo) echoed.resolve(true);
    } catch (error) {
      tally.refused++;
      tally.failure = error as Error;
      if (isTooLong(tally.failure.cause)) echoed.reject(error);
    }
    isSending = false;
  }
  timer.restart();
  while (tally.tries <= retries) {
    tally.tries++;
    if (!isSending) send(); // else the network has not taken the try before
    if (await within(timer.rto, echoed.promise)) {
      const now = performance.now();
      // Nobody knows which of several tries was answered: they are no sample (Karn's rule).
      if (tally.sent > 1) timer.stretch(now - tally.startedAt);
      else if (echo) timer.sample(now - sentAt);
      return { tries: tally.tries, ms: now - sentAt };
    }
    timer.backOff();
    const what = socket.ignored.unmatched > unmatched ? "echo" : "answer";
    const text = tally.failure?.message ?? `no ${what} from ${socket.server} yet`;
    if (tally.tries <= retries) onRetry?.(`${text}; trying again`);
  }
  throw noAnswer(socket, tally);
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

  /** For a new datagram: the longer waits of the one before were for that one alone. */
  restart(): void {
    this.rto = this.#first;
  }

  /** Learns from the round trip of a datagram that was sent once. */
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
   * After a datagram that was sent again there is no sample, but the next may wait longer: twice as
   * long, but no longer than the whole exchange took.
   */
  stretch(exchangeMs: number): void {
    this.#first = Math.min(this.#first * 2, exchangeMs + this.#least, this.#most);
  }

  /** Nothing came in time: waits twice as long (RFC 6298, 5.5). */
  backOff(): void {
    this.rto = Math.min(this.rto * 2, this.#most);
  }
}

/** No echo came, however often the datagram was sent. Its cause is why a send failed, if one did. */
export class NoAnswerError extends Error {
  /** Whether the system refused every try. */
  isRefused = false;
  /** Answers with other bytes. */
  others = 0;
}

/** What became of the tries of a datagram. */
type Tally = {
  startedAt: number; // ms
  unmatched: number; // answers before it that matched nothing
  tries: number;
  sent: number; // of the tries
  refused: number; // of the tries, by the system
  failure?: Error; // of the last send that was refused
};

/** What is known of a datagram whose echo did not come, though other answers may have. */
function noAnswer(socket: EchoSocket, tally: Tally): NoAnswerError {
  const { startedAt, unmatched, tries, sent, refused, failure } = tally;
  const { server, stranger, ignored } = socket;
  const seconds = Number(((performance.now() - startedAt) / 1000).toPrecision(2));
  const count = `from ${server} after ${tries} ${tries === 1 ? "try" : "tries"} in ${seconds} s`;
  const others = ignored.unmatched - unmatched;
  const reason = failure ? reasonOf(failure.cause ?? failure) : "the network took nothing";
  const unsent = sent < tries ? `; ${tries - sent} not sent: ${reason}` : "";
  const who = stranger && `, but ${stranger} answered`;
  const isRefused = refused === tries;
  const text = isRefused
    ? failure!.message
    : others > 0
    ? `no echo ${count}: ${plural(others, "answer")} had other bytes`
    : `no answer ${count}${who}${unsent}`;
  return Object.assign(new NoAnswerError(text, { cause: failure }), { isRefused, others });
}

/** Whether a send failed for good, as what it was given is longer than a datagram. */
function isTooLong(cause: unknown): boolean {
  return (cause as { code?: string } | undefined)?.code === "EMSGSIZE";
}

/**
 * Sends the lines of `input` without their ends, each once the one before it was echoed or lost, and
 * writes the lines that were echoed to `output`. A stop word ends it.
 *
 * @throws RangeError for an option out of its bounds
 * @throws NoAnswerError if no sentence was answered, or if every try of the first was refused
 * @throws Error for a sentence that no datagram holds, or for input behind a stop word
 */
export async function converse(
  socket: EchoSocket,
  input: ReadableStream<Uint8Array>,
  output: WritableStream<Uint8Array>,
  options: ConverseOptions = {},
): Promise<ConversationTotals> {
  checkBounds(options, BOUNDS);
  const { echo = true, onReady, onLost } = options;
  const stopWords = toStopWords("stopWords", options.stopWords ?? STOP_WORDS);
  const { totals = { sent: 0, echoed: 0, lost: 0 } } = options;
  let firstLoss: NoAnswerError | undefined; // while nobody ever answered
  const reader = ReadableStream.from(linesOf(input, socket.mostBytes)).getReader();
  const writer = output.getWriter();
  const stopReading = (): void => void reader.cancel().catch(() => {});
  socket.closed.addEventListener("abort", stopReading);
  try {
    onReady?.();
    for (let line; (line = (await reader.read()).value);) {
      const sentence = withoutLineEnd(line);
      totals.sent++;
      const loss = await lossOf(request(socket, sentence, options));
      if (loss) {
        totals.lost++;
        const isFirst = totals.sent === 1; // whose loss may mean that nobody is there
        onLost?.(isFirst ? loss.message : `sentence ${totals.sent} is lost: ${loss.message}`);
        if (isFirst) firstLoss = loss;
        if (isFirst && loss.isRefused) throw loss;
      } else if (firstLoss) {
        const which = totals.lost === 1 ? "sentence 1 is" : `sentences 1 to ${totals.lost} are`;
        onLost?.(`${which} lost: ${firstLoss.message}`);
        firstLoss = undefined;
      }
      if (echo && !loss) {
        totals.echoed++;
        await writer.write(line);
      }
      if (isStopWord(sentence, stopWords)) {
        const next = await within(UNSENT_MS, reader.read()); // it may be on its way
        if (next?.value) throw new Error(UNSENT);
        break;
      }
      onReady?.();
    }
    socket.closed.throwIfAborted();
  } finally {
    socket.closed.removeEventListener("abort", stopReading);
    stopReading();
    writer.releaseLock();
  }
  if (firstLoss) throw firstLoss;
  return totals;
}

/** Why a sentence is lost; undefined if it is answered. */
async function lossOf(request: Promise<unknown>): Promise<NoAnswerError | undefined> {
  try {
    await request;
  } catch (error) {
    if (error instanceof NoAnswerError) return error;
    throw error;
  }
}

/** The lines of `input` with their ends. @throws Error for one that fits in no datagram */
async function* linesOf(
  input: ReadableStream<Uint8Array>,
  mostBytes: number,
): AsyncGenerator<Uint8Array> {
  // Not at the top: it would take a tenth of the time in which the script starts.
  const { DelimiterStream } = await import("jsr:@std/streams@^1.1.2/delimiter-stream");
  let length = 0; // of a line that goes on, which DelimiterStream would gather without end
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

const FLOOD_MS = 10; // with interval 0 a probe follows the echo of the last, or this (ping -f)
const SILENT_SECONDS = 10; // for a first echo, if no time-out was given, as in ping
const LINGER_MS = 10; // after the last echo, and twice the longest round trip, for duplicates
const MAX_LINGER_MS = 1_000; // for them at most

/**
 * Probes the server like ping: numbered datagrams, each sent when it is due, none sent again.
 *
 * @throws RangeError for an option out of its bounds
 * @throws Error when a request is under way, or when the socket is closed
 */
export async function probe(socket: EchoSocket, options: ProbeOptions = {}): Promise<ProbeBook> {
  const book = new ProbeBook(options);
  const { count = 4, intervalSeconds = 1, signal, onEcho, onProgress } = options;
  const waiter = new Waiter(socket.closed);
  const wake = (): void => waiter.wake();
  let printing: Promise<unknown> | undefined; // while the lines of echoes wait for room
  const release = socket.listen({
    take(bytes): boolean {
      const echo = book.take(bytes);
      const reported = echo && onEcho?.(echo);
      if (reported instanceof Promise) printing = reported.catch((error) => socket.close(error));
      onProgress?.(book);
      wake();
      return true;
    },
    fail: wake,
  });
  signal?.addEventListener("abort", wake);
  try {
    let due = performance.now();
    for (let seq = 1; seq <= count && !signal?.aborted; seq++) {
      book.send(seq, socket);
      onProgress?.(book);
      if (seq === count) break;
      const isFlood = intervalSeconds === 0;
      const now = performance.now(); // nothing is due before now: late probes go out in no burst
      due = isFlood ? now + FLOOD_MS : Math.max(due + intervalSeconds * 1000, now);
      await waiter.until(() => signal?.aborted || isFlood && book.isBack(seq) ? 0 : due);
      await printing;
    }
    await waitForLast(book, waiter);
    await printing;
    socket.closed.throwIfAborted();
  } finally {
    signal?.removeEventListener("abort", wake);
    release();
  }
  return book;
}

/** Waits until all probes are back or their time is over, then a moment for copies of the last. */
async function waitForLast(book: ProbeBook, waiter: Waiter): Promise<void> {
  do {
    await waiter.until(() => book.waitsUntil);
    await letSocketsRead();
  } while (performance.now() < book.waitsUntil);
  const lingersUntil = performance.now() + Math.min(2 * book.longest + LINGER_MS, MAX_LINGER_MS);
  await waiter.until(() => lingersUntil);
  await letSocketsRead();
}

/** Waits for a time that may change when something happens. */
class Waiter {
  /** Called when something happened. */
  wake = (): void => {};
  readonly #closed: AbortSignal;

  constructor(closed: AbortSignal) {
    this.#closed = closed;
  }

  /** Waits until `time`, of performance.now(). @throws the reason if the socket is closed */
  async until(time: () => number): Promise<void> {
    while (!this.#closed.aborted && performance.now() < time()) {
      const { promise, resolve } = Promise.withResolvers<void>();
      this.wake = resolve;
      const timer = setTimeout(resolve, Math.max(time() - performance.now(), 0));
      await promise;
      clearTimeout(timer);
    }
    this.#closed.throwIfAborted();
  }
}

/** The book that a probe keeps: what was sent when, and what came back. */
export class ProbeBook {
  /** Round trips in ms, in order of arrival. */
  readonly times: number[] = [];
  /** When the first probe was sent, in ms of performance.now(). */
  firstSentAt = 0;
  /** When the last probe was sent, in ms of performance.now(). */
  lastSentAt = 0;
  /** The longest round trip, in ms. */
  longest = 0;
  /** Why a probe could not be sent, if one could not. */
  failure: unknown;
  readonly #options: ProbeOptions;
  readonly #runId = hex(Math.floor(Math.random() * 2 ** 28), 7);
  readonly #sentAt = new Map<number, number>(); // ms, of each probe that did not come back whole
  readonly #damaged = new Set<number>(); // of these, that came back damaged
  readonly #extras = { duplicated: 0, reordered: 0, corrupt: 0 };
  #queued = 0; // to be sent, where the network takes nothing at the moment
  #lastSend = Promise.resolve(); // resolves when these are sent
  #sent = 0;
  #unknown = 0; // came back with a damaged number
  #latest = 0; // the highest number that came back whole

  /** An empty book. @throws RangeError for an option out of its bounds */
  constructor(options: ProbeOptions = {}) {
    checkBounds(options, { ...BOUNDS, ...PROBE_BOUNDS });
    this.#options = options;
  }

  /** A probe's payload, unlike any other, and one line for a server that prints it. */
  #payload(seq: number): Uint8Array {
    const { size = 64 } = this.#options;
    return encoder.encode(`${(this.#runId + toChecked(seq)).padEnd(size - 1, ".")}\n`);
  }

  /** The number in what came back; 0 where it does not fit its check, or was not sent. */
  #numberIn(bytes: Uint8Array): number {
    const text = decoder.decode(bytes.subarray(7, 15));
    const seq = parseInt(text, 16);
    return seq >= 1 && seq <= this.#sent && text === toChecked(seq) ? seq : 0;
  }

  /** Sends a probe. One that cannot be sent is lost, as on its way. */
  send(seq: number, socket: { send(payload: Uint8Array): Promise<void> }): void {
    const payload = this.#payload(seq);
    this.#sent = seq;
    this.lastSentAt = performance.now();
    this.firstSentAt ||= this.lastSentAt;
    this.#sentAt.set(seq, this.lastSentAt);
    if (this.#queued === MAX_SENDS) {
      this.failure ??= new Error("not all probes could be sent: the network took nothing");
      return;
    }
    this.#queued++;
    // One after the other, as sends that are under way together may change their order.
    this.#lastSend = this.#lastSend.then(() => socket.send(payload))
      .catch((error) => this.failure ??= error)
      .then(() => void this.#queued--);
  }

  /** Takes what came back. Returns the echo, if it is the first of a probe, and intact. */
  take(bytes: Uint8Array): ProbeEcho | undefined {
    const now = performance.now();
    const seq = this.#numberIn(bytes);
    const sentAt = this.#sentAt.get(seq);
    if (!sameBytes(bytes, this.#payload(seq))) {
      this.#extras.corrupt++;
      if (seq === 0) this.#unknown++;
      else if (sentAt !== undefined) this.#damaged.add(seq);
      return;
    }
    if (sentAt === undefined) return void this.#extras.duplicated++;
    this.#sentAt.delete(seq);
    this.#damaged.delete(seq);
    if (seq < this.#latest) this.#extras.reordered++;
    this.#latest = Math.max(this.#latest, seq);
    const ms = now - sentAt;
    this.times.push(ms);
    this.longest = Math.max(this.longest, ms);
    return { event: "echo", seq, bytes: bytes.length, rtt_ms: toMicroseconds(ms) };
  }

  /** Whether a probe came back, if only damaged. */
  isBack(seq: number): boolean {
    return !this.#sentAt.has(seq) || this.#damaged.has(seq);
  }

  /** Whether nothing at all came back. */
  get isSilent(): boolean {
    return this.times.length === 0 && this.#extras.corrupt === 0;
  }

  /** Until when the last probe may come, in ms of performance.now(); 0 where all came back. */
  get waitsUntil(): number {
    if (this.#sentAt.size === this.#damaged.size) return 0; // some only damaged
    const { timeoutSeconds = this.isSilent ? SILENT_SECONDS : TIMEOUT_SECONDS } = this.#options;
    return this.lastSentAt + Math.max(timeoutSeconds * 1000, 2 * this.longest);
  }

  /** The counts so far. Lost is what did not come back, not even with a damaged number. */
  counts(): ProbeCounts {
    const missing = this.#sentAt.size - this.#damaged.size;
    const lost = Math.max(missing - this.#unknown, 0);
    return { sent: this.#sent, echoed: this.times.length, lost, ...this.#extras };
  }
}

/** The number of a probe, and its check in letters: up to three flipped bits never match. */
function toChecked(seq: number): string {
  const check = hex(seq * 3_403 % 4_079, 3);
  const letters = check.replace(/./g, (digit) => "ghijklmnopqrstuv"[parseInt(digit, 16)]!);
  return hex(seq, 5) + letters;
}

function hex(number: number, digits: number): string {
  return number.toString(16).padStart(digits, "0");
}

/** An address without a transport. */
type Address = { hostname: string; port: number };

/** Who listens to the datagrams of a server. */
export type DatagramListener = {
  /** Called with each datagram, a view that is valid during the call; returns if it was waited for. */
  take(bytes: Uint8Array): boolean;
  /** Called when the socket is closed, with the reason: it may be what a callback threw. */
  fail(error: unknown): void;
};

/** Options of {@linkcode open}; their defaults are those of the command line. */
export type OpenOptions = {
  /** Name or address of the server; default `127.0.0.1`. */
  hostname?: string;
  /** Port of the server, 1 to 65535; default 12000. */
  port?: number;
  /** Seconds, 0.001 to 3600, for the name look-up, and for the first echo; default 1. */
  timeoutSeconds?: number | undefined;
  /** Called at each socket call. What it throws closes the socket, and ends what waits for it. */
  onTrace?: ((call: TraceCall) => void) | undefined;
};

/** Options of {@linkcode request}; their defaults are those of the command line. */
export type RequestOptions = {
  /** How often to send it again, 0 to 1000; default 3. */
  retries?: number;
  /** Whether an echo is expected; default true. If not, a datagram is done when it is sent. */
  echo?: boolean;
  /** Called before it is sent again, with the reason. What it throws ends the request. */
  onRetry?: ((text: string) => void) | undefined;
};

/** Options of {@linkcode converse}; their defaults are those of the command line. */
export type ConverseOptions = RequestOptions & {
  /** Sentences that end the conversation, each of 1 to 100 bytes; default `stop` and `exit`. */
  stopWords?: string[];
  /** Counts to go on with, so that they are there where `converse` throws; default all 0. */
  totals?: ConversationTotals;
  /** Called before each sentence is read: time for a prompt. What it throws ends `converse`. */
  onReady?: (() => void) | undefined;
  /**
   * Called with a message for each sentence that is lost. If the first ones are, it is called once
   * more at the first answer, as only then a server is known to be there. What it throws ends
   * `converse`.
   */
  onLost?: ((text: string) => void) | undefined;
};

/** What a conversation moved, in sentences. */
export type ConversationTotals = {
  /** Sentences that were sent, or tried to be. */
  sent: number;
  /** Sentences whose echo came; 0 where none is expected. */
  echoed: number;
  /** Sentences of which no try was answered. */
  lost: number;
};

/** Options of {@linkcode probe}; their defaults are those of the command line, but for `count`. */
export type ProbeOptions = {
  /** How many probes to send, 1 to 1000000, as their times are kept; default 4. */
  count?: number;
  /** Seconds, 0 to 3600, from one to the next; 0: once it is back, or 100 a second; default 1. */
  intervalSeconds?: number;
  /** Bytes of each, 16 to 65507; default 64. */
  size?: number;
  /**
   * Seconds, 0.001 to 3600, to wait for the last probe, if twice the longest round trip is not
   * longer; default 1, and 10 if nothing at all came.
   */
  timeoutSeconds?: number | undefined;
  /** Ends the probe when it aborts, once what is under way is back or lost. */
  signal?: AbortSignal | undefined;
  /**
   * Called with each first echo. A promise is waited for before the next probe is sent. What it
   * throws ends the probe.
   */
  onEcho?: ((echo: ProbeEcho) => unknown) | undefined;
  /** Called after each probe and each datagram. What it throws ends the probe. */
  onProgress?: ((book: ProbeBook) => void) | undefined;
};

/** What became of the probes. */
export type ProbeCounts = Record<
  "sent" | "echoed" | "lost" | "duplicated" | "reordered" | "corrupt",
  number
>;

const BOUNDS = {
  port: { min: 1, max: 65_535 },
  timeoutSeconds: { min: 0.001, max: 3_600, whole: false },
  retries: { min: 0, max: 1_000 },
};
const NAME = "udp_client";
const HELP = `UDP echo client: sends sentences, resends what is lost, and checks the echoes.

Usage: deno run --unstable-net --allow-net=LOCAL:0,HOST:PORT udp_client.ts
       [options] [message…]

Without a message it reads the keyboard or a pipe, one datagram a line.
Behind -- everything is a message.

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
  -V, --version            print the version

--timeout is the first wait for an echo, and each try waits twice as long as the
one before. A probe sends nothing again: there it is the wait for the last one,
or twice the longest round trip if that is longer; where it is not given and
nothing at all came, 10 s.`;

/** The command line: its arguments, the keyboard or a pipe to `converse`, or `--count` to `probe`. */
export async function main(args: string[]): Promise<number> {
  checkArgs(args);
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
  if (flags.help || flags.version) return printText(flags.help ? HELP : `${NAME} ${VERSION}`);
  const stopWords = flags["no-stop"] ? [] : flags.stop;
  toStopWords("--stop", stopWords);
  const hostname = toHost(flags.host);
  const port = toNumber("--port", flags.port, BOUNDS.port);
  const seconds = toNumber("--timeout", flags.timeout, BOUNDS.timeoutSeconds);
  const retries = toNumber("--retries", flags.retries, BOUNDS.retries);
  const plan = toProbePlan(flags, args);
  checkMessages(flags._);
  if (!plan && Deno.pid === 1) onSignals(); // no signal ends process 1 by itself
  warnOfAddress(flags._);
  const isTyped = !plan && flags._.length === 0 && Deno.stdin.isTerminal();
  const prompt = new Prompt(isTyped);
  const onTrace = (call: TraceCall): void => {
    prompt.end();
    printTraceCall("client", call);
  };
  const options = {
    hostname,
    port,
    timeoutSeconds: isGiven("--timeout", args) ? seconds : undefined,
    quiet: flags.quiet,
    onTrace: flags.trace ? onTrace : undefined,
  };
  const talk = { ...options, isTyped, stopWords, retries, echo: !flags["no-echo"] };
  const code = plan
    ? await runProbe({ ...options, ...plan })
    : await runTalk(flags._, prompt, talk);
  await stdout.flush();
  return stdout.failed ? 1 : code;
}

/** Opens a socket for `use`, closes it, and warns of what it ignored. Returns the exit code. */
async function withSocket(
  options: OpenOptions,
  use: (socket: EchoSocket) => Promise<number>,
): Promise<number> {
  try {
    const socket = await open(options);
    try {
      return await use(socket);
    } catch (error) {
      if (!(error instanceof NoAnswerError)) throw error;
      socket.ignored.unmatched -= error.others; // they were reported with the loss
      return 1;
    } finally {
      socket.close();
      const { strangers, unmatched } = socket.ignored;
      if (strangers > 0) warn(`${plural(strangers, "datagram")} of strangers ignored`);
      const why = "nothing waited for such bytes";
      if (unmatched > 0) warn(`${plural(unmatched, "datagram")} of the server ignored: ${why}`);
    }
  } catch (error) {
    return reportError(error);
  }
}

/** A conversation from the arguments, the keyboard or a pipe. Returns the exit code. */
async function runTalk(
  words: string[],
  prompt: Prompt,
  options: OpenOptions & ConverseOptions & { isTyped: boolean; quiet: boolean },
): Promise<number> {
  const totals = { sent: 0, echoed: 0, lost: 0 };
  function say(text: string, event: "warning" | "lost"): void {
    prompt.end();
    warn(text, event);
  }
  const code = await withSocket(options, async (socket) => {
    let reported = ""; // the address whose silence is reported
    await converse(socket, openInput(words, prompt), openOutput(options.quiet), {
      ...options,
      totals,
      onReady: () => prompt.show(),
      onLost: (text) => {
        const isAnswered = totals.sent > totals.lost;
        if (totals.lost > 1 && !isAnswered && !options.isTyped) return; // the first was reported
        say(/^no answer [^;]*$/.test(text) ? text + START_HINT : text, "lost");
      },
      onRetry: (text) => {
        if (reported !== socket.server) say(text, "warning");
        reported = socket.server;
      },
    }).finally(() => prompt.end());
    return totals.lost === 0 ? 0 : 1;
  });
  if (stdout.json) printJsonSummary(totals);
  return code;
}

const START_HINT = "; is udp_server.ts running there?";

/** Where the echo goes: bytes to a pipe, safe text to a terminal, an event a sentence as JSON. */
function openOutput(quiet: boolean): WritableStream<Uint8Array> {
  return new WritableStream({
    async write(line): Promise<void> {
      if (quiet) return;
      const sentence = withoutLineEnd(line);
      const bytes = sentence.length;
      if (stdout.json) await printJson({ event: "echo", bytes, ...preview(sentence, bytes) });
      else if (!Deno.stdout.isTerminal()) await writeOut(line);
      else await writeToTerminal(`${decoder.decode(sentence)}\n`);
    },
  });
}

/** Shows a probe as it runs, then what it found; the first signal ends it. Returns the exit code. */
async function runProbe(
  options: OpenOptions & ProbePlan & { quiet: boolean },
): Promise<number> {
  const { intervalSeconds, timeoutSeconds, quiet, onTrace } = options;
  let book = new ProbeBook();
  const code = await withSocket(options, async (socket) => {
    const interrupt = new AbortController();
    onSignals(() => {
      interrupt.abort();
      if (!book.isSilent || timeoutSeconds !== undefined) return;
      warn(`waiting ${SILENT_SECONDS} s at most for a first echo`);
    });
    const endStatus = startStatus(quiet && !onTrace, () => {
      const { sent, echoed, lost } = book.counts();
      return `${sent} sent, ${echoed} echoed, ${lost} not yet`;
    });
    await probe(socket, {
      ...options,
      signal: interrupt.signal,
      onEcho: (echo) => quiet ? undefined : printEcho(echo, socket.server),
      onProgress: (now) => book = now,
    }).finally(endStatus);
    const { sent, echoed, corrupt } = book.counts();
    checkInterval(intervalSeconds, sent, book.lastSentAt - book.firstSentAt);
    if (book.failure) warn((book.failure as Error).message);
    return echoed === sent && corrupt === 0 ? 0 : 1;
  });
  printSummary(formatCounts(book.counts()), book.counts(), book.times);
  return code;
}

/** `100 sent, 88 echoed, 12 lost (12 %)`, then what else there is. */
export function formatCounts({ sent, echoed, lost, ...extras }: ProbeCounts): string {
  const others = Object.entries(extras).filter(([, count]) => count > 0);
  const more = others.map(([what, count]) => `, ${count} ${what}`).join("");
  return `${sent} sent, ${echoed} echoed, ${lost} lost (${toPercent(lost, sent)} %)${more}`;
}

/** In per cent, to three digits; more where these would read 100 and not all are meant. */
function toPercent(part: number, all: number): number {
  const percent = 100 * part / Math.max(all, 1);
  let digits = 3;
  while (part < all && Number(percent.toPrecision(digits)) === 100) digits++;
  return Number(percent.toPrecision(digits));
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
