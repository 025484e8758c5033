/**
 * Both sides of a conversation in one picture, as a textbook draws it: the client at the left, the
 * server at the right, an arrow for what crosses, a broken one for what is lost. The pictures are
 * drawn by the scripts' own functions over real sockets on 127.0.0.1; nothing is simulated.
 *
 * ```sh
 * deno run --allow-net=127.0.0.1 --unstable-net docs/demo.ts
 * ```
 *
 * A scene is run to its end first; then the calls of its two sides are joined, and drawn.
 *
 * @module
 */

import { parseArgs } from "jsr:@std/cli@^1.0.32/parse-args";
import { talk } from "../tcp_client.ts";
import * as tcp from "../tcp_server.ts";
import { converse, formatCounts, formatRoundTrips, open, probe } from "../udp_client.ts";
import * as udp from "../udp_server.ts";

const SENTENCES = ["Hello, server!", "Grüß Gott, 你好", "stop"];
const LOSS = { drop: 0.2, seed: 5 }; // of the first 16 replies it takes the second
const BAD_LINE = { drop: 0.1, duplicate: 0.1, delayMs: 20, seed: 1 };
const PROBE = { count: 60, intervalSeconds: 0.01, timeoutSeconds: 0.2 };

const CLIENT_COLUMN = 8; // behind the time
const CALL_COLUMNS = 18; // of the client: `i   receive() = 64`
const SERVER_COLUMN = 44;
const COLUMNS = 80;
const LINE_MS = 45; // behind a line, where somebody looks on
const SCENE_MS = 400; // before a scene

const HELP = `Draws both sides of three conversations over real sockets on this machine.

Usage: deno task demo [options] [scene…]

  tcp, udp, probe  the scenes; without one, all of them
      --mermaid    print Mermaid sequence diagrams, for a report
  -h, --help       print this`;

const SCENES = new Map<string, () => Promise<Scene>>([
  ["tcp", () => tcpScene()],
  ["udp", () => udpScene()],
  ["probe", () => probeScene()],
]);

/** The command line. Returns the exit code. */
async function main(args: string[]): Promise<number> {
  let unknown = "";
  const flags = parseArgs(args, {
    boolean: ["mermaid", "help"],
    string: ["_"],
    alias: { help: "h" },
    unknown: (arg) => SCENES.has(arg) || void (unknown ||= arg),
  });
  if (unknown) {
    console.error(`demo: unexpected ${JSON.stringify(unknown)}; --help lists what is allowed`);
    return 2;
  }
  if (flags.help) {
    console.log(HELP);
    return 0;
  }
  if (!flags.mermaid) await show(INTRODUCTION);
  const names = flags._.length > 0 ? flags._ : [...SCENES.keys()];
  for (const name of names) {
    const scene = await SCENES.get(`${name}`)!();
    await show(flags.mermaid ? toMermaid(scene) : toPicture(scene));
  }
  return 0;
}

const INTRODUCTION = [
  "Both sides in one picture, drawn by real sockets on this machine. Beside a call",
  "stands its step in the handout, below it what that side prints. Times are in ms.",
  "A FIN is inferred from the end of the stream: no program gets to see one.",
  "Steps of a server: 1-3 listen, 4 accept, 5 receive and send, 6 close. Of a",
  "client: 1b socket, 1c connect, 1c.i (here i) send and receive, 1c.ii (ii) close.",
];

/** Prints some lines; at a terminal no faster than somebody reads. */
async function show(lines: string[]): Promise<void> {
  const calm = Deno.stdout.isTerminal();
  if (calm) await sleep(SCENE_MS); // the first time, a download bar may be there, and goes
  console.log();
  for (const line of lines) {
    console.log(line);
    if (calm) await sleep(LINE_MS);
  }
}

// ---- The scenes ----

/** A conversation that is over: what stands above its columns, and what was seen at its sides. */
export type Scene = { title: string; client: string; server: string; moments: Moment[] };

