/**
 * The grader on programs with one mistake each, on programs that are right in their own ways, on the
 * lab's programs and the finished scripts, and on servers and clients without hope.
 *
 * @module
 */

import { assert, assertEquals, assertLess, assertMatch } from "@std/assert";
import {
  grade,
  type GradeOptions,
  isPassed,
  type Kind,
  type Mistake,
  MISTAKES,
  scoresOf,
  type Verdict,
} from "../docs/lab/grade.ts";
import { fileUrl, freePort, hasTool, spawn, WINDOWS } from "./_helpers.ts";

const AT_ONCE = 16; // programs that are graded: most of their time they wait
const SLOW = { timeout: 120_000 }; // ms, for a test that grades many
const HOPELESS_MS = 30_000; // nothing may take longer to grade
const WIDTH = 80;

/** A mistake of each program in `tests/wrong/`: the one check that it must fail, and what it is told. */
const WRONG: Record<string, [check: string, mistake: Mistake]> = {
  "task1_server_answers.py": ["sends nothing back", "answersInTask1"],
  "task1_server_one_client.py": ["prints the next client's", "oneClientEver"],
  "task1_server_prints_part.py": ["prints two pieces", "printsPart"],
  "tcp_client_adds_zeros.py": ["sends what is typed", "addsToSentence"],
  "tcp_client_ends_silently.py": ["the server's end", "endsWithoutWord"],
  "tcp_client_hangs_on_empty.py": ["an empty sentence", "hangsOnEmpty"],
  "tcp_client_ignores_end_of_input.py": ["end of input", "staysAtEnd"],
  "tcp_client_ignores_server_end.py": ["the server's end", "ignoresServerEnd"],
  "tcp_client_loses_second.ts": ["two typed at once", "losesSecond"],
  "tcp_client_no_stop.py": ["stop word", "staysAfterStop"],
  "tcp_client_one_sentence.py": ["many sentences", "oneSentence"],
  "tcp_client_prints_input.py": ["prints what came back", "showsInput"],
  "tcp_client_prints_nothing.py": ["prints the echo", "showsNoEcho"],
  "tcp_client_reads_once.py": ["an echo in two pieces", "readsEchoOnce"],
  "tcp_client_reconnects.py": ["many sentences", "reconnects"],
  "tcp_client_retries_for_ever.py": ["no server", "ignoresRefusal"],
  "tcp_client_sends_latin1.py": ["sends other letters", "changesSentence"],
  "tcp_client_sends_repr.py": ["sends what is typed", "sendsBytesAsText"],
  "tcp_client_sends_twice.py": ["sends what is typed", "sendsTwice"],
  "tcp_server_adds_prefix.ts": ["one sentence", "addsToEcho"],
  "tcp_server_changes_line_ends.ts": ["CRLF", "changesLineEnds"],
  "tcp_server_compares_line_end.py": ["stop word and CRLF", "comparesLineEnd"],
  "tcp_server_cuts_at_end.py": ["half-close at once", "cutsAtEnd"],
  "tcp_server_decodes.py": ["all 256 byte values", "decodesBytes"],
  "tcp_server_decodes_ascii.py": ["other letters", "decodesAscii"],
  "tcp_server_dies_of_leaver.py": ["after one left in mid-line", "diesOfLeaver"],
  "tcp_server_dies_of_reset.py": ["after a reset", "diesOfReset"],
  "tcp_server_empty_line_ends.py": ["an empty line", "emptyLineEnds"],
  "tcp_server_first_line_only.py": ["two lines in one piece", "oneLineARead"],
  "tcp_server_ignores_end.py": ["end of input", "ignoresEnd"],
  "tcp_server_mixes_clients.py": ["five at once", "mixesClients"],
  "tcp_server_no_stop.py": ["stop word", "noStopWord"],
  "tcp_server_one_at_a_time.py": ["beside a silent client", "oneAtATime"],
  "tcp_server_one_client.py": ["the next client", "oneClientEver"],
  "tcp_server_partial_send.py": ["1 MiB", "losesMuch"],
  "tcp_server_pipes.ts": ["after a reset", "diesOfReset"],
  "tcp_server_prints_bytes.py": ["prints the sentence", "printsBytes"],
  "tcp_server_prints_nothing.py": ["prints the sentence", "printsNothing"],
  "tcp_server_reads_once.py": ["a line in two pieces", "readsOnce"],
  "tcp_server_sends_repr.py": ["one sentence", "sendsBytesAsText"],
  "tcp_server_stop_ends_all.py": ["after a stop word", "stopEndsServer"],
  "tcp_server_stop_inside.py": ["stop word inside", "findsStopInside"],
  "tcp_server_stop_unechoed.ts": ["stop word's echo", "stopNotEchoed"],
  "tcp_server_strips_line_end.py": ["one sentence", "cutsLineEnd"],
  "tcp_server_waits_for_line.ts": ["no line end", "waitsForLine"],
  "udp_client_believes_late_copy.py": ["a late copy", "believesDuplicate"],
  "udp_client_believes_stranger.py": ["a stranger's reply", "believesStranger"],
  "udp_client_no_timeout.py": ["a lost echo", "noTimeout"],
  "udp_client_sends_bytewise.py": ["sends what is typed", "sendsPart"],
  "udp_client_small_buffer.py": ["1,400 bytes", "cutsDatagram"],
  "udp_client_wrong_port.ts": ["sends what is typed", "sendsNothing"],
  "udp_server_answers_twice.ts": ["one in, one out", "repliesTwice"],
  "udp_server_decodes.py": ["bytes that are no text", "decodesBytes"],
  "udp_server_empty_ends.py": ["0 bytes", "emptyDatagram"],
  "udp_server_first_peer.py": ["two peers in turn", "onePeer"],
  "udp_server_fixed_port.py": ["one sentence", "noReply"],
  "udp_server_other_socket.py": ["one sentence", "otherSocket"],
  "udp_server_reads_once.py": ["one in, one out", "readsOnce"],
  "udp_server_small_buffer.py": ["1,472 bytes", "cutsDatagram"],
  "udp_server_stop_ends_all.py": ["after a stop word", "stopEndsServer"],
  "udp_server_stop_inside.py": ["stop word inside", "findsStopInside"],
  "udp_server_upper_case.ts": ["one sentence", "changesEcho"],
};

