/**
 * The grader's collection: programs in `tests/right/` and `tests/wrong/`, how each is run and graded.
 *
 * @module
 */

import {
  grade,
  type GradeOptions,
  type Kind,
  type Mistake,
  sumUp,
  type Verdict,
} from "../docs/lab/grade.ts";
import { fileUrl } from "./_helpers.ts";

/**
 * The mistake of each program in `tests/wrong/`: the check that it must fail, and the mistake's key.
 * A check of a task is then the only one of the tasks that fails; with one beyond, none of them does.
 */
export const WRONG: Record<string, [check: string, mistake: Mistake]> = {
  "task1_server_answers.py": ["sends nothing back", "answersInTask1"],
  "task1_server_one_client.py": ["prints the next client's", "oneClientEver"],
  "task1_server_prints_part.py": ["prints two pieces", "printsPart"],
  "tcp_client_adds_zeros.py": ["sends what is typed", "addsToSentence"],
  "tcp_client_ends_silently.py": ["the server's end", "endsWithoutWord"],
  "tcp_client_hangs_on_empty.py": ["an empty sentence", "hangsOnEmpty"],
  "tcp_client_ignores_end_of_input.py": ["end of input", "staysAtEnd"],
  "tcp_client_ignores_server_end.py": ["the server's end", "ignoresServerEnd"],
  "tcp_client_leaves_at_word_inside.py": ["stop word inside", "leavesAtWordInside"],
  "tcp_client_loses_second.ts": ["two typed at once", "losesSecond"],
  "tcp_client_no_stop.py": ["stop word", "staysAfterStop"],
  "tcp_client_one_sentence.py": ["many sentences", "oneSentence"],
  "tcp_client_prints_bytes.py": ["prints the echo as text", "showsBytes"],
  "tcp_client_prints_input.py": ["prints what came back", "showsInput"],
  "tcp_client_prints_nothing.py": ["prints the echo", "showsNoEcho"],
  "tcp_client_reads_once.py": ["an echo in two pieces", "readsEchoOnce"],
  "tcp_client_reconnects.py": ["many sentences", "reconnects"],
  "tcp_client_retries_for_ever.py": ["no server", "ignoresRefusal"],
  "tcp_client_sends_buffer.c": ["sends what is typed", "addsToSentence"],
  "tcp_client_sends_latin1.py": ["sends other letters", "changesSentence"],
  "tcp_client_sends_repr.py": ["sends what is typed", "sendsBytesAsText"],
  "tcp_client_sends_twice.py": ["sends what is typed", "sendsTwice"],
  "tcp_server_adds_prefix.ts": ["one sentence", "addsToEcho"],
  "tcp_server_changes_line_ends.ts": ["CRLF", "changesLineEnds"],
  "tcp_server_closes_behind_empty.py": ["behind an empty line", "emptyLineEnds"],
  "tcp_server_collapses_blanks.pl": ["blanks inside", "changesBlanks"],
  "tcp_server_compares_line_end.py": ["stop word and CRLF", "comparesLineEnd"],
  "tcp_server_crashes.java": ["many sentences", "crashes"],
  "tcp_server_cuts_at_end.py": ["half-close at once", "cutsAtEnd"],
  "tcp_server_decodes.py": ["all 256 byte values", "decodesBytes"],
  "tcp_server_decodes_ascii.py": ["other letters", "decodesAscii"],
  "tcp_server_dies_of_leaver.py": ["after one left in mid-line", "diesOfLeaver"],
  "tcp_server_dies_of_reset.py": ["after a reset", "diesOfReset"],
  "tcp_server_empty_line_ends.py": ["an empty line", "emptyLineEnds"],
  "tcp_server_ends_after_ten.py": ["many sentences", "closesEarly"],
  "tcp_server_first_line_only.py": ["two lines in one piece", "oneLineARead"],
  "tcp_server_first_sentence.py": ["many sentences", "repeatsEarlier"],
  "tcp_server_ignores_end.py": ["end of input", "ignoresEnd"],
  "tcp_server_mixes_clients.py": ["five at once", "mixesClients"],
  "tcp_server_no_stop.py": ["stop word", "noStopWord"],
  "tcp_server_old_bytes.c": ["long, then short", "keepsOldBytes"],
  "tcp_server_one_at_a_time.py": ["beside a silent client", "oneAtATime"],
  "tcp_server_one_client.py": ["the next client", "oneClientEver"],
  "tcp_server_other_port.js": ["prints the sentence", "unreachable"],
  "tcp_server_partial_send.c": ["1 MiB", "losesMuch"],
  "tcp_server_partial_send.py": ["1 MiB", "losesMuch"],
  "tcp_server_pipes.ts": ["after a reset", "diesOfReset"],
  "tcp_server_prints_bytes.py": ["prints the sentence", "printsBytes"],
  "tcp_server_prints_nothing.py": ["prints the sentence", "printsNothing"],
  "tcp_server_reads_once.py": ["many sentences", "readsOnce"],
  "tcp_server_sends_repr.py": ["one sentence", "sendsBytesAsText"],
  "tcp_server_stop_ends_all.py": ["after a stop word", "stopEndsServer"],
  "tcp_server_stop_inside.py": ["stop word inside", "findsStopInside"],
  "tcp_server_stop_unechoed.ts": ["stop word's echo", "stopNotEchoed"],
  "tcp_server_strips_line_end.py": ["one sentence", "cutsLineEnd"],
  "tcp_server_upper_case.js": ["one sentence", "changesCase"],
  "tcp_server_waits_for_line.ts": ["no line end", "waitsForLine"],
  "udp_client_believes_late_copy.py": ["a late copy", "believesDuplicate"],
  "udp_client_believes_stranger.py": ["a stranger's reply", "believesStranger"],
  "udp_client_no_timeout.py": ["a lost echo", "noTimeout"],
  "udp_client_one_sentence.sh": ["many sentences", "oneSentence"],
  "udp_client_prints_nothing.pl": ["prints the echo", "showsNoEcho"],
  "udp_client_sends_bytewise.py": ["sends what is typed", "sendsPart"],
  "udp_client_small_buffer.py": ["1,400 bytes", "cutsDatagram"],
  "udp_client_wrong_port.ts": ["sends what is typed", "sendsNothing"],
  "udp_server_adds.js": ["one sentence", "addsToEcho"],
  "udp_server_answers_twice.ts": ["one in, one out", "repliesTwice"],
  "udp_server_decodes.py": ["bytes that are no text", "decodesBytes"],
  "udp_server_empty_ends.py": ["0 bytes", "emptyDatagram"],
  "udp_server_ends_after_ten.pl": ["one in, one out", "closesEarly"],
  "udp_server_first_peer.py": ["two peers in turn", "onePeer"],
  "udp_server_fixed_port.py": ["one sentence", "noReply"],
  "udp_server_other_socket.py": ["one sentence", "otherSocket"],
  "udp_server_reads_once.py": ["one in, one out", "readsOnce"],
  "udp_server_small_buffer.py": ["1,472 bytes", "cutsDatagram"],
  "udp_server_stop_ends_all.py": ["after a stop word", "stopEndsServer"],
  "udp_server_stop_inside.py": ["stop word inside", "findsStopInside"],
  "udp_server_upper_case.ts": ["one sentence", "changesCase"],
};

