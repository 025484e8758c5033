/**
 * The grader's collection: programs in `tests/right/` and `tests/wrong/`, how each is run and graded.
 *
 * @module
 */

import { grade, type GradeOptions, type Kind, sumUp, type Verdict } from "../docs/lab/grade.ts";
import { fileUrl } from "./_helpers.ts";

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
