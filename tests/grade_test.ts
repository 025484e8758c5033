/**
 * The grader: its table of checks, its diagnosis, its reports, and as a teacher runs it. What takes
 * longer, the whole collection in `tests/right/` and `tests/wrong/`, is graded by `deno task soak`.
 *
 * @module
 */

import { assert, assertEquals, assertMatch, assertStringIncludes } from "@std/assert";
import {
  checksOf,
  diagnose,
  type Evidence,
  grade,
  type GradeOptions,
  type Kind,
  type Mistake,
  MISTAKES,
  sumUp,
  type Verdict,
} from "../docs/lab/grade.ts";
import { Waits } from "../docs/lab/grade/channel.ts";
import { parseClass, splitWords } from "../docs/lab/grade/class.ts";
import { isStuck } from "../docs/lab/grade/process.ts";
import { Ports } from "../docs/lab/grade/ports.ts";
import { Program, sweep } from "../docs/lab/grade/program.ts";
import { judgeAll } from "../docs/lab/grade/run.ts";
import {
  formatGradescope,
  formatJunit,
  formatRow,
  formatVerdict,
} from "../docs/lab/grade/report.ts";
import { encode, errorLine, plain, withoutBytes } from "../docs/lab/grade/text.ts";
import { NOT_COUNTED } from "../docs/lab/grade/verdict.ts";
import { difference, gradeAll, hasCommand, programsIn, subjectOf, WRONG } from "./_grade.ts";
import { fileUrl, freePort, WINDOWS } from "./_helpers.ts";

const SLOW = { timeout: 120_000 }; // ms, for a test that grades
const WIDTH = 80;
const hasPython = hasCommand("python3");
const KINDS: Kind[] = ["tcp-server", "udp-server", "tcp-client", "udp-client"];

/** What Deno is given to run the grader. */
const GRADER = [
  "run",
  "--allow-net",
  "--allow-run",
  "--allow-read",
  "--allow-env=INIT_CWD",
  fileUrl("docs/lab/grade.ts").pathname,
];

// ---- The table of checks ----

/** Every way in which a program can be graded. */
function* tables(): Generator<[title: string, kind: Kind, options: Partial<GradeOptions>]> {
  for (const kind of KINDS) {
    for (const task of [1, 2, 3, 4]) {
      yield [`${kind}, task ${task}`, kind, { task }];
      const address = { hostname: "127.0.0.1", port: 7 };
      if (kind.endsWith("server")) {
        yield [`${kind}, task ${task}, by address`, kind, { task, address }];
      }
    }
  }
}

Deno.test("no check of a task needs one beyond, or follows one that is beyond", () => {
  for (const [title, kind, options] of tables()) {
    const checks = checksOf(kind, options);
    const isBeyond = checks.map(({ step }) => step.endsWith("+"));
    assertEquals(isBeyond, isBeyond.toSorted(), title); // false before true
    const deadly = checks.filter((_, i) => isBeyond[i]).map((check) => check.deadly ?? 0);
    assertEquals(deadly, deadly.toSorted(), title); // the deadliest last
    const tasks = checks.filter((_, i) => !isBeyond[i]);
    assert(tasks.every(({ deadly }) => deadly === undefined), title);
    for (const { name, needs = [] } of tasks) {
      const beyond = needs.filter((need) => !tasks.some((check) => check.name === need));
      assertEquals(beyond, [], `${title}: ${name}`);
    }
  }
});

Deno.test("a check needs only what stands before it, and has a name of its own", () => {
  for (const [title, kind, options] of tables()) {
    const seen = new Set<string>();
    for (const { name, needs = [] } of checksOf(kind, options)) {
      const missing = needs.filter((need) => !seen.has(need));
      // By address nothing is asked that needs the program's output.
      assertEquals(missing.filter((need) => !need.startsWith("prints")), [], `${title}: ${name}`);
      assert(!seen.has(name), `${title}: ${name} twice`);
      seen.add(name);
    }
  }
});

Deno.test("the grader's page has every check, with its task, and no other", () => {
  const page = Deno.readTextFileSync(fileUrl("docs/lab/grader.md"));
  const [servers, clients] = page.split("## What each check means: ").slice(1);
  for (const [side, text] of [["server", servers!], ["client", clients!]] as const) {
    const rows = [...text.matchAll(/^\| (.+?) +\| (\d\+?) +\| (both|TCP|UDP) +\|/gm)]
      .map(([, name, step, over]) => `${name} ${step} ${over}`);
    const checks = new Map<string, Set<string>>();
    for (const protocol of ["tcp", "udp"] as const) {
      for (const task of [1, 3]) {
        for (const { name, step } of checksOf(`${protocol}-${side}`, { task })) {
          const over = checks.get(`${name} ${step}`) ?? new Set();
          checks.set(`${name} ${step}`, over.add(protocol.toUpperCase()));
        }
      }
    }
    const expected = [...checks].map(([row, over]) =>
      `${row} ${over.size === 2 ? "both" : [...over]}`
    );
    assertEquals(rows.sort(), expected.sort());
  }
});