/** Programs in `tests/right/` that do all that is asked, and what they lack of what is beyond it. */
const RIGHT: Record<string, string[]> = {
  "task1_server_to_the_end.py": ["prints the next client's"],
  "tcp_client_prompt.py": ["an echo in two pieces", "the server's end"],
  "tcp_client_threads.py": [],
  "tcp_server_bare_word.py": [
    "stop word's echo",
    "stop word and CRLF",
    "beside a silent client",
    "after a reset",
  ],
  "tcp_server_lines.py": ["no line end"],
  "udp_client_says_lost.py": [],
  "udp_server_textbook.py": ["8,192 bytes", "bytes that are no text"],
};

const hasPython = hasTool("python3", "--version");
/** Without what site-packages add, which these programs need not, it starts in half the time. */
const PYTHON = [hasPython ? findPython() : "python3", "-S"];

/** The interpreter itself: `python3` may be a shell script that looks for it, each time. */
function findPython(): string {
  const args = ["-c", "import sys; print(sys.executable)"];
  const { stdout } = new Deno.Command("python3", { args }).outputSync();
  return new TextDecoder().decode(stdout).trim();
}

/** What Deno is told to run the grader. */
const GRADER = ["run", "--allow-net", "--allow-run", fileUrl("docs/lab/grade.ts").pathname];

/** The command that runs a program of this repository. */
function commandOf(path: string, ...args: string[]): string[] {
  const file = fileUrl(path).pathname;
  if (path.endsWith(".py")) return [...PYTHON, file, ...args];
  return [Deno.execPath(), "run", "--allow-net", "--quiet", file, ...args];
}

/** How a program is graded, as its name says. */
function optionsOf(path: string): GradeOptions {
  const name = path.split("/").at(-1)!;
  const [, protocol, side] = /^(tcp|udp|task\d)_(server|client)/.exec(name)!;
  const task = /^task(\d)/.exec(protocol!)?.[1];
  const transport = task ? (task === "4" ? "udp" : "tcp") : protocol;
  const options: GradeOptions = {
    kind: `${transport}-${side}` as Kind,
    command: commandOf(path, "{port}"),
  };
  if (task) options.task = Number(task);
  if (path.endsWith("bare_word.py")) options.stop = ["QUIT"];
  return options;
}