/** A program of the collection; `lacks` is the tool that it needs and that is not here. */
export type Subject = { path: string; options: GradeOptions; lacks: string | undefined };

/** What became of a subject. */
export type Graded = { verdicts: Verdict[]; passed: boolean; ms: number };

const TOOLS: Record<string, string[]> = {
  py: ["python3"],
  ts: [],
  js: ["node"],
  c: ["cc"],
  pl: ["perl"],
  sh: ["bash"],
  java: ["javac", "java"],
};

const found = new Map<string, boolean>();

/** Whether a command is on this machine. */
export function hasCommand(name: string): boolean {
  let isHere = found.get(name);
  if (isHere === undefined) {
    try {
      const args = ["-c", 'command -v "$1"', "sh", name];
      isHere = new Deno.Command("sh", { args, stdout: "null" }).outputSync().success;
    } catch {
      isHere = false;
    }
    found.set(name, isHere);
  }
  return isHere;
}

let python: string[] | undefined;

/** The interpreter itself, as `python3` may be a script that looks for it; without site-packages. */
function findPython(): string[] {
  const args = ["-c", "import sys; print(sys.executable)"];
  const { stdout } = new Deno.Command("python3", { args }).outputSync();
  return [new TextDecoder().decode(stdout).trim(), "-S"];
}

