/**
 * Reads the documentation, and runs its transcripts, at a terminal where something is typed, to
 * compare every line.
 *
 * A fence whose info string is `console` is what a person sees in a terminal:
 *
 * - `$ command` is given to bash, in the root of the repo; what follows is its output.
 * - `> sentence` is typed at a client's prompt, and so is `>>> statement` at Python's. `^C` and `^D`
 *   are keys. The small clients of the lab have no prompt: what they do not say is typed.
 * - A server goes on in the background, to the end of its section, which is the text under one
 *   heading. So do a client at an empty prompt, `>`, a small client to which something
 *   was typed last, and Python at its prompt.
 * - A line that is `…`, whatever its indent, stands for any number of lines.
 * - A second word in the info string, as in `console client`, names the terminal: a later fence of
 *   that name that starts without `$` goes on where it was left.
 *
 * Free ports stand in for 12000 and the like. What no two runs share is masked: the ports of clients,
 * though not which is which, and times.
 *
 * @module
 */

import { assertEquals } from "@std/assert";
import { eventually, isWaiting } from "./_faults.ts";
import { decode, fileUrl, freePort, Program, PTY } from "./_helpers.ts";

/** A fenced block: its info string, word by word, and its lines. */
export type Fence = { info: string[]; lines: string[] };
/** A heading, the text under it, and the fenced blocks in that text. */
export type Section = { title: string; text: string; fences: Fence[] };

