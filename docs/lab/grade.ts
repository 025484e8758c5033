/**
 * Grades an echo server or client of the lab, in whatever language it is written, and names the
 * mistake where what was seen proves it. It talks to a server as clients do, and plays the server
 * for a client, whose keyboard it is.
 *
 * ```sh
 * deno task grade tcp-server 127.0.0.1:12000
 * deno task grade udp-client -- python3 my_client.py 127.0.0.1 {port}
 * deno task grade --class submissions.tsv --format gradescope
 * ```
 *
 * `grader.md` has what is asked and what is not. The rooms are in `grade/`: `checks.ts` has the checks
 * as data; `interpreter.ts` takes their steps as a server's clients, `keyboard.ts` as a client's user;
 * `channel.ts` is the way to a peer, `program.ts` runs what is graded, `process.ts` sees whether it
 * waits for ever, `server.ts` and `stage.ts` have it as a server and as a client; `diagnosis.ts` names
 * what is wrong, `run.ts` makes the verdicts, `report.ts` prints them, `class.ts` reads a class.
 *
 * Exit codes: 0 all tasks pass; 1 they do not; 2 wrong use; 129 SIGHUP; 130 SIGINT; 143 SIGTERM.
 *
 * @module
 */

import { parseArgs } from "jsr:@std/cli@^1.0.32/parse-args";
import { type Entry, parseClass, runAll } from "./grade/class.ts";
import { isLoopback } from "./grade/ports.ts";
import { endAll } from "./grade/program.ts";
import * as report from "./grade/report.ts";
import { grade } from "./grade/run.ts";
import { type GradeOptions, type Kind, sumUp, UsageError, type Verdict } from "./grade/verdict.ts";

export { checksOf } from "./grade/checks.ts";
export { diagnose, type Evidence } from "./grade/diagnosis.ts";
export { type Mistake, MISTAKES } from "./grade/mistakes.ts";
export { grade, type GradeOptions, type Kind, sumUp, UsageError, type Verdict };

const NAME = "grade";
const HELP = `Grades an echo server or client of the lab, and says what was seen to be wrong.

Usage: deno task grade SERVER HOST:PORT
       deno task grade KIND [OPTIONS] -- COMMAND…
       deno task grade --class FILE

KIND is tcp-server, udp-server, tcp-client or udp-client. In COMMAND, {port}
stands for the port to use, on 127.0.0.1. What a command prints is graded, too.

      --task N         grade what tasks 1 to N ask for: 1 prints only, nothing
                       comes back; 2 echoes; 3 goes on until a stop word
                       (default 3; over UDP, all three are task 4)
      --stop WORD      the program's own stop word (default: stop or exit)
      --type LINE      type this first, as what it asks for; {port} is the port
                       (repeatable)
      --port N         for a command that has its port in its code
      --strict         count the checks beyond the handout (+), too
      --allow-remote   let HOST be another machine than this
      --class FILE     grade a class: lines of name, kind, command and options,
                       with a tab between them
      --format FORMAT  text, json (an object a line), gradescope (results.json)
                       or junit (default text)
      --json           the same as --format json
  -h, --help           print this

A submission runs with your rights; docs/lab/grader.md shows how to shut it in.
`;

/** What a command line asks for. */
type Command = {
  kind: string;
  options: GradeOptions | undefined;
  classFile: string | undefined;
  strict: boolean;
  format: report.Format;
};

/** @throws UsageError that names what is wrong and what is allowed */
function parseCommand(args: string[], { isEntry = false } = {}): Command | "help" {
  const end = [...args, "--"].indexOf("--");
  const flags = parseArgs(args.slice(0, end), {
    string: ["_", "task", "port", "stop", "type", "class", "format"],
    boolean: ["strict", "allow-remote", "json", "help"],
    collect: ["stop", "type"],
    alias: { h: "help" },
    unknown: (arg, key) => {
      if (key !== undefined) throw new UsageError(`unknown option "${arg}"; see --help`);
    },
  });
  if (flags.help) return "help";
  const format = flags.json ? "json" : (flags.format as string | undefined) ?? "text";
  if (!isFormat(format)) {
    throw new UsageError(`--format must be ${report.FORMATS.join(", ")}, not "${format}"`);
  }
  const [kind = "", address, ...others] = flags._.map(String);
  const classFile = flags.class as string | undefined;
  const result = { kind, classFile, strict: flags.strict === true, format };
  if (classFile !== undefined && !isEntry) {
    if (classFile === "") throw new UsageError("--class needs a value, FILE");
    const more = kind || args[end + 1];
    if (more) throw new UsageError(`--class has the programs in its file: not "${more}", too`);
    return { ...result, options: undefined };
  }
  if (!/^(tcp|udp)-(server|client)$/.test(kind)) {
    throw new UsageError(`say tcp-server, udp-server, tcp-client or udp-client, not "${kind}"`);
  }
  if (others.length > 0) throw new UsageError(`unexpected "${others[0]}"; see --help`);
  const options: GradeOptions = { kind: kind as Kind, ...parseOptions(flags) };
  const command = args.slice(end + 1);
  addTarget(options, { address, command, mayBeRemote: flags["allow-remote"] === true });
  return { ...result, options };
}

