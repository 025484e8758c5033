/**
 * The grader on its whole collection, on the lab's own programs and on a class: what takes longer
 * than a test may. A part of `deno task soak`; alone: `deno run --allow-all tests/soak_grade.ts`.
 *
 * @module
 */

import { assert, assertEquals } from "@std/assert";
import { grade, type GradeOptions, type Kind, sumUp, type Verdict } from "../docs/lab/grade.ts";
import { difference, gradeAll, programsIn, subjectOf } from "./_grade.ts";
import { fileUrl, freePort } from "./_helpers.ts";

const AT_ONCE = 4; // programs that are graded: most of their time they wait
const HOPELESS_MS = 20_000; // nothing may take longer, alone
const CLASS_SIZE = 12;
const FORTY_MS = 300_000; // for a class of forty, on two cores
const READY = /listening|ready/i;

/** Programs that never do what is asked, in ways that could hold a grader up. */
const HOPELESS: [what: string, kind: Kind, code: string][] = [
  ["a server that never listens", "tcp-server", "input()"],
  [
    "a server that never answers",
    "tcp-server",
    "s, kept = socket.create_server(('127.0.0.1', port)), []\nwhile True: kept.append(s.accept())",
  ],
  [
    "a server that never stops sending",
    "tcp-server",
    "s = socket.create_server(('127.0.0.1', port))\nwhile True:\n  c, _ = s.accept()\n" +
    "  try:\n    while True: c.sendall(bytes(65536))\n  except OSError: pass",
  ],
  [
    "a server that never stops printing",
    "tcp-server",
    "s = socket.create_server(('127.0.0.1', port))\nwhile True: print('x' * 65536)",
  ],
  ["a UDP server that never binds", "udp-server", "input()"],
  [
    "a UDP server that never answers",
    "udp-server",
    "s = socket.socket(type=socket.SOCK_DGRAM)\ns.bind(('', port))\nwhile True: s.recv(65507)",
  ],
  ["a client that does nothing", "tcp-client", "while True: input()"],
  [
    "a client that never stops sending",
    "tcp-client",
    "c = socket.create_connection(('127.0.0.1', port))\nwhile True: c.sendall(bytes(65536))",
  ],
  ["a UDP client that never stops printing", "udp-client", "while True: print('x' * 65536)"],
];

/** Every program of the collection gets the verdicts that it must get. */
async function gradeCollection(): Promise<string> {
  const folder = await Deno.makeTempDir();
  const start = performance.now();
  try {
    const paths = [...programsIn("tests/right/"), ...programsIn("tests/wrong/")];
    // The slowest first, so that none of them is left alone at the end.
    const slow = paths.filter((path) => path.includes("slow"));
    const subjects = [...slow, ...paths.filter((path) => !slow.includes(path))]
      .map((path) => subjectOf(path, folder));
    const differences: string[] = [];
    const results = await gradeAll(subjects, {
      atOnce: AT_ONCE,
      onGraded: (subject, graded) => {
        const text = difference(subject, graded);
        if (text !== undefined) differences.push(text);
      },
    });
    assertEquals(differences, []);
    const lacking = subjects.filter(({ lacks }) => lacks).map(({ path, lacks }) =>
      `${path.split("/").at(-1)} (no ${lacks})`
    );
    return `${results.size} programs in ${seconds(start)}` +
      (lacking.length > 0 ? `; ignored: ${lacking.join(", ")}` : "");
  } finally {
    await Deno.remove(folder, { recursive: true });
  }
}

function seconds(start: number): string {
  return `${((performance.now() - start) / 1000).toFixed(1)} s`;
}

/** Each is graded in time, and passes nothing that is asked. */
async function gradeHopeless(): Promise<string> {
  let slowest = 0;
  for (const [name, kind, code] of HOPELESS) {
    const program = `import socket, sys\nport = int(sys.argv[1])\n${code}`;
    const start = performance.now();
    const verdicts = await grade({ kind, command: ["python3", "-c", program, "{port}"] });
    const ms = performance.now() - start;
    slowest = Math.max(slowest, ms);
    assert(ms < HOPELESS_MS, `${name}: ${seconds(start)}`);
    assertEquals(verdicts.filter(({ passed, beyond }) => passed && !beyond), [], name);
  }
  return `${HOPELESS.length} programs, ${(slowest / 1000).toFixed(1)} s at most`;
}