// ---- The diagnosis ----

const SENTENCE = "Hello mafafo\n";

/** A case of the diagnosis: what was seen, and what it must be taken for. */
type Case = [
  what: string,
  seen: Omit<Partial<Evidence>, "expected" | "came"> & {
    expected?: string;
    came?: string | Uint8Array;
  },
  mistake: Mistake,
  guess?: boolean,
];

const OVER: Evidence["exit"] = { code: 0, words: "bye" };
const LONG = "x".repeat(100_000);

const CASES: Case[] = [
  ["nobody is bound", { unbound: "nobody listens on port 7" }, "unreachable"],
  ["it ended at bind()", {
    unbound: "nobody listens on port 7",
    exit: { code: 1, words: "OSError: [Errno 98] Address already in use" },
  }, "portInUse"],
  ["it ended at its start", { unbound: "", exit: { code: 1, words: "NameError: x" } }, "crashes"],
  ["it ended with an error", { exit: { code: 1, words: "ValueError: no" } }, "crashes"],
  [
    "an error's words name the mistake",
    { exit: { code: 1, words: "UnicodeDecodeError: 'ascii' codec" }, usual: "readsOnce" },
    "decodesAscii",
  ],
  ["a reset ended it", {
    exit: { code: 1, words: "ConnectionResetError" },
    usual: "diesOfReset",
  }, "diesOfReset"],
  ["it ended, which the check is about", { exit: OVER, usual: "oneClientEver" }, "oneClientEver"],
  ["it ended, which no buffer explains", {
    exit: OVER,
    usual: "cutsDatagram",
    isUdp: true,
  }, "endedBefore"],
  [
    "it ended after it had answered otherwise",
    { exit: OVER, came: "HELLO MAFAFO\n" },
    "changesCase",
  ],
  [
    "it ended after ten",
    { exit: OVER, usual: "readsOnce", earlier: texts("a", "b") },
    "closesEarly",
  ],
  ["more, before it", { came: `Echo: ${SENTENCE}`, usual: "cutsEcho" }, "addsToEcho"],
  ["more, behind it", { came: `${SENTENCE}bye\n`, usual: "decodesAscii" }, "addsToEcho"],
  ["bytes as text", { came: "b'Hello mafafo\\n'" }, "sendsBytesAsText"],
  ["twice over UDP", { came: SENTENCE + SENTENCE, isUdp: true }, "repliesTwice"],
  ["an earlier sentence", { came: "one\n", earlier: texts("one\n") }, "repeatsEarlier"],
  ["an earlier datagram", { came: "one", isUdp: true, earlier: texts("one") }, "repliesTwice"],
  ["another client's", { came: "two\n", others: texts("two\n") }, "mixesClients"],
  [
    "the rest of an earlier one",
    { expected: "Hi you\n", came: "Hi you\nlo mafafo\n", earlier: texts(SENTENCE) },
    "keepsOldBytes",
  ],
  [
    "the first peer's address is kept",
    { isUdp: true, stray: "to an earlier client", usual: "decodesAscii" },
    "onePeer",
  ],
  [
    "another socket",
    { isUdp: true, stray: "from another port", usual: "decodesAscii" },
    "otherSocket",
  ],
  ["a part: no line end", { came: "Hello mafafo" }, "cutsLineEnd"],
  ["a part", { came: "Hello ma" }, "cutsEcho"],
  [
    "a part, at the end of input",
    { came: "Hello ma", ended: "eof", usual: "cutsAtEnd" },
    "cutsAtEnd",
    true,
  ],
  ["a part of a datagram", { came: "Hello ma", isUdp: true, usual: "readsOnce" }, "cutsDatagram"],
  ["one line of two", { came: "a\n", expected: "a\nb\n", usual: "oneLineARead" }, "oneLineARead"],
  ["a hole in much", {
    expected: LONG + "y" + LONG,
    came: LONG + LONG,
    usual: "losesMuch",
  }, "losesMuch"],
  ["upper case", { came: "HELLO MAFAFO\n", usual: "decodesAscii" }, "changesCase"],
  ["a CR that is gone", { expected: "a\r\n", came: "a\n" }, "changesLineEnds"],
  ["blanks that are gone", { expected: "a  b\n", came: "a b\n" }, "changesBlanks"],
  [
    "replaced letters",
    { expected: "grüß\n", came: "gr??\n", usual: "decodesAscii" },
    "decodesAscii",
  ],
  ["other letters", { came: "olleH\n", usual: "decodesAscii" }, "changesEcho"],
  ["nothing", {}, "noEcho"],
  ["nothing over UDP", { isUdp: true, usual: "cutsDatagram" }, "noReply"],
  ["nothing: the check's guess", { usual: "waitsForLine" }, "waitsForLine", true],
  ["nothing but an error's words", {
    said: "UnicodeDecodeError: 'utf-8' codec",
    usual: "waitsForLine",
  }, "decodesBytes"],
  ["the end in place of an echo", { ended: "eof" }, "closesUnanswered"],
  ["it closes at an empty line", { ended: "eof", usual: "emptyLineEnds" }, "emptyLineEnds"],
  ["one at a time", { isFreed: true, usual: "oneAtATime" }, "oneAtATime"],
  ["no end", { wants: "end", usual: "noStopWord" }, "noStopWord"],
  [
    "something unasked",
    { wants: "silence", came: "ok\n", usual: "answersInTask1" },
    "answersInTask1",
  ],
  ["nothing printed", { wants: "output" }, "printsNothing"],
  ["bytes printed", { wants: "output", came: "got b'Hello mafafo\\n'" }, "printsBytes"],
  ["other letters printed", { wants: "output", came: "Hello m" }, "printsOther"],
  ["the client sends nothing", { side: "client", wants: "sentence" }, "sendsNothing"],
  ["the client ended", { side: "client", wants: "sentence", exit: OVER }, "endsUnasked"],
  [
    "the client ended after one",
    { side: "client", wants: "sentence", exit: OVER, usual: "oneSentence" },
    "oneSentence",
  ],
  ["the client sends it twice", {
    side: "client",
    wants: "sentence",
    came: SENTENCE + SENTENCE,
  }, "sendsTwice"],
  [
    "the client adds",
    { side: "client", wants: "sentence", came: SENTENCE + "\0\0" },
    "addsToSentence",
  ],
  ["the client cuts", { side: "client", wants: "sentence", came: "H" }, "sendsPart"],
  ["the client connects again", {
    side: "client",
    wants: "sentence",
    came: SENTENCE,
    isReconnected: true,
  }, "reconnects"],
  ["the client shows nothing", { side: "client", wants: "shown" }, "showsNoEcho"],
  [
    "the client shows bytes",
    { side: "client", wants: "shown", came: "b'Hello mafafo'" },
    "showsBytes",
  ],
  [
    "the client shows what it should not",
    { side: "client", wants: "shown", came: "lie", decoy: "lie", usual: "believesStranger" },
    "believesStranger",
  ],
  [
    "the client stays",
    { side: "client", wants: "exit", usual: "staysAfterStop" },
    "staysAfterStop",
  ],
  [
    "the client misses nothing",
    { side: "client", isUdp: true, wants: "sentence", usual: "noTimeout" },
    "noTimeout",
  ],
];