/** TCP: connect, sentences with their echoes, a stop word, and how both sides close. */
export async function tcpScene(sentences: string[] = SENTENCES): Promise<Scene> {
  const log = new Logbook();
  const closed = Promise.withResolvers<void>();
  function onEvent(event: tcp.ServerEvent): void {
    log.say("server", tcp.formatEvent(event));
    if (event.event === "close") closed.resolve();
  }
  const { input, onReady, hangUp } = typist(log, sentences);
  let hungUp: Promise<void> | undefined;
  function onTrace(traceCall: tcp.TraceCall): void {
    log.call("client", traceCall);
    if (traceCall.call === "read() = null") hungUp = sleep(0).then(hangUp); // the client knows then
  }
  const server = tcp.serve({
    port: 0,
    onEvent,
    onTrace: (traceCall) => log.call("server", traceCall),
  });
  try {
    await talk(input, printer(log), {
      port: server.addr.port,
      onReady,
      onWarning: (text) => log.remark("client", `tcp_client: ${text}`),
      onTrace,
    });
    await closed.promise;
  } finally {
    await hungUp;
    await server.shutdown();
  }
  const title = "TCP: a connection, sentences and their echoes, an orderly end";
  return { title, client: "tcp_client.ts", server: "tcp_server.ts", moments: joined(log.moments) };
}

/** UDP: the line loses an echo, and the client tries again. */
export async function udpScene(
  sentences: string[] = SENTENCES,
  { drop, seed, timeoutSeconds = 1 }: { drop: number; seed: number; timeoutSeconds?: number } =
    LOSS,
): Promise<Scene> {
  const log = new Logbook();
  const { input, onReady, hangUp } = typist(log, sentences);
  function onEvent(event: udp.ServerEvent): void {
    log.say("server", udp.formatEvent(event));
    if (event.event === "close") hangUp();
  }
  const onTrace = (traceCall: tcp.TraceCall): void => log.call("server", traceCall);
  const server = udp.serve({ port: 0, drop, seed, onEvent, onTrace });
  try {
    const socket = await open({
      port: server.addr.port,
      timeoutSeconds,
      onTrace: (traceCall) => log.call("client", traceCall),
    });
    const remark = (text: string): void => log.remark("client", `udp_client: ${text}`);
    try {
      await converse(socket, input, printer(log), {
        onReady,
        onRetry: () => remark(`no answer from ${socket.server} yet; trying again`),
        onLost: remark,
      });
    } finally {
      socket.close();
    }
  } finally {
    await server.shutdown();
  }
  return {
    title: "UDP: no connection; an echo is lost, and the client tries again",
    client: "udp_client.ts",
    server: `udp_server.ts --drop ${drop} --seed ${seed}`,
    moments: joined(log.moments),
  };
}

/** UDP: a probe counts what becomes of datagrams on a bad line. */
export async function probeScene(plan: typeof PROBE = PROBE): Promise<Scene> {
  const log = new Logbook();
  const onEvent = (event: udp.ServerEvent): void => log.say("server", udp.formatEvent(event));
  const onTrace = (traceCall: tcp.TraceCall): void => log.call("server", traceCall);
  const server = udp.serve({ port: 0, ...BAD_LINE, quiet: true, onEvent, onTrace });
  try {
    const { port } = server.addr;
    const socket = await open({ port, onTrace: (traceCall) => log.call("client", traceCall) });
    try {
      const book = await probe(socket, plan);
      log.report("client", [formatCounts(book.counts()), ...formatRoundTrips(book.times)]);
    } finally {
      socket.close();
    }
  } finally {
    await server.shutdown();
  }
  const { drop, duplicate, delayMs, seed } = BAD_LINE;
  return {
    title: "A probe: what becomes of datagrams on a bad line",
    client: `udp_client.ts --quiet --count ${plan.count} --interval ${plan.intervalSeconds}`,
    server: `udp_server.ts --quiet --drop ${drop} --duplicate ${duplicate} ` +
      `--delay ${delayMs} --seed ${seed}`,
    moments: joined(tallied(log.moments)),
  };
}