function isFormat(text: string): text is report.Format {
  return (report.FORMATS as readonly string[]).includes(text);
}

/** The options that have a value. */
function parseOptions(flags: Record<string, unknown>): Omit<GradeOptions, "kind"> {
  const options: Omit<GradeOptions, "kind"> = {};
  if (flags.task !== undefined) options.task = toNumber("--task", flags.task, [1, 4]);
  if (flags.port !== undefined) options.port = toNumber("--port", flags.port, [1, 65_535]);
  const stop = (flags.stop as string[]).map((word) => word.trim());
  if (stop.includes("")) throw new UsageError("--stop needs a value, WORD");
  if (stop.length > 0) options.stop = stop;
  const type = flags.type as string[];
  if (type.length > 0) options.type = type;
  return options;
}

function toNumber(name: string, text: unknown, [min, max]: [number, number]): number {
  const number = /^\d+$/.test(`${text}`) ? Number(text) : NaN;
  if (number >= min && number <= max) return number;
  throw new UsageError(`${name} must be a whole number from ${min} to ${max}, not "${text}"`);
}

/** What is graded: a server at an address, or a command. */
function addTarget(
  options: GradeOptions,
  { address, command, mayBeRemote }: {
    address: string | undefined;
    command: string[];
    mayBeRemote: boolean;
  },
): void {
  const { kind, port, type = [] } = options;
  if (address !== undefined && command.length > 0) {
    const both = `("${address}" and "${command[0]}")`;
    throw new UsageError(`give an address or a command, not both ${both}`);
  }
  if (address !== undefined) {
    options.address = parseAddress(kind, address);
    if (isLoopback(options.address.hostname) || mayBeRemote) return;
    const what = `"${address}" is not on this machine`;
    throw new UsageError(`${what}: --allow-remote, if it is yours to test`);
  }
  if (command.length === 0) {
    const place = kind.endsWith("server") ? "HOST:PORT or -- COMMAND…" : "-- COMMAND…";
    throw new UsageError(`say what to grade: ${kind} ${place}`);
  }
  if (port === undefined && ![...command, ...type].some((part) => part.includes("{port}"))) {
    throw new UsageError("put {port} where the command takes its port, or give its own by --port");
  }
  options.command = command;
}

function parseAddress(kind: Kind, text: string): { hostname: string; port: number } {
  if (kind.endsWith("client")) {
    throw new UsageError(`a client is given as a command: ${kind} -- COMMAND…, not "${text}"`);
  }
  const [, hostname, port] = /^\[?([^[\]]+?)\]?:(\d+)$/.exec(text) ?? [];
  if (hostname === undefined) throw new UsageError(`an address is HOST:PORT, not "${text}"`);
  return { hostname, port: toNumber("the port", port, [1, 65_535]) };
}

// ---- Grading ----

/** Where the user stands: `deno task` goes elsewhere. */
function userFolder(): string | undefined {
  const { state } = Deno.permissions.querySync({ name: "env", variable: "INIT_CWD" });
  return state === "granted" ? Deno.env.get("INIT_CWD") : undefined;
}

/** Grades a program, or finds out why it cannot be graded. */
async function gradeOne(options: GradeOptions, strict: boolean): Promise<report.Report> {
  const { kind, command } = options;
  const start = performance.now();
  try {
    const cwd = userFolder();
    const verdicts = await grade({ ...options, ...(cwd ? { cwd } : {}) });
    const program = options.program ?? verdicts[0]!.program;
    const seconds = Math.round(performance.now() - start) / 1000;
    return { program, kind, verdicts, result: sumUp(verdicts, { strict, program, seconds }) };
  } catch (error) {
    const program = options.program ?? command?.join(" ") ?? kind;
    return { program, kind, error: (error as Error).message };
  }
}