function texts(...all: string[]): Uint8Array[] {
  return all.map(encode);
}

Deno.test("what was seen decides; only where it leaves a choice, the check's guess does", async (t) => {
  for (const [what, { expected = SENTENCE, came = "", ...seen }, mistake, guess = false] of CASES) {
    await t.step(what, () => {
      const diagnosis = diagnose({
        side: "server",
        isUdp: false,
        wants: seen.unbound === undefined ? "echo" : "connection",
        ended: "",
        waitedMs: 4_000,
        ...seen,
        expected: encode(expected),
        came: typeof came === "string" ? encode(came) : came,
      });
      assertEquals([diagnosis.mistake, diagnosis.guess], [mistake, guess], diagnosis.cause);
      if (seen.unbound !== "") assert(diagnosis.cause.length > 0);
    });
  }
});

/** What programs say at their end, and the line of it that names the error. */
const SAID: [output: string, line: string][] = [
  [
    'Traceback (most recent call last):\n  File "/a/b.py", line 3, in <module>\n    f(x)\nValueError: a: b\n',
    "ValueError: a: b",
  ],
  [
    "node:events:497\n      throw er;\n      ^\n\nError: listen EADDRINUSE: address already in use\n" +
    "    at Server.listen (node:net:1)\n  code: 'EADDRINUSE'\n}\n\nNode.js v20\n",
    "Error: listen EADDRINUSE: address already in use",
  ],
  [
    'Exception in thread "main" java.net.BindException: Address already in use\n\tat java.base/x(Y.java:1)\n',
    'Exception in thread "main" java.net.BindException: Address already in use',
  ],
  [
    "error: Uncaught (in promise) AddrInUse: in use\n    at x.ts:1:2\n",
    "error: Uncaught (in promise) AddrInUse: in use",
  ],
  ["ready\nbind: Address already in use\n", "bind: Address already in use"],
  ["one\ntwo\nthree\n", "two / three"],
];

Deno.test("of a traceback the error is quoted, not its last line or its path", () => {
  for (const [output, line] of SAID) assertEquals(errorLine(output), line);
});