/** The lab's programs of a task: path, kind, and the command that runs one on a port. */
function* labPrograms(): Generator<
  { path: string; kind: Kind; task: number; at: (port: string) => string[] }
> {
  for (const task of [1, 2, 3, 4]) {
    // A client first: what its server, the grader, closes could keep the port from the next.
    for (const end of ["client.py", "server.py", "client.ts", "server.ts"]) {
      const path = `docs/lab/task${task}_${end}`;
      const file = fileUrl(path).pathname;
      const run = end.endsWith("py")
        ? ["python3"]
        : [Deno.execPath(), "run", "--allow-net", "--quiet"];
      const kind = `${task === 4 ? "udp" : "tcp"}-${end.split(".")[0]}` as Kind;
      yield { path, kind, task, at: (port) => [...run, file, port] };
    }
  }
}

/** They pass their task by command, by `--port` and by address, the last two all on one port. */
async function gradeLab(): Promise<string> {
  const start = performance.now();
  const check = (path: string, way: string, verdicts: Verdict[]): void => {
    const wrong = verdicts.filter(({ passed, beyond }) => passed === false && !beyond);
    assertEquals(wrong, [], `${path} ${way}`);
    assert(sumUp(verdicts).passed, `${path} ${way}`);
  };
  const port = freePort();
  let slowest = 0;
  for (const { path, kind, task, at } of labPrograms()) {
    const from = performance.now();
    check(path, "by command", await grade({ kind, task, command: at("{port}") }));
    slowest = Math.max(slowest, performance.now() - from);
    const notes: string[] = [];
    const onNote = (note: string): void => void notes.push(note);
    check(path, "by --port", await grade({ kind, task, port, onNote, command: at(`${port}`) }));
    assertEquals(notes, [], path); // nobody waits for the port
    if (kind.endsWith("client")) continue;
    const [name, ...args] = at(`${port}`);
    const server = new Deno.Command(name!, {
      args,
      stdout: "piped",
      stderr: "null",
      env: { PYTHONUNBUFFERED: "1" },
    }).spawn();
    try {
      const reader = server.stdout.pipeThrough(new TextDecoderStream()).getReader();
      let said = "";
      while (!READY.test(said)) said += (await reader.read()).value ?? "";
      const printed = drain(reader); // a full pipe would hold it up
      const address = { hostname: "127.0.0.1", port: Number(args.at(-1)) };
      check(path, "by address", await grade({ kind, task, address }));
      end(server);
      await printed;
    } finally {
      end(server);
      await server.status;
    }
  }
  return `16 programs, three ways, in ${seconds(start)}, ` +
    `${(slowest / 1000).toFixed(1)} s at most by command`;
}

async function drain(reader: ReadableStreamDefaultReader<string>): Promise<void> {
  while (!(await reader.read()).done);
}

function end(process: Deno.ChildProcess): void {
  try {
    process.kill("SIGKILL");
  } catch {
    // It has ended.
  }
}

/** The same class in each format: the same marks. */
async function gradeClass(): Promise<string> {
  const start = performance.now();
  const folder = await Deno.makeTempDir();
  try {
    const paths = [...programsIn("tests/right/"), ...programsIn("tests/wrong/")]
      .filter((path) =>
        /\/(task2|udp|tcp_server_(sel|str|ba|ups|upper|stop))[^/]*\.py$/.test(path)
      );
    const lines = paths.slice(0, CLASS_SIZE).map((path) => lineOf(subjectOf(path, folder).options));
    await Deno.writeTextFile(`${folder}/class.tsv`, lines.join("\n"));
    const marks = await Promise.all(
      ["text", "json", "gradescope", "junit"].map((format) => marksOfClass(format, folder)),
    );
    assertEquals(marks[0]!.length, CLASS_SIZE);
    for (const other of marks.slice(1)) assertEquals(other, marks[0]);
    return `${CLASS_SIZE} programs, four formats, in ${seconds(start)}`;
  } finally {
    await Deno.remove(folder, { recursive: true });
  }
}

/** A line of a class file. */
function lineOf(
  { program, kind, command, task, port, stop = [], type = [] }: GradeOptions,
): string {
  const quote = (word: string): string => `'${word}'`;
  const options = [
    ...(task === undefined ? [] : ["--task", `${task}`]),
    ...(port === undefined ? [] : ["--port", `${port}`]),
    ...stop.flatMap((word) => ["--stop", word]),
    ...type.flatMap((line) => ["--type", line]),
  ];
  return [program, kind, command!.map(quote).join(" "), options.map(quote).join(" ")].join("\t");
}

