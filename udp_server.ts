#!/usr/bin/env -S deno run --unstable-net --allow-net=127.0.0.1
/**
 * UDP echo server: prints each datagram and sends it back whole to where it came from (RFC 862). It
 * is the server of the lab's task 4; "Step 1" to "Step 6" in the comments are the handout's steps of
 * a server, of which UDP has no 3 and 4: nobody connects. With `--drop`, `--duplicate` and `--delay`
 * it is also the lossy network of a pinger lab.
 *
 * ```sh
 * deno run --unstable-net --allow-net=127.0.0.1 udp_server.ts
 * echo hello | socat -t1 - UDP:127.0.0.1:12000 # an independent client to try it with
 * ```
 *
 * Exit codes: 0 orderly stop; 1 failure; 2 wrong use; 130 or 143 a second SIGINT or SIGTERM.
 *
 * @module
 */

import { parseArgs } from "@std/cli/parse-args";

const NAME = "udp_server";
const HELP = `UDP echo server: prints each datagram and sends it back.

Usage: deno run --unstable-net --allow-net=HOST udp_server.ts [options]

  -H, --host HOST          address to receive on (default 127.0.0.1)
  -p, --port PORT          0 to 65535, not 1 to 1023; 0: any (default 12000)
      --stop WORD…         a datagram that ends a session (default stop, exit)
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
  -V, --version            print the version
`;

const BUFFER_BYTES = 65_535; // no datagram is longer, so none is cut
const MAX_SESSIONS = 10_000; // peers that are remembered; then the first host's first is forgotten
const MAX_HELD_BYTES = 16_777_216; // of replies held by --delay; more are dropped
const HELD_OVERHEAD_BYTES = 1_000; // of a held reply: its timer and the like, measured
const MAX_DOUBLED = 10_000; // replies to a peer by --duplicate, or a loop would swell without end
const MAX_RUN = 65_536; // identical datagrams from one peer: the last of them is not answered
const NFS_PORT = 2_049; // the one well-known service above 1023 that answers whatever comes
const RECEIVE_RETRY_MS = 100; // after a receive that failed

/** What happens at the server, as `--json` prints it. */
export type ServerEvent =
  | { event: "listening"; transport: "udp"; hostname: string; port: number }
  | { event: "message"; peer: string; bytes: number; text: string; more?: number }
  | { event: "close"; peer: string; reason: "stop" } & Totals
  | { event: "shutdown"; unanswered: number; dropped?: number } & Totals
  | { event: "warning"; text: string };
/** Datagrams and bytes received, in how many seconds. */
export type Totals = { messages: number; bytes: number; seconds: number };