Deno.test("what a terminal shows: no colours; what is printed as bytes does not count", () => {
  assertEquals(plain("\x1b[1;32mHel\x1b[0mlo\x1b]0;title\x07\r\n"), "Hello\n");
  assertEquals(withoutBytes("raw: b'Hi\\'x' text: Hi, web 'Hi'"), "raw:  text: Hi, web 'Hi'");
  assertEquals(withoutBytes('b"it\'s" then'), " then");
});

// ---- Reports ----

/** A verdict as the grader makes one. */
function verdict(program: string, fields: Partial<Verdict>): Verdict {
  const isWrong = fields.passed === false;
  return {
    program,
    kind: "tcp-server",
    task: 2,
    name: "one sentence",
    beyond: false,
    passed: true,
    mistake: isWrong ? "noEcho" : null,
    guess: false,
    cause: isWrong ? 'nothing came <"&> \x01' : null,
    hint: isWrong ? MISTAKES.noEcho : null,
    sent: '"Hello\\n"',
    came: "the same",
    seconds: 0.25,
    ...fields,
  };
}

/** Three programs: one that passes, one that does not, and one that could not be graded. */
function reports(): Parameters<typeof formatGradescope>[0] {
  const make = (program: string, second: Partial<Verdict>): { verdicts: Verdict[] } => ({
    verdicts: [
      verdict(program, { task: 1, name: "prints the sentence" }),
      verdict(program, second),
      verdict(program, { name: "CRLF", beyond: true, passed: false }),
      verdict(program, { name: "1 MiB", beyond: true, passed: null, cause: "not tried" }),
    ],
  });
  const graded = ([program, { verdicts }]: [string, { verdicts: Verdict[] }]) => ({
    program,
    kind: "tcp-server",
    verdicts,
    result: sumUp(verdicts, { program, seconds: 1.5 }),
  });
  const all: [string, { verdicts: Verdict[] }][] = [
    ["ann", make("ann", {})],
    ["bob & co", make("bob & co", { passed: false })],
  ];
  return [...all.map(graded), { program: "eve", kind: "tcp-server", error: "no such file" }];
}

Deno.test("all formats give the same marks", () => {
  const all = reports();
  assertEquals(all.map((each) => "result" in each && each.result), [
    { program: "ann", passed: true, points: { 1: [1, 1], 2: [1, 1] }, seconds: 1.5 },
    { program: "bob & co", passed: false, points: { 1: [1, 1], 2: [0, 1] }, seconds: 1.5 },
    false,
  ]);
  assertEquals(all.map((each) => formatRow(each, 8)), [
    "ok  ann       tcp-server  1: 1/1  2: 1/1",
    "no  bob & co  tcp-server  1: 1/1  2: 0/1          one sentence (noEcho)",
    "--  eve       tcp-server  no such file",
  ]);
  const document = JSON.parse(formatGradescope(all));
  const scores = (program: string): number[] => {
    const tests = document.tests.filter(({ name }: { name: string }) =>
      name.startsWith(`${program}: `)
    );
    return ["score", "max_score"].map((key) =>
      tests.reduce((sum: number, test: Record<string, number>) => sum + test[key]!, 0)
    );
  };
  assertEquals([scores("ann"), scores("bob & co"), scores("eve")], [[2, 2], [1, 2], [0, 1]]);
  assertEquals(document.score, 3);
  const xml = formatJunit(all, { startedAt: new Date(0) });
  assertEquals(xml.match(/<failure /g)?.length, 1);
  assertEquals(xml.match(/<property name="task 2" value="(\d\/\d)"/g), [
    '<property name="task 2" value="1/1"',
    '<property name="task 2" value="0/1"',
  ]);
});

Deno.test("Gradescope's fields have the types that its documentation gives them", () => {
  const document = JSON.parse(formatGradescope(reports()));
  assertEquals(typeof document.score, "number");
  assert(Number.isInteger(document.execution_time));
  assertEquals(typeof document.output, "string");
  for (const test of document.tests) {
    const { name, score, max_score, status, output } = test;
    assertEquals([typeof name, typeof score, typeof max_score, typeof output], [
      "string",
      "number",
      "number",
      "string",
    ]);
    assert(status === "passed" || status === "failed");
    assert(score <= max_score);
  }
});