/** The names of the checks that a program failed. */
function failed(verdicts: Verdict[]): string[] {
  return verdicts.filter(({ ok }) => ok === false).map(({ check }) => check);
}

/** The programs in a folder. */
function programsIn(folder: string): string[] {
  const names = [...Deno.readDirSync(fileUrl(folder))].map(({ name }) => name);
  return names.filter((name) => /\.(py|ts)$/.test(name)).sort();
}

function hasFile(path: string): boolean {
  try {
    return Deno.statSync(fileUrl(path)).isFile;
  } catch {
    return false;
  }
}

/** A program to grade, and what has to come out. */
type Subject = {
  name: string;
  options: GradeOptions;
  judge(verdicts: Verdict[], ms: number): void;
};

/** Each fails one check, and is told its mistake. */
function* wrongPrograms(): Generator<Subject> {
  for (const [name, [check, mistake]] of Object.entries(WRONG)) {
    yield {
      name: `tests/wrong/${name}`,
      options: optionsOf(`tests/wrong/${name}`),
      judge: (verdicts) => {
        const wrong = verdicts.filter(({ ok }) => ok === false);
        assertEquals(
          wrong.map(({ check, mistake }) => [check, mistake]),
          [[check, MISTAKES[mistake]]],
        );
      },
    };
  }
}

/** Each passes all that is asked. */
function* rightPrograms(): Generator<Subject> {
  for (const [name, lacking] of Object.entries(RIGHT)) {
    yield {
      name: `tests/right/${name}`,
      options: optionsOf(`tests/right/${name}`),
      judge: (verdicts) => {
        assert(isPassed(scoresOf(verdicts)));
        assertEquals(failed(verdicts), lacking);
      },
    };
  }
}

/** Each passes all, also what is beyond the handout. */
function* finishedScripts(): Generator<Subject> {
  for (const kind of ["tcp-server", "udp-server", "tcp-client", "udp-client"] as const) {
    const script = `${kind.replace("-", "_")}.ts`;
    yield {
      name: script,
      options: { kind, command: commandOf(script, "--port", "{port}") },
      judge: (verdicts) => {
        assertEquals(failed(verdicts), []);
        assert(isPassed(scoresOf(verdicts), { strict: true }));
      },
    };
  }
}

/** Each passes what its task asks for. They come with the lab's page: all or none. */
function* labPrograms(): Generator<Subject> {
  if (!hasFile("docs/lab/task1_server.py")) return;
  for (const task of [1, 2, 3, 4]) {
    for (const end of ["server.py", "server.ts", "client.py", "client.ts"]) {
      const path = `docs/lab/task${task}_${end}`;
      assert(hasFile(path), path);
      yield {
        name: path,
        options: optionsOf(path),
        judge: (verdicts) => assert(isPassed(scoresOf(verdicts)), failed(verdicts).join()),
      };
    }
  }
}

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

/** Each is graded in time, and passes nothing that is asked. */
function* hopelessPrograms(): Generator<Subject> {
  for (const [name, kind, code] of HOPELESS) {
    const program = `import socket, sys\nport = int(sys.argv[1])\n${code}`;
    yield {
      name,
      options: { kind, command: [...PYTHON, "-c", program, "{port}"] },
      judge: (verdicts, ms) => {
        assertLess(ms, HOPELESS_MS);
        assertEquals(verdicts.filter(({ ok, beyond }) => ok && !beyond), []);
      },
    };
  }
}

function passes(subject: Subject, result: [verdicts: Verdict[], ms: number]): boolean {
  try {
    subject.judge(...result);
    return true;
  } catch {
    return false;
  }
}

/** All are graded in one go, many at a time: most of their time they wait. */
Deno.test("each program gets the verdicts that it must get, and no other", SLOW, async (t) => {
  assertEquals(programsIn("tests/wrong/"), Object.keys(WRONG).sort());
  assertEquals(programsIn("tests/right/"), Object.keys(RIGHT).sort());
  const subjects = [
    ...hopelessPrograms(),
    ...wrongPrograms(),
    ...rightPrograms(),
    ...finishedScripts(),
    ...labPrograms(),
  ].filter(({ options }) => hasPython || options.command![0] !== PYTHON[0]);
  const results = new Map<Subject, [verdicts: Verdict[], ms: number]>();
  async function gradeAll(rest: Subject[]): Promise<void> {
    for (let subject; (subject = rest.shift());) {
      const start = performance.now();
      const verdicts = await grade(subject.options);
      results.set(subject, [verdicts, performance.now() - start]);
    }
  }
  const rest = [...subjects];
  await Promise.all(Array.from({ length: AT_ONCE }, () => gradeAll(rest)));
  // So many programs at once may be too slow for a wait that has an end: those are graded alone.
  await gradeAll(subjects.filter((subject) => !passes(subject, results.get(subject)!)));
  for (const subject of subjects) {
    await t.step(subject.name, () => subject.judge(...results.get(subject)!));
  }
});

