/**
 * The program that is graded: it runs under a pseudo-terminal, as a person would run it, and is
 * ended with all that it started.
 *
 * @module
 */

import type { Waits } from "./channel.ts";
import { capture, isStuck } from "./process.ts";
import { encode, errorLine, plain } from "./text.ts";
import { UsageError } from "./verdict.ts";

const KEPT_CHARS = 131_072; // of a program's output; the rest is read, and not kept
const MAX_OUTPUT = 67_108_864; // characters: then a program waits for a reader, in vain
const LAST_OUTPUT_MS = 500; // for what a program printed last, once it has ended
const CLOSES_MS = 2_000; // for the pipes of a program that was ended
const DYING_MS = 100; // for a process that was ended a moment ago to be gone
/** For a program that starts: it may wait for what it loads. */
export const START_LOOK_MS = 3_000;
const LOOK_MS = 200; // between two looks whether a program waits for what never comes
const CTRL_D = "\x04";

/**
 * How a program is run: `script` gives it a terminal, `stdbuf` a C library that prints line by line;
 * with `pipe`, what is block-buffered cannot be seen before it ends.
 */
export type Terminal = "script" | "stdbuf" | "pipe";

/**
 * What runs in the terminal: typed lines are not shown, `\n` stays `\n`; the process that becomes the
 * program says which one it is, and the shell above it how it ended. The shell stays, as at a
 * terminal: if it went, the system would hang up on what the program put into the background.
 */
const IN_TERMINAL = [
  "stty -echo -onlcr rows 50 cols 250 2>/dev/null",
  `sh -c 'printf "%s %s %s\\n" "$ECHO_GRADER" $PPID $$; exec "$@"' sh "$@"`,
  'printf "\\n%s exit %s\\n" "$ECHO_GRADER" $?',
  "exec sleep 600",
].join("\n");

/** What every program gets: letters are UTF-8, a terminal without escapes, nothing held back. */
const ENV = {
  LC_ALL: Deno.build.os === "darwin" ? "en_US.UTF-8" : "C.UTF-8",
  NO_COLOR: "1",
  PYTHONUNBUFFERED: "1",
  PYTHONUTF8: "1",
  SHELL: "/bin/sh",
  TERM: "dumb",
};

/** Marks what this grader started in its environment, wherever it goes. */
const TOKEN = `grade-${crypto.randomUUID()}`;

/** A mark for all that one submission starts. */
export function newSession(): string {
  return `${TOKEN}-${crypto.randomUUID()}`;
}

let found: Promise<Terminal> | undefined;

/** What is to be had on this machine. */
export function findTerminal(): Promise<Terminal> {
  return found ??= lookForTerminal();
}

async function lookForTerminal(): Promise<Terminal> {
  const inTerminal = ["-qefc", "test -t 0 && test -t 1 && stty -echo && echo yes", "/dev/null"];
  if ((await capture("script", inTerminal)).includes("yes")) return "script";
  return (await capture("stdbuf", ["-oL", "sh", "-c", "echo yes"])).includes("yes")
    ? "stdbuf"
    : "pipe";
}

/** Programs that run: a signal to the grader ends them, too. */
const running = new Set<Program>();

/** Ends all that the grader started, also what hid from it. */
export function endAll(): void {
  for (const program of running) program.kill();
  if (Deno.build.os !== "linux") return;
  for (const { pid } of readLeftBehind(lookForLeftBehind().outputSync())) killProcess(pid);
}

/** A process that left its group. */
export type LeftBehind = { pid: number; name: string };

/** Ends what a submission left behind, and returns what that was. */
export async function sweep(mark: string): Promise<LeftBehind[]> {
  if (Deno.build.os !== "linux") return [];
  const found = readLeftBehind(await lookForLeftBehind(mark).output());
  if (found.length === 0) return [];
  await new Promise((resolve) => setTimeout(resolve, DYING_MS));
  const left = readLeftBehind(await lookForLeftBehind(mark).output())
    .filter(({ pid }) => found.some((other) => other.pid === pid));
  for (const { pid } of left) killProcess(pid);
  return left;
}