Deno.test("JUnit's XML has what its schemas ask for, and is well formed", () => {
  const xml = formatJunit(reports(), { startedAt: new Date(0) });
  assertStringIncludes(xml, '<?xml version="1.0" encoding="UTF-8"?>\n<testsuites>\n');
  assertMatch(
    xml,
    /<testsuite package="tcp-server" id="0" name="ann" timestamp="1970-01-01T00:00:00" hostname="localhost" tests="4" failures="0" errors="0" skipped="2" time="1.500">\n {4}<properties>/,
  );
  assertStringIncludes(xml, "nothing came &lt;&quot;&amp;&gt; ?"); // no control characters
  const open: string[] = [];
  for (const [, end, name, empty] of xml.matchAll(/<(\/?)([a-z-]+)[^<>]*?(\/?)>/g)) {
    if (end) assertEquals(open.pop(), name);
    else if (!empty) open.push(name!);
  }
  assertEquals(open, []);
});

Deno.test("a verdict fits 80 columns", () => {
  const long = `"${"x".repeat(200)}"`;
  for (const passed of [true, false, null]) {
    const text = formatVerdict(
      verdict("p", { passed, sent: long, came: long, cause: long, hint: long }),
    );
    assertEquals(text.split("\n").filter((line) => line.length > WIDTH), []);
  }
});

Deno.test("a class file: tabs, comments, quotes, addresses", () => {
  const text =
    "name\tkind\tcommand\n# a comment\n\nann\ttcp-server\tpython3 'my server.py' {port}\t" +
    '--stop "bye now"\nbob\tudp-server\t127.0.0.1:12000\n';
  assertEquals(parseClass(text, "class.tsv"), [
    {
      name: "ann",
      args: ["tcp-server", "--stop", "bye now", "--", "python3", "my server.py", "{port}"],
    },
    { name: "bob", args: ["udp-server", "127.0.0.1:12000"] },
  ]);
  assertEquals(splitWords(`a\\ b "c\\"d" '' e'f'g`), ["a b", 'c"d', "", "efg"]);
});

// ---- The collection ----

Deno.test("the collection: 80 programs, 40 of them right, in six languages", () => {
  const [right, wrong] = [programsIn("tests/right/"), programsIn("tests/wrong/")];
  assertEquals(wrong.map((path) => path.split("/").at(-1)!), Object.keys(WRONG).sort());
  assert(right.length >= 40 && right.length + wrong.length >= 80);
  const languages = new Set([...right, ...wrong].map((path) => path.split(".").at(-1)));
  assert(languages.size >= 6, [...languages].join());
});

/** A few of the collection: each way to run a program, each kind, quick ones. */
const SAMPLE = [
  "tests/right/tcp_server_block_buffered.c",
  "tests/right/tcp_server_events.js",
  "tests/right/udp_server_recv.pl",
  "tests/right/tcp_client_prompt_api.ts",
  "tests/right/task1_client_textbook.py",
  "tests/right/tcp_server_asks_for_port.py",
  "tests/right/udp_server_unp.c",
  "tests/wrong/tcp_server_upper_case.js",
  "tests/wrong/tcp_server_ends_after_ten.py",
  "tests/wrong/udp_server_first_peer.py",
  "tests/wrong/tcp_client_sends_repr.py",
  "tests/wrong/udp_server_adds.js",
];

Deno.test("some of the collection", SLOW, async (t) => {
  const folder = await Deno.makeTempDir();
  try {
    const subjects = SAMPLE.map((path) => subjectOf(path, folder));
    const results = await gradeAll(subjects, { atOnce: 4 });
    for (const subject of subjects) {
      const { path, lacks } = subject;
      await t.step({
        name: lacks ? `${path}: ${lacks} is not on this machine` : path,
        ignore: lacks !== undefined,
        fn: () => assertEquals(difference(subject, results.get(subject)!), undefined),
      });
    }
  } finally {
    await Deno.remove(folder, { recursive: true });
  }
});

Deno.test("a check that cannot be tried ends the grading with its error, once others end", async () => {
  const [first, second] = [Promise.withResolvers<Verdict>(), Promise.withResolvers<Verdict>()];
  const checks = checksOf("udp-client", {}).slice(0, 2);
  const added: Verdict[] = [];
  const grading = { checks, add: (verdict: Verdict) => void added.push(verdict) };
  const verdicts = [first.promise, second.promise];
  const judged = judgeAll(grading, () => 2, () => verdicts.shift()!);
  const failure = new Error("address in use");
  second.reject(failure);
  await new Promise((resolve) => setTimeout(resolve)); // an error that nobody handles ends it here
  first.resolve({} as Verdict);
  assertEquals(await judged.catch((error) => error), failure);
  assertEquals(added.length, 1);
});

/** A right UDP client with a time limit; at its first sentence that begins with 2 it holds the grader up. */
const HOLDS_UP = `import os, signal, socket, sys
port, marker, grader = int(sys.argv[1]), sys.argv[2], int(sys.argv[3])
client = socket.socket(type=socket.SOCK_DGRAM)
client.connect(("127.0.0.1", port))
client.settimeout(0.5)
for line in sys.stdin:
    sentence = line.strip().encode()
    if sentence.startswith(b"2 ") and not os.path.exists(marker):
        open(marker, "w").close()
        os.kill(grader, signal.SIGSTOP)
    client.send(sentence)
    try:
        while (echo := client.recv(65507)) != sentence:
            pass
        print(echo.decode())
    except TimeoutError:
        print("Request timed out")
        os.kill(grader, signal.SIGCONT)
    if sentence == b"stop":
        break`;