Deno.test("what a program started itself is ended with it", {
  ...SLOW,
  ignore: !hasPython || WINDOWS,
}, async () => {
  const port = freePort();
  const server = commandOf("tests/right/tcp_server_lines.py", `${port}`).join(" ");
  const command = ["sh", "-c", `${server} & wait`];
  const verdicts = await grade({ kind: "tcp-server", task: 1, command, port });
  assertEquals(failed(verdicts), ["sends nothing back"]);
  const again = await Deno.connect({ port }).then((conn) => conn.close(), () => "refused");
  assertEquals(again, "refused");
});

Deno.test("Ctrl-C ends what runs, and tells the shell", {
  ...SLOW,
  ignore: !hasPython || WINDOWS,
}, async () => {
  const port = freePort();
  const server = commandOf("tests/right/tcp_server_lines.py", `${port}`);
  const grader = new Deno.Command(Deno.execPath(), {
    args: [...GRADER, "tcp-server", "--port", `${port}`, "--", ...server],
    stdout: "piped",
  }).spawn();
  const reader = grader.stdout.getReader();
  await reader.read(); // a verdict: the server runs
  grader.kill("SIGINT");
  assertEquals((await grader.status).code, 130);
  await reader.cancel();
  const again = await Deno.connect({ port }).then((conn) => conn.close(), () => "refused");
  assertEquals(again, "refused");
});

Deno.test("a server by its address: what it prints is not seen", SLOW, async () => {
  await using server = spawn("tcp_server.ts", ["--port", "0", "--quiet"]);
  const address = { hostname: "127.0.0.1", port: await server.port() };
  const verdicts = await grade({ kind: "tcp-server", address });
  assertEquals(failed(verdicts), []);
  assertEquals([...new Set(verdicts.map(({ task }) => task))], [2, 3]);
});

Deno.test("a server by its address that ends with its first client", {
  ...SLOW,
  ignore: !hasPython,
}, async () => {
  const port = freePort();
  const args = commandOf("tests/wrong/tcp_server_one_client.py", `${port}`);
  const server = new Deno.Command(args[0]!, { args: args.slice(1), stdout: "null" }).spawn();
  const address = { hostname: "127.0.0.1", port };
  let verdicts: Verdict[];
  do verdicts = await grade({ kind: "tcp-server", address }); // to look would be to be its client
   while (verdicts[0]!.mistake === MISTAKES.unreachable);
  const wrong = verdicts.filter(({ ok }) => ok === false);
  assertEquals(wrong.map(({ check, mistake }) => [check, mistake]), [
    ["end of input", MISTAKES.endedBefore],
  ]);
  const letters = verdicts.find(({ check }) => check === "other letters")!;
  assertEquals(letters.came, "not tried: nobody listens");
  assertEquals((await server.status).code, 0);
});

/** The grader as a user runs it. */
async function run(args: string[]): Promise<{ code: number; stdout: string; stderr: string }> {
  const { code, stdout, stderr } = await new Deno.Command(Deno.execPath(), {
    args: [...GRADER, ...args],
  }).output();
  const decoder = new TextDecoder();
  return { code, stdout: decoder.decode(stdout), stderr: decoder.decode(stderr) };
}