/** Lists the processes that carry the mark of this grader, of a submission or of one program. */
function lookForLeftBehind(mark = TOKEN): Deno.Command {
  const look = `for d in $(grep -las "$1" /proc/[0-9]*/environ); do d=\${d%/environ}; ` +
    `test "\${d#/proc/}" = $$ || echo "\${d#/proc/} $(cat $d/comm)"; done`;
  return new Deno.Command("sh", {
    args: ["-c", look, "sh", `ECHO_GRADER=${mark}`],
    env: { ECHO_GRADER: "" },
    stdin: "null",
    stderr: "null",
  });
}

function readLeftBehind({ stdout }: Deno.CommandOutput): LeftBehind[] {
  const lines = new TextDecoder().decode(stdout).trim().split("\n").filter(Boolean);
  return lines.map((line) => ({ pid: parseInt(line), name: line.replace(/^\d+ /, "") }));
}

function killProcess(pid: number): void {
  try {
    Deno.kill(pid, "SIGKILL");
  } catch {
    // It has ended.
  }
}

/**
 * Looks whether a command can be run at all.
 * @throws UsageError that names what is not there
 */
export async function checkCommand(command: string[], cwd?: string): Promise<void> {
  if (Deno.build.os === "windows") return;
  const [name, ...args] = command;
  const files = args.filter((arg, i) =>
    /^[^-].*\.(py|[cm]?[jt]s|pl|sh|rb|php|jar|java|lua|R|exs?)$/.test(arg) &&
    !/^-[a-z]*[ce]$/.test(args[i - 1] ?? "") // behind sh -c it is a command
  );
  const look = 'command -v -- "$1" >/dev/null || { echo; exit; }; shift; ' +
    'for f; do test -e "$f" || { echo "$f"; exit; }; done; echo /';
  const { stdout } = await new Deno.Command("sh", {
    args: ["-c", look, "sh", name!, ...files],
    ...(cwd === undefined ? {} : { cwd }),
    stdin: "null",
  }).output();
  const missing = new TextDecoder().decode(stdout).trimEnd();
  if (missing === "/") return;
  if (missing === "") throw new UsageError(`cannot run "${name}": not found`);
  throw new UsageError(`cannot run "${missing}": no such file`);
}

/** How a program is started. */
export type ProgramOptions = {
  command: string[];
  port: number;
  type?: string[] | undefined;
  cwd?: string | undefined;
  terminal: Terminal;
  waits: Waits;
  /** Of {@linkcode newSession}. */
  session: string;
};

/** How it is looked at whether a program waits in vain. */
export type Looks = {
  /** Until the first look. */
  firstMs?: number;
  /** So many looks in a row are enough. */
  enough?: number;
  /** A program may hide a time limit. */
  mayHide?: boolean;
};

/** Nothing more can come of a program that waits: how that is looked at. */
export const SILENT: Looks = { firstMs: 30, enough: 1 };

/** A command, its keyboard, and what it prints. */
export class Program implements AsyncDisposable {
  exitCode: number | undefined;
  /** Its status and all that it printed are here. */
  hasEnded = false;
  /** What was found of it elsewhere when it was ended. */
  leftBehind: LeftBehind[] = [];
  readonly #mark: string;
  readonly #child: Deno.ChildProcess;
  readonly #stdin: WritableStreamDefaultWriter<Uint8Array>;
  readonly #readers: ReadableStreamDefaultReader<string>[];
  readonly #pumps: Promise<unknown>;
  readonly #ended: Promise<void>;
  readonly #waits: Waits;
  readonly #isTerminal: boolean;
  readonly #start = performance.now();
  #looks: Promise<unknown> = Promise.resolve();
  #early: string[] = []; // lines that are typed as soon as the terminal is ready
  #isReady: boolean;
  #pid = 0; // of the program, once known, and of the shell above it
  #shell = 0;
  #output = "";
  #dropped = 0;