/** Grades all submissions of a class file, and prints a line for each. */
async function gradeClass(command: Command, args: string[]): Promise<report.Report[]> {
  const file = command.classFile!;
  const entries = parseClass(await readFile(file, userFolder()), file);
  const defaults = args.filter((_, i) => args[i] !== "--class" && args[i - 1] !== "--class")
    .filter((arg) => !arg.startsWith("--class="));
  const parsed = entries.map((entry) => parseEntry(entry, { file, defaults }));
  const width = Math.max(...entries.map(({ name }) => name.length));
  const reports: report.Report[] = [];
  const print = (): void => { // in the order of the file
    for (const each of reports.slice(printed, firstGap(reports))) {
      printed++;
      if (command.format === "text") console.log(report.formatRow(each, width));
      else if (command.format === "json") printJson(each, "verdicts" in each ? each.verdicts : []);
    }
  };
  let printed = 0;
  await runAll(parsed.map(({ options, strict }, i) => ({
    port: options.port,
    isClient: options.kind.endsWith("client"),
    run: async () => {
      const program = entries[i]!.name;
      const onNote = (note: string): void => console.error(`${NAME}: ${program}: ${note}`);
      reports[i] = await gradeOne({ ...options, program, onNote }, strict);
      print();
    },
  })));
  return reports;
}

function firstGap(reports: unknown[]): number {
  const gap = Array.from(reports).indexOf(undefined);
  return gap < 0 ? reports.length : gap;
}

function parseEntry(
  { name, args }: Entry,
  { file, defaults }: { file: string; defaults: string[] },
): { options: GradeOptions; strict: boolean } {
  try {
    const [kind = "", ...rest] = args;
    const command = parseCommand([kind, ...defaults, ...rest], { isEntry: true });
    if (command !== "help" && command.options) {
      return { options: command.options, strict: command.strict };
    }
    throw new UsageError("--help");
  } catch (error) {
    if (!(error instanceof UsageError)) throw error;
    throw new UsageError(`${file}: ${name}: ${error.message}`);
  }
}

async function readFile(file: string, folder: string | undefined): Promise<string> {
  const path = folder && !/^([/\\]|[A-Za-z]:)/.test(file) ? `${folder}/${file}` : file;
  try {
    return await Deno.readTextFile(path);
  } catch (error) {
    const reason = error instanceof Deno.errors.NotFound
      ? "no such file"
      : error instanceof Deno.errors.NotCapable
      ? "--allow-read is needed behind deno run"
      : (error as Error).message.replace(/ \(os error \d+\).*/, "");
    throw new UsageError(`cannot read "${file}": ${reason}`, { cause: error });
  }
}

/** Verdicts, then the last object of a program: its sum, or why it could not be graded. */
function printJson(each: report.Report, verdicts: Verdict[] = []): void {
  for (const verdict of verdicts) console.log(JSON.stringify(verdict));
  const { program } = each;
  console.log(JSON.stringify("error" in each ? { program, error: each.error } : each.result));
}

/** Ends the programs with the grader: their process groups are not the terminal's. */
function endWithSignals(): void {
  for (const [signal, code] of [["SIGINT", 130], ["SIGTERM", 143], ["SIGHUP", 129]] as const) {
    if (signal !== "SIGINT" && Deno.build.os === "windows") continue; // not to be had there
    Deno.addSignalListener(signal, () => {
      endAll();
      Deno.exit(code);
    });
  }
}

/** Grades what the command line asks for, prints the verdicts, and returns the exit code. */
export async function main(args: string[]): Promise<number> {
  const command = parseCommand(args);
  if (command === "help") {
    console.log(HELP.trimEnd());
    return 0;
  }
  endWithSignals();
  const { strict, format, options } = command;
  const startedAt = new Date();
  const reports = options ? [await gradeAlone(options, command)] : await gradeClass(command, args);
  if (format === "gradescope") console.log(report.formatGradescope(reports, { strict }));
  if (format === "junit") console.log(report.formatJunit(reports, { strict, startedAt }));
  if (options && "error" in reports[0]!) return 2;
  return reports.every((each) => "result" in each && each.result.passed) ? 0 : 1;
}

/** Grades the program of the command line, and prints as it goes where the format is one of lines. */
async function gradeAlone(
  options: GradeOptions,
  { strict, format }: Command,
): Promise<report.Report> {
  const graded = await gradeOne({
    ...options,
    onVerdict: (verdict) => {
      if (format === "text") console.log(report.formatVerdict(verdict));
      else if (format === "json") console.log(JSON.stringify(verdict));
    },
    onNote: (note) => console.error(`${NAME}: ${note}`),
  }, strict);
  if (format === "json") printJson(graded);
  if ("error" in graded) console.error(`${NAME}: ${graded.error}`);
  else if (format === "text") console.log(report.formatResult(graded.result, graded.verdicts));
  return graded;
}

if (import.meta.main) {
  try {
    Deno.exit(await main(Deno.args));
  } catch (error) {
    console.error(`${NAME}: ${error instanceof Error ? error.message : error}`);
    Deno.exit(2); // nothing was graded
  }
}