Deno.test("the command line: lines of 80 columns, a score, an exit code", {
  ...SLOW,
  ignore: !hasPython,
}, async () => {
  const wrong = commandOf("tests/wrong/tcp_server_reads_once.py", "{port}");
  const { code, stdout, stderr } = await run(["tcp-server", "--", ...wrong]);
  assertEquals([code, stderr], [1, ""]);
  const lines = stdout.trimEnd().split("\n");
  assertEquals(lines.filter((line) => line.length > WIDTH), []);
  assertMatch(lines[0]!, /^ok 1 {2}prints the sentence: "Hello \w{6}\\n" → printed$/);
  const at = lines.indexOf("no 2+ a line in two pieces");
  assertMatch(lines[at + 1]!, /^ {6}sent: {2}"Hello \w{6}", " and \w{6}\\n"$/);
  assertMatch(lines[at + 2]!, /^ {6}came: {2}"Hello \w{6}", then the end$/);
  assertEquals(
    lines[at + 3],
    "      often: it reads once: recv() or recvfrom() belongs in a loop",
  );
  assert(lines.includes('-- 3  many sentences: not tried: "a line in two pieces" comes first'));
  assertEquals(lines.slice(-3), [
    "task 1: 1 of 1",
    "task 2: 4 of 4, and beyond it 6 of 8",
    "task 3: 0 of 3, and beyond it 0 of 7",
  ]);
});

Deno.test("the command line: --task, --strict, --json", {
  ...SLOW,
  ignore: !hasPython,
}, async () => {
  const wrong = commandOf("tests/wrong/tcp_server_reads_once.py", "{port}");
  const [asked, strict] = await Promise.all([
    run(["tcp-server", "--task", "2", "--json", "--", ...wrong]),
    run(["tcp-server", "--task", "2", "--strict", "--", ...wrong]),
  ]);
  assertEquals([asked.code, strict.code], [0, 1]);
  const objects = asked.stdout.trimEnd().split("\n").map((line) => JSON.parse(line));
  assertEquals(Object.keys(objects[0]), [
    "task",
    "check",
    "beyond",
    "ok",
    "sent",
    "came",
    "mistake",
  ]);
  assertEquals(objects.at(-1), {
    scores: [
      { task: 1, passed: 1, of: 1, beyond: 0, ofBeyond: 0 },
      { task: 2, passed: 4, of: 4, beyond: 6, ofBeyond: 8 },
    ],
    passed: true,
  });
});

/** Wrong use, and what is said of it. */
const MISUSE: [args: string[], words: string][] = [
  [[], 'say tcp-server, udp-server, tcp-client or udp-client, not ""'],
  [["tcp"], 'say tcp-server, udp-server, tcp-client or udp-client, not "tcp"'],
  [["tcp-server"], "say what to grade: tcp-server HOST:PORT or -- COMMAND…"],
  [["tcp-server", "12000"], 'an address is HOST:PORT, not "12000"'],
  [["tcp-server", "127.0.0.1:0"], 'the port must be a whole number from 1 to 65535, not "0"'],
  [["tcp-server", "192.0.2.1:7"], '"192.0.2.1:7" is not on this machine: --allow-remote'],
  [["tcp-client", "127.0.0.1:7"], "a client is given as a command: tcp-client -- COMMAND…"],
  [["tcp-client", "--", "true"], "put {port} where the command takes its port"],
  [["tcp-server", "127.0.0.1:7", "--", "true"], "give an address or a command, not both"],
  [["tcp-server", "--task", "5", "127.0.0.1:7"], "--task must be a whole number from 1 to 4"],
  [["tcp-server", "--port", "--", "true"], "--port must be a whole number from 1 to 65535"],
  [["tcp-server", "--stop=", "127.0.0.1:7"], "--stop needs a value, WORD"],
  [["tcp-server", "--sop", "x", "127.0.0.1:7"], 'unknown option "--sop"; see --help'],
  [["tcp-server", "--", "no such program", "{port}"], 'cannot run "no such program": not found'],
];

Deno.test("wrong use is one line on stderr, exit 2", SLOW, async (t) => {
  const results = await Promise.all(MISUSE.map(([args]) => run(args)));
  for (const [i, [args, words]] of MISUSE.entries()) {
    await t.step(args.join(" ") || "nothing", () => {
      const { code, stdout, stderr } = results[i]!;
      assertEquals([code, stdout], [2, ""]);
      assertMatch(stderr, /^grade: .*\n$/);
      assert(stderr.includes(words), stderr);
    });
  }
});

Deno.test("--help fits, and needs no permission", SLOW, async () => {
  const args = ["run", fileUrl("docs/lab/grade.ts").pathname, "--help"];
  const { code, stdout } = await new Deno.Command(Deno.execPath(), { args }).output();
  const lines = new TextDecoder().decode(stdout).split("\n");
  assertEquals(code, 0);
  assertEquals(lines.filter((line) => line.length > WIDTH), []);
});