Deno.test("a client that gives up while the grader is held up is tried again", {
  ...SLOW,
  ignore: !hasPython || WINDOWS,
}, async () => {
  const folder = await Deno.makeTempDir();
  try {
    const program = ["python3", "-c", HOLDS_UP, "{port}", `${folder}/marker`];
    const grader = [Deno.execPath(), ...GRADER, "udp-client", "--json", "--", ...program];
    const { stdout } = await new Deno.Command("sh", {
      args: ["-c", 'exec "$@" $$', "sh", ...grader], // its own process number comes last
    }).output();
    const lines = new TextDecoder().decode(stdout).trimEnd().split("\n");
    const verdicts: Partial<Verdict>[] = lines.map((line) => JSON.parse(line));
    assertEquals(
      verdicts.filter(({ passed }) => !passed).map(({ name, cause }) => [name, cause]),
      [],
    );
    assert((await Deno.stat(`${folder}/marker`)).isFile); // it was held up
  } finally {
    await Deno.remove(folder, { recursive: true });
  }
});

Deno.test("a task does not pass of which the machine was too busy to try a check", () => {
  const tried = verdict("a", { task: 4, name: "prints the echo" });
  const busy = verdict("a", { task: 4, name: "after a lost datagram", passed: null });
  assert(sumUp([tried]).passed);
  NOT_COUNTED.set(busy, "busy");
  assertEquals(sumUp([tried, busy]).points, { 4: [1, 1] });
  assert(!sumUp([tried, busy]).passed);
  assert(sumUp([tried, verdict("a", { name: "CRLF", beyond: true, passed: null })]).passed);
});

/** Lets `grep` take a second wherever its arguments hold `word`, as on a busy machine. */
async function slowGrep(word: string): Promise<AsyncDisposable> {
  const folder = await Deno.makeTempDir();
  const path = Deno.env.get("PATH")!;
  const slow = `#!/bin/sh\ncase "$*" in *${word}*) sleep 1;; esac\nPATH='${path}' exec grep "$@"\n`;
  await Deno.writeTextFile(`${folder}/grep`, slow, { mode: 0o755 });
  Deno.env.set("PATH", `${folder}:${path}`);
  return {
    [Symbol.asyncDispose]: async () => {
      Deno.env.set("PATH", path);
      await Deno.remove(folder, { recursive: true });
    },
  };
}

Deno.test("nobody is kept waiting while the grader looks for what was left behind", {
  ...SLOW,
  ignore: Deno.build.os !== "linux",
}, async () => {
  await using _ = await slowGrep("environ");
  let turns = 0;
  const timer = setInterval(() => turns++, 50);
  assertEquals(await sweep("nobody has this mark"), []);
  clearInterval(timer);
  assert(turns > 5);
});

/** A line, then a wait for what never comes. */
const WAITS = `import socket, sys
sock = socket.socket(type=socket.SOCK_DGRAM)
sock.settimeout(float(sys.argv[1]) or None)
sock.bind(("127.0.0.1", 0))
sock.recv(1)`;

Deno.test("a wait without a time limit is seen as one, and one with a limit is not", {
  ...SLOW,
  ignore: !hasPython || Deno.build.os !== "linux",
}, async () => {
  async function stays(limit: string, ms: number): Promise<boolean> {
    const child = new Deno.Command("python3", { args: ["-c", WAITS, limit], stderr: "null" })
      .spawn();
    try {
      while (!await isStuck(child.pid, 1_000)); // it starts
      return await isStuck(child.pid, ms);
    } finally {
      child.kill("SIGKILL");
      await child.status;
    }
  }
  assert(await stays("0", 1_000_000));
  assert(!await stays("100", 200_000));
});

Deno.test("what comes is not kept waiting by a look at the program", {
  ...SLOW,
  ignore: Deno.build.os !== "linux",
}, async () => {
  const waits = new Waits();
  const program = new Program({
    command: ["sleep", "100"],
    port: 0,
    terminal: "pipe",
    waits,
    session: "test",
  });
  try {
    await using _ = await slowGrep("syscall");
    let hasCome = false;
    setTimeout(() => {
      hasCome = true;
      waits.notify();
    }, 100);
    const start = performance.now();
    assert(await program.until(() => hasCome, 10_000, { firstMs: 0 }));
    assert(performance.now() - start < 1_000);
  } finally {
    await program[Symbol.asyncDispose]();
  }
});