/** A class as there may be one: the lab's programs, other right ones, some wrong, one without hope. */
async function gradeForty(): Promise<string> {
  const folder = await Deno.makeTempDir();
  try {
    const lab = [...labPrograms()].map(({ path, kind, task, at }) =>
      lineOf({ program: path.split("/").at(-1)!, kind, task, command: at("{port}") })
    );
    const from = (path: string, many: number): string[] => {
      const subjects = programsIn(path).filter((name) => !name.includes("slow"))
        .map((name) => subjectOf(name, folder)).filter(({ lacks }) => !lacks);
      const step = subjects.length / many; // spread over the kinds of programs
      return Array.from(
        { length: many },
        (_, i) => lineOf(subjects[Math.floor(i * step)]!.options),
      );
    };
    const hopeless = lineOf({
      program: "hopeless",
      kind: "tcp-client",
      command: ["python3", "-c", "while True: input()", "{port}"],
    });
    const lines = [...lab, ...from("tests/right/", 14), ...from("tests/wrong/", 9), hopeless];
    assertEquals(lines.length, 40);
    await Deno.writeTextFile(`${folder}/class.tsv`, lines.join("\n"));
    const start = performance.now();
    const marks = await marksOfClass("text", folder);
    assertEquals(marks.length, lines.length);
    assert(performance.now() - start < FORTY_MS, seconds(start));
    return `40 programs in ${seconds(start)}`;
  } finally {
    await Deno.remove(folder, { recursive: true });
  }
}

/** `name 1: 1/1  2: 6/6` for each program of a class, read from the output in a format. */
async function marksOfClass(format: string, cwd: string): Promise<string[]> {
  const grader = fileUrl("docs/lab/grade.ts").pathname;
  const args = ["run", "--allow-all", grader, "--class", "class.tsv", "--format", format];
  const env = { INIT_CWD: cwd }; // deno task sets it for the soak
  const result = await new Deno.Command(Deno.execPath(), { args, cwd, env }).output();
  const [text, said] = [result.stdout, result.stderr]
    .map((bytes) => new TextDecoder().decode(bytes).trimEnd()) as [string, string];
  assert(text !== "", `--format ${format} ended with ${result.code}: ${said}`);
  const join = (program: string, points: Record<string, number[]>): string =>
    `${program} ${
      Object.entries(points).map(([task, [got, of]]) => `${task}: ${got}/${of}`).join("  ")
    }`;
  if (format === "text") {
    return text.split("\n").map((line) => {
      const [, name, marks] = /^\S+ +(\S+) +\S+ +((?:\d: \d+\/\d+ *)+)/.exec(line)!;
      return `${name} ${marks!.trim()}`;
    });
  }
  if (format === "json") {
    const objects = text.split("\n").map((line) => JSON.parse(line));
    return objects.filter(({ points }) => points).map(({ program, points }) =>
      join(program, points)
    );
  }
  if (format === "gradescope") {
    const points = new Map<string, Record<string, number[]>>();
    for (const { extra_data: { program, task }, score, max_score } of JSON.parse(text).tests) {
      const all = points.get(program) ?? {};
      points.set(program, all);
      const point = all[task] ??= [0, 0];
      point[0]! += score;
      point[1]! += max_score;
    }
    return [...points].map(([program, all]) => join(program, all));
  }
  return text.split("<testsuite ").slice(1).map((suite) => {
    const all = [...suite.matchAll(/<property name="task (\d)" value="(\d+)\/(\d+)"/g)];
    const points = Object.fromEntries(all.map(([, task, ...rest]) => [task, rest.map(Number)]));
    return join(/ name="([^"]+)"/.exec(suite)![1]!, points);
  });
}

const PARTS: [name: string, run: () => Promise<string>][] = [
  ["hopeless", gradeHopeless],
  ["the lab", gradeLab],
  ["a class", gradeClass],
  ["a class of forty", gradeForty],
  ["its collection", gradeCollection],
];

/** Runs all parts, or the one of that name; prints a line for each. */
export async function soakGrader(only?: string, print = console.log): Promise<void> {
  for (const [name, run] of PARTS) {
    if (only === undefined || only === name) print(`grader, ${name}: ${await run()}`);
  }
}

if (import.meta.main) await soakGrader(Deno.args[0]);