/** A person at the keyboard, who types the next sentence when asked for it. */
function typist(
  log: Logbook,
  sentences: string[],
): { input: ReadableStream<Uint8Array>; onReady: () => void; hangUp: () => void } {
  const rest = [...sentences];
  let keyboard: ReadableStreamDefaultController<Uint8Array> | undefined;
  const input = new ReadableStream<Uint8Array>({ start: (keys) => void (keyboard = keys) });
  function onReady(): void {
    const sentence = rest.shift();
    if (sentence === undefined) return hangUp();
    log.say("client", `> ${sentence}`);
    keyboard?.enqueue(encoder.encode(`${sentence}\n`));
  }
  function hangUp(): void { // or the client would wait a while for more, behind a stop word
    keyboard?.close();
    keyboard = undefined;
  }
  return { input, onReady, hangUp };
}

/** The client's stdout: what it prints is part of the picture. */
function printer(log: Logbook): WritableStream<Uint8Array> {
  const decoder = new TextDecoder();
  return new WritableStream({
    write(echo): void {
      const text = decoder.decode(echo, { stream: true });
      for (const line of text.replace(/\n$/, "").split("\n")) log.say("client", line);
    },
  });
}

// ---- What was seen ----

/** Who did something. */
export type Side = "client" | "server";

/** A socket call at one side, what the side printed behind it, and the calls that it met. */
export type Moment = {
  side: Side;
  ms: number; // since the start of the scene
  step: string; // in the handout
  call: string; // "" where something is printed out of turn
  note: string;
  bytes: Uint8Array;
  says: string[];
  report: string[]; // printed, too, over the whole width
  to: Moment[]; // calls of the other side that received what this one sent
  from: Moment[]; // calls of the other side that sent what this one received
};

/** Both sides as they go, on one clock. Of a crossing, what sends comes before what receives. */
export class Logbook {
  /** In the order of time. */
  readonly moments: Moment[] = [];
  readonly #startedAt = performance.now();

  /** A socket call; its bytes are a view of a buffer that will be used again. */
  call(side: Side, { step, call, note = "", bytes = NO_BYTES }: tcp.TraceCall): void {
    const ms = performance.now() - this.#startedAt;
    const open = { says: [], report: [], to: [], from: [] };
    this.moments.push({ side, ms, step, call, note, bytes: bytes.slice(), ...open });
  }

  /** What a side prints because of its last call. */
  say(side: Side, text: string): void {
    this.#last(side).says.push(text);
  }

  /** What a side prints of itself, at its own time. */
  remark(side: Side, text: string): void {
    this.call(side, { step: "", call: "" });
    this.say(side, text);
  }

  /** As `remark`, but too wide for a column. */
  report(side: Side, lines: string[]): void {
    this.call(side, { step: "", call: "" });
    this.#last(side).report.push(...lines);
  }

  #last(side: Side): Moment {
    const last = this.moments.findLast((moment) => moment.side === side);
    if (!last) throw new Error(`the ${side} prints before its first call`);
    return last;
  }
}