Deno.test("no two programs get the same port, and none gets one that a system picks by itself", async () => {
  using one = new Ports();
  using other = new Ports();
  for (let i = 0; i < 100; i++) new Ports(); // who takes none keeps none from others
  const ports = new Set<number>();
  for (let i = 0; i < 10; i++) {
    for (const block of [one, other]) ports.add(await block.take(i % 2 === 0));
  }
  assertEquals(ports.size, 20); // nobody has bound one
  assert([...ports].every((port) => port < 32_768)); // where Linux begins, the lowest of all
});

Deno.test("a port in TIME-WAIT holds up no server that sets SO_REUSEADDR", SLOW, async () => {
  let port: number;
  { // whoever closes first has the port in TIME-WAIT
    using listener = Deno.listen({ hostname: "127.0.0.1", port: 0 });
    port = listener.addr.port;
    using conn = await Deno.connect({ hostname: "127.0.0.1", port });
    const accepted = await listener.accept();
    accepted.close();
    assertEquals(await conn.read(new Uint8Array(1)), null);
  }
  const server = fileUrl("docs/lab/task2_server.ts").pathname;
  const command = [Deno.execPath(), "run", "--allow-net", "--quiet", server, `${port}`];
  const notes: string[] = [];
  const verdicts = await grade({
    kind: "tcp-server",
    task: 2,
    port,
    command,
    onNote: (note) => notes.push(note),
  });
  assert(sumUp(verdicts).passed);
  assertEquals(notes, []);
});

// ---- As a teacher runs it ----

/** The grader's command, in a folder. */
async function run(
  args: string[],
  { cwd = fileUrl("tests/").pathname, initCwd = "" } = {},
): Promise<{ code: number; stdout: string; stderr: string }> {
  const { code, stdout, stderr } = await new Deno.Command(Deno.execPath(), {
    args: [...GRADER, ...args],
    cwd,
    env: { INIT_CWD: initCwd || cwd },
  }).output();
  const decoder = new TextDecoder();
  return { code, stdout: decoder.decode(stdout), stderr: decoder.decode(stderr) };
}

Deno.test("the command line: lines of 80 columns, points, an exit code", {
  ...SLOW,
  ignore: !hasPython,
}, async () => {
  const command = ["python3", "wrong/tcp_server_reads_once.py", "{port}"];
  const { code, stdout, stderr } = await run(["tcp-server", "--", ...command]);
  assertEquals([code, stderr], [1, ""]);
  const lines = stdout.trimEnd().split("\n");
  assertEquals(lines.filter((line) => line.length > WIDTH), []);
  assertMatch(lines[0]!, /^ok 1 {2}prints the sentence: "Hello \w{6}\\n" → printed$/);
  const at = lines.indexOf("no 3  many sentences");
  assertMatch(lines[at + 1]!, /^ {6}sent: {2}"2 \w{6}\\n"$/);
  assertMatch(lines[at + 2]!, /^ {6}came: {2}(the end|a reset)$/); // whichever is read first
  assertMatch(lines[at + 3]!, /^ {6}seen: {2}(the end|a reset) came in place of an echo$/);
  assertEquals(
    lines[at + 4],
    "      so:    it reads once: recv() or recvfrom() belongs in a loop",
  );
  assert(lines.includes('-- 3  stop word: not tried: "stop word inside" comes first'));
  assertMatch(lines.at(-1)!, /^task 3: 0 of 5, and beyond it 0 of \d$/);
});

Deno.test("--json: an object a line, with the fields of the page", {
  ...SLOW,
  ignore: !hasPython,
}, async () => {
  const command = ["python3", "wrong/tcp_server_upper_case.py", "{port}"];
  const missing = await run(["tcp-server", "--json", "--", ...command]);
  assertEquals(missing.code, 2);
  assertEquals(JSON.parse(missing.stdout), {
    program: command.join(" "),
    error: 'cannot run "wrong/tcp_server_upper_case.py": no such file',
  });
  command[1] = "wrong/udp_server_first_peer.py";
  const { code, stdout } = await run(["udp-server", "--format", "json", "--", ...command]);
  assertEquals(code, 1);
  const objects = stdout.trimEnd().split("\n").map((line) => JSON.parse(line));
  for (const object of objects.slice(0, -1)) {
    assertEquals(Object.keys(object), [
      "program",
      "kind",
      "task",
      "name",
      "beyond",
      "passed",
      "mistake",
      "guess",
      "cause",
      "hint",
      "sent",
      "came",
      "seconds",
    ]);
  }
  const wrong = objects.filter(({ passed }) => passed === false)[0];
  assertEquals([wrong.name, wrong.mistake, wrong.guess], ["two peers in turn", "onePeer", false]);
  assertEquals(Object.keys(objects.at(-1)), ["program", "passed", "points", "seconds"]);
  assertEquals(objects.at(-1).passed, false);
});