  constructor({ command, port, type = [], cwd, terminal, waits, session }: ProgramOptions) {
    this.#mark = `${session}-${crypto.randomUUID()}`;
    this.#waits = waits;
    this.#isTerminal = terminal === "script";
    this.#isReady = !this.#isTerminal;
    const words = command.map((word) => word.replaceAll("{port}", `${port}`));
    this.#child = spawn(inTerminal(words, terminal), { cwd, mark: this.#mark });
    running.add(this);
    this.#stdin = this.#child.stdin.getWriter();
    this.#stdin.closed.catch(() => {}); // it ended first
    this.#readers = [this.#child.stdout, this.#child.stderr].map((stream) =>
      stream.pipeThrough(new TextDecoderStream()).getReader()
    );
    this.#pumps = Promise.all(this.#readers.map((reader) => this.#pump(reader)));
    this.#ended = this.#waitForEnd();
    for (const line of type) this.type(line.replaceAll("{port}", `${port}`));
  }

  async #pump(reader: ReadableStreamDefaultReader<string>): Promise<void> {
    for (let piece; !(piece = await reader.read().catch(() => null))?.done;) {
      if (!piece) return;
      this.#take(piece.value);
      this.#waits.notify();
      if (this.#dropped > MAX_OUTPUT) await this.#child.status;
    }
  }

  #take(text: string): void {
    this.#output += text;
    if (!this.#isReady) {
      const [before, line, after] = split(this.#output, `${this.#mark} `);
      if (line === undefined) return;
      [this.#shell, this.#pid] = line.split(" ").map(Number) as [number, number];
      this.#output = before + after;
      this.#isReady = true;
      for (const line of this.#early.splice(0)) this.#write(`${line}\n`);
    }
    const [before, line, after] = split(this.#output, `\n${this.#mark} exit `, text.length);
    if (this.#isTerminal && line !== undefined) {
      this.#output = before + after;
      this.#end(Number(line));
    }
    const excess = this.#output.length - 2 * KEPT_CHARS;
    if (excess <= 0) return;
    this.#output = this.#output.slice(-KEPT_CHARS);
    this.#dropped += excess + KEPT_CHARS;
  }

  #end(code: number): void {
    this.exitCode ??= code;
    this.hasEnded = true;
    this.#waits.notify();
  }

  async #waitForEnd(): Promise<void> {
    const { code } = await this.#child.status;
    running.delete(this);
    await within(this.#pumps, LAST_OUTPUT_MS); // a child of its own may hold the pipes
    this.#end(code);
  }

  /** Its process, which need not be the one that was started. */
  get pid(): number {
    return this.#pid || this.#child.pid;
  }

  /** Here and now, for {@linkcode since}. */
  mark(): number {
    return this.#dropped + this.#output.length;
  }

  /** What it has printed since, as a terminal shows it. */
  since(mark: number): string {
    return this.#isReady ? plain(this.#output.slice(Math.max(0, mark - this.#dropped))) : "";
  }

  /** All that it printed. */
  get output(): string {
    return this.since(0);
  }

  /**
   * Waits until `isDone`, for `ms` at most, and no longer than the program itself may still do
   * something. Returns whether it is done.
   */
  async until(
    isDone: () => boolean,
    ms: number,
    { firstMs = LOOK_MS, enough = 2, mayHide = false }: Looks = {},
  ): Promise<boolean> {
    const deadline = performance.now() + ms;
    for (let stuck = 0, next = firstMs; stuck < enough; next = LOOK_MS) {
      const left = deadline - performance.now();
      if (await this.#waits.until(isDone, Math.min(next, left))) return true;
      if (left <= next) return false;
      const ms = performance.now() - this.#start + left; // a limit counts from the call's begin
      let hasLooked = false;
      const look = isStuck(this.#child.pid, ms, mayHide).then((stays) => {
        stuck = stays ? stuck + 1 : 0;
        hasLooked = true;
        this.#waits.notify();
      });
      this.#looks = Promise.all([this.#looks, look]);
      // A look takes long on a busy machine: what comes meanwhile is not kept waiting.
      await this.#waits.until(() => isDone() || hasLooked, deadline - performance.now());
    }
    return await this.#waits.until(isDone, 0); // what it said last may be on its way
  }

  /** Types a line. */
  async type(line: string): Promise<void> {
    if (this.#isReady) await this.#write(`${line}\n`);
    else this.#early.push(line);
  }

  async #write(text: string): Promise<void> {
    await this.#stdin.write(encode(text)).catch(() => {}); // it has ended
  }

  /** Ctrl-D. */
  async endInput(): Promise<void> {
    if (this.#isTerminal) await this.#write(CTRL_D);
    else await this.#stdin.close().catch(() => {});
  }

  /** How it ended, and what it said of it. */
  describeEnd(): string {
    const words = errorLine(this.output);
    return `it ended with code ${this.exitCode}${words && `: ${words}`}`;
  }

  /** Ends it and its children. */
  kill(): void {
    // The program, the session that it has with its shell, and that of `script`.
    const pids = this.#shell > 1 ? [this.#pid, -this.#shell, this.#shell] : [];
    for (const pid of [...pids, -this.#child.pid, this.#child.pid]) killProcess(pid);
  }

  /** Finds and ends what left the program's group. */
  async sweep(): Promise<void> {
    this.leftBehind.push(...await sweep(this.#mark));
  }

  async [Symbol.asyncDispose](): Promise<void> {
    this.kill();
    await this.#stdin.close().catch(() => {});
    await this.#ended;
    await this.#looks;
    if (await within(this.#pumps, LAST_OUTPUT_MS)) return;
    await this.sweep(); // somebody holds the pipes
    if (await within(this.#pumps, CLOSES_MS)) return;
    await Promise.all(this.#readers.map((reader) => reader.cancel().catch(() => {})));
  }
}

/** The command that runs `words` in a terminal, if there is one. */
function inTerminal(words: string[], terminal: Terminal): string[] {
  if (terminal === "pipe") return words;
  if (terminal === "stdbuf") return ["stdbuf", "-oL", ...words];
  const line = ["sh", "-c", IN_TERMINAL, "sh", ...words].map(quote).join(" ");
  return ["script", "-qefc", line, "/dev/null"];
}

/** A word as a shell takes it. */
function quote(word: string): string {
  return `'${word.replaceAll("'", "'\\''")}'`;
}

function spawn(
  [name, ...args]: string[],
  { cwd, mark }: { cwd: string | undefined; mark: string },
): Deno.ChildProcess {
  const piped = { stdin: "piped", stdout: "piped", stderr: "piped" } as const;
  const detached = true; // a process group of its own, to end its children with it
  const env = { ...ENV, ECHO_GRADER: mark };
  try {
    return new Deno.Command(name!, { args, ...piped, detached, env, ...(cwd ? { cwd } : {}) })
      .spawn();
  } catch (cause) {
    const reason = cause instanceof Deno.errors.NotFound ? "not found" : (cause as Error).message;
    throw new UsageError(`cannot run "${name}": ${reason}`, { cause });
  }
}

/**
 * What stands before a line that starts with `start`, the rest of that line, and what follows;
 * `news`: so much of the text is new.
 */
function split(
  text: string,
  start: string,
  news = text.length,
): [before: string, line?: string, after?: string] {
  const at = text.indexOf(start, Math.max(0, text.length - news - start.length - 8));
  const end = text.indexOf("\n", at + start.length);
  if (at < 0 || end < 0) return [text];
  return [text.slice(0, at), text.slice(at + start.length, end), text.slice(end + 1)];
}

/** Whether `promise` settles within `ms`. */
async function within(promise: Promise<unknown>, ms: number): Promise<boolean> {
  const { promise: late, resolve } = Promise.withResolvers<boolean>();
  const timer = setTimeout(resolve, ms, false);
  const isDone = await Promise.race([promise.then(() => true, () => true), late]);
  clearTimeout(timer);
  return isDone;
}