/** Joins each call that sends with those at the other side that received what it sent. */
export function joined(moments: Moment[]): Moment[] {
  const calls = (side: Side, name: RegExp): Moment[] =>
    moments.filter((moment) => moment.side === side && name.test(moment.call));
  joinInOrder(calls("client", /^connect\(/), calls("server", /^accept\(/));
  for (const [here, there] of [["client", "server"], ["server", "client"]] as const) {
    joinStream(calls(here, /^write\(/), calls(there, /^read\(\) = \d/));
    // The end of the stream: the first call that closes this direction.
    joinInOrder(calls(here, /^close/).slice(0, 1), calls(there, /^read\(\) = null/));
    joinDatagrams(calls(here, /^send\(/), calls(there, /^receive\(/));
    joinInOrder(calls(here, /× send\(/), calls(there, /× receive\(/));
  }
  return moments;
}

function join(sent: Moment, received: Moment): void {
  sent.to.push(received);
  received.from.push(sent);
}

function joinInOrder(sends: Moment[], receives: Moment[]): void {
  for (const [i, received] of receives.entries()) {
    const sent = sends[i];
    if (sent) join(sent, received);
  }
}

/** A stream keeps no bounds: a read may bring two writes, or half of one. Bytes tell which. */
function joinStream(writes: Moment[], reads: Moment[]): void {
  let [written, read] = [0, 0]; // bytes before the write and the read at hand
  for (let w = 0, r = 0; w < writes.length && r < reads.length;) {
    const [write, got] = [writes[w]!, reads[r]!];
    join(write, got);
    const [endOfWrite, endOfRead] = [written + write.bytes.length, read + got.bytes.length];
    if (endOfWrite <= endOfRead) [written, w] = [endOfWrite, w + 1];
    if (endOfRead <= endOfWrite) [read, r] = [endOfRead, r + 1];
  }
}

/** A datagram comes whole or not at all, and on loopback in order. */
function joinDatagrams(sends: Moment[], receives: Moment[]): void {
  for (const received of receives) {
    const sent = sends.find(({ to, bytes }) => to.length === 0 && sameBytes(bytes, received.bytes));
    if (sent) join(sent, received);
  }
}

/** Calls that are too many to draw, counted: the first of a kind stands for all. */
export function tallied(moments: Moment[]): Moment[] {
  const kinds = Map.groupBy(moments, ({ side, call }) => `${side} ${call}`);
  return [...kinds.values()].map((calls) => {
    const first = calls[0]!;
    const isMany = /^(send|receive|--drop)/.test(first.call);
    const call = isMany ? `${calls.length} × ${first.call}` : first.call;
    const said = (name: "says" | "report"): string[] => calls.flatMap((one) => one[name]);
    return { ...first, call, says: said("says"), report: said("report") };
  });
}

// ---- The picture ----

/** One line of a picture: a call, or two that met; and what goes from one side to the other. */
type Row = { client?: Moment; server?: Moment; arrow?: Arrow };
/** `broken`: it does not arrive. The ends of one that is drawn in two halves have the same letter. */
type Arrow = { to: Side; fate: "whole" | "broken" | "leaves" | "arrives"; label: string };

/**
 * Rows in the order of time. Two calls that met share one, unless the side that received made other
 * calls meanwhile, or either met more than one: then each has its half of the arrow.
 */
function toRows(moments: Moment[]): Row[] {
  const rows: Row[] = [];
  const drawn = new Set<Moment>();
  const letters = new Map<Moment, string>();
  for (const [i, moment] of moments.entries()) {
    if (drawn.has(moment)) continue;
    drawn.add(moment);
    const mate = onlyMate(moment);
    const before = mate ? moments.slice(i + 1, moments.indexOf(mate)) : [];
    const isNext = !before.some((other) => other.side === mate?.side && !drawn.has(other));
    if (!mate || drawn.has(mate) || !isNext) {
      const arrow = halfArrow(moment, letters);
      rows.push({ [moment.side]: moment, ...(arrow && { arrow }) });
      continue;
    }
    drawn.add(mate);
    const to = moment.to.includes(mate) ? mate.side : moment.side;
    const label = [moment, mate].some(({ note }) => note.startsWith("FIN")) ? "FIN inferred" : "";
    rows.push({
      [moment.side]: moment,
      [mate.side]: mate,
      arrow: { to, fate: "whole", label },
    });
  }
  return rows;
}

/** The one call that this one met, if neither met another. */
function onlyMate({ to, from }: Moment): Moment | undefined {
  const [mate, other] = [...to, ...from];
  return mate && !other && mate.to.length + mate.from.length === 1 ? mate : undefined;
}

/** What a call sends to or gets from one that stands elsewhere, or nowhere. */
function halfArrow(moment: Moment, letters: Map<Moment, string>): Arrow | undefined {
  const { side, call, to, from } = moment;
  const otherSide = side === "client" ? "server" : "client";
  const letter = (sent: Moment): string => {
    if (!letters.has(sent)) letters.set(sent, `(${String.fromCharCode(97 + letters.size % 26)})`);
    return letters.get(sent)!;
  };
  if (/--drop/.test(call)) return { to: otherSide, fate: "broken", label: "lost" };
  if (to.length > 0) return { to: otherSide, fate: "leaves", label: letter(moment) };
  if (from.length > 0) return { to: side, fate: "arrives", label: from.map(letter).join("") };
  if (/^(connect|write|send|closeWrite)\(/.test(call)) {
    return { to: otherSide, fate: "broken", label: "not read" };
  }
}

/** A scene as lines of text, of 80 columns at most. */
export function toPicture({ title, client, server, moments }: Scene): string[] {
  const heads = beside(wrap(client, "client"), wrap(server, "server"));
  const [first, ...others] = heads;
  return [
    title,
    "",
    `    ms${first!.slice(6)}`,
    ...others,
    ...toRows(moments).flatMap(drawRow),
  ];
}

/** A row, and below it what its sides print: the server first, as the client types on. */
function drawRow({ client, server, arrow }: Row): string[] {
  const ms = Math.min(client?.ms ?? Infinity, server?.ms ?? Infinity);
  const time = ms.toFixed(1).padStart(6);
  const left = pad(client ? formatCall(client) : "", CALL_COLUMNS);
  const room = SERVER_COLUMN - CLIENT_COLUMN - columns(left) - 2; // a blank on both sides
  const middle = arrow ? drawArrow(arrow, room) : "";
  const behind = pad(`${left} ${middle}`, SERVER_COLUMN - CLIENT_COLUMN);
  const line = `${time}  ${behind}${server ? formatCall(server) : ""}`.trimEnd();
  const prints = [
    ...(server?.says ?? []).flatMap((text) => beside([], wrap(text, "server"))),
    ...(client?.says ?? []).flatMap((text) => beside(wrap(text, "client"), [])),
    ...(client?.report ?? []).map((text) => " ".repeat(CLIENT_COLUMN) + text),
  ];
  const isCall = Boolean(client?.call || server?.call);
  return isCall ? [line, ...prints] : prints.map((text, i) => i ? text : time + text.slice(6));
}

/** `5   read() = 15`, with its address where it closes and there is room. */
function formatCall({ step, call, note }: Moment): string {
  const text = `${step.padEnd(4)}${call}`.trimEnd();
  return call === "close()" && note ? `${text} ${note}` : text;
}

/** `─────▶`, `◀─ FIN ─`, `✕ ─ ─ ─`, `─────▶ (a)`, `(a) ─────▶`. */
function drawArrow({ to, fate, label }: Arrow, room: number): string {
  const right = to === "server";
  const head = right ? "▶" : "◀";
  const ends = {
    whole: ["", head],
    broken: ["", right ? `✕ ${label}` : `${label} ✕`],
    leaves: ["", right ? `▶ ${label}` : `${label} ◀`],
    arrives: [right ? `${label} ` : ` ${label}`, head],
  };
  const [tail, tip] = ends[fate] as [string, string];
  const length = Math.max(room - columns(tail + tip), 2);
  const shaft = fate === "broken"
    ? (right ? "─ " : " ─").repeat(length / 2).padStart(right ? 0 : length)
    : centered(fate === "whole" && label ? ` ${label} ` : "", length, right);
  return right ? tail + pad(shaft, length) + tip : tip + shaft.padStart(length) + tail;
}

/** A shaft with a label in its middle, or a little nearer to its head. */
function centered(label: string, length: number, right: boolean): string {
  const [less, more] = [Math.floor, Math.ceil].map((round) => round((length - label.length) / 2));
  return "─".repeat(right ? more! : less!) + label + "─".repeat(right ? less! : more!);
}

/** Lines of both columns, side by side. */
function beside(client: string[], server: string[]): string[] {
  return Array.from({ length: Math.max(client.length, server.length) }, (_, i) => {
    const left = pad(" ".repeat(CLIENT_COLUMN) + (client[i] ?? ""), SERVER_COLUMN);
    return (left + (server[i] ?? "")).trimEnd();
  });
}

// What stays on one line: `3 messages,`, `--seed 1`, a word; with the blanks behind it.
const UNBROKEN = /(?:\d[\d.]* (?=[a-z])|--\w+ (?=\d))?\S+\s*|\s+/g;

/** Text in lines that fit in the column of a side; those behind the first are indented. */
function wrap(text: string, side: Side): string[] {
  const most = side === "client" ? SERVER_COLUMN - CLIENT_COLUMN - 1 : COLUMNS - SERVER_COLUMN;
  const lines = [""];
  for (const word of text.match(UNBROKEN) ?? []) {
    if (columns(lines.at(-1)! + word.trimEnd()) <= most) lines[lines.length - 1] += word;
    else {
      if (lines.at(-1)!.trim()) lines.push("  ");
      for (const { segment } of graphemes.segment(word)) { // a word may be longer than a line
        if (columns(lines.at(-1)! + segment) > most && segment.trim()) lines.push("  ");
        lines[lines.length - 1] += segment;
      }
    }
  }
  return lines.map((line) => line.trimEnd());
}

function pad(text: string, length: number): string {
  return text + " ".repeat(Math.max(length - columns(text), 0));
}

// Those of @std/cli/unicode-width, but for rare ones: its npm copy lacks a file, and does not load.
const WIDE =
  /^[[\p{sc=Han}\p{sc=Hira}\p{sc=Kana}\p{sc=Hang}\p{Emoji_Presentation}\u3000-\u303e\uff01-\uff60\uffe0-\uffe6]--[\uff61-\uffdc]]|\ufe0f/v;

/** How many columns of a terminal `text` takes: East Asian characters and emoji take two. */
export function columns(text: string): number {
  let sum = 0;
  for (const { segment } of graphemes.segment(text)) sum += WIDE.test(segment) ? 2 : 1;
  return sum;
}

// ---- Mermaid ----

/** A scene as a Mermaid sequence diagram, in a fence for Markdown. */
export function toMermaid({ title, client, server, moments }: Scene): string[] {
  return [
    `### ${title}`,
    "",
    "```mermaid",
    "sequenceDiagram",
    `  participant client as ${toMermaidText(client)}`,
    `  participant server as ${toMermaidText(server)}`,
    ...toRows(moments).flatMap(toMessages).map((line) => `  ${line}`),
    "```",
  ];
}

/** A row as a message, or a note at one side; and a note for each line that a side prints. */
function toMessages({ client, server, arrow }: Row): string[] {
  const note = (side: Side, text: string): string =>
    `Note ${side === "client" ? "left" : "right"} of ${side}: ${toMermaidText(text)}`;
  const [from, to]: Side[] = arrow?.to === "client" ? ["server", "client"] : ["client", "server"];
  const calls = { client, server };
  const met = [calls[from!], calls[to!]].filter((moment) => moment?.call)
    .map((moment) => formatCall(moment!).replace(/ +/, " ")).join(" → ");
  const text = [met, arrow?.label].filter(Boolean).join(": ");
  const crosses = arrow && arrow.fate !== "leaves"; // that is drawn where it arrives
  const line = arrow?.fate === "broken" ? "--x" : "->>";
  return [
    ...(crosses ? [`${from}${line}${to}: ${toMermaidText(text)}`] : []),
    ...(!crosses && met ? [note(client ? "client" : "server", text)] : []),
    ...(server?.says ?? []).map((said) => note("server", said)),
    ...(client?.says ?? []).map((said) => note("client", said)),
    ...(client?.report.slice(0, 3) ?? []).map((said) => note("client", said)), // without bars
  ];
}

/** Text without what Mermaid takes for its own. */
function toMermaidText(text: string): string {
  return text.trim().replace(/[#;<>]/g, (char) => `#${char.charCodeAt(0)};`);
}

// ---- Small ones ----

const encoder = new TextEncoder();
const graphemes = new Intl.Segmenter();
const NO_BYTES = new Uint8Array();

function sameBytes(a: Uint8Array, b: Uint8Array): boolean {
  return a.length === b.length && a.every((byte, i) => byte === b[i]);
}

function sleep(ms: number): Promise<void> {
  return new Promise((resolve) => setTimeout(resolve, ms));
}

if (import.meta.main) {
  try {
    Deno.exitCode = await main(Deno.args);
  } catch (error) {
    console.error(`demo: ${error instanceof Error ? error.message : error}`);
    Deno.exitCode = 1;
  }
}