Deno.test("a class: a line a program, paths from where the teacher stands", {
  ...SLOW,
  ignore: !hasPython,
}, async () => {
  const folder = await Deno.makeTempDir();
  try {
    const right = fileUrl("tests/right/").pathname;
    await Deno.copyFile(`${right}udp_server_textbook.py`, `${folder}/my server.py`);
    const port = freePort();
    await Deno.writeTextFile(
      `${folder}/class.tsv`,
      `ann\tudp-server\tpython3 'my server.py' {port}\n` +
        `bob\ttcp-server\tpython3 nothing.py {port}\n` +
        `cid\ttcp-client\tpython3 ${right}task1_client_textbook.py ${port}\t--task 1 --port ${port}\n` +
        `dee\ttcp-client\tpython3 ${right}task1_client_textbook.py ${port}\t--task 1 --port ${port}\n`,
    );
    const { code, stdout } = await run(["--class", "class.tsv"], { cwd: "/", initCwd: folder });
    assertEquals(code, 1);
    assertEquals(stdout.trimEnd().split("\n"), [
      "ok  ann  udp-server  4: 10/10",
      '--  bob  tcp-server  cannot run "nothing.py": no such file',
      "ok  cid  tcp-client  1: 4/4",
      "ok  dee  tcp-client  1: 4/4",
    ]);
  } finally {
    await Deno.remove(folder, { recursive: true });
  }
});

Deno.test("what leaves its group, or is deaf to signals, is ended and reported", {
  ...SLOW,
  ignore: !hasPython || Deno.build.os !== "linux",
}, async () => {
  const server = `${fileUrl("tests/right/").pathname}task1_server_to_the_end.py`;
  const script = `trap "" HUP INT TERM; setsid sleep 1000 & exec python3 ${server} "$0"`;
  const { code, stderr } = await run([
    "tcp-server",
    "--task",
    "1",
    "--",
    "sh",
    "-c",
    script,
    "{port}",
  ]);
  assertEquals(code, 0);
  assertMatch(
    stderr,
    /^(grade: it left a process behind, which is ended now: sleep \(process \d+\)\n)+$/,
  );
  const [, pid] = /process (\d+)/.exec(stderr)!;
  const { stdout } = await new Deno.Command("ps", { args: ["-o", "stat=", "-p", pid!] }).output();
  assertMatch(new TextDecoder().decode(stdout), /^(Z.*\n)?$/); // gone, or it waits for its parent
});

for (const [signal, code] of [["SIGINT", 130], ["SIGHUP", 129]] as const) {
  Deno.test(`${signal} to the grader ends what it started`, {
    ...SLOW,
    ignore: !hasPython || WINDOWS,
  }, async () => {
    const port = freePort();
    const server = fileUrl("tests/right/tcp_server_lines.py").pathname;
    const grader = new Deno.Command(Deno.execPath(), {
      args: [...GRADER, "tcp-server", "--port", `${port}`, "--", "python3", server, `${port}`],
      stdout: "piped",
    }).spawn();
    const reader = grader.stdout.getReader();
    await reader.read(); // a verdict: the server runs
    grader.kill(signal);
    assertEquals((await grader.status).code, code);
    await reader.cancel();
    let isRefused = false;
    while (!isRefused) { // a process takes a moment to end
      isRefused = await Deno.connect({ port }).then((conn) => conn.close(), () => true) ?? false;
    }
  });
}

Deno.test("a port that is taken is wrong use, and names who has it", SLOW, async () => {
  using listener = Deno.listen({ hostname: "127.0.0.1", port: 0 });
  const { port } = listener.addr;
  const { code, stderr } = await run(["tcp-server", "--port", `${port}`, "--", Deno.execPath()]);
  assertEquals(code, 2);
  assertMatch(
    stderr,
    new RegExp(`^grade: port ${port} is taken( by deno \\(process ${Deno.pid}\\))?: `),
  );
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
  [
    ["tcp-server", "--format", "xml", "127.0.0.1:7"],
    "--format must be text, json, gradescope, junit",
  ],
  [["--class", "nothing.tsv"], 'cannot read "nothing.tsv": no such file'],
  [["--class"], "--class needs a value, FILE"],
  [["tcp-server", "--", "no such program", "{port}"], 'cannot run "no such program": not found'],
];

Deno.test("wrong use is one line on stderr, exit 2", SLOW, async (t) => {
  const results = await Promise.all(MISUSE.map(([args]) => run(args)));
  for (const [i, [args, words]] of MISUSE.entries()) {
    await t.step(args.join(" ") || "nothing", () => {
      const { code, stdout, stderr } = results[i]!;
      assertEquals([code, stdout], [2, ""]);
      assertMatch(stderr, /^grade: .*\n$/);
      assertStringIncludes(stderr, words);
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