const DENO_DIRECTORY = directoryOf(Deno.execPath());
const CLOSED = /closed \(|"event":"close"| close\(\) +│ +\S/; // a connection, at a server
const READY = /listening|ready on/;
const KEYS = /^(>|\^C|\^D)/; // a prompt, or a key
const PROMPT = /^>>>(?= |$)|^>(?= |$)/; // Python's, or a client's
const SMALL_CLIENT = /^\$ [^|<]*docs\/lab\/(?:task\d|whole_\w+)_client\.\w+ ?\d*$/;
const SMALL_CLIENT_SAYS = /^(Type |echo:|Traceback|error|\w+Error|KeyboardInterrupt| |$|\^|…)/;
const SOCKET_ROW = /^(State|LISTEN|ESTAB|CLOSE-WAIT|TIME-WAIT|FIN-WAIT-\d|SYN-SENT) .*/; // of ss

/** The sections of a Markdown text, whatever the rank of their headings. */
function sectionsOf(markdown: string): Section[] {
  const sections: Section[] = [{ title: "", text: "", fences: [] }];
  let fence: Fence | undefined;
  for (const line of markdown.split("\n")) {
    const heading = /^#+ (.+)/.exec(line);
    if (heading && !fence) sections.push({ title: heading[1]!, text: "", fences: [] });
    const section = sections.at(-1)!;
    section.text += `${line}\n`;
    if (!line.startsWith("```")) fence?.lines.push(line);
    else if (fence) fence = undefined;
    else section.fences.push(fence = { info: line.slice(3).split(" "), lines: [] });
  }
  return sections;
}

/** Reads a Markdown file of the repo. */
export function readSections(path: string): Section[] {
  return sectionsOf(Deno.readTextFileSync(fileUrl(path)));
}

/** The section under a heading. */
export function sectionOf(path: string, title: string): Section {
  const section = readSections(path).find((section) => section.title === title);
  if (!section) throw new Error(`no section "${title}" in ${path}`);
  return section;
}

/** The rows of the tables of a section, cell by cell, without the headers. */
export function rowsOf({ text }: Section): string[][] {
  const lines = text.split("\n").filter((line) => line.startsWith("|"));
  const isRule = (line = ""): boolean => /^\|[ |-]+$/.test(line);
  return lines
    .filter((line, i) => !isRule(line) && !isRule(lines[i + 1]))
    .map((line) => line.slice(1, -1).split("|").map((cell) => cell.trim()));
}

/** What stands between backticks. */
export function codeIn(text: string): string[] {
  return [...text.matchAll(/`([^`]+)`/g)].map(([, code]) => code!);
}

/** The transcripts of a section. */
export function transcriptsOf({ fences }: Section): Fence[] {
  return fences.filter(({ info }) => info[0] === "console");
}

/** Whether a person types something in it, and it needs a terminal. */
export function isTyped(section: Section): boolean {
  return transcriptsOf(section)
    .some(({ lines }) => lines.some((line) => KEYS.test(line) || SMALL_CLIENT.test(line)));
}

/** Runs the transcripts of a section as a person would, `via` a command, and compares the outcome. */
export async function replay(section: Section, via: string[] = []): Promise<void> {
  const ports = new Map<string, string>(); // from 12000, as it is written, to the one in use
  const terminals = new Map<string, Terminal>();
  try {
    for (const [i, { info, lines }] of transcriptsOf(section).entries()) {
      const name = info[1] ?? `terminal ${i + 1}`;
      const terminal = terminals.get(name) ?? new Terminal(ports, { typed: isTyped(section), via });
      terminals.set(name, terminal);
      const ended = await terminal.play(lines);
      // A server says so when a client has gone; the next one comes after that, as for a person.
      for (let i = 0; i < ended; i++) {
        for (const server of terminals.values()) await server.awaitClose();
      }
    }
    for (const terminal of terminals.values()) await terminal.compare();
  } finally {
    for (const terminal of terminals.values()) await terminal[Symbol.asyncDispose]();
  }
}

/** One terminal window: what it must show, and what it shows. */
class Terminal implements AsyncDisposable {
  readonly #ports: Map<string, string>;
  readonly #typed: boolean; // else it needs no terminal: one costs a tenth of a second
  readonly #via: string[]; // a command that runs the command behind it
  readonly #expected: string[] = [];
  readonly #shown: string[] = [];
  #program: Program | undefined;
  #command = "";
  #status = 0; // of the command before: for `echo $?`
  #pending: string[] = []; // what a server must show before its next key, or at the end
  #atPrompt = false;
  #waits = false; // for its user, or for what does not come
  #skips = false; // after `…`, to the line behind it
  #serves = false; // it goes on until it is told to end

  constructor(ports: Map<string, string>, { typed, via }: { typed: boolean; via: string[] }) {
    this.#ports = ports;
    this.#typed = typed;
    this.#via = via;
  }

  /** Does what a fence says, and reads what must come of it. Returns how many TCP clients ended. */
  async play(fence: string[]): Promise<number> {
    const lines = fence.slice();
    if (this.#program && lines[0]!.startsWith("$ ")) {
      this.#serves = false;
      await this.#readPending(); // it has ended by itself
    }
    if (this.#atPrompt && lines[0]!.startsWith(">")) this.#expected.pop();
    this.#expected.push(...lines);
    let clients = 0;
    while (lines.length > 0) {
      if (lines[0]!.startsWith("$ ")) this.#start(lines.shift()!);
      const next = lines.findIndex((line) => line.startsWith("$ "));
      this.#pending.push(...lines.splice(0, next < 0 ? lines.length : next));
      const ready = this.#pending.findIndex((line) => READY.test(line));
      if (ready < 0) {
        await this.#readPending();
        if (!this.#program && this.#command.includes("tcp_client.ts")) clients++;
      } else {
        this.#serves = !this.#command.includes("--once");
        for (const line of this.#pending.splice(0, ready + 1)) await this.#read(line);
      }
    }
    return clients;
  }

  #start(line: string): void {
    this.#command = line;
    this.#serves = /python3 -q$/.test(line);
    this.#shown.push(line);
    const command = this.#withPorts(line.slice(2))
      .replace(/^sudo /, "") // these tests run as root, or not at all
      .replace(/^(deno run|python3) [^|&]*$/, "exec $&");
    const bash = ["bash", "-c", `exec 2>&1; (exit ${this.#status}); ${command}`];
    const [name, ...args] = [
      ...this.#via,
      ...(this.#typed ? [python(), ...PTY.slice(1), ...bash] : bash),
    ];
    const options = {
      env: {
        NO_COLOR: "1",
        TERM: "dumb",
        PYTHONUNBUFFERED: "1",
        PATH: `${DENO_DIRECTORY}:${directoryOf(python())}:${Deno.env.get("PATH")}`,
      },
      cwd: fileUrl("."),
      stdin: "piped",
      stdout: "piped",
      stderr: "piped",
    } as const;
    this.#program = new Program(line, new Deno.Command(name!, { args, ...options }).spawn());
  }

  /** Reads what is pending; of a program that ends, on to its end, however much that is. */
  async #readPending(): Promise<void> {
    const lines = this.#pending.splice(0);
    const stopped = lines.some((line) => line.startsWith("^C"));
    const last = lines.at(-1);
    if (last !== undefined) {
      const isMidway = last.startsWith("echo:") && !lines.includes("stop");
      this.#waits = last === ">" || isMidway || this.#isTypedToSmall(last);
    }
    const ends = (!this.#serves || stopped) && !this.#waits;
    const isKey = (line: string): boolean => KEYS.test(line) || this.#isTypedToSmall(line);
    const typed = ends ? lines.findLastIndex(isKey) + 1 : lines.length;
    for (const line of lines.slice(0, typed)) await this.#read(line);
    if (!ends || !this.#program) return;
    const { stdout, code } = await this.#program.finish();
    this.#status = code;
    const rest = (this.#atPrompt ? this.#shown.pop() : "") + stdout;
    this.#atPrompt = false;
    if (rest !== "") this.#shown.push(...rest.replace(/\n$/, "").split("\n"));
    await this[Symbol.asyncDispose]();
  }

  /** Reads what must be `line`, once it has pressed the keys in it. */
  async #read(line: string): Promise<void> {
    const program = this.#program!;
    let prompt = "";
    if (line.trim() === "…") {
      this.#skips = true;
      return;
    }
    if (this.#atPrompt) prompt = this.#shown.pop()!;
    else if (PROMPT.test(line)) prompt = await program.stdout.until("> ");
    this.#atPrompt = line === ">";
    const typed = /^>+ (.*)/.exec(line)?.[1];
    if (/^(> )?\^D/.test(line)) await program.write("\x04");
    else if (/^(> )?\^C/.test(line)) {
      await eventually("it waits", () => isWaiting(program.pid));
      await program.write("\x03");
    } else if (typed !== undefined) await program.write(`${this.#withPorts(typed)}\n`);
    else if (this.#isTypedToSmall(line)) await program.write(`${line}\n`);
    const rest = this.#atPrompt ? "" : await program.nextLine();
    this.#shown.push(prompt + rest);
    if (!this.#skips) return;
    const shows = (shown: string): boolean => mask(clean(this.#withoutPorts(shown))) === mask(line);
    while (!shows(this.#shown.at(-1)!)) this.#shown.push(await program.nextLine());
    this.#skips = false;
  }

  /** Whether a small client got this line from its user, and did not print it. */
  #isTypedToSmall(line = " "): boolean {
    return SMALL_CLIENT.test(this.#command) && !SMALL_CLIENT_SAYS.test(line);
  }

  /** Waits until a server has closed one more connection, if it must show that. */
  async awaitClose(): Promise<void> {
    const closed = this.#pending.findIndex((line) => CLOSED.test(line));
    if (this.#pending.slice(0, closed + 1).some((line) => /^\^C/.test(line))) return;
    for (const line of this.#pending.splice(0, closed + 1)) await this.#read(line);
  }

  /** At the end of the section: what was shown is what the fences of this terminal say, no more. */
  async compare(): Promise<void> {
    await this.#readPending();
    try {
      this.#program?.kill("SIGKILL");
    } catch {
      // It has ended.
    }
    const more = (await this.#program?.finish())?.stdout;
    // Python is killed at its next prompt, of which it may have written a part.
    const isPython = this.#expected.some((line) => line.startsWith(">>> "));
    const prompt = isPython ? /^>{1,3} *\r?\n?$/ : /^$/;
    if (more?.replace(prompt, "")) this.#shown.push(more);
    const shown = mask(this.#withoutPorts(this.#shown.map(clean).join("\n")));
    const expected = mask(this.#expected.join("\n"));
    assertEquals(elide(shown, expected), expected);
  }

  /** A command with free ports for those that are written, also for the default. */
  #withPorts(command: string): string {
    return command
      .replace(/deno run( --\S+)* \w+\.ts(?!.* (-p|--port) )/g, "$& --port 12000")
      .replace(/docs\/lab\/(task\d|whole)_\w+\.\w+\b(?! \d)/g, "$& 12000")
      .replace(/\b120\d\d\b/g, (port) => {
        if (!this.#ports.has(port)) this.#ports.set(port, `${freePort()}`);
        return this.#ports.get(port)!;
      });
  }

  #withoutPorts(text: string): string {
    const written = new Map([...this.#ports].map(([port, free]) => [free, port]));
    return text.replace(/\b\d{5}\b/g, (number) => written.get(number) ?? number)
      .replace(/(Start the server first: .*) --port 12000\b/, "$1"); // it is the usual one
  }

  async [Symbol.asyncDispose](): Promise<void> {
    const program = this.#program;
    this.#program = undefined;
    await program?.[Symbol.asyncDispose]();
  }
}

let pythonPath: string | undefined;

/** The folder of a program. */
function directoryOf(path: string): string {
  return path.replace(/[/\\][^/\\]+$/, "");
}

/** Python itself, where `python3` is a script that looks for it each time; "" where there is none. */
export function python(): string {
  const options = { args: ["-c", "import sys; print(sys.executable)"] };
  try {
    pythonPath ??= decode(new Deno.Command(PTY[0]!, options).outputSync().stdout).trim();
  } catch {
    pythonPath = "";
  }
  return pythonPath;
}

/** A line as a terminal shows it: what was erased is gone, and the key that ends input is none. */
function clean(line: string): string {
  // deno-lint-ignore no-control-regex
  return line.replace(/\r$/, "").replace(/^.*\r\x1b\[K/, "").replace("^D\b\b", "")
    .replace(/^> $/, ">");
}

/** Text without what no two runs share: the ports of clients, times, and what is counted of them. */
function mask(text: string): string {
  const peers = new Map<string, number>();
  function numberOf(port: string): number {
    if (!peers.has(port)) peers.set(port, peers.size + 1);
    return peers.get(port)!;
  }
  const masked = text
    .replace(/^> \^D$/gm, ">")
    .replace(
      /(?<=[\d\]]:|\b127\.0\.0\.1'?,? )\d{5}\b(?!\.)/g,
      (port) => /^120/.test(port) ? port : `<peer ${numberOf(port)}>`,
    )
    .replace(/^(\^C)?(?=.{7} ms (?:server|client) ) *\d+\.\d ms/gm, "$1<time>")
    .replace(/(?<=◀──.* )\d+\.\d ms$/gm, "<time>")
    .replace(/(?<=, )\d+\.\d s(?=$|,)/gm, "<seconds>")
    .replace(/(?<= in )\d+(\.\d+)? s\b/g, "<seconds>")
    .replace(/(?<="time":")[^"]+/g, "<time>")
    .replace(/(?<="seconds":)\d+(\.\d+)?(?=[,}])/g, "<seconds>")
    .replace(/(?<=time=|"rtt_ms":|"(?:min|avg|max|mdev|p\d\d)":)\d+(\.\d+)?\b/g, "<ms>")
    .replace(/(?<=^(?:rtt| {4}p50).*[=/] ?)\d+(\.\d+)?(?=.* ms$)/gm, "<ms>");
  const timed = masked.replace(
    /(?<=^')(\d+\.\d+) ms(?='$)/gm,
    (_, ms) => ms > 30 ? "slow" : "fast",
  );
  return maskSockets(maskHistogram(timed));
}

/** Rows of sockets, in any order and of any width; the order tells which peer is which. */
function maskSockets(text: string): string {
  const rows = new RegExp(`(?:${SOCKET_ROW.source}(?:\\n|$))+`, "gm");
  return text.replace(rows, (block) => {
    const lines = block.trimEnd().split("\n").map((row) =>
      row.trim().replace(/ +/g, " ").replace(/<peer \d+>/g, "<peer>")
        .replace(/^FIN-WAIT-1 0 1/, "FIN-WAIT-2 0 0") // for a moment, until its FIN is acknowledged
    );
    return lines.sort().join("\n") + (block.endsWith("\n") ? "\n" : "");
  });
}

/** Text with `…` for the lines that are left out of `expected` there. */
function elide(shown: string, expected: string): string {
  const rest = shown.split("\n");
  const elided: string[] = [];
  const lines = expected.split("\n");
  for (const [i, line] of lines.entries()) {
    if (line.trim() !== "…") elided.push(...rest.splice(0, 1));
    else {
      const next = rest.indexOf(lines[i + 1]!);
      rest.splice(0, next < 0 ? rest.length : next);
      elided.push(line);
    }
  }
  return [...elided, ...rest].join("\n");
}

/** A histogram becomes the number of its echoes; its bars must be in proportion. */
function maskHistogram(text: string): string {
  return text.replace(/(?:^ *(?:to|over) \d+ (?:µs|ms|s) +\d+ ?█*(?:\n|$))+/gm, (rows) => {
    const bars = [...rows.matchAll(/(\d+) ?(█*)$/gm)];
    const counts = bars.map(([, count]) => Number(count));
    const most = Math.max(...counts);
    for (const [i, [, , bar]] of bars.entries()) {
      assertEquals(bar!.length, Math.ceil(counts[i]! / most * 40));
    }
    return `<histogram of ${counts.reduce((a, b) => a + b)} echoes>\n`;
  });
}