/** The command that runs a program; what has to be compiled is compiled into `folder`. */
export function commandOf(path: string, folder: string): string[] {
  const file = fileUrl(path).pathname;
  const name = path.split("/").at(-1)!.replace(/\.\w+$/, "");
  switch (path.split(".").at(-1)) {
    case "py":
      return [...(python ??= findPython()), file];
    case "ts":
      return [Deno.execPath(), "run", "--allow-net", "--quiet", file];
    case "js":
      return ["node", file];
    case "pl":
      return ["perl", file];
    case "sh":
      return ["bash", file];
    case "c": {
      compile(["cc", "-O1", "-w", "-o", `${folder}/${name}`, file]);
      return [`${folder}/${name}`];
    }
    default: {
      compile(["javac", "-d", `${folder}/${name}`, file]);
      return [
        "java",
        "-Xshare:auto",
        "-XX:TieredStopAtLevel=1",
        "-cp",
        `${folder}/${name}`,
        "Main",
      ];
    }
  }
}

function compile([command, ...args]: string[]): void {
  const { success, stderr } = new Deno.Command(command!, { args }).outputSync();
  if (!success) throw new Error(new TextDecoder().decode(stderr));
}

/** A program and how it is graded, as its name and the line `grade: …` at its start say. */
export function subjectOf(path: string, folder: string): Subject {
  const name = path.split("/").at(-1)!;
  const lacks = TOOLS[name.split(".").at(-1)!]!.find((tool) => !hasCommand(tool));
  const [, protocol, side] = /^(tcp|udp|task\d)_(server|client)/.exec(name)!;
  const task = /^task(\d)/.exec(protocol!)?.[1];
  const transport = task ? (task === "4" ? "udp" : "tcp") : protocol;
  const options: GradeOptions = { kind: `${transport}-${side}` as Kind, program: name };
  const words = /grade: (.*)/.exec(Deno.readTextFileSync(fileUrl(path)))?.[1]?.split(" ") ?? [];
  const valuesOf = (option: string): string[] => words.filter((_, i) => words[i - 1] === option);
  if (task) options.task = Number(task);
  const [port] = valuesOf("--port");
  if (port) options.port = Number(port);
  if (words.includes("--stop")) options.stop = valuesOf("--stop");
  if (words.includes("--type")) options.type = valuesOf("--type");
  const isGiven = port !== undefined || options.type?.includes("{port}");
  if (!lacks) options.command = [...commandOf(path, folder), ...(isGiven ? [] : ["{port}"])];
  return { path, options, lacks };
}

/** The programs in a folder. */
export function programsIn(folder: string): string[] {
  const names = [...Deno.readDirSync(fileUrl(folder))].map(({ name }) => `${folder}${name}`);
  return names.filter((name) => name.split(".").at(-1)! in TOOLS).sort();
}

/** Grades all, some at a time; `onGraded` hears of each. */
export async function gradeAll(
  subjects: Subject[],
  { atOnce, onGraded }: { atOnce: number; onGraded?: (subject: Subject, graded: Graded) => void },
): Promise<Map<Subject, Graded>> {
  const rest = subjects.filter(({ lacks }) => !lacks);
  const results = new Map<Subject, Graded>();
  async function lane(): Promise<void> {
    for (let subject; (subject = rest.shift());) {
      const start = performance.now();
      const verdicts = await grade(subject.options);
      const graded = {
        verdicts,
        passed: sumUp(verdicts).passed,
        ms: performance.now() - start,
      };
      results.set(subject, graded);
      onGraded?.(subject, graded);
    }
  }
  await Promise.all(Array.from({ length: atOnce }, lane));
  return results;
}

/** The checks that a program failed: of the tasks, or beyond them. */
export function failed(verdicts: Verdict[], { beyond }: { beyond: boolean }): Verdict[] {
  return verdicts.filter((verdict) => verdict.passed === false && verdict.beyond === beyond);
}

/**
 * Compares what became of a program with what it is: the first difference, in words.
 */
export function difference({ path }: Subject, { verdicts, passed }: Graded): string | undefined {
  const tasks = failed(verdicts, { beyond: false });
  const list = (all: Verdict[]): string =>
    all.map(({ name, mistake, cause }) => `${name}: ${mistake} (${cause})`).join("; ");
  if (!path.includes("/wrong/")) {
    return passed && tasks.length === 0 ? undefined : `${path} is right: ${list(tasks)}`;
  }
  const [check, mistake] = WRONG[path.split("/").at(-1)!]!;
  const all = verdicts.filter(({ passed }) => passed === false);
  const found = all.find(({ name }) => name === check);
  const isNamed = found?.mistake === mistake;
  const isOne = found?.beyond ? tasks.length === 0 : tasks.length === 1;
  if (isNamed && isOne) return undefined;
  const { passed: isPassed, cause } = verdicts.find(({ name }) => name === check) ?? {};
  return `${path} is ${check}: ${mistake}, not ${list(all)}; it was ${isPassed}: ${cause}`;
}