/** Options of {@linkcode serve}; their defaults are those of the command line. */
export type ServeOptions = {
  hostname?: string;
  port?: number;
  stop?: string[]; // datagrams that end their peer's session
  echo?: boolean;
  once?: boolean;
  rate?: number; // replies a second to one peer
  drop?: number; // probability
  duplicate?: number; // probability
  delayMs?: number;
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

/** What is remembered of a peer: UDP has no connection that would. */
class Session {
  readonly peer: string;
  start = 0; // when its first message came, in ms
  messages = 0; // since then
  bytes = 0;
  hash = NaN; // of its last datagram
  run = 0; // of datagrams identical to that one
  watched = NaN; // hash of one that may come in turn with others
  seen = 0; // how often it came
  absent = MAX_RUN; // how many others came since
  doubled = 0; // replies
  windowStart = -Infinity; // ms: of the second in which `replies` are counted
  replies = 0;

  constructor(readonly address: Deno.NetAddr) {
    this.peer = formatAddress(address);
  }
}

/** Starts a UDP echo server. @throws Error naming the address; its cause is of `listenDatagram` */
export function serve(options: ServeOptions = {}): EchoServer {
  const { hostname = "127.0.0.1", port = 12_000, echo = true, once, rate = 0, quiet } = options;
  const { drop = 0, duplicate = 0, delayMs = 0, onEvent = () => {}, onTrace } = options;
  const stop = (options.stop ?? ["stop", "exit"]).map((word) => encoder.encode(word.trim()));
  const lossy = drop > 0 || duplicate > 0 || delayMs > 0;
  const random = randomFrom(options.seed ?? 0);

  // Steps 1 and 2: one call creates the socket and binds it to the address.
  const socket = bind({ hostname, port });
  const addr = socket.addr as Deno.NetAddr;
  onTrace?.({ step: "1-2", call: "listenDatagram()", note: formatAddress(addr) });
  const started = performance.now();
  const sessions = new Map<string, Map<number, Session>>(); // by host, then by port: no key is made
  const held = new Set<() => Promise<void>>(); // what releases each delayed reply
  const warned = new Set<string>();
  const totals: { messages: number; bytes: number; unanswered: number; dropped?: number } = {
    messages: 0,
    bytes: 0,
    unanswered: 0,
  };
  let remembered = 0; // sessions
  let heldBytes = 0;
  let sending: Promise<unknown> | undefined;
  let closing: Promise<void> | undefined;

  /** Step 5: one loop, since parallel receives finish in the wrong order; no failure ends it. */
  async function receiveDatagrams(): Promise<void> {
    const buffer = new Uint8Array(BUFFER_BYTES);
    while (!closing) {
      let session: Session | undefined;
      try {
        const [datagram, from] = await socket.receive(buffer);
        if (closing) break;
        session = sessionOf(from as Deno.NetAddr, datagram);
        if (!session) continue;
        book(session, datagram);
        const stops = datagram.length <= PREVIEW_BYTES && isStopWord(datagram, stop);
        if (echo) {
          if (isLoop(session, datagram) || isTooFast(session)) continue;
          sending = lossy ? sendLossy(datagram, session) : send(datagram, session);
          await sending; // the datagram is a view of the buffer
        }
        if (stops) endSession(session);
      } catch (error) {
        if (session) leaveUnanswered(`cannot send: ${reasonOf(error)}`, session.peer);
        else if (!closing) {
          warn("receive", `cannot receive: ${reasonOf(error)}`);
          await new Promise((resolve) => setTimeout(resolve, RECEIVE_RETRY_MS));
        }
      }
    }
  }

  function book(session: Session, datagram: Uint8Array): void {
    const { peer } = session;
    const { length } = datagram;
    if (session.messages++ === 0) session.start = performance.now();
    session.bytes += length;
    totals.messages++;
    totals.bytes += length;
    if (!quiet) {
      onEvent({ event: "message", peer, bytes: length, ...previewText(datagram, length) });
    }
  }

  /** The sender's session; none where the answer would go astray, whoever forged its address. */
  function sessionOf(from: Deno.NetAddr, bytes: Uint8Array): Session | undefined {
    const { hostname, port } = from;
    let session = sessions.get(hostname)?.get(port);
    const peer = session?.peer ?? formatAddress(from);
    onTrace?.({ step: "5", call: `receive() = ${bytes.length}`, peer, bytes });
    if (session) return session;
    const refusal = refusalOf(from, addr.port);
    if (refusal) return leaveUnanswered(refusal, peer);
    if (Deno.permissions.querySync({ name: "net", host: peer }).state !== "granted") {
      const host = peer.slice(0, -`:${port}`.length);
      return leaveUnanswered("no permission", peer, `, --allow-net=${host}`);
    }
    if (remembered >= MAX_SESSIONS) forgetOldest();
    session = new Session(from);
    sessions.set(hostname, (sessions.get(hostname) ?? new Map()).set(port, session));
    remembered++;
    return session;
  }

  /** The first of the first host. */
  function forgetOldest(): void {
    const ofHost = sessions.values().next().value!;
    const { hostname, port } = ofHost.values().next().value!.address;
    ofHost.delete(port);
    if (ofHost.size === 0) sessions.delete(hostname);
    remembered--;
  }

  /** Counts it, and says so once for each reason, not once for each datagram. */
  function leaveUnanswered(why: string, peer: string, hint = ""): undefined {
    totals.unanswered++;
    warn(why, `not answering ${peer}: ${why}${hint}; the like is only counted from now on`);
  }

  function warn(kind: string, text: string): void {
    if (!warned.has(kind)) onEvent({ event: "warning", text });
    warned.add(kind);
  }

  /**
   * A datagram forged to come from another echo server would go to and fro for ever (CERT
   * CA-1996-01, CVE-2024-2169), always the same. So one in MAX_RUN identical ones is left out. Of
   * several that take turns in such a loop, one at a time is watched, until it is out or stays away.
   */
  function isLoop(session: Session, datagram: Uint8Array): boolean {
    const hash = hashOf(datagram);
    session.run = hash === session.hash ? session.run + 1 : 1;
    session.hash = hash;
    session.absent++;
    if (hash === session.watched) [session.seen, session.absent] = [session.seen + 1, 0];
    else if (session.absent > MAX_RUN) {
      Object.assign(session, { watched: hash, seen: 1, absent: 0 });
    }
    if (session.run % MAX_RUN !== 0 && (hash !== session.watched || session.seen < MAX_RUN)) {
      return false;
    }
    session.seen = 0;
    leaveUnanswered(`one of ${MAX_RUN} identical datagrams`, session.peer);
    return true;
  }

  function isTooFast(session: Session): boolean {
    if (rate === 0) return false;
    const now = performance.now();
    if (now - session.windowStart >= 1000) Object.assign(session, { windowStart: now, replies: 0 });
    session.replies++;
    if (session.replies <= rate) return false;
    leaveUnanswered(`over --rate ${rate}`, session.peer);
    return true;
  }

  /** Sends the reply, over the network that `--drop`, `--duplicate` and `--delay` make of loopback. */
  async function sendLossy(bytes: Uint8Array, session: Session): Promise<void> {
    const [dropped, doubled] = [random() < drop, random() < duplicate];
    const delays = [random() * delayMs, random() * delayMs]; // drawn always: the seed decides alone
    if (dropped) {
      totals.dropped = (totals.dropped ?? 0) + 1;
      return onTrace?.({ step: "5", call: "--drop", peer: session.peer, bytes });
    }
    if (!doubled || session.doubled >= MAX_DOUBLED) delays.pop();
    else session.doubled++;
    for (const delay of delays) {
      if (delayMs === 0) await send(bytes, session);
      else hold(bytes.slice(), session, delay);
    }
  }

  function hold(bytes: Uint8Array, session: Session, delay: number): void {
    const cost = bytes.length + HELD_OVERHEAD_BYTES;
    if (heldBytes + cost > MAX_HELD_BYTES) {
      return leaveUnanswered("too many are delayed", session.peer);
    }
    heldBytes += cost;
    async function release(): Promise<void> {
      clearTimeout(timer);
      held.delete(release);
      heldBytes -= cost;
      try {
        await send(bytes, session);
      } catch (error) {
        leaveUnanswered(`cannot send: ${reasonOf(error)}`, session.peer);
      }
    }
    const timer = setTimeout(release, delay);
    held.add(release);
  }

  function send(bytes: Uint8Array, { address, peer }: Session): Promise<number> {
    onTrace?.({ step: "5", call: `send(${bytes.length})`, peer, bytes });
    return socket.send(bytes, address);
  }

  /** The sum ends; what is remembered against loops and for --rate stays. */
  function endSession(session: Session): void {
    const { peer, messages, bytes, start } = session;
    const seconds = secondsSince(start);
    if (!quiet) onEvent({ event: "close", peer, reason: "stop", messages, bytes, seconds });
    Object.assign(session, { messages: 0, bytes: 0 });
    if (once) shutdown();
  }

  async function close(): Promise<void> {
    await Promise.allSettled([sending]);
    for (const release of held) await release();
    socket.close(); // Step 6
    onTrace?.({ step: "6", call: "close()", note: formatAddress(addr) });
  }

  function shutdown(): Promise<void> {
    closing ??= close();
    return finished;
  }

  async function run(): Promise<void> {
    await receiveDatagrams();
    await closing;
    onEvent({ event: "shutdown", ...totals, seconds: secondsSince(started) });
  }

  onEvent({ event: "listening", transport: "udp", hostname: addr.hostname, port: addr.port });
  options.signal?.addEventListener("abort", shutdown, { once: true });
  const finished = run();
  if (options.signal?.aborted) shutdown();
  return { addr, finished, shutdown, [Symbol.asyncDispose]: shutdown };
}

function bind(where: { hostname: string; port: number }): Deno.DatagramConn {
  if (!Deno.listenDatagram) throw new Error("UDP in Deno needs --unstable-net");
  try {
    return Deno.listenDatagram({ transport: "udp", ...where });
  } catch (cause) {
    throw cannot(`receive on ${formatAddress(where)}`, cause);
  }
}

/** The address of a name that its clients find too: listenDatagram may take another one of it. */
async function resolve(name: string): Promise<string> {
  const { lookup } = await import("node:dns/promises"); // Deno itself asks no hosts file
  try {
    return (await lookup(name)).address;
  } catch (cause) {
    throw cannot(`find the address of ${quote(name)}`, cause);
  }
}

/** Why a peer is never answered: its address is no client's, so somebody forged it. */
function refusalOf({ hostname, port }: Deno.NetAddr, ownPort: number): string | undefined {
  const host = hostname.replace(/^::ffff:/, "");
  if (port === 0) return "source port 0";
  if (port < 1_024 || port === NFS_PORT) return "the source port is a service's";
  if (port === ownPort) return "the source port is this server's own";
  if (/^(0|22[4-9]|23\d)\.|^(127|255)\.255\.255\.255$|^ff/.test(host)) {
    return "a multicast or broadcast source";
  }
}

/** FNV-1a over the 32-bit words of a datagram, and the bytes behind them. */
function hashOf(datagram: Uint8Array): number {
  const words = new Uint32Array(datagram.buffer, datagram.byteOffset, datagram.length >> 2);
  let hash = datagram.length ^ 0x811c9dc5;
  for (let i = 0; i < words.length; i++) hash = Math.imul(hash ^ words[i]!, 0x01000193);
  for (let i = words.length * 4; i < datagram.length; i++) {
    hash = Math.imul(hash ^ datagram[i]!, 0x01000193);
  }
  return hash;
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

/** An event as a line for people. Only what a peer said stands behind brackets. */
function formatEvent(event: Exclude<ServerEvent, { event: "warning" }>): string {
  switch (event.event) {
    case "listening":
      return `listening on udp ${formatAddress(event)}`;
    case "message":
      return `[${event.peer}] ${escape(event.text)}${event.more ? `… +${event.more} bytes` : ""}`;
    case "close":
      return `${event.peer} closed (${event.reason}): ${formatTotals(event)}`;
    case "shutdown":
      return `stopped: ${formatTotals(event)}, ${event.unanswered} not answered${
        event.dropped ? `, ${event.dropped} dropped` : ""
      }`;
  }
}

/** The command line: options to `serve`, events to lines, signals to `shutdown`. */
export async function main(args: string[]): Promise<number> {
  if (showInfo(args)) return 0;
  const options = parseOptions(args);
  const { flags, values, numbers } = options;
  const name = values.host![0]!;
  const port = listenPort(options);
  const { rate, drop = 0, duplicate = 0, delay = 0 } = numbers;
  const { seed = Math.floor(Math.random() * 2 ** 32) } = numbers;
  const names = /^[\d.]+$|:/.test(name) ? [] : [name]; // looking one up takes a permission of its own
  requireNet(...names);
  const hostname = names.length > 0 ? await resolve(name) : name;
  requireNet(...names, hostname.includes(":") ? `[${hostname}]` : hostname); // replies go to any port
  if (numbers.seed === undefined && drop + duplicate + delay > 0) {
    say(`${NAME}: to repeat these faults: --seed ${seed}`);
  }
  const output = new LineOutput();
  const stopping = new AbortController();
  onSignals(() => stopping.abort()); // before the ready line: a signal may come right behind it
  const server = serve({
    hostname,
    port,
    stop: flags.has("no-stop") ? [] : values.stop!,
    echo: !flags.has("no-echo"),
    once: flags.has("once"),
    rate: rate!,
    drop,
    duplicate,
    delayMs: delay,
    seed,
    quiet: flags.has("quiet"),
    signal: stopping.signal,
    onEvent: (event) => {
      if (event.event === "warning") say(`${NAME}: ${event.text}`);
      else output.print(flags.has("json") ? toJson(event) : formatEvent(event));
    },
    onTrace: flags.has("trace") ? (rung) => say(formatRung("server", rung)) : undefined,
  });
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
